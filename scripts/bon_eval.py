"""Best-of-N accuracy of one or several PRMs, from step scores or by scoring graded rollouts with a checkpoint."""

import logging
from dataclasses import dataclass
from pathlib import Path

from prm.benchmarks.best_of_n.candidates import load_graded, with_unscored
from prm.benchmarks.best_of_n.evaluate import check_names
from prm.benchmarks.best_of_n.report import BestOfNReportConfig, report_best_of_n
from prm.benchmarks.constant_scores import constant_notes
from prm.benchmarks.results import check_output_dir
from prm.benchmarks.score_files import ScoresConfig
from prm.benchmarks.tables import render
from prm.config import parse_args, run
from prm.data.hub import hash_sources
from prm.tracking import setup_logging, write_manifest

logger = logging.getLogger("prm.bon_eval")


@dataclass(kw_only=True)
class BonEvalConfig(BestOfNReportConfig, ScoresConfig):
    """Where the scores come from and where the results go."""

    scored = "rollouts"
    rollouts: str | None = None
    """Graded rollouts (file or folder) that --model scores. With --scores, their outcomes hold, even if the scores were made before
    they were graded, and those without scores stay in the pool, ranked last."""
    output_dir: str = "results/best_of_n"
    """Folder for metrics.json, tables.json, items.jsonl, the figures, manifest.json and, with --model, scores.jsonl and
    scores/, from where the same command goes on and other options of the report take what is scored."""


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(BonEvalConfig, argv, __doc__)
    output_dir, files = Path(config.output_dir), config.score_files
    check_output_dir(config.output_dir, [*files, config.rollouts, config.questions], config.models)
    responses = load_graded(config.rollouts) if config.rollouts else []
    if config.model:
        check_names([config.model_name])
    records, notes = config.load_scores(responses)
    constant = constant_notes({prm: [record.step_scores for record in rows] for prm, rows in records.items()})
    if responses:
        records = {prm: with_unscored(prm, rows, responses) for prm, rows in records.items()}
    sources = [config.rollouts] if config.rollouts else files
    result, tables = report_best_of_n(records, sources, config, output_dir, constant, notes)
    inputs = filter(None, dict.fromkeys([*sources, *files, config.questions]))
    counts = {f"num_unscored {prm}": number for prm, number in result["num_unscored"].items()}
    counts |= {name: found for name, found in result.items() if name.startswith("num_") and isinstance(found, int)}
    extra = {"model": config.model, "items": result["items"]}
    write_manifest(output_dir, config, inputs=hash_sources(inputs), counts=counts, extra=extra)
    logger.info("wrote %s", output_dir)
    print(render(tables))


if __name__ == "__main__":
    run(main)
