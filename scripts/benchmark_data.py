"""Measure the data engine: speed of grading and its worst cases, tokenization, and memory at few and at many rollouts."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import random_backbone

from prm.benchmarks.data.grading import grading_report, hostile_report
from prm.benchmarks.data.memory import STAGES, memory_report, synthetic_rollouts
from prm.benchmarks.data.report import data_tables
from prm.benchmarks.data.tokenizing import tokenizing_report
from prm.config import parse_args, run
from prm.data.sources import load_responses, load_rollouts
from prm.files import write_json, write_jsonl
from prm.records import Rollout
from prm.steps import StepEncoder, load_tokenizer
from prm.tracking import setup_logging, write_manifest


@dataclass
class BenchmarkConfig:
    """What is measured, on what."""

    parts: list[str] = field(default_factory=lambda: list(PARTS))
    """grading, hostile (needs --hostile), tokenizing, memory."""
    rollouts: str | None = None
    """Rollouts that grading and tokenization are measured on; default: synthetic ones."""
    hostile: str | None = None
    """JSON with `items` of `id`, `gold` and `text` (or `parts` of text and count): answers that attack the grader."""
    tokenizer: str | None = None
    """Model whose tokenizer encodes; default: one trained on the rollouts."""
    num_rollouts: int = 4000
    """Synthetic rollouts for grading and tokenization."""
    sizes: list[int] = field(default_factory=lambda: [10_000, 200_000])
    """Numbers of rollouts for the part memory."""
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    """Stages for the part memory, in the order of the pipeline; each reads what the one before it wrote."""
    num_workers: int = 1
    """Grading processes."""
    timeout_seconds: float = 2.0
    """CPU time for one pair."""
    repetitions: int = 3
    """Repetitions; the median counts."""
    output_dir: str = "results/benchmark_data"
    """Folder for metrics.json and manifest.json."""

    def __post_init__(self) -> None:
        for name, given, known in (("parts", self.parts, PARTS), ("stages", self.stages, STAGES)):
            if unknown := sorted(set(given) - known.keys()):
                raise ValueError(f"--{name} {' '.join(unknown)}: unknown; choose from {', '.join(known)}")


def grading(config: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    return grading_report(read_rollouts(config), config.num_workers, config.timeout_seconds, config.repetitions)


def hostile(config: BenchmarkConfig, folder: Path) -> dict[str, Any] | None:
    if config.hostile is None:
        return None
    items = json.loads(Path(config.hostile).read_text(encoding="utf-8"))["items"]
    texts = ["".join(part * count for part, count in item.get("parts", [])) or item["text"] for item in items]
    answers = [(i["id"], Rollout(i["id"], 0, "?", i["gold"], t, "stop", 1)) for i, t in zip(items, texts, strict=True)]
    return hostile_report(answers, config.timeout_seconds)


def tokenizing(config: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    write_jsonl(folder / "some.jsonl", read_rollouts(config))
    encoder = StepEncoder.for_loss("asym", load_tokenizer(config.tokenizer or backbone(folder)), max_length=1 << 20)
    return tokenizing_report([r for r in load_responses(folder / "some.jsonl") if r.steps], encoder, config.repetitions)


def memory(config: BenchmarkConfig, folder: Path) -> dict[str, Any]:
    write_jsonl(folder / "some.jsonl", synthetic_rollouts(1000))
    return memory_report(config.stages, config.sizes, backbone(folder), folder)


PARTS: dict[str, Callable[[BenchmarkConfig, Path], dict[str, Any] | None]] = {
    "grading": grading,
    "hostile": hostile,
    "tokenizing": tokenizing,
    "memory": memory,
}


def read_rollouts(config: BenchmarkConfig) -> list[Rollout]:
    return load_rollouts(config.rollouts) if config.rollouts else list(synthetic_rollouts(config.num_rollouts))


def backbone(folder: Path) -> str:
    """A tiny random model whose tokenizer has read `some.jsonl`."""
    if not (folder / "backbone").exists():
        random_backbone.main(["--rollouts", str(folder / "some.jsonl"), "--output", str(folder / "backbone")])
    return str(folder / "backbone")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(BenchmarkConfig, argv, __doc__)
    with tempfile.TemporaryDirectory() as folder:
        result = {part: PARTS[part](config, Path(folder)) for part in config.parts}
    write_json(Path(config.output_dir) / "metrics.json", result)
    write_manifest(config.output_dir, config, inputs=filter(None, [config.rollouts, config.hostile]))
    print(data_tables(result))


if __name__ == "__main__":
    run(main)
