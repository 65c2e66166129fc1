"""Training: a dataset folder and options in, a model folder with checkpoints and metrics out."""
