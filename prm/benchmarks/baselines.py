"""Content-free baselines: numbers of steps in, step scores that know nothing of the text out."""

from collections.abc import Iterator, Sequence

import numpy as np


def random_scores(lengths: Sequence[int], num_draws: int, seed: int) -> Iterator[list[list[float]]]:
    """Uniform scores in [0, 1), drawn `num_draws` times for all items."""
    rng = np.random.default_rng(seed)
    for _ in range(num_draws):
        yield [rng.random(length).tolist() for length in lengths]


def position_scores(lengths: Sequence[int]) -> list[list[float]]:
    """1 - (i+1)/n for step i of n: the later in its solution, the worse."""
    return [[1 - (index + 1) / length for index in range(length)] for length in lengths]


def step_number_scores(lengths: Sequence[int]) -> list[list[float]]:
    """-(i+1) for step i: under a threshold of -k, step k is the first wrong one of every solution that has a step k."""
    return [[-float(index + 1) for index in range(length)] for length in lengths]
