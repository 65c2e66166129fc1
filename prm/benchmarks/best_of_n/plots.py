"""Best-of-N's figures: the evaluation's metrics in, PNG and SVG out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prm.benchmarks.plots import Curve, Panel, draw
from prm.figures import PALETTE

BASELINE_LABELS = {"random": "random", "majority_vote": "majority vote", "pass_at_n": "any right (pass@N)"}
GREYS = {"random": "#999999", "majority_vote": "#444444", "pass_at_n": "#bbbbbb"}


def plot_best_of_n(result: Mapping[str, Any], path_stem: str | Path) -> list[Path]:
    """Write `path_stem`.png and .svg: one panel per aggregation, PRMs in color, baselines in grey."""
    aggregations = list(result["differences"])
    baselines = {name: curve for name, curve in result["baselines"].items() if curve}
    panels = []
    for aggregation in aggregations:
        curves = [_curve(BASELINE_LABELS[name], c, GREYS[name], "--", with_interval=False) for name, c in baselines.items()]
        for index, (prm, by_aggregation) in enumerate(result["prms"].items()):
            color = PALETTE[index % len(PALETTE)]
            curves.append(_curve(prm, by_aggregation[aggregation]["best_of_n"], color, "-"))
        panels.append(Panel(f"{aggregation.replace('_', ' ')} of the step scores", curves))
    note = f"with {100 * result['confidence']:g}% intervals over questions"
    return draw(panels, path_stem, "N (candidates per question)", "accuracy of the selected answer (%)", log2=True, note=note)


def _curve(label: str, curve: Mapping[str, Any], color: str, style: str, with_interval: bool = True) -> Curve:
    xs = [float(n) for n in curve["accuracy"]]
    values, low, high = ([100 * v for v in curve[name].values()] for name in ("accuracy", "low", "high"))
    return Curve(label, xs, values, *((low, high) if with_interval else (None, None)), color, style)
