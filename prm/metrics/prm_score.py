"""PRMBench's measures: which steps are right and which were called right in; counts, F1 of both classes and PRMScore out.

Counts are `[TP, FP, FN, TN]`: right steps called right, wrong ones called right, right ones called wrong, wrong ones called wrong.
A ratio of nothing by nothing is -1, as in the benchmark's own code (Song et al. 2025), and enters F1 and PRMScore as such.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from prm.metrics.ties import first_of_highest

COUNTS = ("TP", "FP", "FN", "TN")


@dataclass(frozen=True)
class StepMeasures:
    """The positive class is the right step; `negative_*` are of the wrong one."""

    precision: Float[np.ndarray, "*batch"]
    recall: Float[np.ndarray, "*batch"]
    f1: Float[np.ndarray, "*batch"]
    negative_precision: Float[np.ndarray, "*batch"]
    negative_recall: Float[np.ndarray, "*batch"]
    negative_f1: Float[np.ndarray, "*batch"]

    @property
    def prm_score(self) -> Float[np.ndarray, "*batch"]:
        """Mean of both F1."""
        return self.f1 * 0.5 + self.negative_f1 * 0.5


def count_steps(
    is_good: Bool[np.ndarray, " steps"],
    called_good: Bool[np.ndarray, " steps"],
    group: Int[np.ndarray, " steps"],
    num_groups: int,
) -> Int[np.ndarray, "groups 4"]:
    """Counts of every group of steps (an item, a category)."""
    cell = 4 * group + np.where(called_good, np.where(is_good, 0, 1), np.where(is_good, 2, 3))
    return np.bincount(cell, minlength=4 * num_groups).reshape(num_groups, 4)


def step_measures(counts: Shaped[np.ndarray, "*batch groups 4"]) -> StepMeasures:
    """Precision, recall and F1 of both classes from `COUNTS`; -1 for a ratio of nothing by nothing."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    precision, recall = ratio(tp, tp + fp), ratio(tp, tp + fn)
    negative_precision, negative_recall = ratio(tn, tn + fn), ratio(tn, tn + fp)
    return StepMeasures(
        precision,
        recall,
        ratio(2 * precision * recall, precision + recall),
        negative_precision,
        negative_recall,
        ratio(2 * negative_precision * negative_recall, negative_precision + negative_recall),
    )


def ratio(part: Float[np.ndarray, "*batch"], whole: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
    """`part / whole`, -1 where `whole` is 0."""
    return np.where(whole == 0, -1.0, part / np.where(whole == 0, 1.0, whole))


def prm_score_curve(
    scores: Float[np.ndarray, " steps"], is_good: Bool[np.ndarray, " steps"]
) -> tuple[Float[np.ndarray, " thresholds"], Float[np.ndarray, " thresholds"]]:
    """Every threshold that calls steps differently, ascending, and its PRMScore; a step is called good iff its score is above.

    They are the distinct scores and, before them, one at which every step is called good: a unit below the lowest score, or the
    next lower float where a unit is too little. Raises ValueError without scores, and for one that is not finite.
    """
    if not len(scores):
        raise ValueError("no step has a score: there is no threshold to choose")
    if not np.isfinite(scores).all():
        raise ValueError(
            f"step score {int((~np.isfinite(scores)).argmax())} is {scores[~np.isfinite(scores)][0]}: it must be finite"
        )
    distinct, place = np.unique(scores, return_inverse=True)
    good = np.bincount(place[is_good], minlength=len(distinct))
    bad = np.bincount(place[~is_good], minlength=len(distinct))
    good_below, bad_below = (np.concatenate([[0], np.cumsum(number)]) for number in (good, bad))
    counts = np.stack([good.sum() - good_below, bad.sum() - bad_below, good_below, bad_below], axis=-1)
    below = np.minimum(distinct[:1] - 1, np.nextafter(distinct[:1], -np.inf))
    return np.concatenate([below, distinct]), step_measures(counts).prm_score


def best_prm_threshold(scores: Float[np.ndarray, " steps"], is_good: Bool[np.ndarray, " steps"]) -> tuple[float, float]:
    """The threshold with the highest PRMScore, the lowest of equals, and that score."""
    thresholds, values = prm_score_curve(scores, is_good)
    best = first_of_highest(values)
    return float(thresholds[best]), float(values[best])
