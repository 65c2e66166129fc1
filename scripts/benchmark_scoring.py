"""Measure scoring: padded, sorted, packed and prefix-sharing engines, compiled or not, vLLM's pooling, and implicit PRMs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from prm.benchmarks.speed.candidates import ScoringSpeedConfig
from prm.benchmarks.speed.report import scoring_table
from prm.benchmarks.speed.scoring import DISCRIMINATIVE, IMPLICIT, measure_scoring
from prm.benchmarks.speed.scoring_engines import VARIANTS
from prm.benchmarks.speed.training import hardware
from prm.config import parse_args, run
from prm.files import write_json
from prm.tracking import setup_logging, write_manifest


@dataclass
class BenchmarkConfig(ScoringSpeedConfig):
    """What is measured, and where the results go."""

    output_dir: str = "results/benchmark_scoring"
    """Folder for metrics.json and manifest.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.variants) - VARIANTS.keys())
        if unknown:
            raise ValueError(f"--variants {' '.join(unknown)}: unknown; choose from {', '.join(VARIANTS)}")
        if self.published and self.variants and not (DISCRIMINATIVE in self.variants and set(IMPLICIT) & set(self.variants)):
            raise ValueError(f"--published stands beside {' or '.join(IMPLICIT)} over {DISCRIMINATIVE}: add both to --variants")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(BenchmarkConfig, argv, __doc__)
    if config.use_cpu:
        torch.set_num_threads(config.num_threads)
    result = {"hardware": hardware(config.use_cpu), "scoring": measure_scoring(config)}
    write_json(Path(config.output_dir) / "metrics.json", result)
    write_manifest(config.output_dir, config)
    print(scoring_table(result["scoring"], result["hardware"]))


if __name__ == "__main__":
    run(main)
