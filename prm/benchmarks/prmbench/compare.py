"""Two PRMs on the same items of PRMBench: one's metrics and the folder of another's evaluation in; paired differences out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prm.benchmarks.comparison import Evaluation, damaged, matching_rules, paired_tests, read_evaluation
from prm.benchmarks.prmbench.evaluate import ALL, BENCHMARK, PRMBenchConfig, judged_scores, lay_out, score_columns
from prm.benchmarks.prmbench.items import AREAS, CORRECT, PRMBenchItem
from prm.benchmarks.results import METRICS, without_nan

BETWEEN_LABELS = 0.5
"""Threshold between the labels that stand for scores: 0 of a bad step, 1 of a good one."""


def evaluation_of(result: Mapping[str, Any], predictions: Sequence[Sequence[float]]) -> Evaluation:
    """What `evaluate_prmbench`'s result compares: for each item its values (empty: not read), for each rule the threshold."""
    judged = [judged_scores([float(value) for value in prediction], result["rule"]) for prediction in predictions]
    thresholds = {rule: found["threshold"] for rule, found in result["results"].items()}
    return Evaluation(judged, {rule: BETWEEN_LABELS if value is None else value for rule, value in thresholds.items()})


def load_evaluation(folder: str | Path, items: Sequence[PRMBenchItem]) -> Evaluation:
    """Read the folder of an evaluation of the same `items`; raises as `read_evaluation`."""
    result, found = read_evaluation(folder, [item.as_item() for item in items], BENCHMARK, [("threshold",)], ("prediction",))
    if result.get("rule") not in ("score", "difference"):
        raise damaged(folder, METRICS, f"rule is {result.get('rule')!r:.80}, expected score or difference;")
    return evaluation_of(result, [item.step_scores for item in found])


def compare(items: Sequence[PRMBenchItem], own: Evaluation, other: Evaluation, config: PRMBenchConfig) -> dict[str, Any]:
    """PRMScore of `own` minus that of `other` under each of its rules: in all, per area and category, interval and p-value.

    Compared are the items that both could read; thresholds stay as they were found. The other PRM is taken under the same rule, or
    under its first rule where it has none of that name. Raises ValueError where no item with an error is left.
    """
    both = [index for index in range(len(items)) if own.predictions[index] and other.predictions[index]]
    steps = lay_out([items[index] for index in both])
    if not steps.is_scored.any():
        raise ValueError("there is no item with an error that both PRMs could read: nothing to compare")
    judged = [np.array([value for index in both for value in side.predictions[index]]) for side in (own, other)]
    categories = np.array(steps.category)
    compared = {}
    for rule, others_rule in matching_rules(own, other).items():
        thresholds = own.thresholds[rule], other.thresholds[others_rule]
        sides = [score_columns(steps, values > threshold, config) for values, threshold in zip(judged, thresholds, strict=True)]
        scores, *_ = sides[0]
        columns = {name: np.isin(categories, [name, *AREAS.get(name, ())]) for name in scores} | {ALL: categories != CORRECT}
        tests = paired_tests(*sides, columns, config.confidence)
        compared[rule] = {"rule": others_rule, "num_items": int(columns[ALL].sum()), "tests": tests}
    return without_nan(compared)
