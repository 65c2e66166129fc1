"""ProcessBench: items with their first wrong step and step scores (or predicted steps) in, F1 per subset out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from prm import metrics
from prm.benchmarks.plots import Curve, Panel, draw
from prm.figures import PALETTE
from prm.files import read_rows
from prm.records import Response, Row

SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
THRESHOLD_RULES = ("fixed", "gsm8k", "oracle")
NOT_DATA = ("manifest.json", "metrics.json", "metrics.jsonl")
Prediction = list[float] | int
"""Step scores, or the index of the first wrong step (-1 none, `metrics.UNPARSABLE` for null)."""


@dataclass(frozen=True)
class FirstErrorItem:
    """A solution in the benchmark's own steps (never split again) and its first wrong step, -1 if none is."""

    id: str
    subset: str
    problem: str
    steps: list[str]
    label: int

    def as_response(self) -> Response:
        """The item as scoring takes it."""
        return Response(question_id=self.id, sample_index=0, question=self.problem, steps=self.steps)


@dataclass
class ProcessBenchConfig:
    """Which thresholds turn step scores into predictions."""

    threshold: list[str] = field(default_factory=lambda: list(THRESHOLD_RULES))
    """Threshold rules, each reported: `fixed`; `gsm8k`, tuned on that subset and used for all (the benchmark's own rule);
    `oracle`, the best of each subset itself."""
    fixed_threshold: float = 0.5
    """Threshold of the `fixed` rule, in units of the scores."""
    num_random_draws: int = 20
    """Draws of uniform random scores behind the content-free baseline."""
    confidence: float = 0.95
    """Share of the bootstrap distribution of F1 that an interval holds."""
    num_bootstrap: int = metrics.resampling.NUM_DRAWS
    """Resamples of the items behind each interval."""
    seed: int = 0
    """Seed of the bootstrap and of the random scores."""

    def __post_init__(self) -> None:
        if not self.threshold or (unknown := [rule for rule in self.threshold if rule not in THRESHOLD_RULES]):
            raise ValueError(f"--threshold {' '.join(unknown) if self.threshold else 'is empty'}: choose from {THRESHOLD_RULES}")


def load_items(path: str | Path) -> list[FirstErrorItem]:
    """Read a subset's file or a folder of them (`.json` array or `.jsonl`); a subset is named after its file."""
    items = [_item(row, file.stem, place) for file in _data_files(path) for row, place in read_rows(file)]
    if not items:
        raise ValueError(f"{path}: no items in it")
    name, times = Counter(item.id for item in items).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path}: id {name!r} stands {times} times: predictions could not be told apart")
    return items


def load_predictions(path: str | Path, items: Sequence[FirstErrorItem]) -> list[Prediction]:
    """Read predictions, as `{"id", "step_scores"}` or `{"id", "prediction"}` or our step scores, in the order of `items`."""
    found: dict[str, Prediction] = {}
    known = {item.id: item for item in items}
    for file in _data_files(path):
        for row, place in read_rows(file):
            name = str(row.get("id", row.get("question_id")))
            if name in found:
                raise ValueError(f"{place}: a second prediction for item {name!r}; keep one of the two")
            if name in known:
                found[name] = _prediction(row, known[name], place)
    if missing := [item.id for item in items if item.id not in found]:
        raise ValueError(f"{path}: {len(missing)} of {len(items)} items have no prediction, such as {missing[0]!r}")
    if len({isinstance(prediction, int) for prediction in found.values()}) > 1:
        raise ValueError(f"{path}: some rows hold step_scores and some a prediction; give one kind")
    return [found[item.id] for item in items]


def evaluate_processbench(
    items: Sequence[FirstErrorItem], predictions: Sequence[Prediction], config: ProcessBenchConfig
) -> dict[str, Any]:
    """F1 of every threshold rule, per subset and as their plain mean, with step AUC and a content-free baseline beside it.

    A number that is undefined, such as the F1 of a subset without correct items, is None. Predictions given as step indices
    have one rule, `prediction`, and neither AUC nor thresholds.
    """
    subsets = _by_subset(items, predictions)
    has_scores = not isinstance(predictions[0], int)
    rules = {rule: _thresholds(rule, subsets, config) for rule in config.threshold} if has_scores else {"prediction": {}}
    results = {rule: _rule_result(subsets, thresholds, config) for rule, thresholds in rules.items()}
    aucs = {name: metrics.step_auc(given, labels) if has_scores else np.nan for name, (given, labels) in subsets.items()}
    random = {name: _random_f1(name, items, labels, config) for name, (_, labels) in subsets.items()}
    return _without_nan(
        {
            "num_items": len(items),
            "results": results,
            "step_auc": {"subsets": aucs, "average": np.mean(list(aucs.values()))},
            "random_oracle_f1": {"subsets": random, "average": np.mean(list(random.values()))},
        }
    )


def plot_processbench(
    items: Sequence[FirstErrorItem], predictions: Sequence[list[float]], result: Mapping[str, Any], path_stem: str | Path
) -> list[Path]:
    """Write F1 over the threshold, one curve per subset, with the best of each marked and the shared thresholds drawn."""
    curves = []
    for (name, (scores, labels)), color in zip(_by_subset(items, predictions).items(), PALETTE * len(items), strict=False):
        thresholds, f1 = metrics.threshold_curve(scores, labels)
        best = [(float(thresholds[f1.argmax()]), float(100 * f1.max()))]
        curves.append(Curve(name, thresholds.tolist(), (100 * f1).tolist(), color=color, marks=best))
    shared = {rule: result["results"][rule]["subsets"] for rule in ("fixed", "gsm8k") if rule in result["results"]}
    lines = {f"{rule} threshold": next(iter(by_subset.values()))["threshold"] for rule, by_subset in shared.items()}
    return draw([Panel("", curves, lines)], path_stem, "threshold on the step score", "F1 (%)")


def _data_files(path: str | Path) -> list[Path]:
    path = Path(path)
    if not path.is_dir():
        return [path]
    files = sorted(f for f in path.iterdir() if f.suffix in (".json", ".jsonl") and f.name not in NOT_DATA and f.name[0] != ".")
    if not files:
        raise FileNotFoundError(f"{path}: the folder holds no .json or .jsonl file")
    return sorted(files, key=lambda file: SUBSETS.index(file.stem) if file.stem in SUBSETS else len(SUBSETS))


def _item(row: Row, subset: str, place: str) -> FirstErrorItem:
    if missing := [key for key in ("id", "problem", "steps", "label") if key not in row]:
        raise ValueError(f"{place}: no {missing[0]!r}; a ProcessBench item has id, problem, steps and label, found {sorted(row)}")
    steps, label = row["steps"], row["label"]
    if not steps or not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise ValueError(f"{place}: item {row['id']!r} has steps {steps!r:.80}; expected a list of texts with at least one")
    if not isinstance(label, int) or not -1 <= label < len(steps):
        raise ValueError(f"{place}: item {row['id']!r} has label {label!r}, but {len(steps)} steps; -1 means no error")
    return FirstErrorItem(str(row["id"]), subset, row["problem"], steps, label)


def _prediction(row: Row, item: FirstErrorItem, place: str) -> Prediction:
    if "step_scores" in row:
        scores = row["step_scores"]
        if not isinstance(scores, list) or len(scores) != len(item.steps):
            raise ValueError(f"{place}: item {item.id!r} has {len(item.steps)} steps, but step_scores {scores!r:.80}")
        if not all(isinstance(s, int | float) and not isinstance(s, bool) and isfinite(s) for s in scores):
            raise ValueError(f"{place}: step_scores of item {item.id!r} must be finite numbers, found {scores!r:.80}")
        return [float(score) for score in scores]
    if "prediction" not in row:
        raise ValueError(f"{place}: neither step_scores nor prediction for item {item.id!r}, found {sorted(row)}")
    predicted = row["prediction"]
    if predicted is None:
        return metrics.UNPARSABLE
    if not isinstance(predicted, int) or isinstance(predicted, bool) or predicted < -1:
        raise ValueError(f"{place}: prediction {predicted!r} of item {item.id!r}: give a step's index, -1 or null (unparsable)")
    return predicted


Subsets = dict[str, tuple[list[Prediction], np.ndarray]]


def _by_subset(items: Sequence[FirstErrorItem], predictions: Sequence[Prediction]) -> Subsets:
    names = dict.fromkeys(item.subset for item in items)
    rows = {name: [i for i, item in enumerate(items) if item.subset == name] for name in names}
    return {name: ([predictions[i] for i in r], np.array([items[i].label for i in r])) for name, r in rows.items()}


def _thresholds(rule: str, subsets: Subsets, config: ProcessBenchConfig) -> dict[str, float]:
    if rule == "fixed":
        return dict.fromkeys(subsets, config.fixed_threshold)
    if rule == "oracle":
        return {name: _tuned(name, subsets) for name in subsets}
    if "gsm8k" not in subsets:
        raise ValueError(
            f"--threshold gsm8k is tuned on the subset gsm8k, but the data holds {', '.join(subsets)}: "
            "add gsm8k.json or ask for fixed and oracle only"
        )
    return dict.fromkeys(subsets, _tuned("gsm8k", subsets))


def _tuned(name: str, subsets: Subsets) -> float:
    scores, labels = subsets[name]
    if (labels == -1).all() or (labels != -1).all():
        raise ValueError(f"no threshold can be tuned on subset {name}: it needs items with and without an error; use fixed")
    return metrics.best_threshold(scores, labels)[0]


def _rule_result(subsets: Subsets, thresholds: Mapping[str, float], config: ProcessBenchConfig) -> dict[str, Any]:
    by_subset = {}
    for name, (given, labels) in subsets.items():
        threshold = thresholds.get(name)
        predicted = np.array(given) if threshold is None else metrics.predict_first_error(given, threshold)
        low, high = metrics.f1_interval(predicted, labels, config.confidence, config.num_bootstrap, config.seed)
        by_subset[name] = {"threshold": threshold, **vars(metrics.first_error_score(predicted, labels)), "low": low, "high": high}
    averaged = {key: np.mean([score[key] for score in by_subset.values()]) for key in ("f1", "acc_error", "acc_correct")}
    return {"subsets": by_subset, "average": averaged}


def _random_f1(name: str, items: Sequence[FirstErrorItem], labels: np.ndarray, config: ProcessBenchConfig) -> float:
    """Mean F1 of uniform random scores with the best threshold of each draw: what a benchmark gives for nothing."""
    if (labels == -1).all() or (labels != -1).all():
        return float("nan")
    rng = np.random.default_rng(config.seed)
    lengths = [len(item.steps) for item in items if item.subset == name]
    draws = [[rng.random(length).tolist() for length in lengths] for _ in range(config.num_random_draws)]
    return float(np.mean([metrics.best_threshold(draw, labels)[1] for draw in draws]))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else float(value) if isinstance(value, float) else value
