"""Panels of labeled curves, for Best-of-N and for thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from prm.figures import (
    DARK_GREY,
    GREY,
    PALETTE,
    figure_paths,
    legend_below,
    legend_label,
    log_scale,
    page_figure,
    panel_grid,
)

MAX_BANDS = 3


@dataclass(frozen=True)
class Curve:
    """One line; `low` and `high` shade an interval, `marks` are single points on it that deserve a dot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    color: str = PALETTE[0]
    linestyle: Any = "-"
    marker: str = ""
    marks: Sequence[tuple[float, float]] = field(default=())


@dataclass(frozen=True)
class Panel:
    """One coordinate system; `vertical_lines` maps a label to its place on the x axis, `levels` maps one to its height."""

    title: str
    curves: Sequence[Curve]
    vertical_lines: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)


def draw(
    panels: Sequence[Panel], path_stem: str | Path, xlabel: str, ylabel: str, log2: bool = False, note: str = ""
) -> list[Path]:
    """Write `path_stem`.png and `path_stem`.svg: panels in rows of up to three, one legend below them with `note` on top.

    With `log2` the x axis is logarithmic and the curves have markers at their points; without, they are stairs whose
    value at x holds back to the point before, as a function of a threshold is. Levels are named beside their lines.
    """
    num_rows, num_columns = panel_grid(len(panels))
    with page_figure(path_stem, num_columns, (2.6 if num_columns > 1 else 3.2) * num_rows) as figure:
        axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, log2)
            axis.set_xlabel(xlabel)
        for axis in axes[::num_columns]:
            axis.set_ylabel(ylabel)
        for axis in axes[len(panels) :]:
            axis.remove()
        legend_below(figure, axes[:1], note)
    return figure_paths(path_stem)


def _draw_panel(axis: Axes, panel: Panel, log2: bool) -> None:
    for curve in panel.curves:
        look = {"marker": curve.marker, "markersize": 4} if log2 else {"drawstyle": "steps-pre"}
        look |= {"color": curve.color, "linestyle": curve.linestyle, "lw": 1.4}
        axis.plot(curve.x, curve.y, label=legend_label(curve.label), zorder=3, **look)
        for x, y in curve.marks:
            axis.plot(x, y, "o", color=curve.color, markersize=7, markeredgecolor="white", zorder=4)
    _draw_intervals(axis, [curve for curve in panel.curves if curve.low is not None])
    for (label, x), style in zip(panel.vertical_lines.items(), ("--", ":", "-."), strict=False):
        axis.axvline(x, color=DARK_GREY, linestyle=style, lw=1.2, label=label)
    _draw_levels(axis, panel.levels)
    axis.set_title(panel.title)
    if log2:
        log_scale(axis, [x for curve in panel.curves for x in curve.x])


def _draw_intervals(axis: Axes, curves: Sequence[Curve]) -> None:
    """Shaded bands while they can be told apart; for more curves, or a single N, whiskers behind the last point, side by side."""
    for index, curve in enumerate(curves):
        if len(curves) <= MAX_BANDS and len(curve.x) > 1:
            axis.fill_between(curve.x, curve.low, curve.high, color=curve.color, alpha=0.14, lw=0)
        else:
            octaves = max(np.log2(curve.x[-1] / curve.x[0]), 1) * (0.06 + 0.033 * index)
            x, y = [curve.x[-1] * 2**octaves] * 3, [curve.low[-1], curve.y[-1], curve.high[-1]]
            axis.plot(x, y, color=curve.color, lw=1.2, marker=curve.marker, markevery=[1], markersize=3.5)


def _draw_levels(axis: Axes, levels: dict[str, float]) -> None:
    """Dashed lines across the panel with their names on the right, close ones moved apart upwards."""
    for y in levels.values():
        axis.axhline(y, color=GREY, linestyle="--", lw=1.2)
    line_height = 0.065 * float(np.ptp(axis.get_ylim()))
    lowest = -np.inf
    for label, y in sorted(levels.items(), key=lambda level: level[1]):
        place = max(y, lowest)
        lowest = place + line_height
        axis.annotate(label, (1, place), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center")
