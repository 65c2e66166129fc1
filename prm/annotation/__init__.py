"""Step labels without humans: responses in, the same responses with `step_labels` out, by one of three methods."""
