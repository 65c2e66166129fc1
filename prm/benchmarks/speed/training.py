"""Speed of training: a workload in; useful tokens per second, peak memory, MFU and ratios of every way of batching it out.

Every way trains on the same tokens and labels. Useful tokens never include padding.
"""

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from prm.benchmarks.speed.padded import check_trl
from prm.benchmarks.speed.peak_memory import PeakMemory
from prm.benchmarks.speed.repetitions import Run, clock, repeat, speed_ratios
from prm.benchmarks.speed.training_variants import BACKBONE, VARIANTS, TrainingSpeedConfig
from prm.benchmarks.speed.workload import NUM_LABELS, SHAPES, Workload, save_backbone
from prm.training.estimate import estimate_of_run
from prm.training.flops import TRAINING_FACTOR, forward_flops, peak_flops
from prm.training.trainer import PRMTrainer

REFERENCES = ("trl_defaults", "padded_rebalanced", "packed")
"""Variants whose speed the table sets the others in relation to."""


@dataclass(frozen=True)
class TrainingRun(Run):
    """Over one epoch of the workload."""

    useful_tokens: int
    computed_tokens: int
    """Tokens that went through the embedding, padding included."""
    peak_memory_bytes: int | None
    """Model, gradients, optimizer and activations."""
    estimated_memory_bytes: int | None
    """The same as training estimates it before it starts; packed variants only."""


class Meter(TrainerCallback):
    """Times the last epoch and counts the tokens that its forward passes embed."""

    def __init__(self, model: nn.Module, device: torch.device):
        self.device, self.seconds, self.computed_tokens = device, 0.0, 0
        embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding))
        embedding.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.computed_tokens += inputs[0].numel()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.computed_tokens, self.start = 0, clock(self.device)

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = clock(self.device) - self.start


def measure(name: str, config: TrainingSpeedConfig, workload: Workload, folder: Path) -> TrainingRun | None:
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
    return TrainingRun(meter.seconds, sum(workload.lengths), meter.computed_tokens, peak.bytes, estimate)


def measure_training(config: TrainingSpeedConfig) -> dict[str, Any]:
    """All repetitions of all variants: every measurement, medians, and ratios to `REFERENCES`.

    Raises FileNotFoundError for a `trl_path` without TRL's PRMTrainer.
    """
    if config.trl_path is not None:
        check_trl(config.trl_path)
    workload = config.workload()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        save_backbone(workload, folder / BACKBONE, config.device)
        runs = repeat(config.variants, config.repetitions, lambda name: measure(name, config, workload, folder), "training")
    complete = {name: [run for run in of_name if run is not None] for name, of_name in runs.items()}
    complete = {name: of_name for name, of_name in complete.items() if len(of_name) == config.repetitions}
    return {
        "useful_tokens": sum(workload.lengths),
        "longest": max(workload.lengths),
        "model": {"shape": config.shape, **SHAPES[config.shape]},
        "out_of_memory": [name for name in runs if name not in complete],
        "variants": {name: summary(name, of_name, config, workload) for name, of_name in complete.items()},
        "ratios": speed_ratios(complete, REFERENCES),
    }


def summary(name: str, runs: list[TrainingRun], config: TrainingSpeedConfig, workload: Workload) -> dict[str, Any]:
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
