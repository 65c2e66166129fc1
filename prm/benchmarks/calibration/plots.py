"""The calibration report's figures: its metrics in, PNG and SVG out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from prm.benchmarks.calibration.tables import COVARIATES
from prm.figures import MARKERS, PALETTE, figure_paths, legend_label, new_figure

MIN_ITEMS = 10
GOOD, BAD, DIAGONAL = PALETTE[0], PALETTE[1], "#8a8a8a"


def plot_reliability(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """What held against what was claimed, per step and per aggregation of responses; below, how many items claimed it.

    One PRM is drawn before and after its temperature and with intervals, several before it. Bins of fewer than `MIN_ITEMS` are not.
    """
    panels = {"steps": {prm: found["steps"] for prm, found in result["prms"].items() if found["steps"]}}
    for name in next(iter(result["prms"].values()))["responses"]:
        panels[f"responses, {name}"] = {prm: found["responses"][name] for prm, found in result["prms"].items()}
    panels = {title: {prm: one for prm, one in by_prm.items() if one} for title, by_prm in panels.items()}
    panels = {title: by_prm for title, by_prm in panels.items() if by_prm}
    with new_figure(path_stem, 1.9 + 2.9 * len(panels), 4.4) as figure:
        axes = figure.subplots(2, len(panels), height_ratios=[3.2, 1], sharex=True, squeeze=False)
        for column, (title, by_prm) in enumerate(panels.items()):
            _draw_panel(axes[0, column], axes[1, column], by_prm, is_alone=len(result["prms"]) == 1)
            axes[0, column].set_title(title)
        kinds = ["good steps"] * ("steps" in panels) + ["right answers"] * (len(panels) > ("steps" in panels))
        axes[0, 0].set_ylabel(f"{' or '.join(kinds)} (%)")
        axes[1, 0].set_ylabel("items (%)")
        _legend(figure, axes[0].tolist())
    return figure_paths(path_stem)


def _draw_panel(upper: Axes, lower: Axes, by_prm: Mapping[str, Any], is_alone: bool) -> None:
    upper.plot([0, 100], [0, 100], "--", color=DIAGONAL, lw=1.2)
    for index, (prm, found) in enumerate(by_prm.items()):
        forms = {prm: "before", f"{prm}, after its temperature": "after"} if is_alone else {prm: "before"}
        for offset, (label, form) in enumerate(forms.items()):
            look = {"color": PALETTE[(index + offset) % len(PALETTE)], "marker": MARKERS[(index + offset) % len(MARKERS)]}
            bins = [b for b in found[form]["bins"] if b["num_items"] >= MIN_ITEMS]
            x, y, low, high = (100 * np.array([b[key] for b in bins]) for key in ("mean_score", "share_positive", "low", "high"))
            spread = np.abs(np.stack([y - low, high - y])) if is_alone else None
            upper.errorbar(
                x, y, yerr=spread, markersize=4.5, lw=1.5, elinewidth=0.9, capsize=1.5, label=legend_label(label), **look
            )
            counts = np.array([b["num_items"] for b in bins])
            lower.plot(x, 100 * counts / found["num_items"], markersize=3, lw=1.1, **look)
    upper.set(xlim=(-3, 103), ylim=(-3, 103))
    lower.set(xlabel="score (%)", ylim=(0, None))


def plot_bias(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """Mean score against position, length and number of steps: of one PRM for good and bad steps, of several for good ones.

    Outcome models have no step scores and are left out; at least one PRM must have some.
    """
    is_alone = len(result["prms"]) == 1
    biases = {prm: found["bias"] for prm, found in result["prms"].items() if found["bias"]["steps"]}
    first = next(iter(biases.values()))
    covariates, truth = list(first["steps"]), first["truth"]
    kinds = ("good steps", "bad steps") if truth == "step labels" else ("steps of right responses", "steps of wrong responses")
    with new_figure(path_stem, 1.9 + 2.9 * len(covariates), 3.4) as figure:
        axes = figure.subplots(1, len(covariates), sharey=True, squeeze=False)[0]
        for axis, covariate in zip(axes, covariates, strict=False):
            for index, (prm, bias) in enumerate(biases.items()):
                by_truth = bias["steps"][covariate]
                label, color = (kinds[0], GOOD) if is_alone else (prm, PALETTE[index % len(PALETTE)])
                _draw_means(axis, by_truth.get("good"), label, color, MARKERS[index % len(MARKERS)], "-")
                if is_alone:
                    _draw_means(axis, by_truth.get("bad"), kinds[1], BAD, MARKERS[1], "--")
            unit = f" ({result['length_unit']})" if covariate == "step_length" else ""
            axis.set(xlabel=COVARIATES[covariate] + unit)
            if axis.lines:
                _set_ticks(axis)
        axes[0].set_ylabel("mean score" if is_alone else f"mean score of {kinds[0]}")
        _legend(figure, axes.tolist())
    return figure_paths(path_stem)


def _set_ticks(axis: Axes) -> None:
    """Whole numbers; a logarithmic scale where the values span a factor of ten."""
    values = np.concatenate([line.get_xdata() for line in axis.lines])
    if values.max() < 10 * values.min() or values.max() < 100:
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())


def _draw_means(axis: Axes, relation: Mapping[str, Any] | None, label: str, color: str, marker: str, style: str) -> None:
    if relation is None:
        return
    x, y, low, high = ([b[key] for b in relation["bins"]] for key in ("mean", "score", "low", "high"))
    axis.plot(x, y, style, color=color, marker=marker, markersize=4.5, lw=1.6, label=legend_label(label))
    axis.fill_between(x, low, high, color=color, alpha=0.13, lw=0)


def plot_perturbations(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """Change of the response score on the left; Best-of-N before and after on the right, where there are outcomes."""
    by_name = result["perturbations"]["perturbations"]
    aggregations = list(next(iter(by_name.values()))["responses"])
    with new_figure(path_stem, 9.0, 1.2 + 0.75 * len(by_name)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for index, aggregation in enumerate(aggregations):
            look = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)], "ls": "", "markersize": 5.5}
            places = -np.arange(len(by_name)) + 0.5 * (0.5 - (index + 0.5) / len(aggregations))
            found = [perturbed["responses"][aggregation] for perturbed in by_name.values()]
            _draw_intervals(left, [f["change"] for f in found], "value", places, 1, aggregation, look)
            _draw_intervals(right, [f["best_of_n"] for f in found], "difference", places, 100, aggregation, look)
        left.set(xlabel="change of the response score", title="Same text in other steps")
        right.set(xlabel="change of Best-of-N (points)", title="and what is chosen")
        for axis in (left, right):
            axis.axvline(0, color=DIAGONAL, ls="--", lw=1.2)
            axis.grid(False, axis="y")
            axis.xaxis.set_major_locator(MaxNLocator(5))
        left.set_ylim(0.6 - len(by_name), 0.4)
        left.set_yticks(-np.arange(len(by_name)), labels=list(by_name))
        _legend(figure, [left])
    return figure_paths(path_stem)


def _draw_intervals(
    axis: Axes,
    found: Sequence[Mapping[str, Any] | None],
    key: str,
    places: np.ndarray,
    unit: float,
    label: str,
    look: Mapping[str, Any],
) -> None:
    for one, place in zip(found, places, strict=True):
        if one:
            value, low, high = (unit * one[name] for name in (key, "low", "high"))
            spread = [[max(value - low, 0)], [max(high - value, 0)]]
            axis.errorbar([value], [place], xerr=spread, capsize=2, lw=1.2, label=label, **look)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    handles = dict(pair for axis in axes for pair in zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
