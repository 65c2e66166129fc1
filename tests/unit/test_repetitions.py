"""Repetitions of a benchmark: their order, their ratios, and the processes that the clock counts."""

import subprocess
import sys
import types

import torch

from prm.benchmarks.speed.repetitions import Run, clock, repeat, speed_ratios


def test_every_second_repetition_runs_in_reverse():
    order = []
    assert repeat(["a", "b"], 3, lambda name: order.append(name) or len(order), "test") == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_ratios_are_medians_of_paired_repetitions():
    """2, 3 and 12 times as fast; the quotient of the medians would be 4."""
    runs = {"fast": [Run(1.0), Run(1.0), Run(4.0)], "slow": [Run(2.0), Run(3.0), Run(48.0)]}
    found = speed_ratios(runs, ["slow", "absent"])
    assert found["fast"] == {"slow": {"median": 3.0, "repetitions": [2.0, 3.0, 12.0]}}
    assert found["slow"]["slow"]["median"] == 1.0


def test_the_clock_counts_the_engine_s_own_process():
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    engine, cpu = types.SimpleNamespace(process=process), torch.device("cpu")
    assert 0.4 < clock(cpu, engine) - clock(cpu, object()) < 5
    process.communicate(b"\n")
