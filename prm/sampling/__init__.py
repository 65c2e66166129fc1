"""Sampling: prompts in, sampled texts out, from one of three engines behind one interface."""
