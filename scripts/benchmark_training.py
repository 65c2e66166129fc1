"""Measure training: useful tokens per second, memory and MFU of packed and padded batches; balance of ranks; log-probs' memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prm.benchmarks.speed.rank_balance import balance_report
from prm.benchmarks.speed.repetitions import set_up
from prm.benchmarks.speed.report import training_tables
from prm.benchmarks.speed.training import measure_training
from prm.benchmarks.speed.training_variants import TrainingSpeedConfig
from prm.benchmarks.speed.vocabulary_memory import vocabulary_report
from prm.benchmarks.speed.workload import SHAPES, log_normal_lengths, model_config
from prm.config import parse_args, run
from prm.files import write_json
from prm.tracking import setup_logging, write_manifest

BALANCED_SHAPE = "qwen2.5-math-1.5b"


@dataclass
class BenchmarkConfig(TrainingSpeedConfig):
    """What is measured, and where the results go."""

    parts: list[str] = field(default_factory=lambda: list(PARTS))
    """speed, ranks (computed from lengths alone) and vocabulary (memory of token log-probs)."""
    world_size: int = 4
    """Ranks that a global batch is divided over, in the part `ranks`."""
    num_batches: int = 250
    """Global batches that the part `ranks` averages over."""
    rank_token_budget: int = 16384
    """Tokens of a packed micro-batch in the part `ranks`."""
    vocab_sizes: list[int] = field(default_factory=lambda: [9496, 37984, 151936])
    """Vocabularies of the part `vocabulary`; the last is Qwen2.5's."""
    num_targets: int = 1024
    """Response tokens whose log-probs the part `vocabulary` computes."""
    output_dir: str = "results/benchmark_training"
    """Folder for metrics.json and manifest.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.parts) - PARTS.keys())
        if unknown:
            raise ValueError(f"--parts {' '.join(unknown)}: unknown; choose from {', '.join(PARTS)}")
        if "ranks" in self.parts and self.global_batch_size % self.world_size:
            raise ValueError(f"--global_batch_size {self.global_batch_size} is no multiple of --world_size {self.world_size}")


def ranks(config: BenchmarkConfig) -> dict[str, Any]:
    num_responses = config.num_batches * config.global_batch_size
    lengths = log_normal_lengths(num_responses, config.mean_length, config.max_length, config.spread, config.seed)
    backbone = model_config(BALANCED_SHAPE)
    report = balance_report(lengths, backbone, config.global_batch_size, config.world_size, config.rank_token_budget, config.seed)
    return {"shape": BALANCED_SHAPE, "world_size": config.world_size, **report}


def vocabulary(config: BenchmarkConfig) -> dict[str, Any]:
    hidden_size, dtype = SHAPES[config.shape]["hidden_size"], torch.bfloat16 if config.bf16 else torch.float32
    rows = vocabulary_report(config.vocab_sizes, hidden_size, config.num_targets, config.device, dtype, config.seed)
    return {"hidden_size": hidden_size, "num_targets": config.num_targets, "dtype": str(dtype), "sizes": rows}


PARTS: dict[str, Callable[[BenchmarkConfig], dict[str, Any]]] = {
    "speed": measure_training,
    "ranks": ranks,
    "vocabulary": vocabulary,
}


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(BenchmarkConfig, argv, __doc__)
    result = {"hardware": set_up(config)} | {part: PARTS[part](config) for part in config.parts}
    write_json(Path(config.output_dir) / "metrics.json", result)
    write_manifest(config.output_dir, config)
    print(training_tables(result))


if __name__ == "__main__":
    run(main)
