"""Graded rollouts on disk -> datasets of responses in steps -> packed batches."""
