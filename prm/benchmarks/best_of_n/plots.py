"""Best-of-N's figures: the evaluation's metrics in, PNG and SVG out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prm.benchmarks.plots import Curve, Panel, draw
from prm.benchmarks.response_scores import of_step_scores
from prm.figures import DARK_GREY, GREY, curve_look

BASELINE_LABELS = {"random": "random", "majority_vote": "majority vote", "pass_at_n": "any right (pass@N)"}
BASELINE_LOOKS = {"random": (GREY, ":"), "majority_vote": (DARK_GREY, "--"), "pass_at_n": (GREY, "--")}


def plot_best_of_n(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """Write `path_stem`.png and .svg: one panel per aggregation, PRMs in color, baselines in grey."""
    aggregations = list(result["differences"])
    baselines = {name: curve for name, curve in result["baselines"].items() if curve}
    panels = []
    for aggregation in aggregations:
        curves = [
            Curve(BASELINE_LABELS[name], *_percent(curve)[:2], color=color, linestyle=line, marker=".")
            for name, curve in baselines.items()
            for color, line in [BASELINE_LOOKS[name]]
        ]
        curves += [
            Curve(prm, *_percent(by_aggregation[aggregation]["best_of_n"]), **curve_look(index))
            for index, (prm, by_aggregation) in enumerate(result["prms"].items())
        ]
        panels.append(Panel(of_step_scores(aggregation), curves))
    note = f"with {100 * result['confidence']:g}% intervals over questions"
    ylabel = "accuracy of the\nselected answer (%)"
    return draw(panels, path_stem, "N (candidates per question)", ylabel, log2=True, note=note)


def _percent(curve: Mapping[str, Any]) -> list[list[float]]:
    """N, accuracy, low and high end."""
    percents = [[100 * value for value in curve[name].values()] for name in ("accuracy", "low", "high")]
    return [[float(n) for n in curve["accuracy"]], *percents]
