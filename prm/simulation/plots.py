"""The study's figures: nested results in; published, outcomes, first_errors and noise as PNG and SVG out, where they were run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from prm.figures import MARKERS, PALETTE, new_figure
from prm.simulation import published_values
from prm.simulation.report import MEASURES, SWEEPS, WORLD_LABELS
from prm.simulation.settings import SimulationConfig
from prm.simulation.study import PUBLISHED_METHODS

POOLED = ("asym", "min", "geometric_mean", "product", "softmin", "reversed_asym", "robust_asym")
"""Contestants drawn with solid lines: they pool step scores. The other ones are dashed."""
SHOWN = ("asym", "min", "geometric_mean", "product", "orm_sum", "implicit_prm", "td", "monte_carlo", "contrastive", "intervention")
"""Contestants that curves show; the tables have them all."""
NOISE_SHOWN = ("asym", "min", "geometric_mean", "robust_asym", "implicit_prm", "orm_sum")
STYLES = ("--", "-.", ":")
BY_SIZE = ("budgets", "horizons", "completions")
BY_NOISE = ("false_negatives", "false_positives")


def plot_study(result: Mapping[str, Any], folder: Path, config: SimulationConfig) -> None:
    """Write each figure whose experiments are in `result`."""
    if "lengths" in result or "artefacts" in result:
        printed = published_values.printed(config).get("lengths", {})
        _plot_published(result.get("lengths", {}), result.get("artefacts", {}), printed, folder / "published")
    if sizes := [name for name in BY_SIZE if name in result]:
        _plot_outcomes(result, sizes, folder / "outcomes")
    if sweeps := [name for name in (*BY_SIZE, *BY_NOISE) if name in result]:
        _plot_first_errors(result, sweeps, folder / "first_errors")
    if {"false_negatives", "false_positives", "threshold"} & result.keys():
        _plot_noise(result, folder / "noise")


def _plot_published(lengths: Mapping[str, Any], artefacts: Mapping[str, Any], printed: Mapping[str, Any], stem: Path) -> None:
    """Ours over the published lengths beside the printed values, and what happens when settings change."""
    panels = [part for part in (lengths, artefacts) if part]
    with new_figure(stem, 0.8 + 4.6 * len(panels), 4.2) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            seen: list[str] = []
            for name, columns in panel.items():
                method = next(known for known in PUBLISHED_METHODS if name.startswith(known))
                look = {"color": PALETTE[PUBLISHED_METHODS.index(method)], "marker": MARKERS[PUBLISHED_METHODS.index(method)]}
                _draw(axis, columns, name, ls="-" if panel is lengths else STYLES[seen.count(method)], **look)
                seen.append(method)
                values = {x: y for x, y in printed.get(name, {}).items() if x in columns}
                if panel is lengths:
                    axis.plot(list(map(int, values)), list(values.values()), ls="none", markersize=11, mfc="none", **look)
            axis.set_title("As published (large open marks: the printed values)" if panel is lengths else "Settings changed")
            _scale(axis, _columns(panel), "steps T")
            axis.legend(fontsize=7.5, loc="lower left")
        axes[0].set(ylabel=MEASURES["correlation"], ylim=(-0.08, 1.05))


def _plot_outcomes(result: Mapping[str, Any], sweeps: Sequence[str], stem: Path) -> None:
    """A row per world: correlation over the budget, the length and the number of completions."""
    worlds = list(result[sweeps[0]])
    with new_figure(stem, 2.2 + 3.4 * len(sweeps), 3.4 * len(worlds)) as figure:
        axes = figure.subplots(len(worlds), len(sweeps), sharey=True, squeeze=False)
        for row, world in zip(axes, worlds, strict=True):
            for axis, sweep in zip(row, sweeps, strict=True):
                _draw_contestants(axis, result[sweep][world], SHOWN)
                _scale(axis, _columns(result[sweep][world]), SWEEPS[sweep])
                axis.set_title(WORLD_LABELS[world])
            row[0].set_ylabel(MEASURES["correlation"])
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center")


def _plot_first_errors(result: Mapping[str, Any], sweeps: Sequence[str], stem: Path) -> None:
    """First-error F1 in the weakest-link world over everything that was varied."""
    num_columns = min(3, len(sweeps))
    num_rows = -(-len(sweeps) // num_columns)
    with new_figure(stem, 2.2 + 3.4 * num_columns, 0.2 + 3.2 * num_rows) as figure:
        axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
        for axis, sweep in zip(axes, sweeps, strict=False):
            _draw_contestants(axis, result[sweep]["weakest_link"], SHOWN, "first_error_f1")
            axis.set(xlabel=SWEEPS[sweep], ylim=(0, 1.03))
            if sweep in BY_SIZE:
                _scale(axis, _columns(result[sweep]["weakest_link"]), SWEEPS[sweep])
        for axis in axes[::num_columns]:
            axis.set_ylabel("first-error F1")
        for axis in axes[len(sweeps) :]:
            axis.remove()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")


def _plot_noise(result: Mapping[str, Any], stem: Path) -> None:
    """Correlation over both kinds of errors of the verifier, and asym's over its predicted breaking rate."""
    sweeps = [name for name in BY_NOISE if name in result]
    with new_figure(stem, 1 + 3.9 * (len(sweeps) + ("threshold" in result)), 3.8) as figure:
        axes = list(figure.subplots(1, len(sweeps) + ("threshold" in result), sharey=True, squeeze=False)[0])
        axes[0].set(ylabel=MEASURES["correlation"], ylim=(0, 1.05))
        for axis, sweep in zip(axes, sweeps, strict=False):
            _draw_contestants(axis, result[sweep]["weakest_link"], NOISE_SHOWN)
            axis.set(title=f"{SWEEPS[sweep]}, {WORLD_LABELS['weakest_link']}", xlabel=f"rate of {SWEEPS[sweep]}")
        if sweeps:
            axes[0].legend(fontsize=8, loc="center left", bbox_to_anchor=(0, 0.52))
        if "threshold" in result:
            for index, (kind, cells) in enumerate(result["threshold"].items()):
                _draw(axes[-1], cells, kind, color=PALETTE[index % len(PALETTE)], marker=MARKERS[index % len(MARKERS)])
            axes[-1].axvline(1, color="#555555", ls="--", lw=1.2)
            axes[-1].set(title="asym", xlabel="false-positive rate e / e*")
            axes[-1].legend(fontsize=8)


def _draw_contestants(axis: Axes, by_method: Mapping[str, Any], shown: Sequence[str], measure: str = "correlation") -> None:
    """Each looks the same in every panel."""
    for index, name in enumerate(shown):
        if name in by_method:
            look = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}
            _draw(axis, by_method[name], name, measure, ls="-" if name in POOLED else "--", **look)


def _draw(axis: Axes, cells: Mapping[str, Any], label: str, measure: str = "correlation", **look: Any) -> None:
    """The mean over seeds with its interval."""
    x, measured = [float(value) for value in cells], [cell[measure] for cell in cells.values()]
    axis.plot(x, [m["mean"] for m in measured], label=label, lw=1.7, markersize=4.5, **look)
    axis.fill_between(x, [m["low"] for m in measured], [m["high"] for m in measured], color=look["color"], alpha=0.13, lw=0)


def _columns(by_method: Mapping[str, Any]) -> list[str]:
    return list(next(iter(by_method.values())))


def _scale(axis: Axes, columns: Sequence[str], label: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xticks([float(x) for x in columns], labels=columns)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(label)
