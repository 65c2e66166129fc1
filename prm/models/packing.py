"""Encoded responses in; one packed row out, or micro-batches within a token budget. No padding is ever made.

Shapes: 1 is the row, `tokens` all its tokens, `responses` the packed documents, `steps` the steps of all of them in order,
`targets` the response tokens of all of them in order.

An example with a shared beginning (of fewer tokens than `SHORTEST_PREFIX`): prompt p q, responses A B c and A B D e, a step ends at
each of B, c, e.

    input_ids     p q A B c D e             the second response continues p q A B, so of it D e alone are computed
    position_ids  0 1 2 3 4 4 5             those in each one's own response
    shared.index  0 1 2 3 4, 0 1 2 3 5 6    places in the row of what each response sees
    step_ends     3 4, 3 6                  places in the row; the step that both begin with has one score

`with_targets` the second response computes B anew, as D is predicted from it: the row is p q A B c B D e.

    target_positions  2 3 4 6 7             A B c D e, places in the row of all different targets
    target_index      0 1 2, 0 1 3 4        which of them the targets of each response are
    target_steps      0 0 1, 2 2 3 3        the step of each target, counted over the row
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prm.attention import SharedKeys, shared_keys
from prm.models.prefixes import lay_out
from prm.steps import EncodedResponse

Batch = dict[str, Any]
"""What `pack_responses` returns: tensors, `max_seqlen` as an int, and `shared` (`SharedKeys`) where beginnings are shared."""


def pack(sequences: Sequence[Sequence[int]], first_positions: Sequence[int] | None = None) -> Batch:
    """Lay token ids end to end: `input_ids`, restarting `position_ids` [1, tokens], `cu_seqlens` [documents + 1], `max_seqlen`.

    A sequence whose first position is p > 0 continues the first p tokens of the one before it, whatever that itself continues; a
    row with such sequences has `shared`, the `SharedKeys` of its attention.
    """
    lengths = [len(ids) for ids in sequences]
    if not lengths or min(lengths) == 0:
        raise ValueError(f"cannot pack {len(lengths)} sequences of lengths {lengths[:8]}: each must hold at least one token")
    firsts = first_positions or [0] * len(lengths)
    batch = {
        "input_ids": torch.tensor([token for ids in sequences for token in ids])[None],
        "position_ids": torch.cat([torch.arange(first, first + n) for first, n in zip(firsts, lengths, strict=True)])[None],
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        "max_seqlen": max(lengths),
    }
    if any(firsts):
        # Found here and not in the model, where looking would wait for the device.
        batch["shared"] = shared_keys(firsts, lengths)
    return batch


def pack_responses(encoded: Sequence[EncodedResponse], with_targets: bool = False, share_prefixes: bool = False) -> Batch:
    """`pack`, and where the scores are read: `step_ends` [steps] as positions in the row, `step_counts` [responses].

    `with_targets` adds, for models of token log-probs, `target_positions` [targets], the place of every response token in the row,
    and `target_steps` [targets], the index of its step among all steps of the row. It raises ValueError for a response whose first
    token would be a target: no token stands before it.

    With `share_prefixes`, for inference, a response continues what it has in common with the one before it. Where any does, the
    batch has `shared`, and tokens that several responses share are computed once: `target_positions` [computed targets] then holds
    each of them once, and `target_index` [targets] says where in it a response token is found.
    """
    layout = lay_out(encoded, with_targets, share_prefixes)
    batch = pack(*layout)
    # Positions as if all responses were laid out whole; `shared.index` has the place in the row of each.
    starts = list(itertools.accumulate((len(response.input_ids) for response in encoded), initial=0))
    ends = torch.tensor([start + end for start, response in zip(starts, encoded, strict=False) for end in response.step_ends])
    batch["step_counts"] = torch.tensor([len(response.step_ends) for response in encoded])
    batch["step_ends"] = batch["shared"].index[ends] if "shared" in batch else ends
    if with_targets:
        if not all(response.response_start for response in encoded):
            raise ValueError("a response starts at token 0: no token stands before it, from which its first one is predicted")
        parts = [torch.arange(s + r.response_start, s + len(r.input_ids)) for s, r in zip(starts, encoded, strict=False)]
        batch["target_positions"] = torch.cat(parts)
        # A token belongs to the first step that ends at or after it.
        batch["target_steps"] = torch.searchsorted(ends, batch["target_positions"])
        if "shared" in batch:
            places = predicted_places(batch["shared"], layout.first_positions)[batch["target_positions"]]
            batch["target_positions"], batch["target_index"] = places.unique(return_inverse=True)
    return batch


def predicted_places(shared: SharedKeys, first_positions: Sequence[int]) -> Int[Tensor, " keys"]:
    """For each token that the documents see, a place in the row where its predecessor stands directly before it.

    A token is predicted from the state of the token before it. For the first token of a continuing document that one lies in the
    document before, which holds both tokens, side by side (with targets `prefix_length` leaves out one token less).
    """
    places: list[Tensor] = []
    for seen, first in zip(shared.index.split(shared.cu_seqlens.diff().tolist()), first_positions, strict=True):
        places.append(torch.cat([places[-1][: first + 1], seen[first + 1 :]]) if first else seen)
    return torch.cat(places)


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with its tensors on `device`; on CUDA they are copied while it still works on the batch before."""
    is_cuda = torch.device(device).type == "cuda"

    def move(value: Any) -> Any:
        if isinstance(value, SharedKeys):
            return SharedKeys(*map(move, value))
        if not isinstance(value, Tensor):
            return value
        return value.pin_memory().to(device, non_blocking=True) if is_cuda and not value.is_cuda else value.to(device)

    return {name: move(value) for name, value in batch.items()}


def batch_by_tokens(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices in micro-batches of at most `token_budget` tokens, longest first; a longer sequence gets a batch of its own.

    Longest first, so that a budget which does not fit into memory fails at once and not after an hour.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[index] > room:
            batches.append([])
            room = token_budget
        batches[-1].append(index)
        room -= lengths[index]
    return batches
