"""Choose one response per question with a PRM: Best-of-N or a vote over its samples. Outcomes are not needed."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prm.benchmarks.best_of_n.choose import Method, choice_items, choice_table, choose, summarize_choices
from prm.benchmarks.constant_scores import constant_notes
from prm.benchmarks.response_scores import OWN, resolve_aggregation
from prm.benchmarks.results import check_output_dir, write_results
from prm.benchmarks.score_files import ScoresConfig, check_steps, holds_any
from prm.benchmarks.tables import render
from prm.config import parse_args, run
from prm.data.hub import hash_sources
from prm.data.sources import RESPONSE_SHAPES, load_responses, load_sampled_texts
from prm.files import write_jsonl
from prm.tracking import setup_logging, write_manifest

CHOSEN = "chosen.jsonl"

logger = logging.getLogger("prm.choose_responses")


@dataclass(kw_only=True)
class ChooseConfig(ScoresConfig):
    """What is chosen from, and how."""

    scored = "rollouts"
    knows_own: ClassVar[bool] = True
    aggregation: list[str] | None = None
    """How step scores become one score per response: min, geometric_mean, softmin, product, mean, sum, last, max, or own: what the
    PRM was trained for, the default where its checkpoint or the manifest of scripts/score.py says it; otherwise min."""
    rollouts: str | None = None
    """Sampled responses, graded or not: what --model scores, or what --scores are of; by default the score files, where they are
    candidate pools."""
    method: Method = "best_of_n"
    """The best-scored response (best_of_n), or of the answer with most votes, weighted by scores (weighted_vote) or not
    (majority_vote), the best-scored one."""
    num_candidates: int | None = None
    """Choose among the first N samples of a question; all by default."""
    items_per_question: int = 16
    """Most responses of a question that items.jsonl keeps for the page of scripts/report.py: the chosen one and the best others."""
    output_dir: str = "results/chosen"
    """Folder for chosen.jsonl (a row per question), metrics.json, tables.json, items.jsonl, manifest.json and, with --model,
    scores.jsonl and scores/, from where the same command goes on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.aggregation is not None and len(self.aggregation) != 1:
            raise ValueError(f"--aggregation {' '.join(self.aggregation)}: responses are chosen by one, give one")
        for name, lowest in (("num_candidates", 1), ("items_per_question", 0)):
            if (value := getattr(self, name)) is not None and value < lowest:
                raise ValueError(f"--{name} {value}: give a number of responses")


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(ChooseConfig, argv, __doc__)
    output_dir = Path(config.output_dir)
    check_output_dir(config.output_dir, [*config.score_files, config.rollouts], config.models)
    source, given = config.rollouts or config.score_files[0], config.aggregation
    if not holds_any(source, RESPONSE_SHAPES):
        raise ValueError(f"{source}: holds no texts to choose from; give --rollouts, the file that was scored")
    responses = load_responses(source)
    records, notes = config.load_scores(responses)
    if len(records) > 1:
        raise ValueError(f"--scores hold {', '.join(records)}: one PRM chooses, name it with --prm or give one file")
    ((prm, rows),) = records.items()
    check_steps(prm, rows, {response.key: response for response in responses})
    own = {name: noted.aggregation for name, noted in notes.items()}
    aggregation = resolve_aggregation(prm, given[0] if given else OWN if own else "min", config.softmin_tau, own)
    choices = choose(prm, rows, responses, aggregation, config.method, config.num_candidates)
    summary, constant = summarize_choices(choices), constant_notes({prm: [record.step_scores for record in rows]})
    table = choice_table(summary, prm, aggregation, config.method, constant)
    metrics = {"prm": prm, "method": config.method, "aggregation": str(aggregation), **summary, "constant_scores": constant}
    texts = load_sampled_texts(source)
    write_jsonl(output_dir / CHOSEN, [choice.row(texts) for choice in choices])
    write_results(output_dir, metrics, [table], choice_items(choices, config.items_per_question))
    inputs = hash_sources(dict.fromkeys([source, *config.score_files]))
    write_manifest(
        output_dir, config, inputs=inputs, counts={name: value for name, value in summary.items() if isinstance(value, int)}
    )
    logger.info("wrote %s", output_dir / CHOSEN)
    print(render([table]))


if __name__ == "__main__":
    run(main)
