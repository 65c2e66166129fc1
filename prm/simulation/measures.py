"""How well a table of step scores knows its world: scores and true values [S, T, V] in, one number per seed out."""

import numpy as np
from jaxtyping import Bool, Float

from prm.simulation.environment import Table, Traces, pick

PerSeed = Float[np.ndarray, " S"]


def squared_error(scores: Table, traces: Traces, values: Float[np.ndarray, "S N T"]) -> PerSeed:
    """Mean squared error of the scores of the traces' steps."""
    return np.square(pick(scores, traces) - values).mean((1, 2))


def calibrated_squared_error(scores: Table, traces: Traces, values: Float[np.ndarray, "S N T"]) -> PerSeed:
    """`squared_error` after the affine map a W + b that fits these steps best."""
    x, y = (part - part.mean((1, 2), keepdims=True) for part in (pick(scores, traces), values))
    variance = np.square(x).mean((1, 2))
    slope = np.divide((x * y).mean((1, 2)), variance, out=np.zeros_like(variance), where=variance > 0)
    return np.square(y - slope[:, None, None] * x).mean((1, 2))


def row_correlation(scores: Table, values: Table) -> PerSeed:
    """Pearson's correlation over all cells once each step's mean over its tokens is taken away; nan where either does not vary."""
    x, y = (table - table.mean(-1, keepdims=True) for table in (scores, values))
    spread = np.sqrt(np.square(x).sum((1, 2)) * np.square(y).sum((1, 2)))
    return np.divide((x * y).sum((1, 2)), spread, out=np.full(len(spread), np.nan), where=spread > 0)


def ranking_accuracy(scores: Table, values: Table, is_chosen: Bool[np.ndarray, "S T"] | None = None) -> PerSeed:
    """Share of the pairs of cells that the scores put in the true order, over all cells or those of the chosen steps.

    Pairs of equal value are none; a pair of equal score counts half.
    """
    found = []
    for index in range(len(scores)):
        rows = slice(None) if is_chosen is None else is_chosen[index]
        found.append(_in_order(scores[index][rows].ravel(), values[index][rows].ravel()))
    return np.array(found)


def ranking_accuracy_within_steps(scores: Table, values: Table) -> PerSeed:
    """`ranking_accuracy` over the pairs of tokens at one step."""
    (a, b), (x, y) = ((t[..., :, None], t[..., None, :]) for t in (scores, values))
    truth = np.sign(x - y)
    return ((np.sign(a - b) * truth).sum((1, 2, 3)) / np.abs(truth).sum((1, 2, 3)) + 1) / 2


def _in_order(scores: Float[np.ndarray, " cells"], values: Float[np.ndarray, " cells"]) -> float:
    first, second = np.triu_indices(len(scores), 1)
    truth = np.sign(values[first] - values[second])
    agreed = np.sign(scores[first] - scores[second]) * truth
    return float((agreed.sum() / np.abs(truth).sum() + 1) / 2)
