"""Are a PRM's scores probabilities, and do they go by form? From scores, or by a checkpoint that scores perturbed steps too."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prm.benchmarks.calibration.evaluate import CalibrationConfig
from prm.benchmarks.calibration.perturbations import PERTURBATIONS, check_perturbations, choose_questions, evaluate_perturbations
from prm.benchmarks.calibration.report import report_calibration
from prm.benchmarks.score_files import read_scores, split_name
from prm.benchmarks.tables import render
from prm.config import parse_args
from prm.data.hub import hash_sources
from prm.data.sources import load_responses
from prm.files import write_jsonl
from prm.records import Response, StepScores
from prm.tracking import progress, setup_logging, write_manifest

logger = logging.getLogger("prm.calibration_report")


@dataclass
class CalibrationReportConfig(CalibrationConfig):
    """Where scores and truth come from and where the report goes."""

    responses: list[str] | None = None
    """Responses with step labels or outcomes (graded rollouts, ProcessBench, PRM800K, candidate pools, ...), file or folder; by
    default the score files, where they are candidate pools."""
    scores: list[str] | None = None
    """Step scores, FILE or NAME=FILE, one PRM per file or, in candidate pools, one per name."""
    prm: list[str] | None = None
    """PRMs to take from candidate pools; all by default."""
    model: str | None = None
    """Checkpoint, or published PRM (folder or owner/name[@revision] on the hub), that scores --responses, also perturbed."""
    perturbations: list[str] = field(default_factory=lambda: list(PERTURBATIONS))
    """What --model scores anew: merge (two steps as one), split (a step per sentence), filler (steps that say nothing)."""
    num_perturbed: int = 2000
    """Responses to perturb, of whole questions chosen by the seed; 0 for none."""
    tokenizer: str | None = None
    """Tokenizer, a folder or a hub name, whose tokens step length is counted in; by default characters."""
    recipe: str | None = None
    """How --model, a published PRM, is read, where neither its files nor its name tell."""
    reference: str | None = None
    """Reference model, where --model is an implicit PRM. Default: the one named in the checkpoint."""
    token_budget: int | None = None
    """Tokens scored at a time by --model. Default: 16384 on CUDA, 4096 on a CPU."""
    output_dir: str = "results/calibration"
    """Folder for metrics.json, tables.json, items.jsonl, calibration.json (the temperature), the figures and manifest.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_perturbations(self.perturbations)
        if bool(self.scores) == bool(self.model) or (self.model and not self.responses):
            raise ValueError("give either --scores FILE... or both --model OUT and --responses FILE...")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(CalibrationReportConfig, argv, __doc__)
    files = config.responses or [split_name(entry)[1] for entry in config.scores]
    responses = list({response.key: response for file in files for response in load_responses(file)}.values())
    if config.model:
        records, perturbed = score(config, responses)
    else:
        records, perturbed = read_scores(config.scores, config.prm), None
    result, tables = report_calibration(records, responses, config, config.output_dir, config.tokenizer, perturbed)
    inputs = hash_sources({*files, *(split_name(entry)[1] for entry in config.scores or [])})
    counts = {f"num_unscored {prm}": found["num_unscored"] for prm, found in result["prms"].items()}
    write_manifest(Path(config.output_dir), config, inputs=inputs, counts=counts, extra={"model": config.model})
    logger.info("wrote %s", config.output_dir)
    print(render(tables))


def score(config: CalibrationReportConfig, responses: list[Response]) -> tuple[dict[str, list[StepScores]], dict[str, Any] | None]:
    """Scores of the responses under --model, kept beside the results, and what perturbations change."""
    from prm.scoring import Scorer

    scorer = Scorer.load(config.model, config.token_budget, config.reference, recipe=config.recipe)

    def score_all(form: list[Response], dropped: Counter[str]) -> list[StepScores]:
        return list(progress(scorer.score(form, dropped), total=len(form), desc="scoring", unit="response"))

    records = score_all(responses, Counter())
    write_jsonl(Path(config.output_dir) / "scores.jsonl", records)
    perturbed = None
    if config.num_perturbed and config.perturbations:
        chosen = choose_questions(responses, config.num_perturbed, config.seed)
        perturbed = evaluate_perturbations(score_all, chosen, config.perturbations, config)
    return {Path(config.model).resolve().name: records}, perturbed


if __name__ == "__main__":
    main()
