"""Best-of-N accuracy of one or several PRMs, from step scores or by scoring graded rollouts with a checkpoint."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prm.benchmarks.best_of_n import BestOfNConfig, evaluate_best_of_n, plot_best_of_n
from prm.benchmarks.candidates import with_unscored
from prm.benchmarks.report import best_of_n_table
from prm.config import parse_args
from prm.data.hub import hash_sources
from prm.data.sources import list_prms, load_responses, load_scores
from prm.files import write_json, write_jsonl
from prm.records import Response, StepScores
from prm.tracking import progress, setup_logging, write_manifest

logger = logging.getLogger("prm.bon_eval")


@dataclass
class BonEvalConfig(BestOfNConfig):
    """Where the scores come from and where the results go."""

    scores: list[str] | None = None
    """Step scores, FILE or NAME=FILE: one curve per file, named after it, and per PRM in a file of candidate pools."""
    prm: list[str] | None = None
    """PRMs to take from candidate pools; all by default."""
    model: str | None = None
    """Checkpoint that scores --rollouts."""
    rollouts: str | None = None
    """Graded rollouts (file or folder) that --model scores. With --scores, those without scores stay in the pool, ranked last."""
    token_budget: int = 16384
    """Tokens scored at a time by --model."""
    output_dir: str = "results/best_of_n"
    """Folder for metrics.json, best_of_n.png and .svg, manifest.json and, with --model, scores.jsonl."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.scores) == bool(self.model) or (self.model and not self.rollouts):
            raise ValueError("give either --scores FILE... or both --model OUT and --rollouts FILE")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(BonEvalConfig, argv, __doc__)
    output_dir = Path(config.output_dir)
    responses = load_graded(config.rollouts) if config.rollouts else []
    records = read_scores(config.scores, config.prm) if config.scores else score_rollouts(config, responses)
    counts = {f"num_unscored {prm}": len(responses) - len(rows) for prm, rows in records.items() if responses}
    if responses:
        records = {prm: with_unscored(prm, rows, responses) for prm, rows in records.items()}
    result = evaluate_best_of_n(records, config)
    write_json(output_dir / "metrics.json", result)
    plot_best_of_n(result, output_dir / "best_of_n")
    inputs = [split_name(entry)[1] for entry in config.scores or []] + [path for path in [config.rollouts] if path]
    counts |= {name: result[name] for name in result if name.startswith("num_")}
    write_manifest(output_dir, config, inputs=hash_sources(inputs), counts=counts, extra={"model": config.model})
    logger.info("wrote %s", output_dir)
    print(best_of_n_table(result))


def load_graded(path: str) -> list[Response]:
    """Rollouts as responses; without a single outcome there is nothing to measure."""
    responses = load_responses(path)
    if all(response.correct is None for response in responses):
        raise ValueError(f"{path}: no rollout has an outcome; grade them first with scripts/grade_rollouts.py")
    return responses


def read_scores(entries: Sequence[str], prms: Sequence[str] | None) -> dict[str, list[StepScores]]:
    """Curve label -> records, from files of step scores and of candidate pools."""
    records: dict[str, list[StepScores]] = {}
    for entry in entries:
        label, path = split_name(entry)
        names = list_prms(path)
        chosen = [name for name in names if prms is None or name in prms]
        if names and not chosen:
            raise ValueError(f"--prm {' '.join(prms or [])}: {path} holds step scores of {', '.join(names)}")
        prefix = f"{label}/" if label and len(chosen) > 1 else label
        curves = {f"{prefix or ''}{'' if prefix == label and label else name}": name for name in chosen}
        for curve, name in (curves or {label or Path(path).stem: None}).items():
            if curve in records:
                raise ValueError(f"--scores {entry}: a second curve named {curve!r}; name the files apart, NAME={path}")
            records[curve] = load_scores(path, name)
    return records


def split_name(entry: str) -> tuple[str | None, str]:
    """`NAME=FILE` or `FILE`."""
    name, _, path = entry.rpartition("=")
    return (None, entry) if not name or Path(entry).exists() else (name, path)


def score_rollouts(config: BonEvalConfig, responses: list[Response]) -> dict[str, list[StepScores]]:
    """Score every response that the model can read, and keep the scores beside the results."""
    from prm.scoring import score_responses

    scored = score_responses(config.model, responses, config.token_budget, dropped=Counter())
    records = list(progress(scored, total=len(responses), desc="scoring", unit="response"))
    write_jsonl(Path(config.output_dir) / "scores.jsonl", records)
    return {Path(config.model).resolve().name: records}


if __name__ == "__main__":
    main()
