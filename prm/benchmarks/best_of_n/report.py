"""Best-of-N's folder: scores of one or several PRMs and the files they come from in; metrics, tables, items and figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.benchmarks.best_of_n.breakdown import (
    RESPONSE_LENGTH,
    evaluate_breakdown,
    groups_by_field,
    length_groups,
    load_question_fields,
)
from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, MeasuredCurves, measure_best_of_n, summarize
from prm.benchmarks.best_of_n.items import best_of_n_items, describe_choice, named_groups
from prm.benchmarks.best_of_n.length import LengthUnit, candidate_lengths, evaluate_length, plot_length
from prm.benchmarks.best_of_n.plots import plot_best_of_n
from prm.benchmarks.best_of_n.tables import best_of_n_tables
from prm.benchmarks.results import write_results
from prm.benchmarks.score_files import Texts, check_steps, load_texts
from prm.benchmarks.tables import Table
from prm.figures import remove_figure
from prm.records import StepScores
from prm.scoring import ScoringNotes

QUESTION_FIELDS = ("source", "level", "subject", "type")


@dataclass
class BestOfNReportConfig(BestOfNConfig):
    """What is reported beside the curves."""

    questions: str | None = None
    """Question file with fields (level and subject, as MATH has) for --breakdown, matched by id or by text; by default the
    rollouts or pools themselves."""
    breakdown: list[str] | None = None
    """Fields of the questions to report apart; by default those of source, level, subject and type that there are."""
    length_unit: LengthUnit = "auto"
    """What the length of a response is counted in; auto takes the first of tokens, characters, steps that is known for all."""
    items_per_question: int = 16
    """Most responses of each question that items.jsonl keeps to look at, where their texts are known: the chosen one, then by
    turns the best-scored wrong and the worst-scored right ones, copies of a text last; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.items_per_question < 0:
            raise ValueError(f"--items_per_question {self.items_per_question}: give 0 (no responses) or more")


def report_best_of_n(
    records: Mapping[str, Sequence[StepScores]],
    files: Sequence[str],
    config: BestOfNReportConfig,
    folder: str | Path,
    constant_scores: Sequence[str],
    notes: Mapping[str, ScoringNotes] | None = None,
) -> tuple[dict[str, Any], list[Table]]:
    """Evaluate and write everything. `files` are the rollouts, or else the score files; they may hold texts and question fields.

    `constant_scores` are `constant_notes` of the scores without stand-ins, `notes` what scoring noted of PRMs.

    Raises ValueError as `measure_best_of_n`, `check_steps`, `candidate_lengths` and `groups_by_field` do, and then writes nothing.
    """
    texts = load_texts(files)
    for prm, rows in records.items():
        check_steps(prm, rows, texts.responses)
    notes = notes or {}
    measured = measure_best_of_n(records, config, {prm: noted.aggregation for prm, noted in notes.items()})
    left_out = {prm: noted.num_left_out for prm, noted in notes.items() if prm in records and noted.num_left_out}
    unit, lengths = candidate_lengths(measured.pool, texts, config.length_unit)
    groups = _question_groups(measured, texts, files, config)
    length = evaluate_length(measured, unit, lengths, config)
    by_length = {RESPONSE_LENGTH: length_groups(lengths, unit)} if length else {}
    breakdown = evaluate_breakdown(measured, groups | by_length, config)
    items = describe_choice(measured, texts, config.items_per_question)
    result = {
        **summarize(measured, config),
        "constant_scores": list(constant_scores),
        "left_out_by_scoring": {} if any(measured.pool.num_unscored(prm) for prm in records) else left_out,
        "length": length,
        "breakdown": breakdown,
        "items": items,
    }
    tables = best_of_n_tables(result)
    first_groups = dict(zip(measured.pool.questions, named_groups(groups), strict=False))
    write_results(folder, result, tables, best_of_n_items(measured, texts, first_groups, config.items_per_question))
    plot_best_of_n(result, Path(folder) / "best_of_n")
    if length:
        plot_length(result, length, Path(folder) / "length")
    else:
        remove_figure(Path(folder) / "length")
    return result, tables


def _question_groups(
    measured: MeasuredCurves, texts: Texts, files: Sequence[str], config: BestOfNReportConfig
) -> dict[str, list[str]]:
    """Field -> value of each question of the pool."""
    questions = [
        (question_id, texts.responses[keys[0]].question if keys[0] in texts.responses else None)
        for question_id, keys in zip(measured.pool.questions, measured.pool.keys, strict=True)
    ]
    sources = [config.questions] if config.questions else files
    return groups_by_field(load_question_fields(sources), questions, config.breakdown, QUESTION_FIELDS, ", ".join(sources))
