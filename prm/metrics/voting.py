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
    n = N has a single subset and n = 1 is the mean over candidates, of which one without an answer counts as wrong: both are exact.
    Tied answers share the outcome equally. Candidates without an answer abstain, and a subset in which all abstain counts as wrong.

    Raises:
        ValueError: a weight is negative or NaN (a signed reward is not a vote), or an n exceeds a pool's size.
    """
    return vote_each(answers, correct, ns, [weights], num_draws, seed)[0]


def vote_each(
    answers: Sequence[Int[np.ndarray, " _"]],
    correct: Sequence[Shaped[np.ndarray, " _"]],
    ns: Sequence[int],
    weightings: Sequence[Sequence[Float[np.ndarray, " _"]] | None],
    num_draws: int,
    seed: int,
) -> list[VoteEstimate]:
    """`vote` for several weightings (None: one candidate, one vote), with the subsets drawn once. Raises as `vote` does."""
    rng = np.random.default_rng(seed)
    per_question = []
    for index, (given, outcome) in enumerate(zip(answers, correct, strict=True)):
        weights = [np.ones(len(given)) if weighting is None else weighting[index] for weighting in weightings]
        per_question.append(_vote_one(given, np.asarray(outcome, dtype=np.float64), weights, ns, num_draws, rng, index))
    values, errors = np.array(per_question).reshape(len(answers), 2, len(weightings), len(ns)).transpose(1, 2, 0, 3)
    return [VoteEstimate(*both) for both in zip(values, errors, strict=True)]


def first_n_vote(
    answers: Sequence[Int[np.ndarray, " _"]], correct: Sequence[Shaped[np.ndarray, " _"]], ns: Sequence[int]
) -> Float[np.ndarray, "questions ns"]:
    """Correctness of the most frequent answer among the first n candidates; the answer seen first wins ties, as in published code.

    Its outcome is that of the first candidate with it. But for ties, one draw of what `vote` estimates: kept for printed numbers.
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
    weightings: Sequence[Float[np.ndarray, " candidates"]],
    ns: Sequence[int],
    num_draws: int,
    rng: np.random.Generator,
    index: int,
) -> Float[np.ndarray, "2 weightings ns"]:
    for weights in weightings:
        if not (weights >= 0).all():
            raise ValueError(
                f"question {index} has the vote weight {weights[~(weights >= 0)][0]}: weights must be >= 0, "
                "signed rewards cannot be summed as votes"
            )
    check_ns(ns, len(answers))
    ranks = rng.random((num_draws, len(answers))).argsort(axis=1)
    ballots = answers[:, None] == np.arange(answers.max(initial=0) + 1)
    answer_correct = (correct @ ballots) / np.maximum(ballots.sum(axis=0), 1)
    values, errors = np.zeros((2, len(weightings), len(ns)))
    for column, n in enumerate(ns):
        if n == 1:
            # A lone abstention is wrong; a lone voter brings its own correctness, so no subset need be drawn.
            values[:, column] = correct[answers != NO_ANSWER].sum() / len(answers)
            continue
        subsets = (ranks[:1] < n if n == len(answers) else ranks < n).astype(np.float64)
        present = subsets @ ballots > 0
        for row, weights in enumerate(weightings):
            outcomes = _winners_correct(subsets, present, ballots, weights, answer_correct)
            values[row, column] = outcomes.mean()
            errors[row, column] = outcomes.std(ddof=1) / np.sqrt(len(outcomes)) if len(outcomes) > 1 else 0.0
    return np.stack([values, errors])


def _winners_correct(
    subsets: Float[np.ndarray, "draws candidates"],
    present: Bool[np.ndarray, "draws answers"],
    ballots: Bool[np.ndarray, "candidates answers"],
    weights: Float[np.ndarray, " candidates"],
    answer_correct: Float[np.ndarray, " answers"],
) -> Float[np.ndarray, " draws"]:
    votes = np.where(present, subsets @ (ballots * weights[:, None]), -np.inf)
    most = votes.max(axis=1, keepdims=True)
    # Equal sums taken in a different order differ in the last bits; without the tolerance a tie would not be one.
    winners = present & (votes >= most - 1e-12 * np.abs(np.where(np.isfinite(most), most, 0.0)))
    return (winners @ answer_correct) / np.maximum(winners.sum(axis=1), 1)
