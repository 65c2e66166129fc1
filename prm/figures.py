"""The look of every figure and the one way to write it: a PNG and an SVG of the same picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from prm.files import written_aside

# Okabe and Ito's colors without yellow, which is lost on white; distinguishable under the common color deficiencies.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*"
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
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
DPI = 160


@contextmanager
def new_figure(path_stem: str | Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure of `width` x `height` inches to draw on, written to both of `figure_paths(path_stem)` at the end.

    Nothing is written if the drawing fails. The same drawing gives the same bytes: no date, no random ids.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        png, svg = figure_paths(path_stem)
        with written_aside(png) as aside_png, written_aside(svg) as aside_svg:
            figure.savefig(aside_png, format="png", dpi=DPI)
            figure.savefig(aside_svg, format="svg", metadata={"Date": None})


def legend_label(name: str) -> str:
    """A name as a legend shows it: matplotlib leaves out labels that begin with "_", so a space without width stands before it."""
    return f"\u200b{name}" if name.startswith("_") else name


def remove_figure(path_stem: str | Path) -> None:
    """Of an earlier run into the same folder, where this one has nothing to draw."""
    for path in figure_paths(path_stem):
        path.unlink(missing_ok=True)


def figure_paths(path_stem: str | Path) -> list[Path]:
    """Where a figure lies: `path_stem`.png and `path_stem`.svg (a dot in the stem, as of a rate, is no suffix)."""
    return [Path(f"{path_stem}{suffix}") for suffix in (".png", ".svg")]
