"""Values that are equal but for rounding errors: floats in; the first of the highest, or the same without such errors, out."""

import numpy as np
from jaxtyping import Float

TOLERANCE = 1e-12
"""A smaller difference of two values of order 1 (accuracies, ranks, F1) is a rounding error."""


def first_of_highest(values: Float[np.ndarray, " _"]) -> int:
    """Place of the highest value, of equal ones the first."""
    return int((values >= values.max() - TOLERANCE).argmax())


def without_noise(values: Float[np.ndarray, "*shape"], tolerance: float = TOLERANCE) -> Float[np.ndarray, "*shape"]:
    """Differences, with 0 in place of rounding errors."""
    return np.where(np.abs(values) < tolerance, 0.0, values)
