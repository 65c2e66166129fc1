"""The estimate before a run: published figures of Qwen2.5-Math-1.5B, and what autograd really saves."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from transformers import AutoModel, Qwen2Config

from prm.attention import PACKED, document_kwargs
from prm.training.estimate import MemoryEstimate, activation_bytes, bucket_bytes, estimate_memory, report

NUM_WEIGHTS = 1_543_714_304
QWEN = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}


def zero(name: str) -> dict:
    return json.loads((ROOT / "ds_configs" / f"{name}.json").read_text())


def estimate(num_trained: int = NUM_WEIGHTS, **options) -> MemoryEstimate:
    return estimate_memory(NUM_WEIGHTS, num_trained, Qwen2Config(**QWEN, num_hidden_layers=28), token_budget=1000, **options)


def test_states_by_hand():
    """1.544 B weights on 4 ranks: 3.09 GB, (4 + 12) bytes a weight over 4 ranks, two buckets of 0.5 B gradients in bfloat16."""
    found = estimate(world_size=4, is_bf16=True, deepspeed=zero("zero2"))
    assert (found.weights, found.gradients, found.optimizer) == (3_087_428_608, 1_543_714_304, 4_631_142_912)
    assert found.buckets == 2_000_000_000
    assert found.activations == 1000 * (28 * 106_496 + 2 * 3 * 1536)
    assert found.total == sum((found.weights, found.gradients, found.optimizer, found.buckets, found.activations))
    assert str(found).startswith("14.25 GB per rank (weights 3.09, gradients 1.54, optimizer 4.63, ")


def test_stages_divide_more_and_more():
    zero2, zero3 = (estimate(world_size=4, is_bf16=True, deepspeed=zero(name)) for name in ("zero2", "zero3"))
    assert zero3.weights == zero2.weights // 4
    assert estimate(world_size=4, deepspeed=zero("zero2_offload")).optimizer == 0
    plain = estimate()
    assert (plain.weights, plain.gradients, plain.optimizer, plain.buckets) == (*[NUM_WEIGHTS * n for n in (4, 4, 8)], 0)


def test_frozen_weights_need_neither_gradients_nor_moments():
    found = estimate(num_trained=1000, is_bf16=True, deepspeed=zero("zero2"))
    assert (found.gradients, found.optimizer) == (4000, 12_000)
    assert bucket_bytes({"reduce_bucket_size": "auto"}, 1000, 2) == 2000


def test_autocast_keeps_float32_norms_and_copies_of_the_weights():
    """1.31 B weights of linear maps once more in two bytes: on 80 GB a row of 16,384 tokens does not fit."""
    found = estimate(is_bf16=True)
    assert found.activations == 1000 * (28 * 118_784 + 8 * 1536) + 2 * 28 * 46_792_704
    assert (found.weights, found.gradients, found.optimizer) == tuple(NUM_WEIGHTS * n for n in (4, 4, 8))


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_saves(checkpointing, is_autocast):
    """The CPU's attention also copies keys and values for every group of heads: a few percent."""
    config = Qwen2Config(**{**QWEN, "intermediate_size": 4480}, num_hidden_layers=2, vocab_size=9)
    dtype = torch.float32 if is_autocast else torch.bfloat16
    backbone = AutoModel.from_config(config, attn_implementation=PACKED, dtype=dtype).train()
    if checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage
        return tensor

    cu_seqlens = torch.tensor([0, 32, 64], dtype=torch.int32)
    rows = {"input_ids": torch.zeros(1, 64, dtype=torch.long), "position_ids": torch.arange(64)[None]}
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        backbone(**rows, use_cache=False, **document_kwargs(cu_seqlens, 32))
    copies = {p.numel() * 2 for p in backbone.parameters() if p.dim() == 2} if is_autocast else ()
    measured = sum(storage.nbytes() for storage in saved.values() if storage.nbytes() not in copies) / 64
    expected = activation_bytes(config, 2, checkpointing, is_autocast)
    if checkpointing:  # of the layer that is computed again nothing is held yet
        expected -= (26 if is_autocast else 18) * 1536 + 2 * (2 * 1536 + 2 * 256 + 4 * 4480)
    assert measured == pytest.approx(expected, rel=0.1)


def test_more_than_the_device_has_is_said_before_the_first_step(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80e9))
    caplog.set_level(logging.INFO, "prm")
    report(MemoryEstimate(1, 1, 1, 1, int(79e9)), torch.device("cuda"))
    assert "lower --token_budget" not in caplog.text
    report(MemoryEstimate(1, 1, 1, 1, int(81e9)), torch.device("cuda"))
    assert "more than the device's 80 GB: lower --token_budget" in caplog.text
