"""Encoded responses in; one packed row out, or micro-batches within a token budget. No padding is ever made.

Shapes: 1 is the row, `tokens` all its tokens, `responses` the packed documents, `steps` the steps of all of them in order,
`targets` the response tokens of all of them in order.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prm.attention import SharedKeys, shared_keys, visible_places
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
    # Found here and not in the model, where looking would wait for the device.
    shared = shared_keys(visible_places(firsts, lengths), sum(lengths))
    return batch if shared is None else batch | {"shared": shared}


def pack_responses(encoded: Sequence[EncodedResponse], with_targets: bool = False, share_prefixes: bool = False) -> Batch:
    """`pack`, and where the scores are read: `step_ends` [steps] as positions in the row, `step_counts` [responses].

    `with_targets` adds, for models of token log-probs, `target_positions` [computed targets], where in the row response tokens
    stand, and for every response token `target_index` [targets], which of these is its, and `target_steps` [targets], the index of
    its step among all steps of the row. With `share_prefixes`, for inference, a response continues what it has in common with the
    one before it; without, every target is computed and `target_index` counts up.
    """
    layout = lay_out(encoded, with_targets, share_prefixes)
    batch = pack(*layout)
    places = visible_places(layout.first_positions, [len(document) for document in layout.documents])
    counts = [len(response.step_ends) for response in encoded]
    batch["step_counts"] = torch.tensor(counts)
    batch["step_ends"] = torch.cat([seen[response.step_ends] for seen, response in zip(places, encoded, strict=True)])
    if with_targets:
        places = predicted_places(places, layout.first_positions)
        targets = [seen[response.response_start :] for seen, response in zip(places, encoded, strict=True)]
        batch["target_positions"], batch["target_index"] = torch.cat(targets).unique(return_inverse=True)
        first_steps = itertools.accumulate(counts, initial=0)
        batch["target_steps"] = torch.cat([first + steps_of_targets(r) for first, r in zip(first_steps, encoded, strict=False)])
    return batch


def predicted_places(places: Sequence[Int[Tensor, " _"]], first_positions: Sequence[int]) -> list[Int[Tensor, " _"]]:
    """Where each token of a document stands right behind the one before it, from whose state it is predicted.

    The first token that a continuing document holds was predicted in the document before it.
    """
    predicted: list[Tensor] = []
    for seen, first in zip(places, first_positions, strict=True):
        predicted.append(torch.cat([predicted[-1][: first + 1], seen[first + 1 :]]) if first else seen)
    return predicted


def steps_of_targets(response: EncodedResponse) -> Int[Tensor, " targets"]:
    """The step of every response token: the first that ends at or after it."""
    return torch.searchsorted(torch.tensor(response.step_ends), torch.arange(response.response_start, len(response.input_ids)))


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch with its tensors on `device`, to which they are copied while it still works on the batch before."""
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
