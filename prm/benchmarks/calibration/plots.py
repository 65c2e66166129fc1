"""The calibration report's figures: its metrics in, PNG and SVG out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from prm.benchmarks.calibration.tables import COVARIATES
from prm.figures import GREY, curve_look, figure_paths, legend_below, legend_label, log_scale, page_figure, panel_grid

MIN_ITEMS = 10
KEYS = ("mean_score", "share_positive", "low", "high", "num_items")


def plot_reliability(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """What held against what was claimed, per step and per aggregation of responses; below, how many items claimed it.

    A single PRM is drawn with intervals, before and after its temperature; several are drawn before it only. Bins of fewer than
    `MIN_ITEMS` items are left out, and no line runs across them.
    """
    panels = {"steps": {prm: found["steps"] for prm, found in result["prms"].items() if found["steps"]}}
    for name in next(iter(result["prms"].values()))["responses"]:
        panels[f"responses, {name}"] = {prm: found["responses"][name] for prm, found in result["prms"].items()}
    panels = {title: {prm: one for prm, one in by_prm.items() if one} for title, by_prm in panels.items()}
    panels = {title: by_prm for title, by_prm in panels.items() if by_prm}
    num_rows, num_columns = panel_grid(len(panels))
    with page_figure(path_stem, num_columns, 3.4 * num_rows) as figure:
        axes = figure.subplots(2 * num_rows, num_columns, height_ratios=[3, 1] * num_rows, sharex=True, squeeze=False)
        uppers, lowers = axes[::2].ravel(), axes[1::2].ravel()
        for upper, lower, (title, by_prm) in zip(uppers, lowers, panels.items(), strict=False):
            _draw_panel(upper, lower, by_prm, is_alone=len(result["prms"]) == 1)
            upper.set_title(title)
            lower.set_xlabel("score (%)")
            lower.tick_params(labelbottom=True)
        kinds = ["good steps"] * ("steps" in panels) + ["right answers"] * (len(panels) > ("steps" in panels))
        for upper, lower in axes[:, 0].reshape(-1, 2):
            upper.set_ylabel(f"{' or '.join(kinds)} (%)")
            lower.set_ylabel("items (%)")
        for axis in (*uppers[len(panels) :], *lowers[len(panels) :]):
            axis.remove()
        legend_below(figure, uppers[: len(panels)])
    return figure_paths(path_stem)


def _draw_panel(upper: Axes, lower: Axes, by_prm: Mapping[str, Any], is_alone: bool) -> None:
    upper.plot([0, 100], [0, 100], "--", color=GREY, lw=1.2)
    for index, (prm, found) in enumerate(by_prm.items()):
        forms = {prm: "before", "after its temperature": "after"} if is_alone else {prm: "before"}
        for offset, (label, form) in enumerate(forms.items()):
            look = curve_look(index + offset)
            x, y, low, high, num_items = _points(found[form]["bins"])
            spread = 100 * np.abs(np.stack([y - low, high - y])) if is_alone else None
            ends = {"yerr": spread, "elinewidth": 0.9, "capsize": 1.5}
            upper.errorbar(100 * x, 100 * y, markersize=4, lw=1.3, label=legend_label(label), **ends, **look)
            lower.plot(100 * x, 100 * num_items / found["num_items"], markersize=2.5, lw=1, **look)
    upper.set(xlim=(-3, 103), ylim=(-3, 103))
    lower.set(ylim=(0, None))


def _points(bins: Sequence[Mapping[str, float]]) -> np.ndarray:
    """A row for each of `KEYS`, a column for each bin that is drawn, and one of nan where bins between two of them are left out."""
    drawn = [b for b in bins if b["num_items"] >= MIN_ITEMS]
    points = np.array([[b[key] for key in KEYS] for b in drawn], dtype=np.float64).reshape(-1, len(KEYS))
    gaps = np.flatnonzero(np.diff([b["index"] for b in drawn]) > 1) + 1
    return np.insert(points, gaps, np.nan, axis=0).T


def plot_bias(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """Mean score against position, length and number of steps: of one PRM for good and bad steps, of several for good ones.

    Outcome models have no step scores and are left out; at least one PRM must have some.
    """
    is_alone = len(result["prms"]) == 1
    biases = {prm: found["bias"] for prm, found in result["prms"].items() if found["bias"]["steps"]}
    first = next(iter(biases.values()))
    covariates, truth = list(first["steps"]), first["truth"]
    kinds = ("good steps", "bad steps") if truth == "step labels" else ("steps of right responses", "steps of wrong responses")
    with page_figure(path_stem, len(covariates), 2.6) as figure:
        axes = figure.subplots(1, len(covariates), sharey=True, squeeze=False)[0]
        for axis, covariate in zip(axes, covariates, strict=False):
            for index, (prm, bias) in enumerate(biases.items()):
                by_truth = bias["steps"][covariate]
                label = kinds[0] if is_alone else prm
                _draw_means(axis, by_truth.get("good"), label, curve_look(index))
                if is_alone:
                    _draw_means(axis, by_truth.get("bad"), kinds[1], curve_look(1) | {"linestyle": "--"})
            unit = f" ({result['length_unit']})" if covariate == "step_length" else ""
            axis.set(xlabel=COVARIATES[covariate] + unit)
            if axis.lines:
                _set_ticks(axis)
        axes[0].set_ylabel("mean score" if is_alone else f"mean score of\n{kinds[0]}")
        legend_below(figure, axes)
    return figure_paths(path_stem)


def _set_ticks(axis: Axes) -> None:
    """Whole numbers; a logarithmic scale where the values span a factor of ten."""
    values = np.concatenate([line.get_xdata() for line in axis.lines])
    low, high = values.min(), values.max()
    if high < max(100, 10 * low) or low <= 0:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return
    round_numbers = np.outer(10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1), (1, 2, 5)).ravel()
    log_scale(axis, round_numbers[(low <= round_numbers) & (round_numbers <= high)])


def _draw_means(axis: Axes, relation: Mapping[str, Any] | None, label: str, look: Mapping[str, Any]) -> None:
    if relation is None:
        return
    x, y, low, high = ([b[key] for b in relation["bins"]] for key in ("mean", "score", "low", "high"))
    axis.plot(x, y, markersize=4, lw=1.4, label=legend_label(label), **look)
    axis.fill_between(x, low, high, color=look["color"], alpha=0.13, lw=0)


def plot_perturbations(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """Change of the response score; beside it that of Best-of-N, where there are outcomes."""
    by_name = result["perturbations"]["perturbations"]
    aggregations = list(next(iter(by_name.values()))["responses"])
    has_choice = any(found["best_of_n"] for perturbed in by_name.values() for found in perturbed["responses"].values())
    with page_figure(path_stem, 1 + has_choice, 0.9 + (0.2 + 0.15 * len(aggregations)) * len(by_name)) as figure:
        axes = figure.subplots(1, 1 + has_choice, sharey=True, squeeze=False)[0]
        kinds = {"change": ("value", 1), "best_of_n": ("difference", 100)}
        for index, aggregation in enumerate(aggregations):
            look = curve_look(index) | {"linestyle": "", "markersize": 4.5}
            places = -np.arange(len(by_name)) + 0.6 * (0.5 - (index + 0.5) / len(aggregations))
            for axis, (kind, (key, unit)) in zip(axes, kinds.items(), strict=False):
                found = [perturbed["responses"][aggregation][kind] for perturbed in by_name.values()]
                _draw_intervals(axis, found, key, places, unit, aggregation.replace("_", " "), look)
        labels = ("change of the response score", "change of Best-of-N (points)")
        for axis, label, title in zip(axes, labels, ("Same text in other steps", "and what is chosen"), strict=False):
            axis.set(xlabel=label, title=title)
            axis.axvline(0, color=GREY, ls="--", lw=1.2)
            axis.grid(False, axis="y")
            axis.xaxis.set_major_locator(MaxNLocator(5))
        axes[0].set_ylim(0.5 - len(by_name), 0.5)
        axes[0].set_yticks(-np.arange(len(by_name)), labels=list(by_name))
        legend_below(figure, axes[:1])
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
