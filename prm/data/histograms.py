"""Histograms of a dataset: counts of values in, a PNG and an SVG of the same picture out."""

from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from prm.data.statistics import MEASURES, Statistics
from prm.figures import PALETTE, new_figure

COLORS = {"read": "#B5B5B5", "train": PALETTE[0], "validation": PALETTE[1]}
XLABELS = {
    "pass_rate": "share of right answers to a question",
    "steps": "steps of a response",
    "tokens": "tokens of a response",
}
MAX_BINS = 40
TAIL = 0.995


def draw_histograms(statistics: dict[str, Statistics], path_stem: Path) -> None:
    """Write `path_stem`.png and .svg: a panel for each measure that has values, as shares so that splits can be compared."""
    measures = [name for name in MEASURES if any(getattr(split, name) for split in statistics.values())]
    with new_figure(path_stem, 4.2 * len(measures), 3.2) as figure:
        for axis, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            draw_panel(axis, {name: getattr(split, measure) for name, split in statistics.items()})
            axis.set_xlabel(XLABELS[measure])
            axis.set_ylabel("questions (%)" if measure == "pass_rate" else "responses (%)")
        axis.legend()


def draw_panel(axis: Axes, counts: dict[str, Counter]) -> None:
    """One histogram over the other; the last bin also holds the values beyond it."""
    edges = bin_edges(sum(counts.values(), Counter()))
    for name, values in counts.items():
        if values:
            numbers, weights = np.array(list(values), float), np.array(list(values.values())) * 100 / values.total()
            filled = {"histtype": "stepfilled", "alpha": 0.6} if name == "read" else {"histtype": "step", "lw": 1.8}
            axis.hist(numbers.clip(max=edges[-1]), edges, weights=weights, color=COLORS[name], label=name, **filled)


def bin_edges(values: Counter) -> np.ndarray:
    """Shares of right answers in twentieths, around their value; else at most `MAX_BINS` bins up to the 99.5% quantile."""
    if all(0 <= value <= 1 for value in values):
        return np.arange(-0.025, 1.05, 0.05)
    ordered, counts = np.array(sorted(values)), [values[value] for value in sorted(values)]
    low, high = ordered[0], ordered[np.searchsorted(np.cumsum(counts), TAIL * sum(counts))]
    width = max(1, int(np.ceil((high - low + 1) / MAX_BINS)))
    return np.arange(low - 0.5, high + width, width)
