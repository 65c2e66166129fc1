"""The look of every figure and the one way to write it: a PNG and an SVG of the same picture."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import log2
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from prm.files import written_aside

# Okabe and Ito's colors without yellow, which is lost on white; distinguishable under the common color deficiencies.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*"
LINES = ("-", (0, (2.5, 0.8)), ":")
# Of what is no PRM: 3.4 and 7.5 to 1 against white.
GREY, DARK_GREY = "#8a8a8a", "#555555"
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a PRM may be called "$x" or "C:\\prm": names are no formulas
    "svg.fonttype": "none",
    "svg.hashsalt": "prm",
}
DPI = 240
PAGE_WIDTH, PANEL_WIDTH = 7.0, 4.8
"""Inches of a figure across a page, and of one with a single panel."""
MAX_NAME = 42
"""Characters of a name in a legend: two of them fit side by side on a page."""
MAX_TICKS = 6


@contextmanager
def new_figure(path_stem: str | Path, width: float, height: float, font_size: float = 10) -> Iterator[Figure]:
    """An empty figure of `width` x `height` inches to draw on, written to both of `figure_paths(path_stem)` at the end.

    Nothing is written if the drawing fails. The same drawing gives the same bytes: no date, no random ids.
    """
    with rc_context({**STYLE, "font.size": font_size, "axes.titlesize": 1.05 * font_size}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        png, svg = figure_paths(path_stem)
        with written_aside(png) as aside_png, written_aside(svg) as aside_svg:
            figure.savefig(aside_png, format="png", dpi=DPI)
            figure.savefig(aside_svg, format="svg", metadata={"Date": None})


@contextmanager
def page_figure(path_stem: str | Path, num_columns: int, height: float) -> Iterator[Figure]:
    """`new_figure` for columns of panels, as wide as a page: its letters stay readable when it is printed there."""
    with new_figure(path_stem, PAGE_WIDTH if num_columns > 1 else PANEL_WIDTH, height, font_size=9) as figure:
        yield figure


def panel_grid(num_panels: int) -> tuple[int, int]:
    """Rows and columns of panels on a page: up to three beside each other."""
    num_columns = 2 if num_panels == 4 else min(3, num_panels)
    return -(-num_panels // num_columns), num_columns


def curve_look(index: int) -> dict[str, Any]:
    """Color, marker and line of the curve at `index`: once the colors are used up, they come again with other lines."""
    line = LINES[index // len(PALETTE) % len(LINES)]
    return {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)], "linestyle": line}


def legend_below(figure: Figure, axes: Iterable[Axes], title: str = "") -> None:
    """One legend for all `axes` under them, each label once, in as many columns as fit; the figure grows by its height."""
    handles = dict(pair for axis in axes for pair in zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    labels, (width, height) = short_names(list(handles)), figure.get_size_inches()
    for num_columns in range(min(4, len(handles)), 0, -1):
        look = {"ncols": num_columns, "columnspacing": 1.5, "fontsize": 8.5, "title": title or None}
        legend = figure.legend(handles.values(), labels, loc="outside lower center", **look)
        own_width, own_height = legend.get_window_extent().size / figure.dpi
        if num_columns == 1 or own_width < width:
            figure.set_size_inches(max(width, own_width), height + own_height)
            break
        legend.remove()


def short_names(names: Sequence[str], max_length: int = MAX_NAME) -> list[str]:
    """Names longer than `max_length` without their middle, or with so much more of it that no two look alike."""
    head, tail = max_length // 2, (max_length - 1) // 2
    short = [name if len(name) <= max_length else f"{name[:head]}…{name[-tail:]}" for name in names]
    return short if len(set(short)) == len(set(names)) else short_names(names, max_length + 4)


def log_scale(axis: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis with a tick at the largest of `values` and at those below that leave room for at most `MAX_TICKS`."""
    ticks = sorted(set(values), reverse=True)
    least = log2(ticks[0] / ticks[-1]) / (MAX_TICKS - 1)
    kept = ticks[:1]
    for tick in ticks[1:]:
        if log2(kept[-1] / tick) >= least:
            kept.append(tick)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(kept))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())


def legend_label(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out labels that begin with "_", so a space without width stands before it."""
    return f"\u200b{name}" if name.startswith("_") else name


def remove_figure(path_stem: str | Path) -> None:
    """Remove the figure of an earlier run into the same folder, where this one has nothing to draw."""
    for path in figure_paths(path_stem):
        path.unlink(missing_ok=True)


def figure_paths(path_stem: str | Path) -> list[Path]:
    """Where a figure lies: `path_stem`.png and `path_stem`.svg (a dot in the stem, as of a rate, is no suffix)."""
    return [Path(f"{path_stem}{suffix}") for suffix in (".png", ".svg")]
