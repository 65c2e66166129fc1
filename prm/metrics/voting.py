"""Voting over final answers: answers, correctness and vote weights per candidate in, expected accuracy per n out."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from prm.metrics.selection import check_ns

NO_ANSWER = -1


class VoteEstimate(NamedTuple):
    """Monte-Carlo estimate per question and n; `standard_error` is that of the estimate, not of the questions."""

    values: Float[np.ndarray, "questions ns"]
    standard_error: Float[np.ndarray, "questions ns"]


def group_answers(answers: Sequence[str | None], normalize: Callable[[str], str] = str.strip) -> Int[np.ndarray, " candidates"]:
    """Number the distinct normalized answers of one question from 0 in order of appearance; no answer is -1."""
    numbers: dict[str, int] = {}
    return np.array([NO_ANSWER if a is None else numbers.setdefault(normalize(a), len(numbers)) for a in answers], dtype=np.int64)


def vote(
    answers: Sequence[Int[np.ndarray, " _"]],
    correct: Sequence[Shaped[np.ndarray, " _"]],
    ns: Sequence[int],
    weights: Sequence[Float[np.ndarray, " _"]] | None = None,
    num_draws: int = 400,
    seed: int = 0,
) -> VoteEstimate:
    """Expected correctness of the answer with most votes (largest summed weight) in a random n-subset.

    No closed form exists, so `num_draws` seeded subsets are drawn per question, the same ones whatever the weights are;
    n = N has a single subset and n = 1 is the mean, so both are exact. Tied answers share the outcome equally.
    Candidates without an answer abstain, and a subset in which all abstain counts as wrong.

    Raises:
        ValueError: a weight is negative or NaN (a signed reward is not a vote), or an n exceeds a pool's size.
    """
    rng = np.random.default_rng(seed)
    weights = [np.ones(len(a)) for a in answers] if weights is None else weights
    estimates = [
        _vote_one(a, np.asarray(c, dtype=np.float64), w, ns, num_draws, rng, index)
        for index, (a, c, w) in enumerate(zip(answers, correct, weights, strict=True))
    ]
    return VoteEstimate(np.array([value for value, _ in estimates]), np.array([error for _, error in estimates]))


def first_n_vote(
    answers: Sequence[Int[np.ndarray, " _"]], correct: Sequence[Shaped[np.ndarray, " _"]], ns: Sequence[int]
) -> Float[np.ndarray, "questions ns"]:
    """Correctness of the most frequent answer among the first n candidates; the answer seen first wins ties, as in published code.

    Its outcome is that of the first candidate with it. One draw of what `vote` estimates, ties apart: kept for printed numbers.
    """
    values = np.zeros((len(answers), len(ns)))
    for row, (given, outcome) in enumerate(zip(answers, correct, strict=True)):
        check_ns(ns, len(given))
        for column, n in enumerate(ns):
            distinct, first, counts = np.unique(given[:n], return_index=True, return_counts=True)
            is_answer = distinct != NO_ANSWER
            if is_answer.any():
                winner = np.lexsort((first[is_answer], -counts[is_answer]))[0]
                values[row, column] = outcome[first[is_answer][winner]]
    return values


def _vote_one(
    answers: Int[np.ndarray, " candidates"],
    correct: Float[np.ndarray, " candidates"],
    weights: Float[np.ndarray, " candidates"],
    ns: Sequence[int],
    num_draws: int,
    rng: np.random.Generator,
    index: int,
) -> tuple[Float[np.ndarray, " ns"], Float[np.ndarray, " ns"]]:
    if not (weights >= 0).all():
        raise ValueError(
            f"question {index} has the vote weight {weights[~(weights >= 0)][0]}: weights must be >= 0, "
            "signed rewards cannot be summed as votes"
        )
    check_ns(ns, len(answers))
    ranks = rng.random((num_draws, len(answers))).argsort(axis=1)
    ballots = answers[:, None] == np.arange(answers.max(initial=0) + 1)
    answer_correct = (correct @ ballots) / np.maximum(ballots.sum(axis=0), 1)
    values, errors = np.empty(len(ns)), np.zeros(len(ns))
    for column, n in enumerate(ns):
        if n == 1:
            # A lone abstention is wrong; a lone voter brings its own correctness, so no subset need be drawn.
            values[column] = correct[answers != NO_ANSWER].sum() / len(answers)
            continue
        subsets = ranks[:1] < n if n == len(answers) else ranks < n
        outcomes = _winners_correct(subsets.astype(np.float64), ballots, weights, answer_correct)
        values[column] = outcomes.mean()
        errors[column] = outcomes.std(ddof=1) / np.sqrt(len(outcomes)) if len(outcomes) > 1 else 0.0
    return values, errors


def _winners_correct(
    subsets: Float[np.ndarray, "draws candidates"],
    ballots: Bool[np.ndarray, "candidates answers"],
    weights: Float[np.ndarray, " candidates"],
    answer_correct: Float[np.ndarray, " answers"],
) -> Float[np.ndarray, " draws"]:
    present = subsets @ ballots > 0
    votes = np.where(present, subsets @ (ballots * weights[:, None]), -np.inf)
    most = votes.max(axis=1, keepdims=True)
    # Equal sums taken in a different order differ in the last bits; without the tolerance a tie would not be one.
    winners = present & (votes >= most - 1e-12 * np.abs(np.where(np.isfinite(most), most, 0.0)))
    return (winners @ answer_correct) / np.maximum(winners.sum(axis=1), 1)
