"""First-error F1 on ProcessBench, from predictions or by scoring its items with a checkpoint."""

import logging
from dataclasses import dataclass
from pathlib import Path

from prm.benchmarks.processbench import (
    FirstErrorItem,
    Prediction,
    ProcessBenchConfig,
    evaluate_processbench,
    load_items,
    load_predictions,
    plot_processbench,
)
from prm.benchmarks.report import processbench_table
from prm.config import parse_args
from prm.files import write_json, write_jsonl
from prm.tracking import progress, setup_logging, write_manifest

logger = logging.getLogger("prm.processbench_eval")


@dataclass
class ProcessBenchEvalConfig(ProcessBenchConfig):
    """Where items and predictions come from and where the results go."""

    data: str = "data/processbench"
    """Folder with one file per subset (gsm8k.json, math.json, ...), or a single subset's file."""
    model: str | None = None
    """Checkpoint that scores the items."""
    predictions: str | None = None
    """Predictions, a file or folder of rows {id, step_scores} or {id, prediction}, in place of --model."""
    token_budget: int = 16384
    """Tokens scored at a time by --model."""
    output_dir: str = "results/processbench"
    """Folder for metrics.json, f1.png and .svg, manifest.json and, with --model, predictions.jsonl."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.model) == bool(self.predictions):
            raise ValueError("give either --model OUT or --predictions FILE")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(ProcessBenchEvalConfig, argv, __doc__)
    output_dir = Path(config.output_dir)
    items = load_items(config.data)
    predictions = load_predictions(config.predictions, items) if config.predictions else score_items(items, config)
    result = evaluate_processbench(items, predictions, config)
    write_json(output_dir / "metrics.json", result)
    if not isinstance(predictions[0], int):
        plot_processbench(items, predictions, result, output_dir / "f1")
    inputs = [config.data, *([config.predictions] if config.predictions else [])]
    write_manifest(output_dir, config, inputs=inputs, counts={"num_items": len(items)}, extra={"model": config.model})
    logger.info("wrote %s", output_dir)
    print(processbench_table(result))


def score_items(items: list[FirstErrorItem], config: ProcessBenchEvalConfig) -> list[Prediction]:
    """Score every item's own steps and keep the scores beside the results."""
    from prm.scoring import score_responses

    scored = score_responses(config.model, [item.as_response() for item in items], config.token_budget)
    by_id = {s.question_id: s.step_scores for s in progress(scored, total=len(items), desc="scoring", unit="item")}
    rows = [{"id": item.id, "step_scores": by_id[item.id]} for item in items]
    write_jsonl(Path(config.output_dir) / "predictions.jsonl", rows)
    return [row["step_scores"] for row in rows]


if __name__ == "__main__":
    main()
