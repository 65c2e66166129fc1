"""Attention over packed rows: queries, keys, values and document boundaries in, each document's own causal attention out.

A document may continue another one of its row: responses to one question share what they begin with, `SharedKeys`. Its queries
then see the keys and values of that beginning before its own, as if it stood there whole.

`PACKED` is an attention implementation of transformers (`attn_implementation=PACKED`). It is registered as an attention only, not
as a mask, so transformers builds no mask at all; the boundaries reach every layer as keyword arguments of the backbone's forward.

Shapes: 1 is the row, `tokens` all its tokens, `queries` these or some of them, `documents` the packed sequences,
`h`/`kv` query and key-value heads, `d` head size, `keys` the tokens that the documents see.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from prm.attention.documents import attention_at_reads, attention_by_document
from prm.attention.varlen import Boundaries, fits_varlen, varlen_attention

PACKED = "packed"
"""Name under which transformers knows this attention."""

PACKABLE_LAYERS = {"full_attention", "sliding_attention"}


class SharedKeys(NamedTuple):
    """What the documents of a row see where some continue others: `index` holds places in the row, `cu_seqlens` bounds them."""

    index: Int[Tensor, " keys"]
    cu_seqlens: Int[Tensor, " documents_plus_1"]
    max_seqlen: int


def shared_keys(first_positions: Sequence[int], lengths: Sequence[int]) -> SharedKeys:
    """Keys of a row in which a document of first position p > 0 continues the first p tokens that the one before it sees.

    Raises ValueError where that sees fewer.
    """
    places, seen, start = [], torch.arange(0), 0
    for first, length in zip(first_positions, lengths, strict=True):
        if first > len(seen):
            raise ValueError(f"a document of first position {first} follows one of {len(seen)} tokens, fewer than it continues")
        seen = torch.cat([seen[:first], torch.arange(start, start + length)])
        places.append(seen)
        start += length
    ends = torch.tensor([0, *map(len, places)]).cumsum(0)
    return SharedKeys(torch.cat(places), ends.to(torch.int32), max(map(len, places)))


def document_kwargs(
    cu_seqlens: Int[Tensor, " documents_plus_1"], max_seqlen: int, shared: SharedKeys | None = None
) -> dict[str, Any]:
    """The boundaries under the names that transformers passes through every layer (its FlashAttentionKwargs)."""
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens if shared is None else shared.cu_seqlens,
        "max_length_q": max_seqlen,
        "max_length_k": max_seqlen if shared is None else shared.max_seqlen,
        "key_index": None if shared is None else shared.index,
    }


def check_packable(config: PreTrainedConfig) -> None:
    """Raise ValueError for a backbone whose layers carry a state from one document into the next, or cap attention's logits."""
    foreign = set(getattr(config, "layer_types", None) or []) - PACKABLE_LAYERS
    if foreign:
        raise ValueError(
            f"{config.model_type}: layers of type {sorted(foreign)} cannot be packed without mixing responses; "
            f"use a backbone with {sorted(PACKABLE_LAYERS)} layers only"
        )
    if getattr(config, "attn_logit_softcapping", None):
        raise ValueError(
            f"{config.model_type}: packed attention does not cap logits; use a backbone without attn_logit_softcapping"
        )


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 h queries d"],
    key: Float[Tensor, "1 kv tokens d"],
    value: Float[Tensor, "1 kv tokens d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Int[Tensor, " documents_plus_1"] | None = None,
    cu_seq_lens_k: Int[Tensor, " documents_plus_1"] | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    key_index: Int[Tensor, " keys"] | None = None,
    query_index: Int[Tensor, " queries"] | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 queries h d"], None]:
    """Causal attention within each document, in the signature of transformers' attention functions.

    Half precision on CUDA takes the varlen kernel, everything else a loop over documents, whose results equal those of each
    document alone bit for bit where it continues no other. `sliding_window` counts the tokens seen, the query itself included, as
    in transformers' masks. `query_index`, for inference, are the places in the row of the queries where not every token has one;
    no kernel takes it.
    """
    if cu_seq_lens_q is None or cu_seq_lens_k is None or max_length_q is None or max_length_k is None:
        raise ValueError(
            f"attention {PACKED!r} got no document boundaries: pass **document_kwargs(cu_seqlens, max_seqlen) to the model's "
            f"forward, or load the model with attn_implementation='sdpa'"
        )
    unsupported = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if attention_mask is not None or unsupported:
        raise ValueError(f"attention {PACKED!r} supports neither an attention mask nor {unsupported or 'soft caps and sinks'}")
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave float32 queries and keys beside half-precision values.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    window = sliding_window if sliding_window is not None and sliding_window < max_length_k else None
    if query_index is None and fits_varlen(query):
        if dropout:
            raise ValueError(f"attention dropout {dropout} on CUDA: the varlen kernel has none; set attention_dropout to 0")
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        if key_index is not None:
            key, value = key[key_index], value[key_index]
        documents = Boundaries(cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        return varlen_attention(query, key, value, documents, scaling, window)[None], None
    places = None if key_index is None else key_index.split(cu_seq_lens_k.diff().tolist())
    boundaries = cu_seq_lens_q.tolist()
    if query_index is not None:
        return attention_at_reads(query, key, value, boundaries, scaling, window, query_index, places), None
    return attention_by_document(query, key, value, boundaries, scaling, window, dropout, places), None


AttentionInterface.register(PACKED, packed_attention)
