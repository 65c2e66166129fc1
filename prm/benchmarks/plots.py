"""Panels of labeled curves, for Best-of-N and for thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from prm.figures import MARKERS, PALETTE, figure_paths, legend_label, new_figure

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
    style: str = "-"
    marks: Sequence[tuple[float, float]] = field(default=())


@dataclass(frozen=True)
class Panel:
    """One coordinate system; `vertical_lines` maps a label to its place on the x axis."""

    title: str
    curves: Sequence[Curve]
    vertical_lines: dict[str, float] = field(default_factory=dict)


def draw(
    panels: Sequence[Panel], path_stem: str | Path, xlabel: str, ylabel: str, log2: bool = False, note: str = ""
) -> list[Path]:
    """Write `path_stem`.png and `path_stem`.svg: panels in rows of up to three, one legend outside the data with `note` on top.

    With `log2` the x axis is logarithmic and the curves have markers at their points; without, they are stairs whose
    value at x holds back to the point before, as a function of a threshold is.
    """
    num_columns = 2 if len(panels) == 4 else min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    with new_figure(path_stem, 2.1 + 3.5 * max(num_columns, 1.3), 0.5 + 3.2 * num_rows) as figure:
        axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel, log2)
            axis.set_xlabel(xlabel)
        for axis in axes[::num_columns]:
            axis.set_ylabel(ylabel)
        for axis in axes[len(panels) :]:
            axis.remove()
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", title=note or None, title_fontsize=8.5)
    return figure_paths(path_stem)


def _draw_panel(axis: Axes, panel: Panel, log2: bool) -> None:
    for index, curve in enumerate(panel.curves):
        look = {"marker": MARKERS[index % len(MARKERS)], "markersize": 4.5} if log2 else {"drawstyle": "steps-pre"}
        axis.plot(curve.x, curve.y, curve.style, color=curve.color, label=legend_label(curve.label), lw=1.6, zorder=3, **look)
        for x, y in curve.marks:
            axis.plot(x, y, "o", color=curve.color, markersize=7, markeredgecolor="white", zorder=4)
    _draw_intervals(axis, [curve for curve in panel.curves if curve.low is not None])
    for (label, x), style in zip(panel.vertical_lines.items(), ("--", ":", "-."), strict=False):
        axis.axvline(x, color="#555555", linestyle=style, lw=1.2, label=label)
    axis.set_title(panel.title)
    if log2:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(FixedLocator(sorted({x for curve in panel.curves for x in curve.x})))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(ScalarFormatter())


def _draw_intervals(axis: Axes, curves: Sequence[Curve]) -> None:
    """Shaded bands while they can be told apart; for more curves, whiskers behind the last point, side by side."""
    for index, curve in enumerate(curves):
        if len(curves) <= MAX_BANDS:
            axis.fill_between(curve.x, curve.low, curve.high, color=curve.color, alpha=0.14, lw=0)
        else:
            x = curve.x[-1] * 2 ** (0.2 + 0.13 * index)
            axis.plot([x, x], [curve.low[-1], curve.high[-1]], color=curve.color, lw=1.6, alpha=0.8)
            axis.plot([x], [curve.y[-1]], ".", color=curve.color, markersize=6)
