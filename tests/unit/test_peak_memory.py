"""Peak memory: what a piece of work held at most, and that log-probs do not hold the vocabulary."""

import json
import subprocess
import sys

import pytest
import torch

from prm.benchmarks.speed.peak_memory import PeakMemory, reset_high_water_mark
from prm.benchmarks.speed.vocabulary_memory import WAYS

CPU = torch.device("cpu")
needs_linux = pytest.mark.skipif(not reset_high_water_mark(), reason="this system does not let a process reset its high-water mark")
MIB = 2**20


@needs_linux
def test_peak_counts_what_was_freed_and_forgets_what_came_before():
    def work(size: int) -> None:
        torch.ones(size * MIB // 4)

    with PeakMemory(CPU) as large:
        work(64)
    with PeakMemory(CPU) as small:
        work(16)
    assert large.bytes == pytest.approx(64 * MIB, rel=0.2)
    assert small.bytes == pytest.approx(16 * MIB, rel=0.5)


def test_no_figure_where_the_system_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr("prm.benchmarks.speed.peak_memory.PROCESS", tmp_path / "none")
    with PeakMemory(CPU) as peak:
        pass
    assert peak.bytes is None


def test_both_ways_give_the_same_log_probs():
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(40, 16), torch.randn(3000, 16), torch.randint(3000, (40,))
    chunked, full = (way(hidden, targets, weight) for way in WAYS.values())
    torch.testing.assert_close(chunked, full, rtol=1e-5, atol=1e-5)


@needs_linux
def test_chunked_log_probs_need_no_more_for_a_larger_vocabulary():
    # In a process of its own: scoring, tested before in this one, lets it keep the memory that it frees.
    code = """
import json, torch
from prm.benchmarks.speed.vocabulary_memory import extra_memory
work = [("chunked", 10_000), ("chunked", 40_000), ("full", 40_000)]
print(json.dumps([extra_memory(way, size, 16, 512, torch.device("cpu"), torch.float32, seed=0) for way, size in work]))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *chunked, full = json.loads(process.stdout)
    assert max(chunked) < 100 * MIB
    assert full > 150 * MIB
