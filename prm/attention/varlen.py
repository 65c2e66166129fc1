"""Kernels for packed sequences on CUDA: states with their boundaries in, each document's own causal attention out.

Shapes: `tokens` those that ask, `keys` those that are seen, `documents` the packed sequences, `h`/`kv` query and key-value heads.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

FLASH_MODULES = ("flash_attn_interface", "flash_attn")
"""Packages with a `flash_attn_varlen_func`: FlashAttention-3 and -2."""


class Boundaries(NamedTuple):
    """Where the documents end, in the order in which the kernels take it."""

    cu_seqlens_q: Int[Tensor, " documents_plus_1"]
    cu_seqlens_k: Int[Tensor, " documents_plus_1"]
    max_seqlen_q: int
    max_seqlen_k: int


def fits_varlen(query: Float[Tensor, "*states d"]) -> bool:
    """Whether the varlen kernel takes these states: half precision on CUDA, heads of at most 256."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] <= 256


def varlen_attention(
    query: Float[Tensor, "tokens h d"],
    key: Float[Tensor, "keys kv d"],
    value: Float[Tensor, "keys kv d"],
    boundaries: Boundaries,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "tokens h d"]:
    """`varlen_attn` as torch 2.10 (`is_causal`), 2.11 (`window_size`) and 2.12 and later (`enable_gqa`) declare it.

    flash-attn where torch has no such kernel, or none with a window. Raises ValueError where neither has. A document with more
    keys than queries is one whose last tokens ask (`aligns_right`).
    """
    known = parameters(varlen_attn)
    if varlen_attn is None or (window is not None and "window_size" not in known):
        return flash_attention(query, key, value, boundaries, scaling, window)
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
    return varlen_attn(query, key, value, *boundaries, **options)


def flash_attention(
    query: Float[Tensor, "tokens h d"],
    key: Float[Tensor, "keys kv d"],
    value: Float[Tensor, "keys kv d"],
    boundaries: Boundaries,
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
    output = kernel(query, key, value, **boundaries._asdict(), **options)
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


@cache
def aligns_right(device: torch.device, dtype: torch.dtype, window: int | None = None) -> bool:
    """Whether attention here takes the queries of a document with more keys for its last ones, as shared beginnings need it.

    FlashAttention documents this alignment since 2.1; before, the first query saw the first key only. torch's varlen kernel is
    FlashAttention, but says nothing of it (2.10 to 2.13). So it is tried: equal keys give the mean of the values seen.
    """
    value = torch.arange(40, dtype=dtype, device=device)[:, None, None].expand(-1, 1, 64).contiguous()
    zero = torch.zeros_like(value)
    if not fits_varlen(zero):
        return True
    ends = [torch.tensor([0, number], dtype=torch.int32, device=device) for number in (2, 40)]
    output = varlen_attention(zero[:2], zero, value, Boundaries(*ends, 2, 40), None, window)[:, 0, 0].float().cpu()
    first = [max(0, last + 1 - (window or 40)) for last in (38, 39)]
    expected = torch.tensor([(begin + last) / 2 for begin, last in zip(first, (38, 39), strict=True)])
    return torch.allclose(output, expected, atol=0.2)
