"""Scores as probabilities: scores and binary labels in, Brier score, calibration error, reliability bins and temperature out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from prm.metrics.association import equal_mass_bins
from prm.steps import Reading

NUM_BINS = 10
CLIP = 1e-6
"""Probabilities nearer than this to 0 or 1 are moved to it before a logit is taken: stored scores are often rounded to 1.0."""
Binning = Literal["width", "mass"]

Scores = Float[np.ndarray, " items"]
Labels = Shaped[np.ndarray, " items"]


@dataclass(frozen=True)
class ReliabilityBin:
    """Items of similar score: what was claimed, what held, and of how many."""

    index: int
    """Number of the bin from 0, the empty ones counted."""
    mean_score: float
    share_positive: float
    num_items: int


def brier_score(scores: Scores, labels: Labels) -> float:
    """Mean squared distance of probability and label (Brier 1950); always saying 0.5 gives 0.25, no items give nan."""
    _check_probabilities(scores)
    return float(((scores - labels) ** 2).mean()) if len(scores) else float("nan")


def brier_of_constant(labels: Labels) -> float:
    """The Brier score of always saying the share of positives; nan without items."""
    share = labels.astype(bool).mean() if len(labels) else np.nan
    return float(share * (1 - share))


def log_loss(scores: Scores, labels: Labels) -> float:
    """Mean negative log-likelihood in nats, with probabilities clipped by `CLIP`; nan without items."""
    _check_probabilities(scores)
    clipped = scores.clip(CLIP, 1 - CLIP)
    return float(-np.log(np.where(labels.astype(bool), clipped, 1 - clipped)).mean()) if len(scores) else float("nan")


def reliability_bins(scores: Scores, labels: Labels, num_bins: int = NUM_BINS, binning: Binning = "width") -> list[ReliabilityBin]:
    """Mean score and share of positives in every bin that holds items, by ascending score; none without items.

    `width` cuts [0, 1] into bins of equal width, closed below (the last on both sides); `mass` puts equally many items into each,
    as far as equal scores, which always share a bin, allow.
    """
    bins = bin_of(scores, num_bins, binning)
    found = {int(index): bins == index for index in np.unique(bins)}
    return [ReliabilityBin(i, float(scores[b].mean()), float(labels[b].mean()), int(b.sum())) for i, b in found.items()]


def bin_of(scores: Scores, num_bins: int = NUM_BINS, binning: Binning = "width") -> Int[np.ndarray, " items"]:
    """The bin of `reliability_bins` that each score falls into, counted from 0 with the empty ones."""
    _check_probabilities(scores)
    if binning == "mass":
        return equal_mass_bins(scores, num_bins)
    edges = np.arange(1, num_bins) / num_bins
    return np.searchsorted(edges, scores, side="right")


def expected_calibration_error(scores: Scores, labels: Labels, num_bins: int = NUM_BINS, binning: Binning = "width") -> float:
    """Mean distance of score and share of positives over bins, weighted by their items (Naeini et al. 2015); nan without items."""
    return calibration_error(reliability_bins(scores, labels, num_bins, binning))


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """The expected calibration error of bins made already; nan without bins."""
    gaps = sum(b.num_items * abs(b.mean_score - b.share_positive) for b in bins)
    return gaps / sum(b.num_items for b in bins) if bins else float("nan")


def to_logits(scores: Scores) -> Scores:
    """log(p / (1 - p)) of probabilities, clipped by `CLIP`."""
    _check_probabilities(scores)
    clipped = scores.astype(np.float64).clip(CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def as_probabilities(scores: Scores, reading: Reading) -> Scores:
    """Scores as probabilities by what they are: unchanged, or (1 + s) / 2 of a difference s, or the sigmoid of a logit."""
    if reading == "differences":
        return (1 + scores) / 2
    return _sigmoid(scores) if reading == "logits" else scores


def as_logits(scores: Scores, reading: Reading) -> Scores:
    """Scores as logits: those of `as_probabilities`, or unchanged."""
    return scores if reading == "logits" else to_logits(as_probabilities(scores, reading))


def apply_temperature(logits: Scores, temperature: float) -> Scores:
    """sigmoid(logits / temperature), the recalibrated probabilities; 0 and infinity give their limits."""
    if temperature == 0:
        return np.where(logits == 0, 0.5, (logits > 0).astype(np.float64))
    return _sigmoid(logits / temperature)


def fit_temperature(logits: Scores, labels: Labels) -> float:
    """The temperature T at which sigmoid(logits / T) has the least negative log-likelihood (Guo et al. 2017).

    The loss is convex in 1 / T, so Newton's method within a shrinking bracket finds the one minimum to 12 digits. Two cases have
    none: logits that separate the labels perfectly give 0, logits that are no better than a constant give infinity. 1 where every
    logit is 0, nan without items.

    Raises:
        ValueError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise ValueError(f"logit {int((~np.isfinite(logits)).argmax())} is not finite: clip the probabilities (to_logits does)")
    margins = np.where(labels.astype(bool), logits, -logits).astype(np.float64)
    if not len(margins) or not margins.any():
        return 1.0 if len(margins) else float("nan")
    if margins.min() >= 0:
        return 0.0
    if margins.sum() <= 1e-12 * np.abs(margins).sum():
        return float("inf")
    return 1 / _minimize(margins)


def _minimize(margins: Scores) -> float:
    """The a > 0 at which sum softplus(-a * margins) is least."""
    low, high, a = 0.0, np.inf, 1 / float(np.abs(margins).max())
    for _ in range(200):
        share = _sigmoid(-a * margins)
        slope, curvature = -(margins * share).sum(), (margins**2 * share * (1 - share)).sum()
        low, high = (a, high) if slope < 0 else (low, a)
        proposal = a - slope / curvature if curvature else np.inf
        if not low < proposal < high:
            proposal = 2 * a if np.isinf(high) else (low + high) / 2
        if abs(proposal - a) <= 1e-12 * a:
            break
        a = proposal
    return a


def _sigmoid(x: Scores) -> Scores:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _check_probabilities(scores: Scores) -> None:
    bad = ~((scores >= 0) & (scores <= 1))
    if bad.any():
        position = int(bad.argmax())
        raise ValueError(
            f"score {position} is {scores[position]}: calibration needs probabilities in [0, 1]; put a sigmoid on signed scores"
        )
