"""First-error F1 on ProcessBench, from predictions or by scoring its items with a checkpoint."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from prm.benchmarks.comparison import ComparisonConfig, Evaluation
from prm.benchmarks.predictions import score_items
from prm.benchmarks.processbench.compare import compare, load_evaluation, thresholds_of
from prm.benchmarks.processbench.evaluate import ProcessBenchConfig, evaluate_processbench, threshold_rules
from prm.benchmarks.processbench.items import data_sources, load_items, load_predictions
from prm.benchmarks.processbench.report import plot_processbench, processbench_items, processbench_tables
from prm.benchmarks.results import check_output_dir, write_results
from prm.benchmarks.tables import render
from prm.config import parse_args, run
from prm.data.hub import hash_sources
from prm.figures import remove_figure
from prm.scoring import ScoringNotes, notes_of
from prm.tracking import setup_logging, write_manifest

logger = logging.getLogger("prm.processbench_eval")


@dataclass
class ProcessBenchEvalConfig(ComparisonConfig, ProcessBenchConfig):
    """Where items and predictions come from and where the results go."""

    data: list[str] = field(default_factory=lambda: ["data/processbench"])
    """Folder with one file per subset (gsm8k.json, math.json, ...), subsets' files, or the hub's dataset: `processbench` (all four
    subsets), `processbench:gsm8k`."""
    output_dir: str = "results/processbench"
    """Folder for metrics.json, tables.json, items.jsonl, f1.png and .svg, manifest.json and, with --model, predictions.jsonl
    and scores/, from where the same command goes on and other options of the report take what is scored."""


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(ProcessBenchEvalConfig, argv, __doc__)
    output_dir = Path(config.output_dir)
    check_output_dir(config.output_dir, [*config.data, config.predictions, *config.compare], config.models)
    items = load_items(config.data, config.limit)
    others = {folder: load_evaluation(folder, items) for folder in config.compare}
    if config.predictions:
        config.take_defaults_of(notes_of(config.predictions))
        predictions, left_out = load_predictions(config.predictions, items)
    else:
        threshold_rules(items, config)
        config.take_defaults_of(ScoringNotes.of(config.contract))
        predictions, left_out = score_items(config, [item.as_response() for item in items], output_dir)
    result = evaluate_processbench(items, predictions, config)
    result["num_other_predictions"] = left_out["other_items"]
    own = Evaluation(predictions, thresholds_of(result))
    result["comparisons"] = {folder: compare(items, own, other, config) for folder, other in others.items()}
    tables = processbench_tables(result)
    write_results(output_dir, result, tables, processbench_items(items, predictions, result))
    if "prediction" in result["results"]:
        remove_figure(output_dir / "f1")
    else:
        plot_processbench(items, predictions, result, output_dir / "f1")
    read = [*([config.predictions] if config.predictions else []), *config.compared_files]
    inputs = hash_sources([*data_sources(config.data), *read])
    counts = {"num_items": len(items), **left_out}
    write_manifest(output_dir, config, inputs=inputs, counts=counts, extra={"model": config.model})
    logger.info("wrote %s", output_dir)
    print(render(tables))


if __name__ == "__main__":
    run(main)
