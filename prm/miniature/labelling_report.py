"""What ways of labelling steps are worth: their labels and the exact judge's in; metrics, a table and a figure out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes

from prm import metrics
from prm.benchmarks.tables import align, interval, percent
from prm.figures import MARKERS, PALETTE, new_figure
from prm.files import read_records, write_json, write_text
from prm.miniature.problems import first_error
from prm.records import Key, Response

ANY_RIGHT = 0.5
"""Threshold between no right completion (0) and some (1)."""
COLORS = (*PALETTE, "#777777")


@dataclass(frozen=True)
class Row:
    """One line of the table: which labels, and how they are read."""

    title: str
    labelling: str
    read: Literal["share", "any", "label"]
    """share: k/K, bad below the best threshold; any: bad if k = 0; label: bad below 0."""


ROWS = (
    Row("K = 4, k/K", "monte_carlo_4", "share"),
    Row("K = 4, k > 0", "monte_carlo_4", "any"),
    Row("K = 16, k/K", "monte_carlo_16", "share"),
    Row("K = 16, k > 0", "monte_carlo_16", "any"),
    Row("adaptive K", "adaptive", "label"),
    Row("binary search", "binary", "label"),
    Row("LLM judge", "judge", "label"),
    Row("judge and K = 16", "consensus", "label"),
)
SOURCES = {"judge": ("judge_steps",), "consensus": ("judge_steps", "monte_carlo_16")}
"""Outputs of label_steps.py that labels were made of, and that they cost; others are such an output themselves."""
STAGES = {"consensus": ("label-judge", "label-monte_carlo_16")}


def write_labelling(root: Path, labellings: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Write `metrics.json`, `report.txt` and `labelling.png/.svg` into `root/labelling`; returns the report's text."""
    folder = root / "labelling"
    exact = {r.key: r for r in read_records(folder / "exact.jsonl", Response)}
    rows = {row.title: measure(row, folder, exact, seconds) for row in ROWS if row.labelling in labellings}
    reliability = {name: calibration(folder / f"{name}.jsonl", exact) for name in ("monte_carlo_4", "monte_carlo_16")}
    result = {"num_responses": len(exact), "share_flawed": share_flawed(exact), "rows": rows, "reliability": reliability}
    write_json(folder / "metrics.json", result)
    plot(result, folder / "labelling")
    text = table(result)
    write_text(folder / "report.txt", text + "\n")
    return text


def share_flawed(exact: Mapping[Key, Response]) -> float:
    return float(np.mean([min(r.step_labels) < 0 for r in exact.values()]))


def measure(row: Row, folder: Path, exact: Mapping[Key, Response], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Quality of the labels, on the responses that have some, and what they cost per response of all."""
    labelled = [r for r in read_records(folder / f"{row.labelling}.jsonl", Response) if None not in r.step_labels]
    scores = [step_scores(response, row.read) for response in labelled]
    errors = np.array([first_error(exact[r.key].step_labels) for r in labelled])
    threshold = metrics.best_threshold(scores, errors)[0] if row.read == "share" else ANY_RIGHT if row.read == "any" else 0.0
    predictions = metrics.predict_first_error(scores, threshold)
    score = metrics.first_error_score(predictions, errors)
    low, high = metrics.f1_interval(predictions, errors)
    sources, stages = SOURCES.get(row.labelling, (row.labelling,)), STAGES.get(row.labelling, (f"label-{row.labelling}",))
    return {
        "labelling": row.labelling,
        "threshold": threshold,
        "step_accuracy": step_accuracy(scores, errors, threshold),
        "auc": metrics.step_auc(scores, errors),
        **asdict(score),
        "low": low,
        "high": high,
        "coverage": len(labelled) / len(exact),
        "tokens_per_response": sum(num_tokens(folder / f"{name}.manifest.json") for name in sources) / len(exact),
        "seconds": sum(seconds[stage] for stage in stages),
    }


def step_scores(response: Response, read: str) -> list[float]:
    if read == "label":
        return list(response.step_labels)
    if read == "any":
        return [float(num_right > 0) for num_right, _ in response.completions]
    return [num_right / num_completions for num_right, num_completions in response.completions]


def num_tokens(manifest: Path) -> int:
    return json.loads(manifest.read_text())["counts"]["num_label_tokens"]


def step_accuracy(scores: Sequence[Sequence[float]], errors: Int[np.ndarray, " items"], threshold: float) -> float:
    """Share of steps on the right side of the threshold, up to the first wrong one: behind it a prefix stays wrong."""
    values, is_good = metrics.judged_steps(scores, errors)
    return metrics.accuracy(values, is_good, threshold)


def calibration(labels: Path, exact: Mapping[Key, Response]) -> dict[str, Any]:
    """k/K against the share of good steps among those with it, over sampled steps (no last ones) up to the first wrong one."""
    responses = [r for r in read_records(labels, Response) if len(r.steps) > 1]
    scores = [step_scores(response, "share")[:-1] for response in responses]
    all_errors = [first_error(exact[r.key].step_labels) for r in responses]
    # An error in the last step lies behind all sampled ones.
    errors = np.array([e if e < len(s) else -1 for e, s in zip(all_errors, scores, strict=True)])
    return reliability(*metrics.judged_steps(scores, errors))


def reliability(values: Float[np.ndarray, " steps"], is_good: Bool[np.ndarray, " steps"]) -> dict[str, Any]:
    """Mean value and share of good steps in bins of equal width, and their mean distance: the expected calibration error."""
    bins = metrics.reliability_bins(values, is_good)
    points = [{"value": b.mean_score, "good": b.share_positive, "steps": float(b.num_items)} for b in bins]
    return {"ece": metrics.calibration_error(bins), "bins": points}


def table(result: Mapping[str, Any]) -> str:
    head = f"{result['num_responses']} responses, {percent(result['share_flawed'])}% with a wrong step"
    columns = ["step labels", "bad", "step acc.", "step AUC", "first-error F1", "interval", "wrong", "right", "coverage"]
    rows = [[*columns, "tokens", "seconds"]]
    for title, r in result["rows"].items():
        rule = "k = 0" if r["threshold"] == ANY_RIGHT else f"< {r['threshold']:.2g}"
        quality = [percent(r["step_accuracy"]), f"{r['auc']:.3f}", percent(r["f1"]), interval(r["low"], r["high"])]
        shares = [percent(r["acc_error"]), percent(r["acc_correct"]), percent(r["coverage"])]
        rows.append([title, rule, *quality, *shares, f"{r['tokens_per_response']:.0f}", f"{r['seconds']:.0f}"])
    errors = ", ".join(f"{100 * r['ece']:.1f} points ({name})" for name, r in result["reliability"].items())
    notes = [
        "step accuracy and AUC: steps up to the first wrong one; wrong, right: accuracy on responses with and without a wrong step",
        "on the covered responses alone; intervals: 95%, bootstrap over responses; the threshold of k/K is the best in hindsight",
        "tokens: generated, per response of all; seconds: start of the engine included",
        f"expected calibration error of k/K as the chance that a step is good: {errors}",
    ]
    return "\n\n".join([head, align(rows), "\n".join(notes)])


def plot(result: Mapping[str, Any], stem: Path) -> None:
    """`stem`.png and .svg: first-error F1 against generated tokens on the left, reliability of k/K on the right."""
    with new_figure(stem, 9.6, 4.0) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
        draw_costs(left, result["rows"])
        draw_reliability(right, result["reliability"])


def draw_costs(axis: Axes, rows: Mapping[str, Mapping[str, Any]]) -> None:
    for (title, r), color, marker in zip(rows.items(), COLORS, MARKERS, strict=False):
        spread = [[100 * (r["f1"] - r["low"])], [100 * (r["high"] - r["f1"])]]
        # Two readings of the same completions may lie on each other: k/K is filled, k > 0 a ring around it.
        ring = {"markerfacecolor": "none", "markersize": 10} if r["threshold"] == ANY_RIGHT else {"markersize": 6}
        style = {"color": color, "marker": marker, "ls": "", "label": title, **ring}
        axis.errorbar([r["tokens_per_response"]], [100 * r["f1"]], yerr=spread, capsize=2, lw=1, **style)
    lowest = min(100 * r["low"] for r in rows.values())
    axis.set(ylim=(10 * (lowest // 10), 101), title="Finding the first wrong step")
    axis.set(xlabel="generated tokens per response", ylabel="F1 (%)")
    axis.set_xlim(left=0)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_reliability(axis: Axes, curves: Mapping[str, Mapping[str, Any]]) -> None:
    axis.plot([0, 100], [0, 100], color="#8a8a8a", ls="--", lw=1.2)
    for index, (name, curve) in enumerate(curves.items()):
        x, y = ([100 * point[key] for point in curve["bins"]] for key in ("value", "good"))
        label = f"K = {name.rsplit('_', 1)[1]}"
        axis.plot(x, y, color=PALETTE[index], marker=MARKERS[index], markersize=4.5, lw=1.6, label=label)
    axis.set(
        xlim=(-3, 103), ylim=(-3, 103), xlabel="right completions k/K (%)", ylabel="good steps (%)", title="Reliability of k/K"
    )
    axis.legend(loc="lower right")
