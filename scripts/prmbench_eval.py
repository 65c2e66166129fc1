"""PRMScore on PRMBench, from predictions or by scoring its items with a checkpoint, beside content-free baselines."""

import logging
from dataclasses import dataclass
from pathlib import Path

from prm.benchmarks.comparison import ComparisonConfig
from prm.benchmarks.predictions import score_items
from prm.benchmarks.prmbench.compare import compare, evaluation_of, load_evaluation
from prm.benchmarks.prmbench.evaluate import PRMBenchConfig, evaluate_prmbench
from prm.benchmarks.prmbench.items import load_items, load_predictions
from prm.benchmarks.prmbench.report import plot_prmbench, prmbench_items, prmbench_tables
from prm.benchmarks.results import check_output_dir, write_results
from prm.benchmarks.tables import render
from prm.config import parse_args, run
from prm.data.hub import hash_sources
from prm.figures import remove_figure
from prm.scoring import ScoringNotes, notes_of
from prm.tracking import setup_logging, write_manifest

logger = logging.getLogger("prm.prmbench_eval")


@dataclass
class PRMBenchEvalConfig(ComparisonConfig, PRMBenchConfig):
    """Where items and predictions come from and where the results go."""

    data: str = "prmbench"
    """The benchmark, raw or assembled: a file, a folder, or the hub's dataset `prmbench`."""
    strip_numbering: bool = True
    """Remove `Step 3.` and `3.` before a step that --model reads, as the benchmark's toolkit does for PRMs. scripts/score.py leaves
    them in: --predictions that it made are of numbered steps."""
    output_dir: str = "results/prmbench"
    """Folder for metrics.json, tables.json, items.jsonl, prm_score.png and .svg, manifest.json and, with --model,
    predictions.jsonl and scores/, from where the same command goes on and other options of the report take what is scored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predictions and not self.strip_numbering:
            raise ValueError(
                "--strip_numbering False says what --model reads, but --predictions is given: leave one of the two out"
            )


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(PRMBenchEvalConfig, argv, __doc__)
    output_dir = Path(config.output_dir)
    check_output_dir(config.output_dir, [config.data, config.predictions, *config.compare], config.models)
    items, left_out = load_items(config.data, config.limit)
    others = {folder: load_evaluation(folder, items) for folder in config.compare}
    if config.predictions:
        config.take_defaults_of(notes_of(config.predictions))
        predictions, counts = load_predictions(config.predictions, items)
    else:
        config.take_defaults_of(ScoringNotes.of(config.contract))
        responses = [item.as_response(config.strip_numbering) for item in items]
        predictions, counts = score_items(config, responses, output_dir)
    result = evaluate_prmbench(items, predictions, config) | {"left_out": dict(left_out + counts)}
    own = evaluation_of(result, predictions)
    result["comparisons"] = {folder: compare(items, own, other, config) for folder, other in others.items()}
    tables = prmbench_tables(result)
    write_results(output_dir, result, tables, prmbench_items(items, predictions, config))
    if "fixed" in result["results"]:
        plot_prmbench(items, predictions, result, output_dir / "prm_score")
    else:
        remove_figure(output_dir / "prm_score")
    inputs = hash_sources([config.data, *([config.predictions] if config.predictions else []), *config.compared_files])
    extra = {"model": config.model}
    write_manifest(output_dir, config, inputs=inputs, counts={"num_items": len(items), **result["left_out"]}, extra=extra)
    logger.info("wrote %s", output_dir)
    print(render(tables))


if __name__ == "__main__":
    run(main)
