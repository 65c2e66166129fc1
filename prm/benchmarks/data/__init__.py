"""What the data engine costs: grading's speed, the memory of every stage, tokenization."""
