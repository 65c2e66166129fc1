"""Plan a run of the whole pipeline: hours and storage of every stage, with the assumptions they rest on."""

from pathlib import Path
from typing import Any

from prm.benchmarks.tables import align
from prm.config import parse_args, run
from prm.files import write_json
from prm.planning import GIGABYTE, PlanConfig, make_plan, plan_report
from prm.tracking import setup_logging, to_plain, write_manifest


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(PlanConfig, argv, __doc__)
    report = plan_report(config, make_plan(config))
    if config.output_dir is not None:
        write_json(Path(config.output_dir) / "plan.json", report)
        write_manifest(config.output_dir, config)
    print(plan_table(config, report))


def plan_table(config: PlanConfig, report: dict[str, Any]) -> str:
    """Stages, totals, and every assumption by the name of its option."""
    rows = [["stage", "work", "", "per second", "devices", "hours", "GB on disk"]]
    for stage in report["stages"]:
        kind = config.gpu if stage["device"] == "GPU" else "cores"
        numbers = [f"{stage['hours']:.2f}", f"{stage['storage_bytes'] / GIGABYTE:.2f}"]
        work = [f"{stage['work']:.3g}", stage["unit"], f"{stage['rate']:.3g}"]
        rows.append([stage["name"], *work, f"{stage['devices']} {kind}", *numbers])
    rows.append(["sum", "", "", "", "", f"{report['hours']:.2f}", f"{report['storage_bytes'] / GIGABYTE:.2f}"])
    hidden = {"output_dir", "model", "gpu"}
    options = [f"{name} {value}" for name, value in to_plain(config).items() if name not in hidden and value is not None]
    source = f"Sampling speed and length as measured in {config.rollouts}" if config.rollouts else "Nothing of this is measured"
    lines = ["", f"{report['gpu_hours']:.1f} GPU hours. {source}; assumed (each an option):"]
    return "\n".join([f"{config.model}, {report['weights'] / 1e9:.2f}B weights", "", align(rows), *lines, ", ".join(options)])


if __name__ == "__main__":
    run(main)
