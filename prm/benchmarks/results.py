"""An evaluation's folder: metrics, tables and scored responses in; `metrics.json`, `tables.json`, `items.jsonl` out, and back."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prm.benchmarks.tables import Table
from prm.files import read_rows, write_json, write_jsonl

METRICS, TABLES, ITEMS = "metrics.json", "tables.json", "items.jsonl"


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
    """First wrong step by the PRM's scores, as `first_error`; null where the evaluation has no threshold."""
    correct: bool | None = None
    """Whether the final answer is right; null: unknown."""
    response_score: float | None = None
    """The aggregated score, where the evaluation ranks responses."""
    is_selected: bool | None = None
    """Whether Best-of-N over all candidates of its question chose it."""


def write_results(
    folder: str | Path, metrics: Mapping[str, Any], tables: Sequence[Table], items: Iterable[Item | Mapping[str, Any]] = ()
) -> None:
    """Write the three files, each whole or not at all. Figures stand beside them as `.png` and `.svg`."""
    folder = Path(folder)
    write_json(folder / METRICS, metrics)
    write_json(folder / TABLES, [asdict(table) for table in tables])
    write_jsonl(folder / ITEMS, items)


def read_tables(folder: str | Path) -> list[Table]:
    """Raises FileNotFoundError, naming what makes the folder, where there are none."""
    path = Path(folder) / TABLES
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; an evaluation script (scripts/bon_eval.py, ...) writes it")
    return [Table(**row) for row in json.loads(path.read_text())]


def read_items(folder: str | Path) -> Iterator[Item]:
    """The items of a folder, none if its evaluation had only scores and no texts. Raises ValueError naming file and line."""
    path = Path(folder) / ITEMS
    for row, place in read_rows(path) if path.exists() and path.stat().st_size else ():
        try:
            yield Item(**row)
        except TypeError as error:
            raise ValueError(f"{place}: not an item of an evaluation ({error}); write the folder again") from error
