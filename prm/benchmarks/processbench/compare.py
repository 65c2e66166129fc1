"""Two PRMs on the same items of ProcessBench: one's metrics and the folder of another's evaluation in; paired differences out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prm import metrics
from prm.benchmarks.comparison import Evaluation, Side, matching_rules, paired_tests, read_evaluation
from prm.benchmarks.processbench.evaluate import BENCHMARK, ProcessBenchConfig, first_errors, resampled, split_subsets
from prm.benchmarks.processbench.items import FirstErrorItem
from prm.benchmarks.results import without_nan

AVERAGE = ""
"""Column of the average; no subset has this name."""


def thresholds_of(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """For each rule in the metrics of `evaluate_processbench`, the threshold of every subset.

    Given predictions (rule `prediction`) have none; a subset of which the model could read no item has the threshold nan.
    """
    by_rule = {rule: found["subsets"] if rule != "prediction" else {} for rule, found in result["results"].items()}
    return {
        rule: {name: np.nan if score["threshold"] is None else score["threshold"] for name, score in subsets.items()}
        for rule, subsets in by_rule.items()
    }


def load_evaluation(folder: str | Path, items: Sequence[FirstErrorItem]) -> Evaluation:
    """Read the folder of an evaluation of the same `items`; raises as `read_evaluation`."""
    places = [("subsets", name, "threshold") for name in dict.fromkeys(item.subset for item in items)]
    result, found = read_evaluation(folder, [item.as_item() for item in items], BENCHMARK, places, ("prediction", "oracle"))
    thresholds = thresholds_of(result)
    if "prediction" in thresholds:
        return Evaluation([metrics.UNPARSABLE if item.predicted is None else item.predicted for item in found], thresholds)
    return Evaluation([item.step_scores for item in found], thresholds)


def compare(items: Sequence[FirstErrorItem], own: Evaluation, other: Evaluation, config: ProcessBenchConfig) -> dict[str, Any]:
    """F1 of `own` minus that of `other` under each of its rules: per subset and of the average, interval and p-value.

    The other PRM is taken under the same rule, or under its first rule where it has none of that name. Both see the same resampled
    items.
    """
    names = np.array([item.subset for item in items])
    columns = {name: names == name for name in dict.fromkeys(names.tolist())} | {AVERAGE: np.ones(len(items), dtype=bool)}
    compared = {}
    for rule, others_rule in matching_rules(own, other).items():
        sides = _side(items, own, rule, config), _side(items, other, others_rule, config)
        tests = paired_tests(*sides, columns, config.confidence)
        average = tests.pop(AVERAGE)
        compared[rule] = {"rule": others_rule, "subsets": tests, "average": average}
    return without_nan(compared)


def _side(items: Sequence[FirstErrorItem], own: Evaluation, rule: str, config: ProcessBenchConfig) -> Side:
    subsets = split_subsets(items, own.predictions)
    predicted = first_errors(subsets, own.thresholds[rule])
    scores = {name: metrics.first_error_score(predicted[subset.places], subset.labels).f1 for name, subset in subsets.items()}
    is_hit = predicted == np.array([item.label for item in items])
    return _with_average(scores), _with_average(resampled(subsets, predicted, config)), is_hit


def _with_average(by_subset: Mapping[str, Any]) -> dict[str, Any]:
    return {**by_subset, AVERAGE: np.mean(list(by_subset.values()), axis=0)}
