"""The controlled study: which training signal finds the step, in worlds where every step's true value is known?"""

import logging
from pathlib import Path

from prm.benchmarks.results import write_results
from prm.benchmarks.tables import render
from prm.config import parse_args, run
from prm.simulation.plots import plot_study
from prm.simulation.report import findings, study_tables, verdicts
from prm.simulation.settings import SimulationConfig
from prm.simulation.study import run_study
from prm.tracking import setup_logging, write_manifest

logger = logging.getLogger("prm.simulate")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(SimulationConfig, argv, __doc__)
    result = run_study(config)
    output_dir, tables, lines = Path(config.output_dir), study_tables(result, config), findings(result, config)
    write_results(output_dir, {**result, "verdicts": verdicts(result, config), "findings": lines}, tables)
    plot_study(result, output_dir, config)
    write_manifest(output_dir, config)
    logger.info("wrote %s", output_dir)
    print(render(tables), *(f"- {line}" for line in lines), sep="\n")


if __name__ == "__main__":
    run(main)
