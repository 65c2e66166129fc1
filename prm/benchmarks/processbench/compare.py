"""Two PRMs on the same items of ProcessBench: one's metrics and the folder of another's evaluation in; paired differences out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prm import metrics
from prm.benchmarks.comparison import other_truth, read_evaluation
from prm.benchmarks.processbench.evaluate import ProcessBenchConfig, first_errors, resampled, split_subsets
from prm.benchmarks.processbench.items import FirstErrorItem, Prediction
from prm.benchmarks.results import without_nan

METRICS_KEYS = {"results", "baselines", "num_unparsable"}
"""What metrics.json of ProcessBench has."""
Thresholds = dict[str, dict[str, float]]
"""Of each rule the threshold of every subset; none of given predictions, nan of a subset that the model could not read."""


@dataclass(frozen=True)
class Evaluation:
    """What a PRM says of every item, in the order of the data, and the thresholds that it was evaluated with."""

    predictions: list[Prediction]
    thresholds: Thresholds


def thresholds_of(result: Mapping[str, Any]) -> Thresholds:
    """Those in the metrics of `evaluate_processbench`."""
    by_rule = {rule: found["subsets"] for rule, found in result["results"].items() if rule != "prediction"}
    found = {
        rule: {name: np.nan if score["threshold"] is None else score["threshold"] for name, score in subsets.items()}
        for rule, subsets in by_rule.items()
    }
    return found or {"prediction": {}}


def load_evaluation(folder: str | Path, items: Sequence[FirstErrorItem]) -> Evaluation:
    """Read the folder of an evaluation of the same `items`; raises as `read_evaluation`."""
    result, found = read_evaluation(folder, [item.id for item in items], METRICS_KEYS, "processbench_eval.py")
    for item, theirs in zip(items, found, strict=True):
        if (theirs.group, theirs.first_error, theirs.steps) != (item.subset, item.label, item.steps):
            raise other_truth(folder, item.id)
    thresholds = thresholds_of(result)
    if "prediction" in thresholds:
        return Evaluation([metrics.UNPARSABLE if item.predicted is None else item.predicted for item in found], thresholds)
    return Evaluation([item.step_scores for item in found], thresholds)


def compare(items: Sequence[FirstErrorItem], own: Evaluation, other: Evaluation, config: ProcessBenchConfig) -> dict[str, Any]:
    """F1 of `own` minus that of `other` under each of its rules: per subset and of the average, interval and p-value.

    The other PRM is under the same rule, or its first where it has none of that name. Both see the same resampled items.
    """
    return without_nan({rule: _difference(items, own, other, rule, config) for rule in own.thresholds})


def _difference(
    items: Sequence[FirstErrorItem], own: Evaluation, other: Evaluation, rule: str, config: ProcessBenchConfig
) -> dict[str, Any]:
    others_rule = rule if rule in other.thresholds else next(iter(other.thresholds))
    subsets = split_subsets(items, own.predictions)
    sides = [
        first_errors(split_subsets(items, side.predictions), side.thresholds[name])
        for side, name in ((own, rule), (other, others_rule))
    ]
    scores, draws = [], []
    for predicted in sides:
        of_subsets = [metrics.first_error_score(predicted[subset.places], subset.labels).f1 for subset in subsets.values()]
        scores.append(np.array([*of_subsets, np.mean(of_subsets)]))
        of_draws = np.stack(list(resampled(subsets, predicted, config).values()), axis=1)
        draws.append(np.concatenate([of_draws, of_draws.mean(axis=1, keepdims=True)], axis=1))
    gaps = [metrics.without_noise(first - second) for first, second in (scores, draws)]
    sizes = np.array([*(len(subset.places) for subset in subsets.values()), len(items)])
    hits = [predicted == np.array([item.label for item in items]) for predicted in sides]
    is_apart = hits[0] != hits[1]
    num_differing = np.array([*(is_apart[subset.places].sum() for subset in subsets.values()), is_apart.sum()])
    found = vars(metrics.paired_test(*gaps, sizes, num_differing, config.confidence))
    by_column = [{name: float(values[index]) for name, values in found.items()} for index in range(len(sizes))]
    return {"rule": others_rule, "subsets": dict(zip(subsets, by_column[:-1], strict=True)), "average": by_column[-1]}
