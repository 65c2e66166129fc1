"""Encoded responses in; one packed row out, or micro-batches within a token budget. No padding is ever made.

Shapes: 1 is the row, `tokens` all its tokens, `responses` the packed documents, `steps` the steps of all of them in order,
`targets` the response tokens of all of them in order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prm.attention import SharedKeys, shared_keys
from prm.models.prefixes import lay_out
from prm.steps import EncodedResponse

Batch = dict[str, Any]
"""What `pack_responses` returns: tensors, `max_seqlen` as an int, and `shared` (`SharedKeys`) where prompts are shared."""


def pack(sequences: Sequence[Sequence[int]], first_positions: Sequence[int] | None = None) -> Batch:
    """Lay token ids end to end: `input_ids`, restarting `position_ids` [1, tokens], `cu_seqlens` [documents + 1], `max_seqlen`.

    A sequence whose first position is p > 0 continues the first p tokens of the last sequence before it that starts at 0; a row
    with such sequences has `shared`, the `SharedKeys` of its attention.
    """
    lengths = [len(ids) for ids in sequences]
    if not lengths or min(lengths) == 0:
        raise ValueError(f"cannot pack {len(lengths)} sequences of lengths {lengths[:8]}: each must hold at least one token")
    positions = zip(first_positions or [0] * len(lengths), lengths, strict=True)
    batch = {
        "input_ids": torch.tensor([token for ids in sequences for token in ids])[None],
        "position_ids": torch.cat([torch.arange(first, first + n) for first, n in positions])[None],
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
        "max_seqlen": max(lengths),
    }
    # Found here and not in the model, where looking would wait for the device.
    shared = shared_keys(batch["position_ids"], batch["cu_seqlens"])
    return batch if shared is None else batch | {"shared": shared}


def pack_responses(encoded: Sequence[EncodedResponse], with_targets: bool = False, share_prompts: bool = False) -> Batch:
    """`pack`, and where the scores are read: `step_ends` [steps] as positions in the row, `step_counts` [responses].

    `with_targets` adds, for models of token log-probs, `target_positions` [targets], the place of every response token in the
    row, and `target_steps` [targets], the index of its step among all steps of the row. With `share_prompts`, for inference,
    neighbors with one prompt share it: it stands before them once, and each continues it.
    """
    documents, first_positions, starts = lay_out(encoded, with_targets, share_prompts)
    batch = pack(documents, first_positions)
    batch["step_counts"] = torch.tensor([len(response.step_ends) for response in encoded])
    batch["step_ends"] = torch.tensor(
        [start + end for start, response in zip(starts, encoded, strict=True) for end in response.step_ends]
    )
    if with_targets:
        positions = [
            torch.arange(start + response.response_start, start + len(response.input_ids))
            for start, response in zip(starts, encoded, strict=True)
        ]
        batch["target_positions"] = torch.cat(positions)
        # A token belongs to the first step that ends at or after it.
        batch["target_steps"] = torch.searchsorted(batch["step_ends"], batch["target_positions"])
    return batch


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
