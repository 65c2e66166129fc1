"""PRMBench: items with their wrong steps and step scores in, PRMScore per category out."""
