"""Scores joined with what is known of their responses: score records and labelled responses in, flat arrays out."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from prm import metrics
from prm.aggregation import TAU, aggregate_lists, is_signed
from prm.benchmarks.score_files import check_keys, check_steps
from prm.benchmarks.step_calibration import reading_of
from prm.records import Key, Response, StepScores
from prm.steps import Reading

logger = logging.getLogger(__name__)

Neutral = Literal["good", "bad", "ignored"]
BehindError = Literal["labelled", "ignored"]
UNKNOWN = -1


@dataclass(frozen=True)
class ScoredResponses:
    """One PRM's scores of responses, in the order of the responses. `truth` holds 1 good or right, 0 bad or wrong, -1 unknown.

    The arrays of steps have an entry for each step of the responses that are scored by step. `response` holds the number of the
    response that a step belongs to, `question` the number of the question that a response belongs to.
    """

    responses: list[Response]
    step_scores: list[list[float]]
    question: Int[np.ndarray, " responses"]
    truth: Int[np.ndarray, " responses"]
    response: Int[np.ndarray, " steps"]
    step_score: Float[np.ndarray, " steps"]
    step_truth: Int[np.ndarray, " steps"]
    position: Int[np.ndarray, " steps"]
    step_length: Int[np.ndarray, " steps"]
    is_signed: bool
    """Whether a score lies outside [0, 1]."""
    read_as: Reading
    num_unscored: int
    num_doubtful_zeros: int
    """Step labels of 0 that are taken for neutral, although no step of their source is labelled -1: they may say wrong."""

    @property
    def num_steps(self) -> Int[np.ndarray, " responses"]:
        """Steps of each response."""
        return np.array([len(response.steps) for response in self.responses])

    def response_scores(self, aggregation: str, tau: float = TAU) -> Float[np.ndarray, " responses"]:
        """The aggregated score of every response."""
        return aggregate_lists(self.step_scores, aggregation, tau, self.is_signed)

    def probabilities(self, scores: Float[np.ndarray, " items"]) -> Float[np.ndarray, " items"]:
        """The scores read as probabilities of a good step or a right response."""
        return metrics.as_probabilities(scores, self.read_as)


def join_scores(
    prm: str,
    records: Sequence[StepScores],
    responses: Iterable[Response],
    neutral: Neutral = "good",
    behind_error: BehindError = "labelled",
    step_length: Callable[[str], int] = len,
    needs_truth: bool = True,
    read_as: str = "auto",
) -> ScoredResponses:
    """Put scores and responses together. Responses without scores are left out and counted.

    A response with one score and several steps was scored as a whole (by an outcome model): it has no step scores.

    Raises:
        ValueError: scores of a response that is not there, steps and scores that differ in number, a score that is not finite or
            not what it is to be `read_as`, or (unless told that none is needed) neither an outcome nor a step label anywhere.
    """
    known = {response.key: response for response in responses}
    scores = {record.key: record.step_scores for record in records}
    _check(prm, records, scores, known)
    kept = [response for key, response in known.items() if key in scores and response.steps]
    by_step = [(i, r, scores[r.key]) for i, r in enumerate(kept) if len(scores[r.key]) == len(r.steps)]
    is_soft = soft_labels(kept)
    labels = [truth for i, r, _ in by_step for truth in step_truths(r, neutral, behind_error, is_soft[i])]
    joined = ScoredResponses(
        kept,
        [scores[r.key] for r in kept],
        np.unique([r.question_id for r in kept], return_inverse=True)[1],
        np.array([UNKNOWN if r.correct is None else int(r.correct) for r in kept]),
        np.array([i for i, r, _ in by_step for _ in r.steps], dtype=np.int64),
        np.array([score for _, _, given in by_step for score in given], dtype=np.float64),
        np.array(labels, dtype=np.int64),
        np.array([position for _, r, _ in by_step for position in range(len(r.steps))], dtype=np.int64),
        np.array([step_length(step) for _, r, _ in by_step for step in r.steps], dtype=np.int64),
        is_signed(scores[r.key] for r in kept),
        reading_of(prm, [scores[r.key] for r in kept], read_as),
        len(known) - len(kept),
        doubtful_zeros(kept, is_soft),
    )
    if needs_truth and (joined.truth == UNKNOWN).all() and (joined.step_truth == UNKNOWN).all():
        raise ValueError(
            f"{prm}: no response has an outcome or a step label: grade them (scripts/grade_rollouts.py) or label their steps"
        )
    return joined


def soft_labels(responses: Sequence[Response]) -> list[bool]:
    """Whether each response's labels are shares of right completions, of which 0 is bad.

    Labels that are all 0 or 1, of a response without completions, may be either. They count as shares if other responses of their
    source have shares and none has a negative label.
    """
    shares = {r.label_source for r in responses if r.has_soft_labels} - sources_with_negatives(responses)
    return [r.has_soft_labels or r.label_source in shares for r in responses]


def sources_with_negatives(responses: Sequence[Response]) -> set[str | None]:
    """The sources of labels that call a step wrong by a negative label."""
    return {r.label_source for r in responses if any(label is not None and label < 0 for label in r.step_labels or ())}


def doubtful_zeros(responses: Sequence[Response], is_soft: Sequence[bool]) -> int:
    """Number of labels of 0 that are no shares, of sources without a negative label: they may mean neutral or wrong."""
    sure = sources_with_negatives(responses)
    doubtful = (r for r, soft in zip(responses, is_soft, strict=True) if not soft and r.label_source not in sure)
    return sum(label == 0 for r in doubtful for label in r.step_labels or ())


def step_truths(response: Response, neutral: Neutral, behind_error: BehindError, is_soft: bool) -> list[int]:
    """`truth_of` each step's label; with `behind_error` ignored, unknown behind the first bad step."""
    truths = [truth_of(label, neutral, is_soft) for label in response.step_labels or [None] * len(response.steps)]
    if behind_error == "ignored" and 0 in truths:
        first = truths.index(0)
        truths[first + 1 :] = [UNKNOWN] * (len(truths) - first - 1)
    return truths


def first_bad(truths: Sequence[int]) -> int | None:
    """The first bad step, -1 if there is none; None where a step before it (or any, if none is bad) is unknown."""
    known = truths[: truths.index(UNKNOWN)] if UNKNOWN in truths else truths
    return known.index(0) if 0 in known else None if UNKNOWN in truths else -1


def truth_of(label: float | None, neutral: Neutral, is_soft: bool) -> int:
    """1 good, 0 bad, -1 unknown. Soft labels (shares of right completions) are good from 0.5 up; of others, 0 is neutral."""
    if label is None:
        return UNKNOWN
    if is_soft:
        return int(label >= 0.5)
    return {"good": 1, "bad": 0, "ignored": UNKNOWN}[neutral] if label == 0 else int(label > 0)


def _check(prm: str, records: Sequence[StepScores], scores: dict[Key, list[float]], known: dict[Key, Response]) -> None:
    if not records:
        raise ValueError(f"{prm}: no scores (scripts/score.py makes them)")
    check_keys(prm, scores, known, "--responses")
    for key, given in scores.items():
        if not given or not np.isfinite(given).all():
            raise ValueError(f"{prm}: response {key!r} has the step scores {given}; every step needs a number")
    check_steps(prm, records, known)
