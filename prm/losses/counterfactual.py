"""Counterfactual steps: responses that agree up to a step and then part in, the margin between their good and bad steps out."""

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Integer, Shaped
from torch import Tensor

from prm.losses.common import Logits, Mask, PerResponse
from prm.losses.step_labels import good_and_bad

Prefixes = Integer[Tensor, "batch steps"]
Indices = Integer[Tensor, "pairs"]


def margin_ranking(
    logits: Logits,
    mask: Mask,
    step_labels: Shaped[Tensor, "batch steps"],
    prefixes: Prefixes,
    neutral: str = "good",
    margin: float = 1.0,
) -> PerResponse:
    """`max(0, margin - (z_good - z_bad))` over all counterfactual pairs, half of a pair's loss to either response.

    What comes before the two steps is the same, so that only the steps themselves can tell them apart.
    """
    good, bad = counterfactual_pairs(prefixes, mask, step_labels, neutral)
    z = logits.float().masked_fill(~mask, 0).flatten()
    halves = (margin - (z[good] - z[bad])).clamp(min=0) / 2
    responses = torch.cat([good, bad]) // mask.shape[-1]
    return z.new_zeros(len(mask)).index_add(0, responses, torch.cat([halves, halves]))


def counterfactual_pairs(
    prefixes: Prefixes, mask: Mask, step_labels: Shaped[Tensor, "batch steps"], neutral: str = "good"
) -> tuple[Indices, Indices]:
    """Indices into the flattened `[batch, steps]` of all (good step, bad step) with the same prefix.

    A step that occurs twice with opposite labels pairs with itself: a constant, whose two gradients cancel.
    """
    good, bad = (which.flatten().nonzero().squeeze(-1) for which in good_and_bad(step_labels, mask, neutral))
    ids = prefixes.flatten()
    # By searching in sorted ids: comparing every good step with every bad one takes memory that grows with the square of the batch.
    bad_ids, order = ids[bad].sort(stable=True)
    first = torch.searchsorted(bad_ids, ids[good])
    counts = torch.searchsorted(bad_ids, ids[good], right=True) - first
    number = torch.arange(int(counts.sum()), device=ids.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return good.repeat_interleave(counts), bad[order[first.repeat_interleave(counts) + number]]


def prefix_ids(questions: Sequence[Hashable], responses: Sequence[Sequence[Hashable]]) -> Prefixes:
    """An id for what stands before each step, -1 at padding: equal if and only if question and all earlier steps are.

    Questions and steps may be texts or tuples of token ids; a dictionary compares them whole.
    """
    ids: dict[tuple[int, Hashable], int] = {}
    prefixes = torch.full((len(responses), max(map(len, responses), default=0)), -1)
    for row, (question, steps) in enumerate(zip(questions, responses, strict=True)):
        node = ids.setdefault((-1, question), len(ids))
        for column, step in enumerate(steps):
            prefixes[row, column] = node
            node = ids.setdefault((node, step), len(ids))
    return prefixes
