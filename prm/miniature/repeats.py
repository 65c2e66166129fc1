"""Every objective trained several times: a finished run's folder in; metrics, tables and a figure over training runs out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from prm.benchmarks.response_scores import OWN
from prm.benchmarks.summary.training_runs import by_method, measure_runs, run_tables
from prm.benchmarks.tables import percent, render
from prm.figures import PALETTE, new_figure
from prm.files import write_json, write_text
from prm.miniature.report import measure

STEP_AUC, ORACLE_F1, FIXED_F1 = "step AUC", "first-error F1", "F1 at 0.5"


def write_repeats(root: Path, names: Sequence[str]) -> str:
    """Write `metrics.json`, `report.txt` and `runs.png/.svg` into `root/training_runs`; returns the report's text."""
    result = measure(root, names)
    curves, n = result["best_of_n"], str(result["best_of_n"]["n"][-1])
    values = {name: reached(result, name, n) for name in names}
    runs = measure_runs(values)
    title = f"{curves['num_questions']} held-out questions, {n} responses each"
    tables = [table for table in run_tables(runs, list(values[names[0]]), title) if not table.is_folded]
    closing = ["Of the other columns: metrics.json.", "", f"Best-of-{n} of {baselines(curves, n)}", *result["constant_scores"]]
    text = "\n".join([render(tables), *closing])
    folder = root / "training_runs"
    write_json(folder / "metrics.json", {**result, "prms": values, "runs": runs})
    plot(by_method(values), curves, n, folder / "runs")
    write_text(folder / "report.txt", text + "\n")
    return text


def reached(result: Mapping[str, Any], name: str, n: str) -> dict[str, float]:
    """What one PRM reaches, by the metrics of the table."""
    steps = result["steps"][name]
    return {
        f"Best-of-{n}": result["best_of_n"]["prms"][name][OWN]["best_of_n"]["accuracy"][n],
        STEP_AUC: steps["auc"],
        ORACLE_F1: steps["first_error"]["oracle"]["f1"],
        FIXED_F1: steps["first_error"]["fixed"]["f1"],
    }


def baselines(curves: Mapping[str, Any], n: str) -> str:
    vote = curves["baselines"]["majority_vote"]
    voted = f", majority vote {percent(vote['accuracy'][n])}" if vote else ""
    return f"random {percent(curves['baselines']['random']['accuracy'][n])}{voted}; first-error F1 at the best threshold"


def plot(methods: Mapping[str, Mapping[str, Sequence[float]]], curves: Mapping[str, Any], n: str, stem: Path) -> None:
    """`stem`.png and .svg: a point per run and a line at their mean, Best-of-N on the left, first-error F1 on the right."""
    best_of_n = f"Best-of-{n}"
    order = sorted(methods, key=lambda method: sum(methods[method][best_of_n]) / len(methods[method][best_of_n]))
    with new_figure(stem, 9.5, 0.9 + 0.42 * len(order)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        if vote := curves["baselines"]["majority_vote"]:
            left.axvline(100 * vote["accuracy"][n], color="#444444", ls="--", lw=1.4)
            left.text(100 * vote["accuracy"][n] + 1, -0.55, "majority vote", color="#444444", fontsize=8.5, va="bottom")
        for axis, metric, label in (
            (left, best_of_n, f"{best_of_n}: accuracy of the chosen answer (%)"),
            (right, ORACLE_F1, "finding the first wrong step: F1 (%), best threshold"),
        ):
            draw_runs(axis, [[100 * value for value in methods[method][metric]] for method in order])
            axis.set(xlabel=label, xlim=(0, 103), ylim=(-0.6, len(order) - 0.4))
        left.set_yticks(range(len(order)), labels=order)


def draw_runs(axis: Axes, runs: Sequence[Sequence[float]]) -> None:
    for place, values in enumerate(runs):
        color = PALETTE[place % len(PALETTE)]
        axis.plot(values, [place] * len(values), "o", color=color, alpha=0.6, markersize=6, markeredgewidth=0)
        mean = sum(values) / len(values)
        axis.plot([mean, mean], [place - 0.3, place + 0.3], color=color, lw=2.2)
    axis.grid(False, axis="y")
