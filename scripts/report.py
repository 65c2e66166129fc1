"""One self-contained HTML page of any evaluation: its tables, its curves, and its responses with every step tinted by its score."""

import logging
from dataclasses import dataclass
from pathlib import Path

from prm.benchmarks.page import PageConfig, build_page
from prm.benchmarks.results import check_finished
from prm.config import parse_args, run
from prm.files import write_text
from prm.tracking import check_output, setup_logging

logger = logging.getLogger("prm.report")


@dataclass
class ReportConfig(PageConfig):
    """Which evaluation is shown, and where."""

    input: str = ""
    """Folder of an evaluation (the `--output_dir` of bon_eval.py, processbench_eval.py, ...)."""
    output: str | None = None
    """HTML file; `report.html` in the folder itself by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.input:
            raise ValueError("give --input, the folder of an evaluation")
        if self.output is not None and not self.output.endswith(".html"):
            raise ValueError(f"--output {self.output}: the page is one .html file; give it a name that ends so")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(ReportConfig, argv, __doc__)
    output = Path(config.output or Path(config.input) / "report.html")
    check_finished(config.input)
    check_output("--output", output, ending=".html")
    write_text(output, build_page(config.input, config))
    logger.info("wrote %s (%.1f MB)", output, output.stat().st_size / 1e6)


if __name__ == "__main__":
    run(main)
