"""Measure the metrics at full size: Best-of-N with its bootstrap, the threshold sweep, calibration, a whole evaluation."""

from dataclasses import asdict, dataclass
from pathlib import Path

from prm.benchmarks.results import write_results
from prm.benchmarks.speed.metrics import LIMITS, MetricSpeedConfig, measure_metrics
from prm.benchmarks.tables import Table, render
from prm.config import parse_args, run
from prm.tracking import setup_logging, write_manifest


@dataclass
class BenchmarkMetricsConfig(MetricSpeedConfig):
    """Sizes, and where the figures go."""

    output_dir: str = "results/benchmark_metrics"
    """Folder for metrics.json, tables.json and manifest.json."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 if a part takes longer than its limit."""
    setup_logging()
    config = parse_args(BenchmarkMetricsConfig, argv, __doc__)
    seconds = measure_metrics(config)
    too_slow = [name for name, limit in LIMITS.items() if seconds[name] > limit]
    rows = [["CPU seconds", "measured", "limit"]]
    rows += [[name, f"{value:.2f}", f"{LIMITS[name]:g}" if name in LIMITS else ""] for name, value in seconds.items()]
    title = (
        f"Best-of-N on {config.num_questions} x {config.num_candidates}, {config.num_bootstrap} resamples; "
        f"sweep of {config.num_items} items"
    )
    tables = [Table(title, rows, f"too slow: {', '.join(too_slow)}" if too_slow else "")]
    write_results(config.output_dir, {"seconds": seconds, "limits": LIMITS, "sizes": asdict(config)}, tables)
    write_manifest(Path(config.output_dir), config)
    print(render(tables))
    return int(bool(too_slow))


if __name__ == "__main__":
    run(main)
