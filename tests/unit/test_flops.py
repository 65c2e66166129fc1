"""FLOPs of a forward pass: against Qwen2.5-Math-1.5B's numbers by hand, real weights, and PyTorch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from prm.training.flops import forward_flops, layer_windows, peak_flops, weights_per_layer

QWEN_1_5B = Qwen2Config(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
SMALL = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}


def test_qwen_by_hand():
    """2 * 28 layers * (1536 * (1536 + 256 + 256 + 1536) + 3 * 1536 * 8960) per token, 2 * 28 * 12 * 128 per squared length."""
    assert forward_flops(QWEN_1_5B, [1]) == 2_620_391_424 + 86_016
    assert forward_flops(QWEN_1_5B, [600]) == 600 * 2_620_391_424 + 600**2 * 86_016
    assert forward_flops(QWEN_1_5B, [600, 1]) == forward_flops(QWEN_1_5B, [600]) + forward_flops(QWEN_1_5B, [1])
    assert forward_flops(QWEN_1_5B, []) == 0


def test_heads_by_hand():
    body = forward_flops(QWEN_1_5B, [10])
    assert forward_flops(QWEN_1_5B, [10], num_steps=2, num_labels=3) - body == 2 * 2 * (1536 * 1536 + 1536 * 3)
    assert forward_flops(QWEN_1_5B, [10], num_targets=7) - body == 2 * 7 * 1536 * 151936


def test_a_last_layer_at_reads_by_hand():
    body, mlp, queries = forward_flops(QWEN_1_5B, [10]), 3 * 1536 * 8960, 2 * 1536 * 12 * 128
    assert body - forward_flops(QWEN_1_5B, [10], reads=[1, 4, 5, 9]) == 2 * 6 * mlp
    pairs = 10**2 - (2**2 - 1**2) - (6**2 - 4**2) - (10**2 - 9**2)
    saved = body - forward_flops(QWEN_1_5B, [10], reads=[1, 4, 5, 9], queries_at_reads=True)
    assert saved == 2 * 6 * (mlp + queries) + 2 * 12 * 128 * pairs
    everywhere = forward_flops(QWEN_1_5B, [4, 6], first_positions=[0, 4], reads=list(range(10)), queries_at_reads=True)
    assert everywhere == body


@pytest.mark.parametrize("config", [Qwen2Config(**SMALL, num_key_value_heads=2), LlamaConfig(**SMALL, head_dim=24)])
def test_linear_weights_are_those_of_the_model(config):
    model = AutoModelForCausalLM.from_config(config)
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert config.num_hidden_layers * weights_per_layer(config) == sum(m.weight.numel() for m in linear)


def test_pytorch_counts_the_same_but_masked_pairs_too():
    """Eager attention computes n^2 pairs, of which the causal mask leaves n^2 / 2."""
    config = Qwen2Config(**SMALL, num_key_value_heads=4)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 50, dtype=torch.long))
    once, twice = (forward_flops(config, [50] * times, num_targets=50 * times) for times in (1, 2))
    assert twice == 2 * once
    angles = 2 * 50 * 8  # of the rotary embedding, a product of matrices in older versions of transformers
    assert counter.get_total_flops() - (once + 2 * 3 * 64 * 50**2) in (0, angles)


def test_sliding_windows_see_fewer_pairs():
    """Window 4 over 10 tokens: 2 * 10 * 4 - 16 instead of 100, in one of two layers."""
    small = SMALL | {"num_hidden_layers": 2}
    config = Qwen2Config(**small, num_key_value_heads=4, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert layer_windows(config) == [None, 4]
    full = Qwen2Config(**small, num_key_value_heads=4)
    assert forward_flops(full, [10]) - forward_flops(config, [10]) == 2 * 64 * (100 - 64)
    assert forward_flops(full, [4]) == forward_flops(config, [4])
    full, config = (forward_flops(c, [10], reads=[2, 9], queries_at_reads=True) for c in (full, config))
    assert full - config == 2 * 64 * ((10**2 - 9**2) - 2 * 4)


def test_a_continuation_sees_the_keys_of_its_prompt():
    """Over three layers: 10 tokens behind 6 take 16^2 - 6^2; with a window of 4 every query of theirs sees 4 keys."""
    config = Qwen2Config(**SMALL, num_key_value_heads=4)
    linear = 2 * 3 * weights_per_layer(config)
    assert forward_flops(config, [10], first_positions=[6]) == 10 * linear + 3 * 2 * 64 * (256 - 36)
    whole = forward_flops(config, [16], num_steps=2)
    assert forward_flops(config, [6, 10], num_steps=2, first_positions=[0, 6]) == whole
    windows = Qwen2Config(**SMALL, num_key_value_heads=4, use_sliding_window=True, sliding_window=4, max_window_layers=0)
    assert forward_flops(windows, [10], first_positions=[6]) == 10 * linear + 3 * 2 * 64 * 2 * 10 * 4


def test_peaks_by_device_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H20") == 148e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("an unknown device") is None
