"""Repetitions: variants and a way to measure one in; interleaved runs, ratios of their times, and what they were measured on out.

A machine that is slower for a while slows all variants of a repetition, so ratios are taken within one. Time is CPU time on a CPU,
where wall time would measure the neighbours too, and wall time on a GPU.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from prm.benchmarks.speed.workload import SpeedConfig
from prm.tracking import progress

Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """One variant in one repetition."""

    seconds: float
    """CPU time on a CPU, wall time on a GPU."""


def repeat(names: Sequence[str], repetitions: int, measure: Callable[[str], Result], what: str) -> dict[str, list[Result]]:
    """What `measure` gives for every name, `repetitions` times; every second time in reverse order."""
    runs: dict[str, list[Result]] = {name: [] for name in names}
    turns = [name for turn in range(repetitions) for name in (names if turn % 2 == 0 else reversed(names))]
    for name in progress(turns, desc=what, unit="run"):
        runs[name].append(measure(name))
    return runs


def time_ratio(runs: Sequence[Run], others: Sequence[Run]) -> dict[str, Any]:
    """Time of `runs` over that of `others`: median, and every repetition's."""
    values = [run.seconds / other.seconds for run, other in zip(runs, others, strict=True)]
    return {"median": statistics.median(values), "repetitions": values}


def speed_ratios(runs: Mapping[str, Sequence[Run]], references: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Speed of each variant over that of each reference that was run."""
    present = [reference for reference in references if reference in runs]
    return {name: {reference: time_ratio(runs[reference], of_name) for reference in present} for name, of_name in runs.items()}


def clock(device: torch.device, engine: Any = None) -> float:
    """CPU seconds of this process and of the engine's, where it has one; on CUDA wall seconds, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    seconds = time.process_time()
    if (process := getattr(engine, "process", None)) is not None:
        parent = psutil.Process(process.pid)
        for one in (parent, *parent.children(recursive=True)):
            times = one.cpu_times()
            seconds += times.user + times.system
    return seconds


def set_up(config: SpeedConfig) -> dict[str, Any]:
    """Limit this process, and those of engines, to `num_threads` of a CPU; returns what is measured on, and how busy it is."""
    if config.use_cpu:
        os.environ["OMP_NUM_THREADS"] = str(config.num_threads)
        torch.set_num_threads(config.num_threads)
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line] if cpu.exists() else []
    device = (names or [platform.processor()])[0] if config.use_cpu else torch.cuda.get_device_name()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"device": device, "threads": torch.get_num_threads() if config.use_cpu else None, "load": load}
