"""Calibration and bias: step scores and what is known of their steps in; probabilities, biases and perturbations out."""
