"""Packed attention: documents of one row do not see each other, whatever kernel computes it."""

import copy
import itertools
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, LlamaConfig, MistralConfig, MistralModel, Qwen2Config, Qwen2Model

import prm.attention.varlen
from prm.attention import PACKED, check_packable, document_kwargs, packed_attention
from prm.attention.documents import attention_by_document, causal_mask
from prm.attention.varlen import Boundaries, varlen_attention

CPU = torch.device("cpu")
MODULE = torch.nn.Identity()


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32).view(1, 1, -1, 1)


def random_states(heads: int, kv_heads: int, tokens: int) -> list[torch.Tensor]:
    return [torch.randn(1, n, tokens, 8) for n in (heads, kv_heads, kv_heads)]


def test_equal_keys_give_running_means_within_each_document():
    value = values(1, 2, 10, 20, 30)
    zero = torch.zeros_like(value)
    output = attention_by_document(zero, zero, value, [0, 2, 5], scaling=1.0, window=None)
    assert output.shape == (1, 5, 1, 1)
    torch.testing.assert_close(output.flatten(), torch.tensor([1, 1.5, 10, 15, 20]))


def test_window_of_two_sees_the_token_and_the_one_before():
    value = values(1, 2, 3, 4, 10, 20)
    zero = torch.zeros_like(value)
    output = attention_by_document(zero, zero, value, [0, 4, 6], scaling=1.0, window=2)
    torch.testing.assert_close(output.flatten(), torch.tensor([1, 1.5, 2.5, 3.5, 10, 15]))
    assert causal_mask(3, 3, 2, CPU).tolist() == [[True, False, False], [True, True, False], [False, True, True]]


def test_masks_of_the_last_queries_by_hand():
    assert causal_mask(2, 4, None, CPU).tolist() == [[True, True, True, False], [True, True, True, True]]
    assert causal_mask(2, 4, 2, CPU).tolist() == [[False, True, True, False], [False, False, True, True]]


@pytest.mark.parametrize("window", [None, 4])
def test_each_document_equals_itself_alone_bit_for_bit(window):
    query, key, value = random_states(4, 2, 30)
    boundaries = [0, 1, 9, 9 + 12, 30]
    packed = attention_by_document(query, key, value, boundaries, 0.3, window)
    for start, end in itertools.pairwise(boundaries):
        alone = attention_by_document(*(s[:, :, start:end] for s in (query, key, value)), [0, end - start], 0.3, window)
        assert torch.equal(packed[:, start:end], alone)


SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (Qwen2Model, Qwen2Config(**SMALL, num_key_value_heads=2)),
        (Qwen2Model, Qwen2Config(**SMALL, num_key_value_heads=2, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
        (MistralModel, MistralConfig(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=4)),
    ],
    ids=["qwen2", "qwen2-sliding", "mistral-sliding"],
)
def test_packed_model_equals_transformers_own_attention_on_each_document(model_class, config):
    torch.manual_seed(0)
    reference = model_class._from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    packed = model_class._from_config(copy.deepcopy(config), attn_implementation=PACKED).eval()
    packed.load_state_dict(reference.state_dict())
    documents = [torch.randint(50, (1, n)) for n in (7, 3, 12)]
    positions = torch.cat([torch.arange(d.shape[1]) for d in documents])[None]
    boundaries = torch.tensor([0, 7, 10, 22], dtype=torch.int32)
    with torch.no_grad():
        row = packed(torch.cat(documents, 1), position_ids=positions, **document_kwargs(boundaries, 12)).last_hidden_state
        alone = torch.cat([reference(document).last_hidden_state for document in documents], 1)
    torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)


def reference_varlen(query, key, value, cu_seq_q, cu_seq_k, window):
    """What the CUDA kernel computes, through a dense mask: the queries of a document are its last tokens."""
    documents = [torch.repeat_interleave(cu_seq.diff()) for cu_seq in (cu_seq_q, cu_seq_k)]
    behind = (cu_seq_k[1:] - cu_seq_q[1:])[documents[0]]
    distance = (torch.arange(len(query)) + behind)[:, None] - torch.arange(len(key))[None]
    mask = (documents[0][:, None] == documents[1][None]) & (distance >= 0)
    if window >= 0:
        mask &= distance <= window
    states = (s.transpose(0, 1) for s in (query, key, value))
    return F.scaled_dot_product_attention(*states, attn_mask=mask).transpose(0, 1)


def varlen_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, scale=None):
    assert is_causal
    return reference_varlen(query, key, value, cu_seq_q, cu_seq_k, -1)


def varlen_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    assert window_size[1] == 0
    return reference_varlen(query, key, value, cu_seq_q, cu_seq_k, window_size[0])


def varlen_2_12(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert window_size[1] == 0
    if enable_gqa:
        key, value = (s.repeat_interleave(query.shape[1] // s.shape[1], 1) for s in (key, value))
    return reference_varlen(query, key, value, cu_seq_q, cu_seq_k, window_size[0])


def flash(query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlens, softmax_scale, causal, window_size):
    assert causal
    assert max_seqlens == [int(cu_seqlens.diff().max()) for cu_seqlens in (cu_seqlens_q, cu_seqlens_k)]
    key, value = (s.repeat_interleave(query.shape[1] // s.shape[1], 1) for s in (key, value))
    return reference_varlen(query * softmax_scale * 8**0.5, key, value, cu_seqlens_q, cu_seqlens_k, window_size[0])


def flash_2_0(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False):
    lengths = [max_seqlen_q, max_seqlen_k]
    return flash(q, k, v, cu_seqlens_q, cu_seqlens_k, lengths, softmax_scale or 8**-0.5, causal, (-1, -1))


def flash_2(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0,
):  # fmt: skip
    lengths = [max_seqlen_q, max_seqlen_k]
    return flash(q, k, v, cu_seqlens_q, cu_seqlens_k, lengths, softmax_scale or 8**-0.5, causal, window_size)


def flash_3(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, softmax_scale=None, causal=False,
    window_size=(-1, -1),
):  # fmt: skip
    lengths = [max_seqlen_q, max_seqlen_k]
    output = flash(q, k, v, cu_seqlens_q, cu_seqlens_k, lengths, softmax_scale or 8**-0.5, causal, window_size)
    return output, torch.zeros(4, 12)


def package(kernel) -> types.SimpleNamespace:
    return types.SimpleNamespace(flash_attn_varlen_func=kernel)


@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(
    ("name", "kernel"), [("flash_attn", flash_2_0), ("flash_attn", flash_2), ("flash_attn_interface", flash_3)]
)
def test_flash_attn_stands_in_where_torch_has_no_varlen_kernel(monkeypatch, name, kernel, window, scaling):
    monkeypatch.setattr(prm.attention.varlen, "varlen_attn", None)
    monkeypatch.setattr(prm.attention, "fits_varlen", lambda query: True)
    for module in prm.attention.varlen.FLASH_MODULES:
        monkeypatch.setitem(sys.modules, module, None)  # not installed
    query, key, value = random_states(4, 2, 12)
    arguments = document_kwargs(torch.tensor([0, 5, 12], dtype=torch.int32), 7) | {"sliding_window": window}
    with pytest.raises(ValueError, match="packed attention in half precision on CUDA needs torch"):
        packed_attention(MODULE, query, key, value, None, **arguments)
    monkeypatch.setitem(sys.modules, name, package(kernel))
    if window and kernel is flash_2_0:
        with pytest.raises(ValueError, match="packed attention in half precision on CUDA needs torch"):
            packed_attention(MODULE, query, key, value, None, **arguments)
        return
    output, _ = packed_attention(MODULE, query, key, value, None, scaling, **arguments)
    torch.testing.assert_close(output, attention_by_document(query, key, value, [0, 5, 12], scaling, window))


def test_grouped_queries_share_their_key_and_value_heads_gradients_too():
    query, key, value = (s.requires_grad_() for s in random_states(6, 2, 9))
    repeated = [s.repeat_interleave(3, 1) for s in (key, value)]
    outputs = [attention_by_document(query, *states, [0, 4, 9], None, None) for states in ((key, value), repeated)]
    gradients = [torch.autograd.grad(output.square().sum(), (query, key, value), retain_graph=True) for output in outputs]
    assert torch.equal(*outputs)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", [varlen_2_10, varlen_2_11, varlen_2_12])
@pytest.mark.parametrize("window", [None, 3])
def test_varlen_kernel_of_every_torch_gives_the_loop_s_result(monkeypatch, kernel, window):
    monkeypatch.setattr(prm.attention.varlen, "varlen_attn", kernel)
    monkeypatch.setattr(prm.attention, "fits_varlen", lambda query: True)
    query, key, value = random_states(4, 2, 12)
    boundaries = torch.tensor([0, 5, 12], dtype=torch.int32)
    arguments = document_kwargs(boundaries, 7) | {"sliding_window": window}
    if window and kernel is varlen_2_10:
        with pytest.raises(ValueError, match="with a sliding window, here 3"):
            packed_attention(MODULE, query, key, value, None, **arguments)
        monkeypatch.setitem(sys.modules, "flash_attn", package(flash_2))
    output, _ = packed_attention(MODULE, query, key, value, None, **arguments)
    expected = attention_by_document(query, key, value, [0, 5, 12], None, window)
    torch.testing.assert_close(output, expected)


def test_window_longer_than_every_document_needs_no_window(monkeypatch):
    monkeypatch.setattr(prm.attention.varlen, "varlen_attn", varlen_2_10)
    states = [s[0].transpose(0, 1) for s in random_states(2, 2, 4)]
    boundaries = torch.tensor([0, 4], dtype=torch.int32)
    assert varlen_attention(*states, Boundaries(boundaries, boundaries, 4, 4), None, None).shape == (4, 2, 8)


def test_autocast_brings_rotated_queries_to_the_values_precision():
    query, key, value = random_states(2, 2, 4)
    boundaries = torch.tensor([0, 4], dtype=torch.int32)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = packed_attention(MODULE, query, key, value.bfloat16(), None, **document_kwargs(boundaries, 4))
    assert output.dtype == torch.bfloat16


def test_errors(monkeypatch):
    states = random_states(2, 2, 4)
    boundaries = document_kwargs(torch.tensor([0, 4], dtype=torch.int32), 4)
    with pytest.raises(ValueError, match="no document boundaries"):
        packed_attention(MODULE, *states, None)
    with pytest.raises(ValueError, match="neither an attention mask"):
        packed_attention(MODULE, *states, torch.ones(1, 1, 4, 4), **boundaries)
    with pytest.raises(ValueError, match="softcap"):
        packed_attention(MODULE, *states, None, softcap=30.0, **boundaries)
    with pytest.raises(ValueError, match="linear_attention"):
        check_packable(Qwen2Config(num_hidden_layers=1, layer_types=["linear_attention"]))
    with pytest.raises(ValueError, match="gemma2: packed attention does not cap logits"):
        check_packable(Gemma2Config())
    check_packable(LlamaConfig())
    monkeypatch.setattr(prm.attention, "fits_varlen", lambda query: True)
    with pytest.raises(ValueError, match="set attention_dropout to 0"):
        packed_attention(MODULE, *states, None, dropout=0.1, **boundaries)
