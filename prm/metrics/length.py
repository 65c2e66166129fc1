"""Does a PRM choose by length? Scores, lengths and correctness per question in; preference, controlled scores, wins out."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from prm.metrics.association import less_cell_means, percent_ranks
from prm.metrics.ties import without_noise

PAIR_CLASSES = ("right_longer", "similar", "right_shorter")
SIMILAR = 0.1
"""Two lengths are similar when they differ by at most this share of the longer one."""

Values = Sequence[Float[np.ndarray, " _"]]
Outcomes = Sequence[Shaped[np.ndarray, " _"]]


def length_moments(scores: Values, lengths: Values, correct: Outcomes) -> Float[np.ndarray, "questions 2"]:
    """For each question, the sums of length * score and of length * length; the ratio of their totals is `length_preference`.

    Length and score here are percent ranks within the question, less their mean over the candidates of the same outcome. So only
    candidates that are equally right are compared, and a PRM is not said to prefer short responses because wrong ones are longer.
    """
    moments = np.zeros((len(scores), 2))
    for row, (s, x, c) in enumerate(zip(scores, lengths, correct, strict=True)):
        score_gap, length_gap = (less_cell_means(percent_ranks(values), c.astype(np.int64)) for values in (s, x))
        moments[row] = length_gap @ score_gap, length_gap @ length_gap
    return without_noise(moments)


def length_preference(scores: Values, lengths: Values, correct: Outcomes) -> float:
    """Ranks of score that come with one rank of length, among equally right candidates; nan if no two differ in length.

    The least-squares slope of score rank on length rank, with a fixed effect for each question and outcome: 1 for a PRM that scores
    by length, -1 for one that scores by brevity, 0 for one that ignores it. Ranks make it independent of the scale of scores and
    lengths, as Best-of-N is. Regressing length out follows length-controlled AlpacaEval (Dubois et al. 2024); doing so at equal
    outcome is ours, since length and correctness are truly related.
    """
    numerator, denominator = length_moments(scores, lengths, correct).sum(axis=0)
    return float(numerator / denominator) if denominator > 0 else float("nan")


def length_controlled(scores: Values, lengths: Values, preference: float) -> list[Float[np.ndarray, " _"]]:
    """Score ranks without what length gave them, rank(score) - preference * rank(length): the length-controlled order.

    Equal scores of different lengths come apart, unless the preference is 0: where a PRM that prefers brevity scores two alike, the
    longer one must be better in its eyes.
    """
    controlled = (percent_ranks(s) - preference * percent_ranks(x) for s, x in zip(scores, lengths, strict=True))
    return [np.round(values, 12) for values in controlled]


def pair_wins(
    scores: Values, lengths: Values, correct: Outcomes
) -> tuple[Float[np.ndarray, "questions 3"], Float[np.ndarray, "questions 3"]]:
    """Wins and numbers of the pairs (a right, a wrong candidate of one question), by `PAIR_CLASSES`; ties of score win half.

    A PRM that does not look at length wins the three classes equally often; one that scores by length wins all, some and none.
    """
    wins, pairs = np.zeros((len(scores), 3)), np.zeros((len(scores), 3))
    for row, (s, x, c) in enumerate(zip(scores, lengths, correct, strict=True)):
        is_right = c.astype(bool)
        gap = x[is_right][:, None] - x[~is_right]
        is_similar = np.abs(gap) <= SIMILAR * np.maximum(x[is_right][:, None], x[~is_right])
        won = (np.sign(s[is_right][:, None] - s[~is_right]) + 1) / 2
        for column, cell in enumerate(((gap > 0) & ~is_similar, is_similar, (gap < 0) & ~is_similar)):
            wins[row, column], pairs[row, column] = won[cell].sum(), cell.sum()
    return wins, pairs
