"""Scores as classifiers: scores and binary labels in, AUC and accuracy out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def roc_auc(scores: Float[np.ndarray, " items"], labels: Shaped[np.ndarray, " items"]) -> float:
    """Probability that a positive outscores a negative, ties counting half; nan if either class is absent."""
    if np.isnan(scores).any():
        raise ValueError(f"score {int(np.isnan(scores).argmax())} is NaN: it cannot be ranked")
    positive = labels.astype(bool)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse][positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def judged_steps(
    step_scores: Sequence[Sequence[float]], first_errors: Int[np.ndarray, " items"]
) -> tuple[Float[np.ndarray, " steps"], Bool[np.ndarray, " steps"]]:
    """Scores of the steps that the benchmark judges, and whether they are right, pooled over items (first error -1: none).

    Steps behind the first error are left out: nobody said whether they are right. So are items without scores.
    """
    judged = [len(s) if label < 0 else min(label + 1, len(s)) for s, label in zip(step_scores, first_errors, strict=True)]
    scores = [np.asarray(s, dtype=np.float64)[:end] for s, end in zip(step_scores, judged, strict=True)]
    good = [np.arange(end) != label for end, label in zip(judged, first_errors, strict=True)]
    return np.concatenate([np.empty(0), *scores]), np.concatenate([np.empty(0, dtype=bool), *good])


def step_auc(step_scores: Sequence[Sequence[float]], first_errors: Int[np.ndarray, " items"]) -> float:
    """AUC of good steps over the first wrong one, among `judged_steps`; nan if undefined."""
    return roc_auc(*judged_steps(step_scores, first_errors))


def accuracy(scores: Float[np.ndarray, " items"], labels: Shaped[np.ndarray, " items"], threshold: float = 0.5) -> float:
    """Share of items on the right side of `threshold` (an equal score counts as positive); nan without items."""
    return float(((scores >= threshold) == labels.astype(bool)).mean()) if len(scores) else float("nan")


def cohen_kappa(pairs: Int[np.ndarray, "classes classes"]) -> float | None:
    """Agreement of two raters beyond chance, (p - e) / (1 - e) (Cohen 1960), from counts of what each said of the same items.

    1 is perfect, 0 what chance gives; None without items, and where chance alone explains all.
    """
    total = int(pairs.sum())
    if total == 0:
        return None
    observed, by_chance = float(np.trace(pairs)) / total, float(pairs.sum(0) @ pairs.sum(1)) / total**2
    return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)
