"""Are a PRM's scores probabilities, and do they go by form? From scores, or by a checkpoint that scores perturbed steps too."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from prm.benchmarks.calibration.evaluate import CalibrationConfig
from prm.benchmarks.calibration.perturbations import PERTURBATIONS, check_perturbations, choose_questions, evaluate_perturbations
from prm.benchmarks.calibration.report import report_calibration
from prm.benchmarks.results import check_output_dir
from prm.benchmarks.score_files import ScoresConfig, holds_any
from prm.benchmarks.tables import render
from prm.config import parse_args, run
from prm.data.hub import hash_sources
from prm.data.sources import RESPONSE_SHAPES, load_responses
from prm.models.files import model_folder
from prm.records import Key, Response
from prm.scoring import Scorer, score_kept
from prm.tracking import setup_logging, write_manifest

NUM_PERTURBED = 2000

logger = logging.getLogger("prm.calibration_report")


@dataclass(kw_only=True)
class CalibrationReportConfig(CalibrationConfig, ScoresConfig):
    """Where scores and truth come from and where the report goes."""

    scored = "responses"
    responses: list[str] | None = None
    """Responses with step labels or outcomes (graded rollouts, ProcessBench, PRM800K, candidate pools, ...), file or folder; by
    default the score files, where they are candidate pools."""
    perturbations: list[str] = field(default_factory=lambda: list(PERTURBATIONS))
    """What --model scores anew: merge (two steps as one), split (a step per sentence), filler (steps that say nothing)."""
    num_perturbed: int = NUM_PERTURBED
    """Responses to perturb, of whole questions chosen by the seed; 0 for none."""
    tokenizer: str | None = None
    """Tokenizer, a folder or a hub name, whose tokens step length is counted in; by default characters."""
    output_dir: str = "results/calibration"
    """Folder for metrics.json, tables.json, items.jsonl, calibration.json (the temperature), the figures, manifest.json and, with
    --model, scores.jsonl, scores/ and perturbed-*/, from where the same command goes on and other options take what is scored."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_perturbations(self.perturbations)
        if self.num_perturbed < 0:
            raise ValueError(f"--num_perturbed {self.num_perturbed}: give 0 (no responses) or more")
        if self.scores and (self.perturbations, self.num_perturbed) != (list(PERTURBATIONS), NUM_PERTURBED):
            raise ValueError(
                "--perturbations and --num_perturbed say what --model scores anew, but --scores is given: leave them out"
            )


def all_responses(files: Sequence[str]) -> list[Response]:
    """The responses of all files; several may hold one, with scores of several PRMs.

    Raises ValueError for a file that holds none, and where they contradict.
    """
    found: dict[Key, Response] = {}
    for file in files:
        if not (of_file := load_responses(file)):
            raise ValueError(f"{file}: no responses in it; leave it out")
        for response in of_file:
            if found.setdefault(response.key, response) != response:
                raise ValueError(f"{file}: response {response.key!r} is another one than in the files before it; give one of them")
    return list(found.values())


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(CalibrationReportConfig, argv, __doc__)
    output_dir, scores = Path(config.output_dir), config.score_files
    files = config.responses or scores
    check_output_dir(config.output_dir, [*files, *scores], config.models)
    if config.scores and not config.responses and (bare := [file for file in files if not holds_any(file, RESPONSE_SHAPES)]):
        raise ValueError(f"--scores {bare[0]}: holds no texts; give --responses, the file that was scored")
    responses = all_responses(files)
    tokenizer = config.tokenizer and str(model_folder(config.tokenizer, with_weights=False))
    load = cache(partial(Scorer.load, config))
    records, notes = config.load_scores(responses, load)
    perturbed = None
    if config.model and config.num_perturbed and config.perturbations:
        chosen = choose_questions(responses, config.num_perturbed, config.seed)
        folder = f"perturbed-{config.num_perturbed}-{config.seed}"
        perturbed = evaluate_perturbations(
            lambda name, form: score_kept(config, form, output_dir, f"{folder}/{name}", load)[0],
            chosen,
            records[config.model_name],
            config.perturbations,
            config,
        )
    readings = {prm: noted.reading for prm, noted in notes.items() if noted.reading}
    result, tables = report_calibration(records, responses, config, output_dir, tokenizer, perturbed, readings)
    inputs = hash_sources(dict.fromkeys([*files, *scores]))
    counts = {f"num_unscored {prm}": found["num_unscored"] for prm, found in result["prms"].items()}
    write_manifest(output_dir, config, inputs=inputs, counts=counts, extra={"model": config.model})
    logger.info("wrote %s", output_dir)
    print(render(tables))


if __name__ == "__main__":
    run(main)
