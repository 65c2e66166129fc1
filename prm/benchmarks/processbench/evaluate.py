"""ProcessBench: items with their first wrong step and step scores (or predicted steps) in, F1 per subset and per group out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from prm import metrics
from prm.benchmarks.baselines import position_scores, random_scores, step_number_scores
from prm.benchmarks.constant_scores import constant_notes
from prm.benchmarks.options import StepBenchmarkConfig
from prm.benchmarks.processbench.items import FirstErrorItem, Prediction
from prm.benchmarks.published_values import parse_published
from prm.benchmarks.results import without_nan
from prm.benchmarks.step_calibration import reading_of, step_calibration
from prm.steps import Reading

BENCHMARK = "ProcessBench"
THRESHOLD_RULES = ("fixed", "gsm8k", "oracle")
STEP_COUNTS = ((1, 4), (5, 8), (9, 12), (13, None))
"""Groups of items by their number of steps, both ends included."""


@dataclass
class ProcessBenchConfig(StepBenchmarkConfig):
    """Which thresholds turn step scores into predictions."""

    threshold: list[str] | None = None
    """Threshold rules, each reported: `fixed`; `gsm8k`, tuned on that subset and used for all (the benchmark's own rule);
    `oracle`, the best of each subset itself. Groups of items and items.jsonl follow the first. Default: all that the data allow."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is None:
            return
        if not self.threshold or (unknown := [rule for rule in self.threshold if rule not in THRESHOLD_RULES]):
            found = " ".join(unknown) if self.threshold else "is empty"
            raise ValueError(f"--threshold {found}: choose from {', '.join(THRESHOLD_RULES)}; a number is --fixed_threshold")
        if self.fixed_threshold is not None and "fixed" not in self.threshold:
            raise ValueError(f"--fixed_threshold {self.fixed_threshold}: --threshold {' '.join(self.threshold)} does not use it")

    @property
    def has_natural_threshold(self) -> bool:
        return super().has_natural_threshold and (self.threshold is None or "fixed" in self.threshold)


@dataclass(frozen=True)
class Subset:
    """The items of one subset: their places among all, labels, numbers of steps and predictions."""

    places: Int[np.ndarray, " items"]
    labels: Int[np.ndarray, " items"]
    lengths: list[int]
    given: list[Prediction]

    @property
    def num_unscored(self) -> int:
        """Items without scores."""
        return sum(given == [] for given in self.given)

    @property
    def is_read(self) -> bool:
        """Whether the model could read any item."""
        return self.num_unscored < len(self.given)

    @property
    def has_both_kinds(self) -> bool:
        """Whether there are items with and without an error, which F1 and a threshold need."""
        return bool((self.labels == -1).any() and (self.labels != -1).any())


def evaluate_processbench(
    items: Sequence[FirstErrorItem], predictions: Sequence[Prediction], config: ProcessBenchConfig
) -> dict[str, Any]:
    """F1 of every threshold rule, per subset and as their plain mean; step AUC, calibration and content-free baselines beside it.

    A number that is undefined, such as the F1 of a subset without correct items, is None. Predictions given as step indices
    have one rule, `prediction`, and neither AUC nor thresholds. An item without scores (the model could not read it) is counted as
    `num_unscored` and as predicted wrong, whether it has an error or not; a subset of only such items has an F1 of 0 and no
    threshold of its own.

    Raises ValueError as `threshold_rules` does, and where the model could read no item at all, or none that a threshold is tuned
    on.
    """
    subsets = split_subsets(items, predictions)
    has_scores = not isinstance(predictions[0], int)
    if has_scores:
        names = threshold_rules(items, config)
        _check_readable(subsets, names)
        reading = reading_of(config.prm_name, predictions, config.reading or "auto")
        rules = {rule: _thresholds(rule, subsets, config) for rule in names}
        auc = {name: metrics.step_auc(subset.given, subset.labels) for name, subset in subsets.items()}
    else:
        if config.fixed_threshold is not None or config.threshold is not None:
            option = "--threshold" if config.fixed_threshold is None else "--fixed_threshold"
            raise ValueError(f"{option} is for step scores, but the predictions are steps: leave it out")
        reading, rules, auc = None, {"prediction": {}}, dict.fromkeys(subsets, np.nan)
    results = {rule: _rule_result(rule, subsets, thresholds, config) for rule, thresholds in rules.items()}
    baselines = _baselines(subsets, config)
    first = first_errors(subsets, next(iter(rules.values())))
    result = {
        "benchmark": BENCHMARK,
        "prm": config.prm_name,
        "limit": config.limit,
        "num_items": len(items),
        "read_as": reading,
        "confidence": config.confidence,
        "num_unscored": {name: subset.num_unscored for name, subset in subsets.items()},
        "num_unparsable": sum(given == metrics.UNPARSABLE for given in predictions),
        "results": results,
        "constant_scores": constant_notes({config.prm_name: predictions}) if has_scores else [],
        "step_auc": {"subsets": auc, "average": np.mean(list(auc.values()))},
        "calibration": _calibration(subsets, config.num_calibration_bins, reading) if has_scores else {},
        "baselines": {name: _baseline_result(draws, subsets) for name, draws in baselines.items()},
        "groups": _group_results(items, first, baselines, config),
        "published": parse_published(config.published),
    }
    return without_nan(result)


def threshold_rules(items: Sequence[FirstErrorItem], config: ProcessBenchConfig) -> list[str]:
    """The rules to report: those of `config.threshold`, by default all that these items allow.

    Raises ValueError, before any model has scored, for a rule that was asked for and that they do not allow.
    """
    subsets = split_subsets(items, [[] for _ in items])
    if config.threshold is None:
        has_both = {name: subset.has_both_kinds for name, subset in subsets.items()}
        allowed = {"fixed": True, "gsm8k": has_both.get("gsm8k", False), "oracle": all(has_both.values())}
        return [rule for rule in THRESHOLD_RULES if allowed[rule]]
    if "gsm8k" in config.threshold and "gsm8k" not in subsets:
        raise ValueError(
            f"--threshold gsm8k is tuned on the subset gsm8k, but the data holds {', '.join(subsets)}: "
            "add gsm8k.json or give --threshold fixed oracle"
        )
    tuned = subsets if "oracle" in config.threshold else {"gsm8k"} if "gsm8k" in config.threshold else {}
    for name in tuned:
        if not subsets[name].has_both_kinds:
            raise ValueError(f"no threshold can be tuned on subset {name}: it needs items with and without an error; use fixed")
    return config.threshold


def _check_readable(subsets: Mapping[str, Subset], rules: Sequence[str]) -> None:
    if not any(subset.is_read for subset in subsets.values()):
        raise ValueError("the model could read no item: there is nothing to evaluate")
    if "gsm8k" in rules and not subsets["gsm8k"].is_read:
        raise ValueError(
            "--threshold gsm8k is tuned on the subset gsm8k, of which the model could read no item: give --threshold fixed oracle"
        )


def split_subsets(items: Sequence[FirstErrorItem], predictions: Sequence[Prediction]) -> dict[str, Subset]:
    """Subset name -> its items, in the order of the data."""
    names = dict.fromkeys(item.subset for item in items)
    places = {name: [i for i, item in enumerate(items) if item.subset == name] for name in names}
    labels, lengths = np.array([item.label for item in items]), [len(item.steps) for item in items]
    return {
        name: Subset(np.array(own), labels[own], [lengths[i] for i in own], [predictions[i] for i in own])
        for name, own in places.items()
    }


def first_errors(subsets: Mapping[str, Subset], thresholds: Mapping[str, float]) -> Int[np.ndarray, " items"]:
    """The predicted first error of every item, by the threshold of its subset; given indices stay.

    A threshold of nan is that of a subset whose items the model could not read.
    """
    predicted = np.empty(sum(len(subset.places) for subset in subsets.values()), dtype=np.int64)
    for name, subset in subsets.items():
        is_index = name not in thresholds
        predicted[subset.places] = subset.given if is_index else metrics.predict_first_error(subset.given, thresholds[name])
    return predicted


def resampled(
    subsets: Mapping[str, Subset], predicted: Int[np.ndarray, " items"], config: ProcessBenchConfig
) -> dict[str, Float[np.ndarray, " draws"]]:
    """F1 of each subset in resamples of its items, which are the same ones whatever is predicted."""
    # A seed a subset: with one for all, subsets of equal size would be resampled alike, and the average's interval be too wide.
    seeds = {name: config.seed + 2 * index for index, name in enumerate(subsets)}
    return {
        name: metrics.resampled_f1(predicted[subset.places], subset.labels, config.num_bootstrap, seeds[name])
        for name, subset in subsets.items()
    }


def _thresholds(rule: str, subsets: Mapping[str, Subset], config: ProcessBenchConfig) -> dict[str, float]:
    if rule == "fixed":
        return dict.fromkeys(subsets, config.used_threshold)
    if rule == "oracle":
        return {name: _tuned(subset) for name, subset in subsets.items()}
    return dict.fromkeys(subsets, _tuned(subsets["gsm8k"]))


def _tuned(subset: Subset) -> float:
    return metrics.best_threshold(subset.given, subset.labels)[0] if subset.is_read and subset.has_both_kinds else float("nan")


def _rule_result(
    rule: str, subsets: Mapping[str, Subset], thresholds: Mapping[str, float], config: ProcessBenchConfig
) -> dict[str, Any]:
    predicted = first_errors(subsets, thresholds)
    by_subset, draws = {}, resampled(subsets, predicted, config)
    for name, subset in subsets.items():
        low, high = metrics.percentile_interval(draws[name], config.confidence)
        found = vars(metrics.first_error_score(predicted[subset.places], subset.labels))
        scores = {"threshold": thresholds.get(name), **found, "low": float(low), "high": float(high)}
        by_subset[name] = scores | {"is_tuned_here": rule == "oracle" or rule == name == "gsm8k"}
    averaged = {key: np.mean([score[key] for score in by_subset.values()]) for key in ("f1", "acc_error", "acc_correct")}
    low, high = metrics.percentile_interval(np.mean(list(draws.values()), axis=0), config.confidence)
    return {"subsets": by_subset, "average": averaged | {"low": float(low), "high": float(high)}}


def _calibration(subsets: Mapping[str, Subset], num_bins: int, reading: Reading) -> dict[str, dict[str, float | int]]:
    judged = {name: metrics.judged_steps(subset.given, subset.labels) for name, subset in subsets.items()}
    return {name: step_calibration(scores, good, num_bins, reading) for name, (scores, good) in judged.items()}


def _baselines(subsets: Mapping[str, Subset], config: ProcessBenchConfig) -> dict[str, Int[np.ndarray, "draws items"]]:
    """What scores that know nothing of the text predict for every item, at the best threshold of each draw."""
    lengths = [subset.lengths for subset in subsets.values()]
    scores = {
        "random_oracle": zip(*(random_scores(own, config.num_random_draws, config.seed) for own in lengths), strict=True),
        "step_number_oracle": [list(map(step_number_scores, lengths))],
        "position_oracle": [list(map(position_scores, lengths))],
    }
    tuned = {name: np.stack([_at_best_threshold(subsets, drawn) for drawn in draws]) for name, draws in scores.items()}
    return tuned | {"all_correct": np.full_like(tuned["position_oracle"], -1)}


def _at_best_threshold(subsets: Mapping[str, Subset], scores: Sequence[list[list[float]]]) -> Int[np.ndarray, " items"]:
    """Predictions at the best threshold of each subset; a subset without both kinds of items takes the best of all items.

    A threshold tuned on items of one kind would give away which kind it is.
    """
    scored = {name: replace(subset, given=given) for (name, subset), given in zip(subsets.items(), scores, strict=True)}
    labels = np.concatenate([subset.labels for subset in subsets.values()])
    whole = Subset(np.arange(len(labels)), labels, [], [of_item for of_subset in scores for of_item in of_subset])
    thresholds = {name: _tuned(subset if subset.has_both_kinds else whole) for name, subset in scored.items()}
    return first_errors(scored, thresholds)


def _baseline_result(draws: Int[np.ndarray, "draws items"], subsets: Mapping[str, Subset]) -> dict[str, Any]:
    by_subset = {name: _mean_f1(draws[:, subset.places], subset.labels) for name, subset in subsets.items()}
    return {"subsets": by_subset, "average": {"f1": np.mean([found["f1"] for found in by_subset.values()])}}


def _mean_f1(draws: Int[np.ndarray, "draws items"], labels: Int[np.ndarray, " items"]) -> dict[str, float]:
    return {"f1": float(np.mean([metrics.first_error_score(predicted, labels).f1 for predicted in draws]))}


def _group_results(
    items: Sequence[FirstErrorItem],
    predicted: Int[np.ndarray, " items"],
    baselines: Mapping[str, Int[np.ndarray, "draws items"]],
    config: ProcessBenchConfig,
) -> dict[str, dict[str, Any]]:
    """Scores per generator and per number of steps, over all subsets, each with the baselines on the same items."""
    labels = np.array([item.label for item in items])
    nested: dict[str, dict[str, Any]] = {}
    for kind, name, places in _groups(items):
        own = predicted[places], labels[places]
        low, high = metrics.f1_interval(*own, *config.draws)
        found = {**vars(metrics.first_error_score(*own)), "low": low, "high": high}
        found["baselines"] = {name: _mean_f1(draws[:, places], labels[places]) for name, draws in baselines.items()}
        nested.setdefault(kind, {})[name] = found
    return nested


def _groups(items: Sequence[FirstErrorItem]) -> Iterator[tuple[str, str, Int[np.ndarray, " items"]]]:
    generators = np.array([item.generator or "unknown" for item in items])
    for name in sorted(set(generators.tolist()) - {"unknown"}):
        yield "generator", name, np.flatnonzero(generators == name)
    lengths = np.array([len(item.steps) for item in items])
    for low, high in STEP_COUNTS:
        places = np.flatnonzero((lengths >= low) & (lengths <= (high or np.inf)))
        if len(places):
            yield "num_steps", f"{low} to {high}" if high else f"{low} or more", places
