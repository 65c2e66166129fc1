"""Measure scoring: padded, sorted, packed and prefix-sharing engines, compiled or not, vLLM's pooling, and implicit PRMs."""

from dataclasses import dataclass
from pathlib import Path

from prm.benchmarks.speed.repetitions import set_up
from prm.benchmarks.speed.report import scoring_table
from prm.benchmarks.speed.scoring import measure_scoring
from prm.benchmarks.speed.scoring_variants import ScoringSpeedConfig
from prm.config import parse_args, run
from prm.files import write_json
from prm.tracking import setup_logging, write_manifest


@dataclass
class BenchmarkConfig(ScoringSpeedConfig):
    """What is measured, and where the results go."""

    output_dir: str = "results/benchmark_scoring"
    """Folder for metrics.json and manifest.json."""


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(BenchmarkConfig, argv, __doc__)
    result = {"hardware": set_up(config), "scoring": measure_scoring(config)}
    write_json(Path(config.output_dir) / "metrics.json", result)
    write_manifest(config.output_dir, config)
    print(scoring_table(result["scoring"], result["hardware"]))


if __name__ == "__main__":
    run(main)
