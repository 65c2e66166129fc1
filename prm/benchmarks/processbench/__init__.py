"""ProcessBench: items with their first wrong step and step scores in, F1 per subset out."""
