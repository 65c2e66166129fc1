"""ProcessBench for people: items, predictions and metrics in; tables, a figure and the items to look at out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prm import metrics
from prm.benchmarks.comparison import comparison_table, interval_and_p, points
from prm.benchmarks.options import limit_notes
from prm.benchmarks.plots import Curve, Panel, draw
from prm.benchmarks.processbench.compare import thresholds_of
from prm.benchmarks.processbench.evaluate import first_errors, split_subsets
from prm.benchmarks.processbench.items import FirstErrorItem, Prediction
from prm.benchmarks.results import Item
from prm.benchmarks.step_calibration import calibration_table
from prm.benchmarks.tables import Table, interval, number, percent
from prm.figures import curve_look

BASELINES = {
    "random_oracle": "random scores, oracle threshold",
    "step_number_oracle": "-(i+1) at step i, oracle threshold",
    "position_oracle": "1 - (i+1)/n at step i of n, oracle threshold",
    "all_correct": "every step right",
}


def processbench_tables(result: Mapping[str, Any]) -> list[Table]:
    """F1 per subset and rule with the baselines; differences from other PRMs, calibration, F1 per generator and number of steps."""
    tables = [_main_table(result)]
    if result.get("comparisons"):
        tables.append(_comparison_table(result))
    if result["calibration"]:
        note = "Up to the first error only: what stands behind it is not judged."
        tables.append(calibration_table(result["calibration"], note))
    rule = next(iter(result["results"]))
    for kind, title in (("generator", "generator"), ("num_steps", "number of steps")):
        groups = result["groups"].get(kind, {})
        if len(groups) > 1:
            tables.append(_group_table(f"First-error F1 (%) by {title}, {_rule_name(rule)}, all subsets", title, groups))
    return tables


def plot_processbench(
    items: Sequence[FirstErrorItem], predictions: Sequence[list[float]], result: Mapping[str, Any], path_stem: str | Path
) -> list[Path]:
    """Write F1 over the threshold, one curve per subset, with the best of each marked and the shared thresholds drawn.

    A subset whose items the model could not read has no curve.
    """
    curves = []
    read = {name: subset for name, subset in split_subsets(items, predictions).items() if subset.is_read}
    for index, (name, subset) in enumerate(read.items()):
        thresholds, f1 = metrics.threshold_curve(subset.given, subset.labels)
        best = metrics.first_of_highest(f1)
        curves.append(
            Curve(
                name,
                thresholds.tolist(),
                (100 * f1).tolist(),
                **curve_look(index),
                marks=[(float(thresholds[best]), float(100 * f1[best]))],
            )
        )
    shared = {rule: result["results"][rule]["subsets"] for rule in ("fixed", "gsm8k") if rule in result["results"]}
    lines = {f"{rule} threshold": next(iter(by_subset.values()))["threshold"] for rule, by_subset in shared.items()}
    return draw([Panel("", curves, lines)], path_stem, "threshold on the step score", "F1 (%)", note="dot: the best threshold")


def processbench_items(
    items: Sequence[FirstErrorItem], predictions: Sequence[Prediction], result: Mapping[str, Any]
) -> Iterator[Item]:
    """Every item with its true first error and the one predicted under the first rule (null: none, or no step of the item)."""
    thresholds = next(iter(thresholds_of(result).values()))
    predicted = first_errors(split_subsets(items, predictions), thresholds).tolist()
    for item, given, found in zip(items, predictions, predicted, strict=True):
        scores = given if isinstance(given, list) else []
        shown = found if -1 <= found < len(item.steps) else None
        yield replace(item.as_item(), step_scores=scores, predicted=shown)


def _main_table(result: Mapping[str, Any]) -> Table:
    subsets = list(result["step_auc"]["subsets"])
    rows = [["", *subsets, "average"]]
    for rule, by_rule in result["results"].items():
        scores = [by_rule["subsets"][name] for name in subsets]
        columns = [*scores, by_rule["average"]]
        stars = ["*" if score["is_tuned_here"] else "" for score in scores]
        f1 = [percent(score["f1"]) + star for score, star in zip(scores, stars, strict=True)]
        rows.append([_rule_name(rule), *f1, percent(by_rule["average"]["f1"])])
        rows.append(["  interval", *(interval(score["low"], score["high"]) for score in columns)])
        if rule != "prediction":
            rows.append(["  value", *(number(score["threshold"], ".4g") for score in scores), ""])
        for name, key in (("  items with an error", "acc_error"), ("  correct items", "acc_correct")):
            rows.append([name, *(percent(score[key]) for score in scores), percent(by_rule["average"][key])])
    for key, name in BASELINES.items():
        by_subset, average = result["baselines"][key]["subsets"], result["baselines"][key]["average"]
        rows.append([name, *(percent(by_subset[subset]["f1"]) for subset in subsets), percent(average["f1"])])
    auc = result["step_auc"]
    rows.append(["step AUC", *(percent(auc["subsets"][name]) for name in subsets), percent(auc["average"])])
    rows += [[f"published: {label}", *[""] * len(subsets), percent(value)] for label, value in result["published"].items()]
    return Table(f"ProcessBench, {result['prm']}: F1 of the first wrong step (%)", rows, _notes(result))


def _comparison_table(result: Mapping[str, Any]) -> Table:
    subsets = list(result["step_auc"]["subsets"])

    def cells(found: Mapping[str, Any]) -> list[str]:
        columns = [*(found["subsets"][name] for name in subsets), found["average"]]
        return [*map(points, columns), *interval_and_p(columns[-1])]

    head = [*subsets, "average", "interval", "p"]
    return comparison_table(result, "F1", head, cells, _rule_name, "They are of the average.")


def _rule_name(rule: str) -> str:
    tuned = {"gsm8k": "gsm8k threshold (tuned on gsm8k)", "oracle": "oracle threshold (tuned on each subset)"}
    return tuned.get(rule, rule if rule == "prediction" else f"{rule} threshold")


def _notes(result: Mapping[str, Any]) -> str:
    notes = limit_notes(result["limit"], " of every subset")
    notes += [f"{100 * result['confidence']:g}% bootstrap intervals over items", *result["constant_scores"]]
    if {"gsm8k", "oracle"} & result["results"].keys():
        notes.append("* threshold tuned on the very items that it is measured on")
    if unreadable := {name: count for name, count in result["num_unscored"].items() if count}:
        counts = ", ".join(f"{count} of {name}" for name, count in unreadable.items())
        notes.append(f"The model could not read {counts}: counted as predicted wrong, never cut to fit.")
    if unparsable := result["num_unparsable"]:
        notes.append(f"{unparsable} predictions are null, unparsable: counted as wrong.")
    if other := result.get("num_other_predictions"):
        notes.append(f"{other} predictions of other items were left out.")
    return "\n".join(notes)


def _group_table(title: str, kind: str, groups: Mapping[str, Any]) -> Table:
    rows = [[kind, "F1", "interval", "with an error", "correct", "random", "-(i+1)", "items (error + correct)"]]
    for name, found in groups.items():
        accuracies = [percent(found["acc_error"]), percent(found["acc_correct"])]
        baselines = [percent(found["baselines"][key]["f1"]) for key in ("random_oracle", "step_number_oracle")]
        size = f"{found['num_error']} + {found['num_correct']}"
        rows.append([name, percent(found["f1"]), interval(found["low"], found["high"]), *accuracies, *baselines, size])
    threshold = "the best threshold of each subset (of all items, where a subset has only one kind)"
    note = f"random and -(i+1): content-free scores on the same items, with {threshold}"
    return Table(title, rows, note)
