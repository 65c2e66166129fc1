"""Two PRMs on the same items of PRMBench: one's metrics and the folder of another's evaluation in; paired differences out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from prm import metrics
from prm.benchmarks.comparison import other_truth, read_evaluation
from prm.benchmarks.prmbench.evaluate import (
    ALL,
    PRMBenchConfig,
    Steps,
    count,
    judged_scores,
    lay_out,
    measure,
    prm_scores,
    resampled_scores,
)
from prm.benchmarks.prmbench.items import AREAS, CORRECT, PRMBenchItem
from prm.benchmarks.results import without_nan

METRICS_KEYS = {"results", "validity_rate", "rule", "baselines"}
"""What metrics.json of PRMBench has."""
BETWEEN_LABELS = 0.5
"""Threshold between labels, of which a good step's is 1."""


@dataclass(frozen=True)
class Evaluation:
    """What each rule holds against its threshold, in the order of the data: a list per item, empty where it could not be read."""

    judged: list[list[float]]
    thresholds: dict[str, float]


def evaluation_of(result: Mapping[str, Any], predictions: Sequence[Sequence[float]]) -> Evaluation:
    """From the metrics of `evaluate_prmbench` and what they are made of."""
    judged = [judged_scores([float(value) for value in prediction], result["rule"]) for prediction in predictions]
    thresholds = {rule: found["threshold"] for rule, found in result["results"].items()}
    return Evaluation(judged, {rule: BETWEEN_LABELS if value is None else value for rule, value in thresholds.items()})


def load_evaluation(folder: str | Path, items: Sequence[PRMBenchItem]) -> Evaluation:
    """Read the folder of an evaluation of the same `items`; raises as `read_evaluation`."""
    result, found = read_evaluation(folder, [item.id for item in items], METRICS_KEYS, "prmbench_eval.py")
    for item, theirs in zip(items, found, strict=True):
        wrong = [step for step, is_good in enumerate(item.is_good) if not is_good]
        if (theirs.group, theirs.steps, theirs.wrong_steps) != (item.category, item.steps, wrong):
            raise other_truth(folder, item.id)
    return evaluation_of(result, [item.step_scores for item in found])


def compare(items: Sequence[PRMBenchItem], own: Evaluation, other: Evaluation, config: PRMBenchConfig) -> dict[str, Any]:
    """PRMScore of `own` minus that of `other` under each of its rules: in all, per area and category, interval and p-value.

    On the items that both could read, with thresholds as they were found. The other PRM is under the same rule, or its first where
    it has none of that name. Raises ValueError where there is no such item.
    """
    both = [index for index in range(len(items)) if own.judged[index] and other.judged[index]]
    steps = lay_out([items[index] for index in both])
    if not steps.is_scored.any():
        raise ValueError("there is no item with an error that both PRMs could read: nothing to compare")
    sides = [np.array([value for index in both for value in side.judged[index]]) for side in (own, other)]
    num_items = sum(category != CORRECT for category in steps.category)
    compared = {}
    for rule, threshold in own.thresholds.items():
        others_rule = rule if rule in other.thresholds else next(iter(other.thresholds))
        calls = [sides[0] > threshold, sides[1] > other.thresholds[others_rule]]
        compared[rule] = {"rule": others_rule, "num_items": num_items, "tests": _difference(steps, calls, config)}
    return without_nan(compared)


def _difference(steps: Steps, calls: Sequence[Bool[np.ndarray, " steps"]], config: PRMBenchConfig) -> dict[str, dict[str, float]]:
    """Paired tests by the names of `prm_scores`."""
    measured = [measure(steps, called) for called in calls]
    scores = [prm_scores(found) for found in measured]
    draws = [resampled_scores(steps, called, found, config) for called, found in zip(calls, measured, strict=True)]
    names = list(scores[0])
    gaps, resampled_gaps = (
        metrics.without_noise(np.subtract(*(np.stack([side[name] for name in names], axis=-1) for side in sides)))
        for sides in (scores, draws)
    )
    counts = [count(steps, called) for called in calls]
    is_apart = (counts[0] != counts[1]).any(axis=1)
    categories = np.array(steps.category)
    is_own = [categories != CORRECT if name == ALL else np.isin(categories, [name, *AREAS.get(name, ())]) for name in names]
    sizes, num_differing = (np.array([own.sum() for own in of_name]) for of_name in (is_own, [own & is_apart for own in is_own]))
    found = vars(metrics.paired_test(gaps, resampled_gaps, sizes, num_differing, config.confidence))
    return {name: {key: float(values[index]) for key, values in found.items()} for index, name in enumerate(names)}
