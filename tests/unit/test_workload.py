"""The benchmark's random responses: lengths as asked for, and the same tokens and labels in every form."""

import numpy as np
import pytest

from prm.benchmarks.speed.workload import SHAPES, log_normal_lengths, make_workload, model_config, token_rows
from prm.training.flops import forward_flops


def test_lengths_have_the_mean_the_spread_and_the_maximum():
    lengths = log_normal_lengths(20_000, mean=390, maximum=2047, spread=0.75, seed=0)
    assert np.mean(lengths) == pytest.approx(390, rel=0.02)
    assert max(lengths) == 2047
    assert np.std(np.log(lengths)) == pytest.approx(0.75, rel=0.02)
    assert lengths == log_normal_lengths(20_000, 390, 2047, 0.75, 0) != log_normal_lengths(20_000, 390, 2047, 0.75, 1)


def test_token_rows_hold_the_same_labels_at_the_same_places():
    workload = make_workload("tiny", 5, mean_length=150, max_length=400, spread=0.5, seed=0)
    for example, row in zip(workload.examples, token_rows(workload.examples), strict=True):
        assert row["input_ids"] == example.encoded.input_ids
        labelled = {position: label for position, label in enumerate(row["labels"]) if label != -100}
        assert list(labelled) == example.encoded.step_ends
        assert [2 * label - 1 for label in labelled.values()] == example.step_labels
        assert len(example.ref_logps) == example.num_tokens - example.encoded.response_start
        assert example.encoded.step_ends[-1] == example.num_tokens - 1
    assert workload.num_steps == sum(len(example.step_labels) for example in workload.examples)
    assert workload.num_targets == sum(len(example.ref_logps) for example in workload.examples)


def test_the_small_lm_head_has_the_share_of_the_real_one():
    small, real = (model_config(shape) for shape in ("small", "qwen2.5-math-1.5b"))
    shares = [1 - forward_flops(c, [1]) / forward_flops(c, [1], num_targets=1) for c in (small, real)]
    assert shares[0] == pytest.approx(shares[1], rel=0.02)
    assert set(SHAPES["small"]) == set(SHAPES["tiny"])
