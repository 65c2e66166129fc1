"""How one quantity goes with another: paired values in; percent ranks, equal-mass bins and rank correlations out."""

import numpy as np
from jaxtyping import Float, Int

from prm.metrics.resampling import CONFIDENCE, NUM_DRAWS, percentile_interval, resampled_means
from prm.metrics.ties import without_noise

Values = Float[np.ndarray, " items"]
Cells = Int[np.ndarray, " items"]


def percent_ranks(values: Values) -> Values:
    """Share of the values below each one, ties counting half: within (0, 1), and 0.5 on average."""
    return _middle_ranks(values) / len(values)


def equal_mass_bins(values: Values, num_bins: int) -> Cells:
    """Number, from 0, of the bin that each value's middle rank falls into: equally many in each, equal values together."""
    # Multiplied first, which is exact: a rank on the border of two bins must give the upper one's number, and not a bit less.
    return np.minimum((_middle_ranks(values) * num_bins / len(values)).astype(np.int64), num_bins - 1)


def rank_correlation(x: Values, y: Values, cells: Cells | None = None) -> float:
    """Spearman's correlation; with `cells`, of the ranks less their mean in each cell. nan where x or y does not vary.

    With responses as cells, steps are compared only with those of their own response: that hard questions have both long and
    badly scored solutions then makes no correlation.
    """
    return float(_ratio(_products(x, y, cells).sum(axis=0, keepdims=True))[0])


def rank_correlation_interval(
    x: Values,
    y: Values,
    questions: Cells,
    cells: Cells | None = None,
    confidence: float = CONFIDENCE,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of `rank_correlation` over questions, with the ranks and cell means of the whole sample; nan as there."""
    if np.isnan(rank_correlation(x, y, cells)):
        return float("nan"), float("nan")
    products = _products(x, y, cells)
    _, place = np.unique(questions, return_inverse=True)
    sums = np.stack([np.bincount(place, weights=column) for column in products.T], axis=1)
    means = resampled_means(sums, num_draws, seed)
    values = _ratio(means)
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = percentile_interval(values[~np.isnan(values)], confidence)
    return float(low), float(high)


def _middle_ranks(values: Values) -> Values:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts / 2)[inverse]


def _products(x: Values, y: Values, cells: Cells | None) -> Float[np.ndarray, "items 3"]:
    """xy, xx and yy of the ranks less their cell's mean: sums of them make the correlation."""
    groups = np.zeros(len(x), dtype=np.int64) if cells is None else np.unique(cells, return_inverse=True)[1]
    a, b = (less_cell_means(percent_ranks(values), groups) for values in (x, y))
    return np.stack([a * b, a * a, b * b], axis=1)


def less_cell_means(values: Values, groups: Cells) -> Values:
    """Values less the mean of their group, exactly 0 where a group does not vary: rounding errors would correlate like values."""
    gaps = values - (np.bincount(groups, weights=values) / np.maximum(np.bincount(groups), 1))[groups]
    return without_noise(gaps, 1e-9)  # errors of a sum over many items


def _ratio(sums: Float[np.ndarray, "draws 3"]) -> Float[np.ndarray, " draws"]:
    xy, xx, yy = sums.T
    spread = np.sqrt(xx * yy)
    return np.where(spread > 0, xy / np.where(spread > 0, spread, 1.0), np.nan)
