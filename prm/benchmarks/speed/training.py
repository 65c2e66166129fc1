"""Speed of training: a workload in; useful tokens per second, peak memory, MFU and ratios of every way of batching it out.

Every way trains on the same tokens and labels. Repetitions are interleaved and ratios taken within one repetition, so that a
machine that is slower for a while slows all of them. Useful tokens never include padding; time is the process's CPU time on a CPU,
where wall time would measure the neighbours too, and wall time on a GPU.
"""

import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from prm.benchmarks.speed.padded import check_trl
from prm.benchmarks.speed.peak_memory import PeakMemory
from prm.benchmarks.speed.variants import BACKBONE, VARIANTS, SpeedConfig
from prm.benchmarks.speed.workload import NUM_LABELS, SHAPES, Workload, save_backbone
from prm.tracking import progress
from prm.training.estimate import estimate_of_run
from prm.training.flops import TRAINING_FACTOR, forward_flops, peak_flops
from prm.training.trainer import PRMTrainer

REFERENCES = ("trl_defaults", "padded_rebalanced", "packed")
"""Variants whose speed the table sets the others in relation to."""


@dataclass(frozen=True)
class Measurement:
    """One variant in one repetition, over one epoch of the workload."""

    seconds: float
    """CPU time of the process on a CPU, wall time on a GPU."""
    useful_tokens: int
    computed_tokens: int
    """Tokens that went through the embedding, padding included."""
    peak_memory_bytes: int | None
    """Model, gradients, optimizer and activations."""
    estimated_memory_bytes: int | None
    """The same as training estimates it before it starts; packed variants only."""

    @property
    def tokens_per_second(self) -> float:
        return self.useful_tokens / self.seconds


class Meter(TrainerCallback):
    """Times the last epoch and counts the tokens that its forward passes embed."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.device, self.seconds, self.computed_tokens = device, 0.0, 0
        embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding))
        embedding.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.computed_tokens += inputs[0].numel()

    def clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.computed_tokens, self.start = 0, self.clock()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = self.clock() - self.start


def measure(name: str, config: SpeedConfig, workload: Workload, folder: Path) -> Measurement | None:
    """Build and train one variant; None if it does not fit into the GPU's memory."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with PeakMemory(config.device) as peak:
        try:
            trainer = VARIANTS[name](config, workload, folder)
            trainer.remove_callback(PrinterCallback)
            meter = Meter(trainer.model, config.device)
            trainer.add_callback(meter)
            trainer.train()
            estimate = estimate_of_run(trainer.model, trainer.args).total if isinstance(trainer, PRMTrainer) else None
        except torch.OutOfMemoryError:
            return None
    return Measurement(meter.seconds, sum(workload.lengths), meter.computed_tokens, peak.bytes, estimate)


def measure_speed(config: SpeedConfig) -> dict[str, Any]:
    """All repetitions of all variants: every measurement, medians, and ratios to `REFERENCES`.

    Raises FileNotFoundError for a `trl_path` without TRL's PRMTrainer.
    """
    if config.trl_path is not None:
        check_trl(config.trl_path)
    workload = config.workload()
    names = list(dict.fromkeys(config.variants))
    runs: dict[str, list[Measurement | None]] = {name: [] for name in names}
    turns = [name for turn in range(config.repetitions) for name in (names if turn % 2 == 0 else reversed(names))]
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(workload, Path(folder) / BACKBONE)
        for name in progress(turns, desc="training", unit="run"):
            runs[name].append(measure(name, config, workload, Path(folder)))
    complete = {name: [run for run in by_name if run is not None] for name, by_name in runs.items()}
    complete = {name: by_name for name, by_name in complete.items() if len(by_name) == config.repetitions}
    return {
        "useful_tokens": sum(workload.lengths),
        "longest": max(workload.lengths),
        "model": {"shape": config.shape, **SHAPES[config.shape]},
        "out_of_memory": [name for name in names if name not in complete],
        "variants": {name: summary(name, by_name, config, workload) for name, by_name in complete.items()},
        "ratios": {name: ratios(by_name, complete) for name, by_name in complete.items()},
    }


def summary(name: str, runs: list[Measurement], config: SpeedConfig, workload: Workload) -> dict[str, Any]:
    """Medians over repetitions, and the repetitions themselves."""
    seconds = statistics.median(run.seconds for run in runs)
    memory = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]
    peak = None if config.use_cpu else peak_flops(torch.cuda.get_device_name())
    heads = {"num_targets": workload.num_targets} if name.startswith("implicit") else {"num_steps": workload.num_steps}
    flops = TRAINING_FACTOR * forward_flops(workload.model_config, workload.lengths, num_labels=NUM_LABELS, **heads)
    return {
        "tokens_per_second": runs[0].useful_tokens / seconds,
        "flops_per_second": flops / seconds,
        "mfu": flops / seconds / peak if peak else None,
        "padding": 1 - runs[0].useful_tokens / runs[0].computed_tokens,
        "peak_memory_bytes": statistics.median(memory) if memory else None,
        "estimated_memory_bytes": runs[0].estimated_memory_bytes,
        "repetitions": [asdict(run) for run in runs],
    }


def ratios(runs: list[Measurement], complete: dict[str, list[Measurement]]) -> dict[str, Any]:
    """Speed over that of each reference: median, and every repetition's."""
    result = {}
    for reference in REFERENCES:
        if reference in complete:
            pairs = zip(runs, complete[reference], strict=True)
            values = [run.tokens_per_second / other.tokens_per_second for run, other in pairs]
            result[reference] = {"median": statistics.median(values), "repetitions": values}
    return result


def hardware(use_cpu: bool) -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line] if cpu.exists() else []
    device = torch.cuda.get_device_name() if not use_cpu else (names or [platform.processor()])[0]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"device": device, "threads": torch.get_num_threads() if use_cpu else None, "load": load}
