"""An evaluation's folder: metrics, tables and scored responses in; `metrics.json`, `tables.json`, `items.jsonl` out, and back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prm.benchmarks.tables import Table
from prm.files import read_json, read_rows, write_json, write_jsonl
from prm.records import Response, to_record
from prm.scoring.notes import METRICS, PREDICTIONS_FILE, SCORES_FILE
from prm.steps import join_steps
from prm.tracking import check_output, manifest_path

TABLES, ITEMS = "tables.json", "items.jsonl"
WRITTEN = (METRICS, TABLES, ITEMS, manifest_path("").name)
REMEDY = "run the evaluation again"


@dataclass(frozen=True, slots=True)
class Item:
    """One scored response of an evaluation, as people look at it."""

    id: str
    """Of the response, unique in its folder: a benchmark's id, or question and sample."""
    group: str
    """What items are filtered by: a subset, a category, a source."""
    question: str
    steps: list[str]
    step_scores: list[float]
    first_error: int | None = None
    """True first wrong step, from 0; -1: every step is right; null: unknown."""
    predicted: int | None = None
    """First wrong step by the PRM's scores, in the same form; null where the evaluation has no threshold."""
    correct: bool | None = None
    """Whether the final answer is right; null: unknown."""
    response_score: float | None = None
    """The aggregated score, where the evaluation ranks responses."""
    is_selected: bool | None = None
    """Whether Best-of-N over all candidates of its question chose it."""
    answer: str | None = None
    """The reference answer of the question."""
    extracted: str | None = None
    """The final answer found in the response."""
    wrong_steps: list[int] | None = None
    """Every step that is wrong, from 0, where those behind the first one are known as well."""


def response_item(
    response: Response,
    step_scores: list[float],
    response_score: float,
    prm: str | None,
    group: str,
    is_selected: bool | None = None,
) -> Item:
    """A scored response with what is known of it; its id begins with `prm`, which is None where the folder holds a single PRM."""
    return Item(
        id=f"{prm}: {response.name}" if prm is not None else response.name,
        group=group,
        question=response.question,
        steps=scored_steps(response, len(step_scores)),
        step_scores=step_scores,
        first_error=first_error(response),
        correct=response.correct,
        response_score=response_score,
        is_selected=is_selected,
        answer=response.answer,
        extracted=response.extracted,
    )


def scored_steps(response: Response, num_scores: int) -> list[str]:
    """The steps that the scores belong to: an outcome model's one score stands for the whole response."""
    return list(response.steps) if len(response.steps) == num_scores else [join_steps(response.steps)]


def first_error(response: Response) -> int | None:
    """The first step labelled bad, -1 if none is; None where a step up to there has no label.

    Bad is below 0 and, as for consensus, a soft label of 0: no completion from behind the step was right.
    """
    if not response.step_labels:
        return None
    for index, label in enumerate(response.step_labels):
        if label is None:
            return None
        if label < 0 or (response.has_soft_labels and label == 0):
            return index
    return -1


def write_results(
    folder: str | Path, metrics: Mapping[str, Any], tables: Sequence[Table], items: Iterable[Item | Mapping[str, Any]] = ()
) -> None:
    """Write the three files, each whole or not at all. Figures stand beside them as `.png` and `.svg`.

    The manifest of an earlier evaluation goes first and the new one comes last: without it, files may be of two evaluations.
    """
    folder = Path(folder)
    manifest_path(folder).unlink(missing_ok=True)
    write_json(folder / METRICS, metrics)
    write_json(folder / TABLES, [asdict(table) for table in tables])
    write_jsonl(folder / ITEMS, items)


def check_output_dir(output_dir: str, inputs: Iterable[str | None], models: Iterable[str | None] = ()) -> None:
    """Raise ValueError as `check_output` does.

    Unlike there, an input file may lie in the folder under a name that no evaluation writes, and the folder itself may be the input
    where an evaluation left scores in it.
    """
    folder = Path(output_dir)
    is_own = (folder / METRICS).exists() and any((folder / name).exists() for name in (SCORES_FILE, PREDICTIONS_FILE))
    others = [p for p in inputs if p and (Path(p).is_dir() or Path(p).name in WRITTEN) and not (is_own and Path(p) == folder)]
    check_output("--output_dir", output_dir, others, models=models)


def check_finished(folder: str | Path) -> None:
    """Raise FileNotFoundError for a folder that holds no evaluation, or one that did not come to its end."""
    folder = Path(folder)
    if not (folder / TABLES).exists():
        what = "no such folder" if not folder.exists() else f"holds no {TABLES}" if folder.is_dir() else "is no folder"
        raise FileNotFoundError(f"{folder}: {what}; give the --output_dir of an evaluation (scripts/bon_eval.py, ...)")
    if not (manifest := manifest_path(folder)).exists():
        raise FileNotFoundError(f"{manifest}: is missing, so the evaluation did not come to its end; run it again")


def without_nan(value: Any) -> Any:
    """The same nested metrics as JSON can hold them: what is undefined is None, and NumPy's numbers are Python's."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value


def read_tables(folder: str | Path) -> list[Table]:
    """Raises FileNotFoundError, naming what makes the folder, where there are none, and ValueError for others' tables."""
    path = Path(folder) / TABLES
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; an evaluation script (scripts/bon_eval.py, ...) writes it")
    rows = read_json(path, REMEDY, list)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: no tables of an evaluation; {REMEDY}")
    return [to_record(row, Table, f"{path}[{index}]") for index, row in enumerate(rows)]


def read_items(folder: str | Path) -> Iterator[Item]:
    """The items of a folder, none if its evaluation had only scores and no texts. Raises ValueError naming file and line."""
    path = Path(folder) / ITEMS
    for row, place in read_rows(path) if path.exists() and path.stat().st_size else ():
        if unknown := sorted(row.keys() - Item.__annotations__.keys()):
            raise ValueError(f"{place}: not an item of an evaluation, which has no {unknown[0]!r}; {REMEDY}")
        yield to_record(row, Item, place)
