"""Evaluations of many PRMs in one place: a table per benchmark and data, and every number in a CSV file."""

import csv
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path

from prm.benchmarks.results import METRICS, check_output_dir, write_results
from prm.benchmarks.summary.join import by_data, long_form, runs_long_form, summary_tables
from prm.benchmarks.summary.read import find_evaluations, read_summary
from prm.benchmarks.tables import markdown, render
from prm.config import parse_args, run
from prm.files import write_text
from prm.tracking import setup_logging, write_manifest

logger = logging.getLogger("prm.summarize")


@dataclass
class SummaryConfig:
    """What is put together, and where."""

    input: list[str] = field(default_factory=list)
    """Folders of evaluations (Best-of-N, ProcessBench, PRMBench), FOLDER or NAME=FOLDER, or folders above them. A PRM is called as
    its model or its file of scores or predictions, unless it is given a NAME. Names that differ in their seed at the end alone
    (asym-seed0, asym-seed1) are training runs of one method, of which mean, spread and differences are shown, too."""
    output_dir: str = "results/summary"
    """Folder for summary.md, summary.csv, and what scripts/report.py makes a page of."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ValueError("give --input, folders of evaluations or a folder above them")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(SummaryConfig, argv, __doc__)
    found = find_evaluations(config.input)
    check_output_dir(config.output_dir, [str(folder) for _, folder in found])
    summaries = [read_summary(folder, name) for name, folder in found]
    groups = by_data(summaries)
    tables = summary_tables(groups)
    rows = list(long_form(summaries))
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    output_dir = Path(config.output_dir)
    write_results(output_dir, {"numbers": rows, **runs_long_form(groups)}, tables)
    write_text(output_dir / "summary.csv", text.getvalue())
    write_text(output_dir / "summary.md", markdown(tables))
    write_manifest(output_dir, config, inputs=[folder / METRICS for _, folder in found], counts={"num_evaluations": len(found)})
    logger.info("wrote %s", output_dir)
    print(render(tables))


if __name__ == "__main__":
    run(main)
