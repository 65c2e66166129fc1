"""Sampling: prompts as token ids in, sampled texts out, from one of two engines behind one interface."""
