"""ProcessBench's task: step scores and the first wrong step in, predicted first error, F1 and thresholds out.

An item without scores is one that the model could not read: no prediction of it is right, under any threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from prm.metrics.resampling import CONFIDENCE, NUM_DRAWS, percentile_interval, resampled_means
from prm.metrics.ties import first_of_highest

NO_ERROR = -1
UNPARSABLE = -2


@dataclass(frozen=True)
class FirstErrorScore:
    """`f1` is the harmonic mean of both accuracies; an accuracy over no items, and an F1 that needs it, is nan."""

    acc_error: float
    acc_correct: float
    f1: float
    num_error: int
    num_correct: int


def predict_first_error(step_scores: Sequence[Sequence[float]], threshold: float) -> Int[np.ndarray, " items"]:
    """Index of the first step scored below `threshold` (an equal score counts as correct), -1 if there is none.

    `UNPARSABLE` without scores.
    """
    below = [np.flatnonzero(np.asarray(scores) < threshold) for scores in step_scores]
    none = [NO_ERROR if len(scores) else UNPARSABLE for scores in step_scores]
    return np.array([int(hits[0]) if hits.size else other for hits, other in zip(below, none, strict=True)], dtype=np.int64)


def first_error_score(predictions: Int[np.ndarray, " items"], labels: Int[np.ndarray, " items"]) -> FirstErrorScore:
    """Accuracy on items with an error (label >= 0), on items without (label -1), and F1.

    A prediction of `UNPARSABLE` matches no label.
    """
    hits, is_error = predictions == labels, labels != NO_ERROR
    acc_error = float(hits[is_error].mean()) if is_error.any() else float("nan")
    acc_correct = float(hits[~is_error].mean()) if (~is_error).any() else float("nan")
    f1 = float(_harmonic_mean(np.array(acc_error), np.array(acc_correct)))
    return FirstErrorScore(acc_error, acc_correct, f1, int(is_error.sum()), int((~is_error).sum()))


def f1_interval(
    predictions: Int[np.ndarray, " items"],
    labels: Int[np.ndarray, " items"],
    confidence: float = CONFIDENCE,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of `resampled_f1`."""
    low, high = percentile_interval(resampled_f1(predictions, labels, num_draws, seed), confidence)
    return float(low), float(high)


def resampled_f1(
    predictions: Int[np.ndarray, " items"], labels: Int[np.ndarray, " items"], num_draws: int, seed: int
) -> Float[np.ndarray, " draws"]:
    """F1 of resampled items, nan without items of both kinds, which are resampled apart: how many there are is the benchmark's."""
    hits, is_error = (predictions == labels).astype(np.float64), labels != NO_ERROR
    if is_error.all() or not is_error.any():
        return np.full(num_draws, np.nan)
    acc_error = resampled_means(hits[is_error], num_draws, seed)
    acc_correct = resampled_means(hits[~is_error], num_draws, seed + 1)
    return _harmonic_mean(acc_error, acc_correct)


def threshold_curve(
    step_scores: Sequence[Sequence[float]], labels: Int[np.ndarray, " items"]
) -> tuple[Float[np.ndarray, " thresholds"], Float[np.ndarray, " thresholds"]]:
    """Every distinct score as a threshold, ascending, and the F1 it gives: no other threshold can do better.

    An item with its first error at k is hit iff s_k < t <= min of the scores before k, one without error iff
    t <= min of its scores, so each item is hit on one interval of t and a single sweep counts all of them. F1 is nan without items
    of both kinds.

    Raises ValueError where no item has a score, for a score that is NaN, and for a label that names no step.
    """
    if len(step_scores) != len(labels):
        raise ValueError(f"{len(step_scores)} items have scores but {len(labels)} have labels")
    intervals = np.array([_hit_interval(scores, int(label)) for scores, label in zip(step_scores, labels, strict=True)])
    thresholds = np.unique(np.concatenate([np.empty(0), *(np.asarray(scores, dtype=np.float64) for scores in step_scores)]))
    if not len(thresholds):
        raise ValueError("no item has a step score: there is no threshold to choose")
    is_error = labels != NO_ERROR
    acc_error = _hit_rate(intervals[is_error], thresholds)
    acc_correct = _hit_rate(intervals[~is_error], thresholds)
    return thresholds, _harmonic_mean(acc_error, acc_correct)


def best_threshold(step_scores: Sequence[Sequence[float]], labels: Int[np.ndarray, " items"]) -> tuple[float, float]:
    """The threshold with the highest F1, the lowest of equals, and that F1.

    Raises ValueError as `threshold_curve` does, and without items of both kinds.
    """
    thresholds, f1 = threshold_curve(step_scores, labels)
    if np.isnan(f1).any():
        raise ValueError("a threshold is tuned on items with and without an error: this subset holds only one kind")
    best = first_of_highest(f1)
    return float(thresholds[best]), float(f1[best])


def _hit_interval(scores: Sequence[float], label: int) -> tuple[float, float]:
    """The item is predicted right for thresholds in (low, high]; empty if low >= high."""
    if not len(scores):
        return np.inf, -np.inf
    if np.isnan(scores).any():
        raise ValueError(f"step scores {list(scores)}: none may be NaN")
    if not NO_ERROR <= label < len(scores):
        raise ValueError(f"label {label} names no step: the item has {len(scores)} step scores")
    if label == NO_ERROR:
        return -np.inf, float(np.min(scores))
    return float(scores[label]), float(np.min(scores[:label], initial=np.inf))


def _hit_rate(
    intervals: Float[np.ndarray, "items 2"], thresholds: Float[np.ndarray, " thresholds"]
) -> Float[np.ndarray, " thresholds"]:
    if not len(intervals):
        return np.full(len(thresholds), np.nan)
    reachable = intervals[intervals[:, 0] < intervals[:, 1]]
    first, last = (np.searchsorted(thresholds, ends, side="right") for ends in reachable.T)
    changes = np.bincount(first, minlength=len(thresholds) + 1) - np.bincount(last, minlength=len(thresholds) + 1)
    return np.cumsum(changes)[:-1] / len(intervals)


def _harmonic_mean(a: Float[np.ndarray, "*values"], b: Float[np.ndarray, "*values"]) -> Float[np.ndarray, "*values"]:
    total = a + b
    return np.where(total == 0, 0.0, 2 * a * b / np.where(total == 0, 1.0, total))
