"""Balance of ranks: efficiencies by hand, and the figures that training promises."""

import numpy as np
import pytest

from prm.benchmarks.speed.rank_balance import balance_report, efficiency, packed_work, padded_work
from prm.benchmarks.speed.workload import log_normal_lengths, model_config
from prm.training.flops import forward_flops
from prm.training.sampler import Division

REAL = model_config("qwen2.5-math-1.5b")


def test_efficiency_by_hand():
    """Ranks wait in every micro-batch: 2 * (3 + 4) for 3 + 1 + 2 + 4 of useful work, though both ranks did 5."""
    result = efficiency(np.array([[[3.0, 1.0], [2.0, 4.0]]]), np.array([10.0]))
    assert result == {"busiest_over_mean": 1.0, "busiest_over_mean_worst": 1.0, "efficiency": pytest.approx(10 / 14)}


def test_padded_ranks_by_hand():
    """Two ranks of two: padded to 30 and to 10."""
    work = padded_work([30, 5, 10, 10], REAL, 2, [[0, 1, 2, 3]])
    assert work.tolist() == [[[2 * forward_flops(REAL, [30]), 2 * forward_flops(REAL, [10])]]]


def test_packed_ranks_do_all_work_once():
    lengths = [30, 5, 10, 10, 25, 7]
    costs = [float(n) for n in lengths]
    work = packed_work(lengths, costs, Division(6, token_budget=30, world_size=2), [[0, 1, 2, 3, 4, 5]])
    assert work.shape == (1, 2, 2)
    assert work.sum() == sum(lengths)
    assert work.max() <= 30


def test_balanced_ranks_of_a_global_batch_wait_hardly():
    """At most 1.05 times the mean work; padded random batches leave about 0.3 useful."""
    lengths = log_normal_lengths(64 * 32, mean=390, maximum=2047, spread=0.75, seed=0)
    report = balance_report(lengths, REAL, 32, 4, 16384, seed=0)
    assert report["packed_balanced"]["busiest_over_mean"] < 1.05
    assert report["packed_balanced"]["efficiency"] > 0.98
    assert report["padded_random"]["efficiency"] == pytest.approx(0.30, abs=0.03)
    assert report["num_batches"] == 64
