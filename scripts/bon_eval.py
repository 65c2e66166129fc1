"""Best-of-N accuracy of one or several PRMs, from step scores or by scoring graded rollouts with a checkpoint."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prm.benchmarks.best_of_n.candidates import with_unscored
from prm.benchmarks.best_of_n.report import BestOfNReportConfig, report_best_of_n
from prm.benchmarks.score_files import read_scores, split_name
from prm.benchmarks.tables import render
from prm.config import parse_args
from prm.data.hub import hash_sources
from prm.data.sources import load_responses
from prm.files import write_jsonl
from prm.records import Response, StepScores
from prm.tracking import progress, setup_logging, write_manifest

logger = logging.getLogger("prm.bon_eval")


@dataclass
class BonEvalConfig(BestOfNReportConfig):
    """Where the scores come from and where the results go."""

    scores: list[str] | None = None
    """Step scores, FILE or NAME=FILE: one curve per file, named after it, and per PRM in a file of candidate pools."""
    prm: list[str] | None = None
    """PRMs to take from candidate pools; all by default."""
    model: str | None = None
    """Checkpoint, or published PRM (a folder or owner/name[@revision] on the hub), that scores --rollouts."""
    rollouts: str | None = None
    """Graded rollouts (file or folder) that --model scores. With --scores, those without scores stay in the pool, ranked last."""
    recipe: str | None = None
    """How --model, a published PRM, is read, where neither its files nor its name tell."""
    reference: str | None = None
    """Reference model, where --model is an implicit PRM. Default: the one named in the checkpoint."""
    token_budget: int | None = None
    """Tokens scored at a time by --model. Default: 16384 on CUDA, 4096 on a CPU."""
    output_dir: str = "results/best_of_n"
    """Folder for metrics.json, tables.json, items.jsonl, the figures, manifest.json and, with --model, scores.jsonl."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.scores) == bool(self.model) or (self.model and not self.rollouts):
            raise ValueError("give either --scores FILE... or both --model OUT and --rollouts FILE")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(BonEvalConfig, argv, __doc__)
    responses = load_graded(config.rollouts) if config.rollouts else []
    records = read_scores(config.scores, config.prm) if config.scores else score_rollouts(config, responses)
    counts = {f"num_unscored {prm}": len(responses) - len(rows) for prm, rows in records.items() if responses}
    if responses:
        records = {prm: with_unscored(prm, rows, responses) for prm, rows in records.items()}
    files = [path for path in [config.rollouts] if path] or [split_name(entry)[1] for entry in config.scores]
    result, tables = report_best_of_n(records, files, config, config.output_dir)
    inputs = {*files, *(split_name(entry)[1] for entry in config.scores or []), *([config.questions] if config.questions else [])}
    counts |= {name: result[name] for name in result if name.startswith("num_")}
    write_manifest(Path(config.output_dir), config, inputs=hash_sources(inputs), counts=counts, extra={"model": config.model})
    logger.info("wrote %s", config.output_dir)
    print(render(tables))


def load_graded(path: str) -> list[Response]:
    """Rollouts as responses; without a single outcome there is nothing to measure."""
    responses = load_responses(path)
    if all(response.correct is None for response in responses):
        raise ValueError(f"{path}: no rollout has an outcome; grade them first with scripts/grade_rollouts.py")
    return responses


def score_rollouts(config: BonEvalConfig, responses: list[Response]) -> dict[str, list[StepScores]]:
    """Score every response that the model can read, and keep the scores beside the results."""
    from prm.scoring import Scorer

    scorer = Scorer.load(config.model, config.token_budget, config.reference, recipe=config.recipe)
    records = list(progress(scorer.score(responses, Counter()), total=len(responses), desc="scoring", unit="response"))
    write_jsonl(Path(config.output_dir) / "scores.jsonl", records)
    return {Path(config.model).resolve().name: records}


if __name__ == "__main__":
    main()
