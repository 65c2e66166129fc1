"""Uncertainty over training runs: one value per run of a method in, its spread and the test of two methods out.

Two runs of one method differ in their seed alone: in the head's first weights and the order of the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev, variance

from mpmath import fp

from prm.metrics.resampling import CONFIDENCE


@dataclass(frozen=True)
class RunSpread:
    """What the runs of one method reach; `std` is that of the runs, not of their mean, and None for a single one."""

    num_runs: int
    mean: float
    std: float | None
    lowest: float
    highest: float


@dataclass(frozen=True)
class RunDifference:
    """Mean over the runs of one method less that of another's; the rest is None where nothing tells how far runs lie apart."""

    difference: float
    low: float | None
    high: float | None
    p_value: float | None


def run_spread(values: Sequence[float]) -> RunSpread:
    """Mean, standard deviation and range. Raises ValueError without runs."""
    if not values:
        raise ValueError("no runs: a method needs one at least")
    return RunSpread(len(values), mean(values), stdev(values) if len(values) > 1 else None, min(values), max(values))


def run_difference(first: Sequence[float], second: Sequence[float]) -> RunDifference:
    """Welch's t-test, with an interval of `CONFIDENCE`, of two methods by their runs, which may differ in number and in spread.

    The interval says what other runs on the same items would give, not what other items would. A method of one run is taken to
    vary as the other one does. Welch, "The generalization of 'Student's' problem when several different population variances are
    involved" (1947).
    """
    means, sizes = [mean(values) for values in (first, second)], [len(first), len(second)]
    # `variance` computes exactly: three runs of 0.1 have none, where a rounded mean would differ from 0.1 and leave one.
    spreads = [variance(values) for values in (first, second) if len(values) > 1]
    difference = means[0] - means[1]
    if not any(spreads):
        return RunDifference(difference, None, None, None)
    if len(spreads) == 2:
        parts = [spread / size for spread, size in zip(spreads, sizes, strict=True)]
        freedom = sum(parts) ** 2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
    else:
        parts = [spreads[0] / size for size in sizes]
        freedom = float(max(sizes) - 1)
    error = sum(parts) ** 0.5
    reach = error * t_quantile(1 - (1 - CONFIDENCE) / 2, freedom)
    return RunDifference(difference, difference - reach, difference + reach, two_sided(difference / error, freedom))


def two_sided(t: float, freedom: float) -> float:
    """The chance that a variable of Student's t distribution lies at least as far from 0 as `t`."""
    return float(fp.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))


def t_quantile(share: float, freedom: float) -> float:
    """Where Student's t distribution has `share` (above a half) of its mass below."""
    low, high = 0.0, 1.0
    while two_sided(high, freedom) / 2 > 1 - share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) / 2 > 1 - share else (low, middle)
    return (low + high) / 2
