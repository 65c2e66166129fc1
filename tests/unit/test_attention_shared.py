"""Shared prefixes in packed attention: a document that continues one sees what it would see were it whole."""

import copy
import itertools

import pytest
import torch
from test_attention import SMALL, flash_2, package, random_states, varlen_2_10, varlen_2_11, varlen_2_12
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel, Qwen2Config, Qwen2Model

import prm.attention.varlen
from prm.attention import PACKED, document_kwargs, packed_attention
from prm.attention.documents import attention_by_document
from prm.attention.varlen import aligns_right
from prm.models.packing import pack

PREFIX, OTHER_PREFIX = range(20), range(30, 37)
WHOLE = [[*PREFIX, 21, 22, 23], [*PREFIX, 21, 24], [*PREFIX, 25], [40] * 9, [*OTHER_PREFIX, 41], [*OTHER_PREFIX, 42, 43]]
"""Six documents; three share a first prefix, two of them a longer one, and two a second one."""
FIRST_POSITIONS = [0, 21, 20, 0, 0, 7]
ROW = pack([document[first:] for document, first in zip(WHOLE, FIRST_POSITIONS, strict=True)], FIRST_POSITIONS)
OWN = [slice(start, end) for start, end in itertools.pairwise(ROW["cu_seqlens"].tolist())]
"""Where in the row the documents' own tokens stand."""
CPU = torch.device("cpu")


def test_keys_by_hand():
    keys = pack([[1, 2, 3], [4, 5], [6], [7, 8], [9]], [0, 3, 4, 0, 1])["shared"]
    assert keys.index.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 5, 6, 7, 6, 8]
    assert keys.cu_seqlens.tolist() == [0, 3, 8, 13, 15, 17]
    assert keys.cu_seqlens.dtype == torch.int32
    assert keys.max_seqlen == 5
    assert "shared" not in pack([[1, 2, 3], [4]])


def test_no_document_continues_more_than_there_is():
    with pytest.raises(ValueError, match="of first position 3 follows one of 2 tokens"):
        pack([[1, 2, 3], [4, 5], [6]], [0, 0, 3])
    with pytest.raises(ValueError, match="of first position 1 follows one of 0 tokens"):
        pack([[1]], [1])


def states_of_row():
    """Queries, keys and values of the row, and of the row in which every document is whole."""
    torch.manual_seed(0)
    row = random_states(4, 2, len(ROW["input_ids"][0]))
    return row, [states[:, :, ROW["shared"].index] for states in row]


def expected_output(window: int | None) -> torch.Tensor:
    boundaries = [0, *itertools.accumulate(map(len, WHOLE))]
    output = attention_by_document(*states_of_row()[1], boundaries, None, window)
    own = [output[:, end - (part.stop - part.start) : end] for part, end in zip(OWN, boundaries[1:], strict=True)]
    return torch.cat(own, 1)


def output_of_row(window: int | None) -> torch.Tensor:
    kwargs = document_kwargs(ROW["cu_seqlens"], ROW["max_seqlen"], ROW["shared"]) | {"sliding_window": window}
    output, _ = packed_attention(torch.nn.Identity(), *states_of_row()[0], None, **kwargs)
    return torch.cat([output[:, part] for part in OWN], 1)


@pytest.mark.parametrize("window", [None, 22, 21, 5, 2, 1])
@pytest.mark.parametrize("block", [1, 2, 128])
def test_a_continued_document_equals_the_whole_one(monkeypatch, window, block):
    monkeypatch.setattr(prm.attention.documents, "QUERY_BLOCK", block)
    torch.testing.assert_close(output_of_row(window), expected_output(window))


@pytest.mark.parametrize("window", [None, 22, 21, 5, 2, 1])
@pytest.mark.parametrize("block", [1, 2, 128])
def test_queries_of_some_tokens(monkeypatch, window, block):
    """In any order, one twice, none in the fourth document; no kernel takes them."""
    monkeypatch.setattr(prm.attention.documents, "QUERY_BLOCK", block)
    places = torch.tensor([43, 3, 24, 23, 0, 24, 22, 42, 21, 38])
    (query, key, value), expected = states_of_row()[0], output_of_row(window)
    monkeypatch.setattr(prm.attention, "fits_varlen", lambda query: True)
    kwargs = document_kwargs(ROW["cu_seqlens"], ROW["max_seqlen"], ROW["shared"]) | {"sliding_window": window}
    output, _ = packed_attention(torch.nn.Identity(), query[:, :, places], key, value, None, **kwargs, query_index=places)
    torch.testing.assert_close(output, expected[:, places])


@pytest.mark.parametrize("window", [None, 22, 5])
@pytest.mark.parametrize("kernel", [varlen_2_10, varlen_2_11, varlen_2_12, flash_2])
def test_every_varlen_kernel_sees_the_prefix(monkeypatch, kernel, window):
    if window and kernel is varlen_2_10:
        pytest.skip("torch 2.10's kernel has no windows")
    monkeypatch.setattr(prm.attention.varlen, "varlen_attn", None if kernel is flash_2 else kernel)
    monkeypatch.setattr(prm.attention.varlen, "flash_kernel", lambda: package(flash_2).flash_attn_varlen_func)
    monkeypatch.setattr(prm.attention, "fits_varlen", lambda query: True)
    torch.testing.assert_close(output_of_row(window), expected_output(window))


def top_left(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
    """A kernel that takes the queries for the first ones."""
    return varlen_2_12(query, key[: len(query)], value[: len(query)], cu_seq_q, cu_seq_q, max_q, max_q, window_size=window_size)


@pytest.mark.parametrize("window", [None, 5])
def test_the_alignment_of_a_kernel_is_tried(monkeypatch, window):
    aligns_right.cache_clear()
    assert aligns_right(CPU, torch.float32, window)
    monkeypatch.setattr(prm.attention.varlen, "fits_varlen", lambda query: True)
    for kernel, answer in ((varlen_2_12, True), (top_left, False)):
        aligns_right.cache_clear()
        monkeypatch.setattr(prm.attention.varlen, "varlen_attn", kernel)
        assert aligns_right(CPU, torch.bfloat16, window) is answer
    aligns_right.cache_clear()


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (Qwen2Model, Qwen2Config(**SMALL, num_key_value_heads=2)),
        (Qwen2Model, Qwen2Config(**SMALL, num_key_value_heads=2, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
        (LlamaModel, LlamaConfig(**SMALL, num_key_value_heads=1)),
        (MistralModel, MistralConfig(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=4)),
        (MistralModel, MistralConfig(**SMALL, num_key_value_heads=4, head_dim=8, sliding_window=21)),
    ],
    ids=["qwen2", "qwen2-sliding", "llama", "mistral-window-4", "mistral-window-21"],
)
def test_a_model_sees_whole_documents(model_class, config):
    torch.manual_seed(0)
    reference = model_class._from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    packed = model_class._from_config(copy.deepcopy(config), attn_implementation=PACKED).eval()
    packed.load_state_dict(reference.state_dict())
    kwargs = document_kwargs(ROW["cu_seqlens"], ROW["max_seqlen"], ROW["shared"])
    with torch.no_grad():
        row = packed(ROW["input_ids"], position_ids=ROW["position_ids"], **kwargs).last_hidden_state[0]
        for document, part in zip(WHOLE, OWN, strict=True):
            alone = reference(torch.tensor([document])).last_hidden_state[0, part.start - part.stop :]
            torch.testing.assert_close(row[part], alone, atol=1e-5, rtol=1e-5)
