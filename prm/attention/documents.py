"""Attention without a kernel for packed sequences: states of a row and its boundaries in, a document at a time out.

Shapes: `tokens` those of the row, `reads` the tokens that are asked for, `h`/`kv` query and key-value heads, `group` queries that
share a key-value head, `d` head size.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

QUERY_BLOCK = 128
"""Queries that meet their keys together under a mask. Keys behind the last, or before the window of the first, are left out."""


def attention_by_document(
    query: Float[Tensor, "1 h tokens d"],
    key: Float[Tensor, "1 kv tokens d"],
    value: Float[Tensor, "1 kv tokens d"],
    boundaries: Sequence[int],
    scaling: float | None,
    window: int | None,
    dropout: float = 0.0,
    places: Sequence[Int[Tensor, " _"]] | None = None,
) -> Float[Tensor, "1 tokens h d"]:
    """Scaled dot-product attention, one document after the other; `boundaries` start with 0 and end with the number of tokens.

    `places` are those in the row of all that each document sees, where one sees more than its own tokens, which come last.
    """
    lengths, seen = count_tokens(boundaries, places)
    options = {"dropout_p": dropout, "scale": scaling}
    mask, outputs = None, []
    queries = by_group(query, key.shape[1]).split(lengths, 2)
    for q, (k, v) in zip(queries, document_keys(query, key, value, boundaries, places), strict=True):
        if k.shape[2] == q.shape[2] and (window is None or q.shape[2] <= window):
            output = F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
        else:
            if mask is None:
                mask = additive(causal_mask(QUERY_BLOCK, max(seen) + QUERY_BLOCK, window, q.device), q.dtype)
            output = attention_by_block(q, k, v, mask, window, options)
        outputs.append(output.permute(2, 0, 1, 3))
    return torch.cat(outputs).flatten(1, 2)[None]


def attention_at_reads(
    query: Float[Tensor, "1 h reads d"],
    key: Float[Tensor, "1 kv tokens d"],
    value: Float[Tensor, "1 kv tokens d"],
    boundaries: Sequence[int],
    scaling: float | None,
    window: int | None,
    reads: Int[Tensor, " reads"],
    places: Sequence[Int[Tensor, " _"]] | None = None,
) -> Float[Tensor, "1 reads h d"]:
    """`attention_by_document` without dropout at some tokens of the row: `reads`, in any order, one as often as wished."""
    lengths, seen = count_tokens(boundaries, places)
    reads, order = reads.sort()
    counts = torch.searchsorted(reads, torch.tensor(boundaries, device=reads.device)).diff().tolist()
    queries = by_group(query, key.shape[1])[:, :, order].split(counts, 2)
    keys = document_keys(query, key, value, boundaries, places)
    outputs = []
    for index, (q, (k, v), at) in enumerate(zip(queries, keys, reads.split(counts), strict=True)):
        positions = at + (seen[index] - lengths[index] - boundaries[index])
        for block, queried in zip(q.split(QUERY_BLOCK, 2), positions.split(QUERY_BLOCK), strict=True):
            if not len(queried):
                continue
            first, end = 0 if window is None else max(0, int(queried[0]) + 1 - window), int(queried[-1]) + 1
            distance = queried[:, None] - torch.arange(first, end, device=q.device)
            mask = additive(distance >= 0 if window is None else (distance >= 0) & (distance < window), q.dtype)
            output = F.scaled_dot_product_attention(block, k[:, :, first:end], v[:, :, first:end], mask, scale=scaling)
            outputs.append(output.permute(2, 0, 1, 3))
    return torch.cat(outputs)[order.argsort()].flatten(1, 2)[None]


def count_tokens(boundaries: Sequence[int], places: Sequence[Int[Tensor, " _"]] | None) -> tuple[list[int], list[int]]:
    """Tokens that each document has, and that it sees."""
    lengths = [end - start for start, end in itertools.pairwise(boundaries)]
    return lengths, lengths if places is None else [len(where) for where in places]


def by_group(query: Float[Tensor, "1 h queries d"], num_heads: int) -> Float[Tensor, "kv group queries d"]:
    """The query heads under the one of `num_heads` key-value heads that they share."""
    return query[0].unflatten(0, (num_heads, -1))


def document_keys(
    query: Float[Tensor, "1 h queries d"],
    key: Float[Tensor, "1 kv tokens d"],
    value: Float[Tensor, "1 kv tokens d"],
    boundaries: Sequence[int],
    places: Sequence[Int[Tensor, " _"]] | None,
) -> Iterator[tuple[Float[Tensor, "kv group keys d"], Float[Tensor, "kv group keys d"]]]:
    """Keys and values that each document sees, before every query of a group.

    Key-value heads are the batch: each is shared by its group of queries without a copy. `enable_gqa` takes 2.5 times as long.
    """
    heads = (key.shape[1], query.shape[1] // key.shape[1])
    lengths, seen = count_tokens(boundaries, places)
    key, value = key[0][:, None], value[0][:, None]
    # One split, and not a slice per document, whose gradient would be a row of zeros for each.
    for index, (k, v) in enumerate(zip(key.split(lengths, 2), value.split(lengths, 2), strict=True)):
        if places is not None and seen[index] > lengths[index]:
            k, v = key.index_select(2, places[index]), value.index_select(2, places[index])
        yield k.expand(*heads, -1, -1), v.expand(*heads, -1, -1)


def attention_by_block(
    query: Float[Tensor, "kv group queries d"],
    key: Float[Tensor, "kv group keys d"],
    value: Float[Tensor, "kv group keys d"],
    mask: Float[Tensor, "block reach"],
    window: int | None,
    options: dict[str, Any],
) -> Float[Tensor, "kv group queries d"]:
    """Attention of a document's last tokens to all of it, a block of queries at a time, to those keys that one of them sees.

    `mask` is that of the last `block` queries of a document of `reach` tokens; every block has a part of it.
    """
    size, reach = mask.shape
    before, outputs = key.shape[2] - query.shape[2], []
    for begin in range(0, query.shape[2], size):
        end = min(begin + size, query.shape[2])
        first, last = 0 if window is None else max(0, before + begin + 1 - window), before + end
        shift = reach - size - (before + begin)
        states = query[:, :, begin:end], key[:, :, first:last], value[:, :, first:last]
        seen = mask[: end - begin, shift + first : shift + last]
        # A part of a mask begins anywhere; kernels on CUDA want it to begin at a multiple of 16 bytes.
        outputs.append(F.scaled_dot_product_attention(*states, seen.clone() if seen.is_cuda else seen, **options))
    return torch.cat(outputs, 2)


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Bool `[queries, keys]` of the last queries of a document: each sees itself and the keys before it, `window` tokens in all."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries + 1 - window)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores; made once, since from a bool mask every call would make it anew."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)
