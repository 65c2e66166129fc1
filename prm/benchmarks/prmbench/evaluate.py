"""PRMBench: items with their wrong steps and step scores (or labels) in; PRMScore in all, per area and per category out.

On the whole benchmark the content-free baselines reach a PRMScore of 0.4572 (every step right), 0.5501 (`1 - (i+1)/n`, oracle
threshold) and 0.501 (uniform random, oracle threshold). A PRM below them has learnt nothing that the benchmark sees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from prm import metrics
from prm.benchmarks.baselines import position_scores, random_scores
from prm.benchmarks.constant_scores import constant_notes
from prm.benchmarks.options import StepBenchmarkConfig
from prm.benchmarks.prmbench.items import AREAS, CATEGORIES, CORRECT, Prediction, PRMBenchItem
from prm.benchmarks.published_values import parse_published
from prm.benchmarks.results import without_nan
from prm.benchmarks.step_calibration import reading_of, step_calibration
from prm.metrics.prm_score import ratio

BENCHMARK = "PRMBench"
ALL = "all"
"""Name of the PRMScore over all items with errors, beside those of areas and categories."""
DIFFERENCE_THRESHOLD = -0.05
"""The `fixed` one of rule `difference`, as in the benchmark's code for Skywork's PRMs."""


@dataclass
class PRMBenchConfig(StepBenchmarkConfig):
    """When a step is called good."""

    rule: Literal["score", "difference"] = "score"
    """What must lie above the threshold for a step to be called good: its `score`, or the `difference` to the score of the step
    before (of the first step, its score), as the benchmark reads Skywork's PRMs, with a fixed threshold of -0.05 where none is
    given. The best threshold, `oracle`, is reported beside the fixed one."""

    @property
    def used_threshold(self) -> float:
        if self.rule == "difference" and self.fixed_threshold is None:
            return DIFFERENCE_THRESHOLD
        return super().used_threshold

    @property
    def has_natural_threshold(self) -> bool:
        return super().has_natural_threshold and self.rule == "score"


@dataclass(frozen=True)
class Steps:
    """All steps of the items that the model could read, one after another, and what the benchmark knows of them."""

    category: list[str]
    lengths: list[int]
    item: Int[np.ndarray, " steps"]
    """Number of the item that the step belongs to."""
    is_good: Bool[np.ndarray, " steps"]
    is_scored: Bool[np.ndarray, " steps"]
    """Whether the step is of an item with an error: the others are only compared with."""
    first_error: Int[np.ndarray, " items"]
    """Place among all steps of each item's first wrong one, -1: none."""
    correct_item: Int[np.ndarray, " items"]
    """Number of the item that is the same solution before errors were put in, -1: not there."""


def evaluate_prmbench(items: Sequence[PRMBenchItem], predictions: Sequence[Prediction], config: PRMBenchConfig) -> dict[str, Any]:
    """Everything that the benchmark's own code reports, with intervals, for the fixed and the best threshold and the baselines.

    Given labels have one rule, `prediction`, and neither threshold nor AUC. Items without a prediction (the model could not read
    them) are left out, as the benchmark does; `validity_rate` is the share of the others. -1 is what the benchmark gives for a
    ratio of nothing by nothing (a PRMScore made of it is at least 0); an area of which a category is missing is None.
    """
    is_labels = any(isinstance(value, bool) for prediction in predictions for value in prediction)
    if is_labels and (config.rule == "difference" or config.fixed_threshold is not None):
        option = "--rule difference" if config.rule == "difference" else "--fixed_threshold"
        raise ValueError(f"{option} is for step scores, but the predictions are labels: leave it out")
    is_read = [len(given) == len(item.steps) for item, given in zip(items, predictions, strict=True)]
    steps = lay_out([item for item, kept in zip(items, is_read, strict=True) if kept])
    if not steps.is_scored.any():
        raise ValueError("the model could read no item that counts: there is nothing to evaluate")
    given = np.array([value for prediction in predictions for value in judged_scores(prediction, config.rule)])
    is_error = [item.category != CORRECT for item in items]
    result: dict[str, Any] = {
        "benchmark": BENCHMARK,
        "prm": config.prm_name,
        "limit": config.limit,
        "num_items": sum(is_error),
        "num_correct_items": len(items) - sum(is_error),
        "num_steps": int(steps.is_scored.sum()),
        "num_unscored": is_read.count(False),
        "validity_rate": sum(a and b for a, b in zip(is_error, is_read, strict=True)) / sum(is_error),
        "rule": config.rule,
        "confidence": config.confidence,
    }
    if given.dtype == bool:
        result |= {
            "results": {"prediction": {"threshold": None, **measure(steps, given, config)}},
            "step_auc": None,
            "constant_scores": [],
            "calibration": {},
        }
    else:
        scored, good = given[steps.is_scored], steps.is_good[steps.is_scored]
        rules = {"fixed": config.used_threshold, "oracle": metrics.best_prm_threshold(scored, good)[0]}
        result["results"] = {rule: {"threshold": t, **measure(steps, given > t, config)} for rule, t in rules.items()}
        reading = reading_of(config.prm_name, predictions, config.reading or "auto")
        raw = np.array([score for prediction in predictions for score in prediction], dtype=np.float64)[steps.is_scored]
        result |= {"step_auc": metrics.roc_auc(scored, good), "constant_scores": constant_notes({config.prm_name: predictions})}
        result["calibration"] = {"all items with errors": step_calibration(raw, good, config.num_calibration_bins, reading)}
        result["read_as"] = reading
    return without_nan(result | {"baselines": _baselines(steps, config), "published": parse_published(config.published)})


def judged_scores(prediction: Prediction, rule: str) -> Prediction:
    """What is compared with the threshold: the scores, or each score less the one before it (the first less 0)."""
    return prediction if rule == "score" else [b - a for a, b in zip([0.0, *prediction], prediction, strict=False)]


def called_good(prediction: Prediction, config: PRMBenchConfig) -> list[bool]:
    """Whether each step is called good under the fixed threshold; labels stay."""
    return [v if isinstance(v, bool) else v > config.used_threshold for v in judged_scores(prediction, config.rule)]


def lay_out(items: Sequence[PRMBenchItem]) -> Steps:
    """The steps of all items as flat arrays."""
    lengths = [len(item.steps) for item in items]
    starts = np.cumsum([0, *lengths])
    places = {item.id: index for index, item in enumerate(items)}
    first = [-1 if item.first_error is None else start + item.first_error for item, start in zip(items, starts, strict=False)]
    of_item = np.repeat(np.arange(len(items)), lengths)
    is_error = np.array([item.category != CORRECT for item in items], dtype=bool)
    return Steps(
        category=[item.category for item in items],
        lengths=lengths,
        item=of_item,
        is_good=np.array([good for item in items for good in item.is_good], dtype=bool),
        is_scored=is_error[of_item],
        first_error=np.array(first, dtype=np.int64),
        correct_item=np.array(
            [places.get(item.correct_id, -1) if e else -1 for item, e in zip(items, is_error, strict=True)], dtype=np.int64
        ),
    )


def measure(steps: Steps, called_good: Bool[np.ndarray, " steps"], config: PRMBenchConfig | None = None) -> dict[str, Any]:
    """What the benchmark reports of one way of calling steps good; with a config, intervals beside every PRMScore."""
    counts = _count(steps, called_good)
    is_found = np.where(steps.first_error >= 0, ~called_good[steps.first_error], np.nan)
    similarity = _similarity(steps, counts)
    groups = _by_category(steps)
    by_category = {name: _measure_group(counts[own], is_found[own], similarity[own], name) for name, own in groups.items()}
    scored = np.flatnonzero(np.array(steps.category) != CORRECT)
    measured = {
        **_measure_group(counts[scored], is_found[scored], similarity[scored]),
        "areas": {area: {"prm_score": _mean_of(by_category, own)} for area, own in AREAS.items()},
        "categories": by_category,
    }
    if config is not None:
        of_area, of_category = measured["areas"], measured["categories"]
        for name, draws in _resampled_scores(steps, counts, measured, config).items():
            found = measured if name == ALL else of_area[name] if name in of_area else of_category[name]
            low, high = metrics.percentile_interval(draws, config.confidence)
            found |= {"low": float(low), "high": float(high)}
    return measured


def score_columns(
    steps: Steps, called_good: Bool[np.ndarray, " steps"], config: PRMBenchConfig
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " draws"]], Int[np.ndarray, "items 4"]]:
    """The defined PRMScores (of `ALL` items, areas and categories), the same of resampled items, and each item's counts."""
    measured, counts = measure(steps, called_good), _count(steps, called_good)
    draws = _resampled_scores(steps, counts, measured, config)
    found = {ALL: measured, **measured["areas"], **measured["categories"]}
    return {name: found[name]["prm_score"] for name in found if name in draws}, draws, counts


def _resampled_scores(
    steps: Steps, counts: Int[np.ndarray, "items 4"], measured: Mapping[str, Any], config: PRMBenchConfig
) -> dict[str, Float[np.ndarray, " draws"]]:
    """PRMScores of resampled items, which are the same whatever `counts` are; `measured` is what `measure` finds.

    The items of each category are resampled apart: their numbers are the benchmark's.
    """
    groups = {name: own for name, own in _by_category(steps).items() if name != CORRECT}
    draws, total = {}, np.zeros((config.num_bootstrap, 4))
    for index, (name, own) in enumerate(groups.items()):
        sums = metrics.resampled_means(counts[own].astype(np.float64), config.num_bootstrap, config.seed + index) * len(own)
        draws[name] = _score_of(_without_placeholders(metrics.step_measures(sums), measured["categories"][name]), name)
        total += sums
    draws[ALL] = _score_of(_without_placeholders(metrics.step_measures(total), measured), "")
    for area, categories in AREAS.items():
        if measured["areas"][area]["prm_score"] is not None:
            draws[area] = np.mean([draws[name] for name in categories], axis=0)
    return draws


def _count(steps: Steps, called_good: Bool[np.ndarray, " steps"]) -> Int[np.ndarray, "items 4"]:
    """TP, FP, FN and TN of every item."""
    return metrics.count_steps(steps.is_good, called_good, steps.item, len(steps.category))


def _by_category(steps: Steps) -> dict[str, Int[np.ndarray, " _"]]:
    """The items of each category that there is, in the benchmark's order."""
    categories = np.array(steps.category)
    return {name: np.flatnonzero(categories == name) for name in (*CATEGORIES, CORRECT) if name in categories}


def _similarity(steps: Steps, counts: Int[np.ndarray, "items 4"]) -> Float[np.ndarray, " items"]:
    """How far the share of steps called good lies from that of the solution without errors; nan where either is missing.

    As in the benchmark's code, a correct solution of which no step is called good counts as missing.
    """
    called = counts[:, 0] + counts[:, 1]
    share = ratio(called.astype(np.float64), counts.sum(axis=1).astype(np.float64))
    is_compared = (steps.correct_item >= 0) & (share[steps.correct_item] != 0) & (share != -1)
    return np.where(is_compared, np.abs(share - share[steps.correct_item]), np.nan)


def _measure_group(
    counts: Int[np.ndarray, "items 4"],
    is_found: Float[np.ndarray, " items"],
    similarity: Float[np.ndarray, " items"],
    name: str = "",
) -> dict[str, Any]:
    total = counts.sum(axis=0)
    tp, fp, fn, tn = total.tolist()
    found = metrics.step_measures(total[None])
    shares = ratio(np.array([tp, tn, tp + tn], dtype=np.float64), np.array([tp + fn, tn + fp, total.sum()], dtype=np.float64))
    return {
        "num_items": len(counts),
        **dict(zip(metrics.COUNTS, (tp, fp, fn, tn), strict=True)),
        **{key: values.item() for key, values in vars(found).items()},
        "prm_score": _score_of(found, name).item(),
        **dict(zip(("correct_step_acc", "wrong_step_acc", "total_step_acc"), shares.tolist(), strict=True)),
        "first_error_acc": _mean_or_minus_one(is_found),
        "similarity": _mean_or_minus_one(similarity),
    }


def _score_of(found: metrics.StepMeasures, category: str) -> Float[np.ndarray, " *batch"]:
    """PRMScore as the benchmark's tables and their means have it: 0 where the -1 of an undefined F1 would make it negative.

    For `multi_solutions`, whose solutions reach the answer in other ways and without an error, it is the F1 of right steps alone.
    """
    return np.maximum(found.f1 if category == "multi_solutions" else found.prm_score, 0.0)


def _mean_or_minus_one(values: Float[np.ndarray, " items"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else -1.0


def _mean_of(by_category: Mapping[str, Mapping[str, Any]], categories: Sequence[str]) -> float | None:
    if any(name not in by_category for name in categories):
        return None
    return sum(by_category[name]["prm_score"] for name in categories) / len(categories)


def _without_placeholders(draws: metrics.StepMeasures, measured: Mapping[str, Any]) -> metrics.StepMeasures:
    """An F1 that is undefined in a resample, but not in the whole, counts as 0: -1 would reach far into the score's interval."""
    names = [name for name in ("f1", "negative_f1") if measured[name] >= 0]
    return replace(draws, **{name: np.maximum(getattr(draws, name), 0.0) for name in names})


def _baselines(steps: Steps, config: PRMBenchConfig) -> dict[str, Any]:
    draws = random_scores(steps.lengths, config.num_random_draws, config.seed)
    return {
        "all_correct": measure(steps, np.ones(len(steps.item), dtype=bool)),
        "position_oracle": measure(steps, _best_calls(steps, position_scores(steps.lengths))),
        "random_oracle": _mean_of_dicts([measure(steps, _best_calls(steps, scores)) for scores in draws]),
    }


def _best_calls(steps: Steps, scores: Sequence[Sequence[float]]) -> Bool[np.ndarray, " steps"]:
    flat = np.array([score for given in scores for score in given])
    return flat > metrics.best_prm_threshold(flat[steps.is_scored], steps.is_good[steps.is_scored])[0]


def _mean_of_dicts(values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {name: _mean_of_dicts([value[name] for value in values]) for name in values[0]}
    return None if values[0] is None else float(np.mean(values))
