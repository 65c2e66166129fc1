"""Calibration: scores and truth of steps and of responses in; Brier score, calibration error, reliability and temperature out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from prm import metrics
from prm.benchmarks.calibration.scored_steps import UNKNOWN, BehindError, Neutral, ScoredResponses
from prm.benchmarks.options import CalibrationBinsConfig
from prm.benchmarks.response_scores import ResponseScoreConfig
from prm.scoring import ScoringNotes
from prm.steps import Reading

COMMUTES = ("min", "max", "last")
"""Aggregations that commute with monotone maps, so that a temperature of the response scores is one of the step scores too."""


@dataclass
class CalibrationConfig(ResponseScoreConfig, CalibrationBinsConfig):
    """How scores are read as probabilities."""

    neutral: Neutral = "good"
    """What a step labelled 0 between -1 and 1 counts as."""
    behind_error: BehindError = "labelled"
    """What steps behind the first bad one count as: what their labels say, or ignored, as a PRM of prefixes calls them all bad."""
    read_as: Literal["auto", "probabilities", "differences", "logits"] = "auto"
    """What the scores are: probabilities, differences P(good) - P(bad), or logits, whose sigmoid is one. auto: what the contract
    of --model says, or what scripts/score.py noted beside its scores; of others' scores probabilities where all lie in [0, 1], and
    logits where not."""
    num_bootstrap: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.read_as != "auto":
            self.check_sum("--read_as", self.read_as)

    def take_defaults_of(self, notes: ScoringNotes) -> None:
        super().take_defaults_of(notes)
        if self.read_as == "auto" and notes.reading is not None:
            self.check_sum("--model", notes.reading)

    def check_sum(self, prm: str, reading: Reading) -> None:
        """Raises ValueError for a sum of what is no logit: it would be no probability, nor a difference of two."""
        if "sum" in self.aggregations and reading != "logits":
            raise ValueError(f"--aggregation sum: a sum of {reading} is none ({prm}); choose others, or --read_as logits")


def evaluate_calibration(scored: ScoredResponses, config: CalibrationConfig) -> dict[str, Any]:
    """`steps` against step labels and `responses[aggregation]` against outcomes, each None where there is no truth.

    Product and geometric mean of scores outside [0, 1] are refused.
    """
    steps = _measure(scored, scored.step_score, scored.step_truth, scored.question[scored.response], config)
    responses = {
        name: _measure(scored, scored.response_scores(name, config.softmin_tau), scored.truth, scored.question, config)
        for name in config.aggregations
    }
    return {
        "read_as": scored.read_as,
        "num_responses": len(scored.responses),
        "num_questions": len(np.unique(scored.question)),
        "num_unscored": scored.num_unscored,
        "num_zeros_called_good": scored.num_doubtful_zeros if config.neutral == "good" else 0,
        "steps": steps,
        "responses": responses,
    }


def _measure(
    scored: ScoredResponses,
    scores: Float[np.ndarray, " items"],
    truth: Int[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    config: CalibrationConfig,
) -> dict[str, Any] | None:
    known = truth != UNKNOWN
    if not known.any():
        return None
    labels, question = truth[known].astype(bool), question[known]
    probabilities = scored.probabilities(scores[known])
    logits = metrics.as_logits(scores[known], scored.read_as)
    temperature = metrics.fit_temperature(logits, labels)
    tempered = _cross_fitted(logits, labels, question)
    auc = metrics.roc_auc(scores[known], labels)
    return {
        "num_items": int(known.sum()),
        "share_positive": float(labels.mean()),
        "auc": None if np.isnan(auc) else auc,
        "brier_of_constant": metrics.brier_of_constant(labels),
        "temperature": temperature if 0 < temperature < np.inf else None,
        "before": _quality(probabilities, labels, question, config),
        "after": _quality(tempered, labels, question, config),
    }


def _quality(
    probabilities: Float[np.ndarray, " items"],
    labels: Bool[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    config: CalibrationConfig,
) -> dict[str, Any]:
    return {
        "mean_score": float(probabilities.mean()),
        "brier": metrics.brier_score(probabilities, labels),
        "log_loss": metrics.log_loss(probabilities, labels),
        "ece": metrics.expected_calibration_error(probabilities, labels, config.num_calibration_bins),
        "ece_equal_mass": metrics.expected_calibration_error(probabilities, labels, config.num_calibration_bins, "mass"),
        "bins": _bins(probabilities, labels, question, config),
    }


def _cross_fitted(
    logits: Float[np.ndarray, " items"], labels: Bool[np.ndarray, " items"], question: Int[np.ndarray, " items"]
) -> Float[np.ndarray, " items"]:
    """Probabilities at the temperature that was fitted on the other half of the questions: no item judges a fit to itself."""
    is_even = np.unique(question, return_inverse=True)[1] % 2 == 0
    if is_even.all():
        return metrics.apply_temperature(logits, metrics.fit_temperature(logits, labels))
    tempered = np.empty(len(logits))
    for half in (is_even, ~is_even):
        tempered[half] = metrics.apply_temperature(logits[half], metrics.fit_temperature(logits[~half], labels[~half]))
    return tempered


def _bins(
    probabilities: Float[np.ndarray, " items"],
    labels: Bool[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    config: CalibrationConfig,
) -> list[dict[str, float]]:
    """Reliability bins with intervals of the share of positives over questions."""
    bins = metrics.bin_of(probabilities, config.num_calibration_bins)
    kept = metrics.reliability_bins(probabilities, labels, config.num_calibration_bins)
    low, high = binned_interval(bins, labels.astype(np.float64), question, config)
    return [{**vars(found), "low": float(a), "high": float(b)} for found, a, b in zip(kept, low, high, strict=True)]


def binned_interval(
    bins: Int[np.ndarray, " items"],
    values: Float[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    config: CalibrationConfig,
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Interval of the mean value in every bin that holds items, from resamples of whole questions."""
    _, column = np.unique(bins, return_inverse=True)
    _, row = np.unique(question, return_inverse=True)
    shape = row.max() + 1, column.max() + 1
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (row, column), values)
    np.add.at(counts, (row, column), 1)
    return metrics.ratio_interval(sums, counts, *config.draws)


def exportable_temperature(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `calibration.json` says: the temperature to divide step logits by, and what it was fitted on.

    Step labels come first. Without them it is the response score's, of an aggregation in `COMMUTES`. `temperature` is null where
    nothing of the kind was measured, or the fit has no minimum.
    """
    places = {"steps": result["steps"]}
    places |= {f"responses, {name}": found for name, found in result["responses"].items() if name in COMMUTES}
    for place, found in places.items():
        if found:
            return {"temperature": found["temperature"], "fitted_on": place, "num_items": found["num_items"]}
    return {"temperature": None, "fitted_on": None, "num_items": 0}
