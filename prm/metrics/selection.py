"""Selecting one of N candidates: scores and correctness per question in, expected accuracy per question and n out."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Shaped


def best_of_n(
    scores: Float[np.ndarray, "questions candidates"],
    correct: Shaped[np.ndarray, "questions candidates"],
    ns: Sequence[int],
) -> Float[np.ndarray, "questions ns"]:
    """Exact expected correctness of the top-scored of a uniformly drawn n-subset of the N candidates.

    The i-th best candidate is selected iff it is drawn and no better one is, so its weight is C(N-i, n-1) / C(N, n),
    here by the recursion w_1 = n/N, w_{i+1} = w_i (N-i-n+1) / (N-i). Tied candidates are equally likely to be picked,
    so each takes the mean correctness of its tie block.

    Raises:
        ValueError: a score is NaN, or an n lies outside 1..N.
    """
    _check_scores(scores, ns)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked_correct = np.take_along_axis(correct.astype(np.float64), order, axis=1)
    ranked_scores = np.take_along_axis(scores, order, axis=1)
    return _tie_block_means(ranked_scores, ranked_correct) @ _rank_weights(scores.shape[1], ns)


def first_n(
    scores: Float[np.ndarray, "questions candidates"],
    correct: Shaped[np.ndarray, "questions candidates"],
    ns: Sequence[int],
) -> Float[np.ndarray, "questions ns"]:
    """Correctness of the top-scored among the first n candidates; the lowest index wins ties, as in published code.

    One draw of the experiment whose expectation is `best_of_n`: noisier, kept for comparison with printed numbers.
    """
    _check_scores(scores, ns)
    picks = np.stack([scores[:, :n].argmax(axis=1) for n in ns], axis=1)
    return np.take_along_axis(correct.astype(np.float64), picks, axis=1)


def pass_at_n(correct: Shaped[np.ndarray, "questions candidates"], ns: Sequence[int]) -> Float[np.ndarray, "questions ns"]:
    """Probability that an n-subset holds a correct candidate, 1 - C(N-c, n) / C(N, n) (Chen et al. 2021)."""
    num_candidates = correct.shape[1]
    check_ns(ns, num_candidates)
    num_wrong = num_candidates - correct.astype(np.float64).sum(axis=1, keepdims=True)
    drawn = np.arange(num_candidates)
    all_wrong = np.cumprod(np.maximum(num_wrong - drawn, 0) / (num_candidates - drawn), axis=1)
    return 1.0 - all_wrong[:, np.asarray(ns) - 1]


def random_choice(correct: Shaped[np.ndarray, "questions candidates"], ns: Sequence[int]) -> Float[np.ndarray, "questions ns"]:
    """Expected correctness of a candidate picked blindly: the pool's mean, whatever n is."""
    check_ns(ns, correct.shape[1])
    return np.repeat(correct.astype(np.float64).mean(axis=1, keepdims=True), len(ns), axis=1)


def over_ragged(
    metric: Callable[..., Float[np.ndarray, "questions ns"]], ns: Sequence[int], *groups: Sequence[np.ndarray]
) -> Float[np.ndarray, "all_questions ns"]:
    """Apply `metric(*matrices, ns)` to questions with unequal numbers of candidates, one call per pool size.

    Each of `groups` holds one array per question. Every question must offer max(ns) candidates, since a curve averages
    the same questions at each n.
    """
    sizes = np.array([len(group) for group in groups[0]])
    if not sizes.size:
        raise ValueError("no questions to evaluate: the pool is empty")
    check_ns(ns, int(sizes.min()))
    values = np.empty((len(sizes), len(ns)))
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        values[rows] = metric(*(np.stack([group[row] for row in rows]) for group in groups), ns)
    return values


def _rank_weights(num_candidates: int, ns: Sequence[int]) -> Float[np.ndarray, "candidates ns"]:
    counts = np.asarray(ns, dtype=np.float64)
    ranks = np.arange(1, num_candidates, dtype=np.float64)[:, None]
    ratios = np.maximum(num_candidates - ranks - counts + 1, 0) / (num_candidates - ranks)
    return np.cumprod(np.concatenate([counts[None] / num_candidates, ratios]), axis=0)


def _tie_block_means(
    ranked_scores: Float[np.ndarray, "questions candidates"], ranked_correct: Float[np.ndarray, "questions candidates"]
) -> Float[np.ndarray, "questions candidates"]:
    starts = np.ones(ranked_scores.shape, dtype=bool)
    starts[:, 1:] = ranked_scores[:, 1:] != ranked_scores[:, :-1]
    block = np.cumsum(starts.ravel()) - 1
    means = np.bincount(block, weights=ranked_correct.ravel()) / np.bincount(block)
    return means[block].reshape(ranked_scores.shape)


def _check_scores(scores: Float[np.ndarray, "questions candidates"], ns: Sequence[int]) -> None:
    if np.isnan(scores).any():
        raise ValueError(f"question {int(np.isnan(scores).any(axis=1).argmax())} has a NaN score: it cannot be ranked")
    check_ns(ns, scores.shape[1])


def check_ns(ns: Sequence[int], num_candidates: int) -> None:
    """Raise ValueError for an n that no subset of `num_candidates` has."""
    bad = [n for n in ns if not 1 <= n <= num_candidates]
    if bad:
        raise ValueError(
            f"n = {bad[0]} is outside 1..{num_candidates}, the smallest number of candidates of a question: "
            "ask for a smaller n or sample more candidates"
        )
