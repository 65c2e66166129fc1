"""Attention over packed rows: queries, keys, values and document boundaries in, each document's own causal attention out.

`PACKED` is an attention implementation of transformers (`attn_implementation=PACKED`). It is registered as an attention only, not
as a mask, so transformers builds no mask at all; the boundaries reach every layer as keyword arguments of the backbone's forward.

Shapes: 1 is the row, `tokens` all its tokens, `documents` the packed sequences, `h`/`kv` query and key-value heads, `d` head size.
"""

import importlib
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

PACKED = "packed"
"""Name under which transformers knows this attention."""

FLASH_MODULES = ("flash_attn_interface", "flash_attn")
"""Packages with a `flash_attn_varlen_func`: FlashAttention-3 and -2."""

PACKABLE_LAYERS = {"full_attention", "sliding_attention"}


def document_kwargs(cu_seqlens: Int[Tensor, " documents_plus_1"], max_seqlen: int) -> dict[str, Any]:
    """The boundaries under the names that transformers passes through every layer (its FlashAttentionKwargs)."""
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_seqlen,
        "max_length_k": max_seqlen,
    }


def check_packable(config: PreTrainedConfig) -> None:
    """Raise ValueError for a backbone whose layers carry a state from one document of a row into the next."""
    foreign = set(getattr(config, "layer_types", None) or []) - PACKABLE_LAYERS
    if foreign:
        raise ValueError(
            f"{config.model_type}: layers of type {sorted(foreign)} cannot be packed without mixing responses; "
            f"use a backbone with {sorted(PACKABLE_LAYERS)} layers only"
        )


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 h tokens d"],
    key: Float[Tensor, "1 kv tokens d"],
    value: Float[Tensor, "1 kv tokens d"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Int[Tensor, " documents_plus_1"] | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 tokens h d"], None]:
    """Causal attention within each document, in the signature of transformers' attention functions.

    Half precision on CUDA takes the varlen kernel, everything else a loop over documents, whose results equal those of each
    document alone bit for bit. `sliding_window` counts the tokens seen, the query itself included, as in transformers' masks.
    """
    if cu_seq_lens_q is None or max_length_q is None:
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
    window = sliding_window if sliding_window is not None and sliding_window < max_length_q else None
    if fits_varlen(query):
        if dropout:
            raise ValueError(f"attention dropout {dropout} on CUDA: the varlen kernel has none; set attention_dropout to 0")
        heads_last = (states[0].transpose(0, 1) for states in (query, key, value))
        return varlen_attention(*heads_last, cu_seq_lens_q, max_length_q, scaling, window)[None], None
    return attention_by_document(query, key, value, cu_seq_lens_q.tolist(), scaling, window, dropout), None


def fits_varlen(query: Float[Tensor, "1 h tokens d"]) -> bool:
    """Whether the varlen kernel takes these states: half precision on CUDA, heads of at most 256."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256


def varlen_attention(
    query: Float[Tensor, "tokens h d"],
    key: Float[Tensor, "tokens kv d"],
    value: Float[Tensor, "tokens kv d"],
    cu_seqlens: Int[Tensor, " documents_plus_1"],
    max_seqlen: int,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "tokens h d"]:
    """`varlen_attn` as torch 2.10 (`is_causal`), 2.11 (`window_size`) and 2.12 and later (`enable_gqa`) declare it.

    flash-attn where torch has no such kernel, or none with a window. Raises ValueError where neither has.
    """
    known = parameters(varlen_attn)
    if varlen_attn is None or (window is not None and "window_size" not in known):
        return flash_attention(query, key, value, cu_seqlens, max_seqlen, scaling, window)
    options: dict[str, Any] = {"scale": scaling} if "scale" in known else {}
    if "window_size" in known:
        options["window_size"] = causal_window(window)
    else:
        options["is_causal"] = True
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in known:
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return varlen_attn(query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options)


def flash_attention(
    query: Float[Tensor, "tokens h d"],
    key: Float[Tensor, "tokens kv d"],
    value: Float[Tensor, "tokens kv d"],
    cu_seqlens: Int[Tensor, " documents_plus_1"],
    max_seqlen: int,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "tokens h d"]:
    """flash-attn's kernel, which groups queries itself. Raises ValueError without one that fits."""
    kernel = flash_kernel()
    known = parameters(kernel)
    if kernel is None or (window is not None and "window_size" not in known):
        raise ValueError(
            f"packed attention in half precision on CUDA needs torch >= 2.10 (2.11 with a sliding window, here {window}) or "
            f"flash-attn (2.3 with a window); this is torch {torch.__version__}"
        )
    options: dict[str, Any] = {"softmax_scale": scaling, "causal": True}
    if window is not None:
        options["window_size"] = causal_window(window)
    boundaries = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": max_seqlen, "max_seqlen_k": max_seqlen}
    output = kernel(query, key, value, **boundaries, **options)
    return output[0] if isinstance(output, tuple) else output  # early FlashAttention-3 returns the log-sum-exp too


def flash_kernel() -> Callable[..., Any] | None:
    """The newest installed flash-attn's function for packed sequences."""
    for name in FLASH_MODULES:
        try:
            return importlib.import_module(name).flash_attn_varlen_func
        except ImportError:
            continue
    return None


def parameters(function: Callable[..., Any] | None) -> set[str]:
    return set(inspect.signature(function).parameters) if function else set()


def causal_window(window: int | None) -> tuple[int, int]:
    """Tokens before and after the query that the kernels' `window_size` lets it see; -1 is all."""
    return (-1 if window is None else window - 1, 0)


def attention_by_document(
    query: Float[Tensor, "1 h tokens d"],
    key: Float[Tensor, "1 kv tokens d"],
    value: Float[Tensor, "1 kv tokens d"],
    boundaries: Sequence[int],
    scaling: float | None,
    window: int | None,
    dropout: float = 0.0,
) -> Float[Tensor, "1 tokens h d"]:
    """Scaled dot-product attention, one document after the other; `boundaries` start with 0 and end with the number of tokens."""
    lengths = [end - start for start, end in itertools.pairwise(boundaries)]
    heads = (key.shape[1], query.shape[1] // key.shape[1])
    # Key-value heads are the batch: each is shared by its group of queries without a copy. `enable_gqa` takes 2.5 times as long.
    query = query[0].unflatten(0, heads)
    key, value = (states[0][:, None].expand(*heads, -1, -1) for states in (key, value))
    outputs = []
    # One split, and not a slice per document, whose gradient would be a row of zeros for each.
    for q, k, v in zip(*(states.split(lengths, 2) for states in (query, key, value)), strict=True):
        length = q.shape[2]
        mask = None if window is None or length <= window else sliding_mask(length, window, q.device)
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling)
        outputs.append(output.permute(2, 0, 1, 3))
    return torch.cat(outputs).flatten(1, 2)[None]


def sliding_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Bool `[length, length]`: token i sees the `window` tokens i - window + 1 .. i."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


AttentionInterface.register(PACKED, packed_attention)
