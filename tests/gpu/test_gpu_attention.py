"""The kernel for packed rows: as exact as torch's attention of each document alone in the same precision, gradients too."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from prm.attention import document_kwargs, packed_attention
from prm.attention.documents import attention_by_document, causal_mask
from prm.attention.varlen import aligns_right, fits_varlen
from prm.models.packing import pack, to_device

pytestmark = pytest.mark.gpu
LENGTHS = [1, 200, 33, 128, 700]
CONTINUED = {0: 150, 150: 64, 190: 1, 100: 300, 399: 40}
"""First positions of documents that continue one another, and their tokens."""
SHAPES = {"qwen2.5-1.5b": (12, 2, 128), "mistral": (32, 8, 128), "one head each": (4, 4, 64)}


def random_states(shape: str, tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    heads, kv_heads, size = SHAPES[shape]
    generator = torch.Generator().manual_seed(tokens)
    return [torch.randn(1, n, tokens, size, generator=generator).to(dtype) for n in (heads, kv_heads, kv_heads)]


def by_document(query, key, value, boundaries, window):
    """Torch's attention of every document alone, under a mask."""
    outputs = []
    for start, end in itertools.pairwise(boundaries):
        q, k, v = (states[:, :, start:end] for states in (query, key, value))
        mask = causal_mask(end - start, end - start, window, q.device)
        outputs.append(F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2))
    return torch.cat(outputs, 1)


def largest_errors(outputs, expected):
    return [(output.double().cpu() - exact).abs().max().item() for output, exact in zip(outputs, expected, strict=True)]


def with_gradients(attend, states):
    """Output of `attend(*states)`, and the gradients of a weighted sum of it."""
    leaves = [s.detach().requires_grad_() for s in states]
    output = attend(*leaves)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), leaves)]


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_exact_as_torchs_own_forward_and_backward(gpu, shape, dtype, window):
    states = random_states(shape, sum(LENGTHS), dtype)
    boundaries = [0, *itertools.accumulate(LENGTHS)]
    exact = with_gradients(lambda q, k, v: attention_by_document(q, k, v, boundaries, None, window), [s.double() for s in states])
    on_gpu = [s.to(gpu) for s in states]
    assert fits_varlen(on_gpu[0])
    kwargs = document_kwargs(torch.tensor(boundaries, dtype=torch.int32, device=gpu), max(LENGTHS)) | {"sliding_window": window}
    ours = with_gradients(lambda q, k, v: packed_attention(torch.nn.Identity(), q, k, v, None, **kwargs)[0], on_gpu)
    torchs = with_gradients(lambda q, k, v: by_document(q, k, v, boundaries, window), on_gpu)
    for one, other in zip(largest_errors(ours, exact), largest_errors(torchs, exact), strict=True):
        assert one <= 3 * other + 1e-3  # as FlashAttention tests its gradients; torch's own may be float32 inside, rounded once


@pytest.mark.parametrize("window", [None, 100, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_continued_document_sees_what_it_continues(gpu, shape, window):
    row = pack([[0] * n for n in [*CONTINUED.values(), 40]], [*CONTINUED, 0])
    states = random_states(shape, row["input_ids"].shape[1], torch.bfloat16)

    def attend(batch, q, k, v):
        boundaries = document_kwargs(batch["cu_seqlens"], batch["max_seqlen"], batch["shared"])
        return packed_attention(torch.nn.Identity(), q, k, v, None, **boundaries, sliding_window=window)[0]

    exact = attend(row, *(s.double() for s in states))  # on the CPU a loop, tested in unit/test_attention_shared.py
    output = attend(to_device(row, gpu), *(s.to(gpu) for s in states))
    torch.testing.assert_close(output.double().cpu(), exact, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_aligns_queries_with_the_last_keys(gpu, dtype, window):
    """Otherwise every response is computed whole, right but slower."""
    assert aligns_right(gpu, dtype, window)
