"""Speed of training: a workload in; useful tokens per second, peak memory, MFU and ratios of every way of batching it out.

Every way trains on the same tokens and labels. Repetitions are interleaved and ratios taken within one repetition, so that a
machine that is slower for a while slows all of them. Useful tokens never include padding; time is the process's CPU time on a CPU,
where wall time would measure the neighbours too, and wall time on a GPU.
"""

import copy
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback

from prm.benchmarks.padded_training import PADDED, check_trl, padded_implicit, token_classification
from prm.benchmarks.peak_memory import PeakMemory
from prm.benchmarks.workload import NUM_LABELS, SHAPES, Workload, make_workload, save_backbone, stub_encoder
from prm.models.packing import Batch
from prm.tracking import progress
from prm.training.arguments import TrainingConfig
from prm.training.estimate import estimate_of_run
from prm.training.flops import TRAINING_FACTOR, forward_flops, peak_flops
from prm.training.run import build_model
from prm.training.trainer import PRMTrainer


@dataclass
class SpeedConfig:
    """What is trained, and how it is measured."""

    shape: Literal[tuple(SHAPES)] = "small"  # type: ignore[valid-type]
    """Architecture of the random model."""
    variants: list[str] = field(default_factory=list)
    """Ways of training to measure; default: all, the compiled ones only with --torch_compile."""
    torch_compile: bool = False
    """Measure packed training under torch.compile too; compiling takes minutes."""
    trl_path: str | None = None
    """Folder that holds TRL 1.13 for the padded token classification; without it, transformers.Trainer with TRL's options."""
    repetitions: int = 3
    """Times that every variant is measured."""
    num_optimizer_steps: int = 4
    """Optimizer steps that are timed; equally many warm up before them, on the same responses."""
    global_batch_size: int = 32
    """Responses per optimizer step."""
    token_budget: int | None = None
    """Tokens of a packed micro-batch. Default: that of scripts/train.py."""
    padded_batch_size: int = 8
    """Responses of a padded micro-batch; TRL's default."""
    mean_length: float = 390.0
    """Mean length of a response with its question, in tokens."""
    max_length: int = 2047
    """Greatest length, in tokens."""
    spread: float = 0.75
    """Standard deviation of the logarithm of the lengths."""
    bf16: bool | None = None
    """Compute in bfloat16, all variants alike. Default: on CUDA."""
    gradient_checkpointing: bool = False
    """Recompute activations in packed training, where memory does not hold them."""
    use_cpu: bool = False
    """Leave a GPU alone."""
    num_threads: int = 1
    """Threads of a CPU."""
    seed: int = 0
    """Seed of lengths, tokens, labels and weights."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.variants) - VARIANTS.keys())
        if unknown:
            raise ValueError(f"--variants {' '.join(unknown)}: unknown; choose from {', '.join(VARIANTS)}")
        for name in ("repetitions", "num_optimizer_steps", "global_batch_size", "padded_batch_size", "num_threads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"--{name} is {getattr(self, name)}, expected a positive number")
        if self.global_batch_size % self.padded_batch_size:
            raise ValueError(
                f"--global_batch_size {self.global_batch_size} is no multiple of --padded_batch_size {self.padded_batch_size}"
            )
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        self.bf16 = not self.use_cpu if self.bf16 is None else self.bf16
        if not self.variants:
            self.variants = [name for name in VARIANTS if self.torch_compile or not name.endswith("_compiled")]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.use_cpu else "cuda")

    def workload(self) -> Workload:
        num_responses = self.num_optimizer_steps * self.global_batch_size
        return make_workload(self.shape, num_responses, self.mean_length, self.max_length, self.spread, self.seed)

    def arguments(self, folder: Path) -> dict[str, Any]:
        """Options of transformers.TrainingArguments that all variants share: two epochs, of which the second is timed."""
        return {
            "output_dir": str(folder / "run"),
            "num_train_epochs": 2,
            "bf16": self.bf16,
            "use_cpu": self.use_cpu,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": self.seed,
        }

    def padded_arguments(self, folder: Path, name: str) -> dict[str, Any]:
        sizes = {
            "per_device_train_batch_size": self.padded_batch_size,
            "gradient_accumulation_steps": self.global_batch_size // self.padded_batch_size,
        }
        return self.arguments(folder) | sizes | PADDED[name]


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


Build = Callable[[SpeedConfig, Workload, Path], Trainer]
"""What makes a trainer that is ready to start; the folder holds the random backbone and takes what the run writes."""

BACKBONE = "backbone"

# Variants


def packed(
    config: SpeedConfig,
    workload: Workload,
    folder: Path,
    loss: str,
    trainer_class: type[PRMTrainer] = PRMTrainer,
    torch_compile: bool = False,
) -> PRMTrainer:
    """The project's own trainer, as scripts/train.py builds it, on the backbone in `folder`."""
    arguments = TrainingConfig(
        **config.arguments(folder),
        loss=loss,
        num_labels=NUM_LABELS,
        model_name_or_path=str(folder / BACKBONE),
        eval_strategy="no",
        global_batch_size=config.global_batch_size,
        token_budget=config.token_budget,
        max_length=config.max_length,
        gradient_checkpointing=config.gradient_checkpointing,
        torch_compile=torch_compile,
    )
    encoder = stub_encoder(loss)
    return trainer_class(arguments, build_model(arguments, encoder), encoder, workload.examples, [], run={})


class UncachedTrainer(PRMTrainer):
    """Runs the reference beside the policy in every step instead of reading its log-probs."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.reference = copy.deepcopy(self.model).eval()

    def step_outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            ref_logps = self.reference(**self.reference.inputs(batch))
        return super().step_outputs(model, batch | {"ref_logps": ref_logps})


def discriminative(**options: Any) -> Build:
    return lambda config, workload, folder: packed(config, workload, folder, "step_ce", **options)


def implicit(**options: Any) -> Build:
    return lambda config, workload, folder: packed(config, workload, folder, "implicit_prm", **options)


def padded_labels(name: str) -> Build:
    return lambda config, workload, folder: token_classification(workload, config.padded_arguments(folder, name), config.trl_path)


def padded_logps(name: str) -> Build:
    return lambda config, workload, folder: padded_implicit(workload, config.padded_arguments(folder, name))


VARIANTS: dict[str, Build] = {
    "packed": discriminative(),
    "packed_compiled": discriminative(torch_compile=True),
    "padded_rebalanced": padded_labels("padded_rebalanced"),
    "padded_sorted": padded_labels("padded_sorted"),
    "padded": padded_labels("padded"),
    "trl_defaults": padded_labels("trl_defaults"),
    "implicit_packed": implicit(),
    "implicit_packed_compiled": implicit(torch_compile=True),
    "implicit_packed_uncached": implicit(trainer_class=UncachedTrainer),
    "implicit_padded_sorted": padded_logps("padded_sorted"),
    "implicit_padded": padded_logps("padded"),
}
"""Name -> what builds its trainer. `padded_rebalanced` and `trl_defaults` are what packing is judged against."""

REFERENCES = ("trl_defaults", "padded_rebalanced", "packed")
"""Variants whose speed the table sets the others in relation to."""


# Measuring


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
    if config.use_cpu:
        torch.set_num_threads(config.num_threads)
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
        "hardware": hardware(config),
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


def hardware(config: SpeedConfig) -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if "model name" in line] if cpu.exists() else []
    device = torch.cuda.get_device_name() if not config.use_cpu else (names or [platform.processor()])[0]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"device": device, "threads": torch.get_num_threads() if config.use_cpu else None, "load": load}
