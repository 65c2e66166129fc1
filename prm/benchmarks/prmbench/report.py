"""PRMBench for people: items, predictions and metrics in; tables, a figure and the items to look at out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from prm import metrics
from prm.benchmarks.comparison import NO_TEST, comparison_table, interval_and_p, points
from prm.benchmarks.options import limit_notes
from prm.benchmarks.plots import Curve, Panel, draw
from prm.benchmarks.prmbench.evaluate import ALL, PRMBenchConfig, called_good, judged_scores
from prm.benchmarks.prmbench.items import AREAS, CORRECT, Prediction, PRMBenchItem
from prm.benchmarks.results import Item
from prm.benchmarks.step_calibration import calibration_table
from prm.benchmarks.tables import Table

BASELINES = {
    "all_correct": "every step right",
    "position_oracle": "1 - (i+1)/n at step i of n, oracle threshold",
    "random_oracle": "random scores, oracle threshold",
}
LEFT_OUT = {
    "duplicate_id": "items whose id had been there before were left out, as in the benchmark",
    "error_step_out_of_range": "error steps name no step of their solution and were ignored, as in the benchmark",
    "other_items": "predictions of other items were left out",
    "repeated": "second predictions of an item were left out, as in the benchmark",
}
"""What the notes say of what was left out, by reason."""
UNDEFINED = "-"
"""In a table, of a ratio of nothing by nothing."""
MAX_POINTS = 1000
"""Points of a curve; the benchmark has more distinct scores than a figure can show."""


def prmbench_tables(result: Mapping[str, Any]) -> list[Table]:
    """PRMScore of every threshold and baseline, differences from other PRMs, the same per category, counts, and calibration."""
    compared = [_comparison_table(result)] if result.get("comparisons") else []
    tables = [_main_table(result), *compared, _category_table(result), _count_table(result)]
    return [*tables, calibration_table(result["calibration"])] if result["calibration"] else tables


def plot_prmbench(
    items: Sequence[PRMBenchItem], predictions: Sequence[list[float]], result: Mapping[str, Any], path_stem: str | Path
) -> list[Path]:
    """Write PRMScore over the threshold with its best point, and what the content-free baselines reach."""
    read = [(i, p) for i, p in zip(items, predictions, strict=True) if i.category != CORRECT and len(p) == len(i.steps)]
    good = np.array([right for item, _ in read for right in item.is_good], dtype=bool)
    judged = np.array([value for _, scores in read for value in judged_scores(scores, result["rule"])], dtype=np.float64)
    curve = _curve("PRM", judged, good)
    line = {"fixed threshold": result["results"]["fixed"]["threshold"]}
    levels = {_short(name): 100 * result["baselines"][key]["prm_score"] for key, name in BASELINES.items()}
    xlabel, note = f"threshold on the step {result['rule']}", "dot: the best threshold"
    return draw([Panel("", [curve], line, levels)], path_stem, xlabel, "PRMScore (%)", note=note)


def prmbench_items(items: Sequence[PRMBenchItem], predictions: Sequence[Prediction], config: PRMBenchConfig) -> Iterator[Item]:
    """Every item with its wrong steps and the first that is called wrong (null: the model could not read the item)."""
    for item, given in zip(items, predictions, strict=True):
        calls = called_good(given, config)
        predicted = calls.index(False) if False in calls else -1
        scores = [float(value) for value in given]
        yield replace(item.as_item(), step_scores=scores, predicted=predicted if len(given) == len(item.steps) else None)


def _main_table(result: Mapping[str, Any]) -> Table:
    rows = [["", "PRMScore", "interval", "F1", "negative F1", *AREAS, "first error found", "similarity", "threshold"]]
    for name, found in _systems(result).items():
        areas = [_share(found["areas"][area]["prm_score"]) for area in AREAS]
        threshold = f"{found['threshold']:.4g}" if found.get("threshold") is not None else ""
        both, rest = ([_share(found[key]) for key in keys] for keys in (("f1", "negative_f1"), ("first_error_acc", "similarity")))
        rows.append([name, _share(found["prm_score"]), _interval(found), *both, *areas, *rest, threshold])
    rows += [[f"published: {label}", _share(value), *[""] * (len(rows[0]) - 2)] for label, value in result["published"].items()]
    title = f"PRMBench, {result['prm']}: PRMScore (%) on {result['num_items']} items with {result['num_steps']} steps"
    return _with_note(title, rows, _notes(result))


def _comparison_table(result: Mapping[str, Any]) -> Table:
    def cells(found: Mapping[str, Any]) -> list[str]:
        overall, *areas = (found["tests"].get(name, NO_TEST) for name in (ALL, *AREAS))
        return [points(overall), *interval_and_p(overall), *map(points, areas), str(found["num_items"])]

    head = ["PRMScore", "interval", "p", *AREAS, "items"]
    note = "Items that one of the two could not read are left out."
    return comparison_table(result, "PRMScore", head, cells, _rule_name, note)


def _rule_name(rule: str) -> str:
    return rule if rule == "prediction" else f"{rule} threshold"


def _notes(result: Mapping[str, Any]) -> str:
    notes = [*limit_notes(result["limit"], ""), f"{100 * result['confidence']:g}% bootstrap intervals over items"]
    if result["step_auc"] is not None:
        notes.append(f"Step AUC {_share(result['step_auc'])}% (random scores: 50%)")
    if "oracle" in result["results"]:
        notes.append("oracle: the threshold is tuned on the very items that it is measured on, as it is for the baselines")
    if result["rule"] == "difference":
        notes.append("A step is called good if its score less the score of the step before is above the threshold.")
    notes += result["constant_scores"]
    if unreadable := result["num_unscored"]:
        rate = f"validity rate {100 * result['validity_rate']:.2f}%"
        notes.append(f"The model could not read {unreadable} items: left out, as the benchmark does ({rate}), never cut to fit.")
    counts = result.get("left_out", {})
    return "\n".join(notes + [f"{counts[reason]} {text}." for reason, text in LEFT_OUT.items() if counts.get(reason)])


def _category_table(result: Mapping[str, Any]) -> Table:
    systems = _systems(result)
    first, *others = systems
    rows = [["category", first, "interval", *map(_short, others), "first error found", "items", "steps"]]
    for area, categories in AREAS.items():
        for category in (name for name in categories if name in systems[first]["categories"]):
            own = {name: found["categories"][category] for name, found in systems.items()}
            num_steps = sum(own[first][key] for key in metrics.COUNTS)
            scores = [_share(own[name]["prm_score"]) for name in others]
            sizes = [_share(own[first]["first_error_acc"]), str(own[first]["num_items"]), str(num_steps)]
            rows.append([f"{area}: {category}", _share(own[first]["prm_score"]), _interval(own[first]), *scores, *sizes])
    return _with_note("PRMScore (%) per category", rows, "multi_solutions: F1 of the right steps alone, as in the benchmark.")


def _count_table(result: Mapping[str, Any]) -> Table:
    keys = ("precision", "recall", "negative_precision", "negative_recall")
    rows = [["", *metrics.COUNTS, *(key.replace("_", " ") for key in keys), "steps right in correct items"]]
    for name, found in _systems(result).items():
        counts = [f"{found[key]:.0f}" for key in metrics.COUNTS]
        correct = _share(found["categories"][CORRECT]["correct_step_acc"]) if CORRECT in found["categories"] else UNDEFINED
        rows.append([name, *counts, *(_share(found[key]) for key in keys), correct])
    return _with_note("Steps called right (P) and wrong (N); shares in %", rows)


def _systems(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The PRM under each rule, then the baselines."""
    rules = {_rule_name(rule): found for rule, found in result["results"].items()}
    return rules | {name: result["baselines"][key] for key, name in BASELINES.items()}


def _curve(label: str, scores: Float[np.ndarray, " steps"], is_good: Bool[np.ndarray, " steps"]) -> Curve:
    """A step is good iff its score is above the threshold, so a value holds from its threshold up to the next one."""
    thresholds, values = metrics.prm_score_curve(scores, is_good)
    last = len(values) - 2
    best = min(metrics.first_of_highest(values), last)
    shown = np.unique([*np.linspace(0, last, MAX_POINTS).astype(int), best])
    ends, heights = thresholds[shown + 1], 100 * values[shown]
    return Curve(label, ends.tolist(), heights.tolist(), marks=[(float(thresholds[best + 1]), float(100 * values[best]))])


def _short(name: str) -> str:
    return name.replace(", oracle threshold", "").replace(" at step i of n", "")


def _interval(found: Mapping[str, Any]) -> str:
    return f"[{_share(found['low'])}, {_share(found['high'])}]" if "low" in found else ""


def _share(value: float | None) -> str:
    return UNDEFINED if value is None or value == -1 else f"{100 * value:.1f}"


def _with_note(title: str, rows: list[list[str]], note: str = "") -> Table:
    """The table, and what its dashes mean where it has any."""
    undefined = f"{UNDEFINED}: nothing to divide by; where the benchmark gives -1, so does metrics.json"
    notes = [note, undefined if any(UNDEFINED in row for row in rows) else ""]
    return Table(title, rows, "\n".join(filter(None, notes)))
