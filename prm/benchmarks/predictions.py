"""Predictions on the items of a benchmark: a file of them, or a model that scores the items, in; one prediction per item out.

An item that the model cannot read (longer than its `max_length`, text that its contract cannot hold) has the empty list in place of
scores. It is never cut to fit, and each benchmark says how it counts.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prm.benchmarks.results import ITEMS, TABLES
from prm.files import data_files, read_rows, write_jsonl
from prm.records import LARGEST, Response, Row, is_number
from prm.scoring import ModelConfig, notes_of, score_kept
from prm.scoring.notes import PREDICTIONS_FILE

BenchmarkItem = TypeVar("BenchmarkItem")
ID_KEYS = ("id", "question_id", "idx")
NOT_DATA = ("metrics.jsonl", TABLES, ITEMS)
"""Files that evaluations and training leave in a folder: data files by their endings, but no predictions."""


@dataclasses.dataclass(kw_only=True)
class PredictionsConfig(ModelConfig):
    """What gives a benchmark's items their scores: a model, or predictions made before."""

    predictions: str | None = None
    """Predictions in place of --model, a file or folder of rows {id, step_scores}; of ProcessBench also {id, prediction}, of
    PRMBench also the rows of its own toolkit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.model) == bool(self.predictions):
            raise ValueError("give either --model MODEL or --predictions FILE")
        self.check_unused("--predictions")

    @property
    def prm_name(self) -> str:
        """What results call the PRM: as its model, or as the file or folder of its predictions."""
        if self.predictions is None:
            return self.model_name
        path = Path(self.predictions)
        return path.resolve().name if path.is_dir() else path.stem


def read_predictions(
    path: str | Path,
    items: Mapping[str, BenchmarkItem],
    convert: Callable[[Row, BenchmarkItem, str], Any],
    keep_first: bool = False,
) -> tuple[list[Any], Counter[str]]:
    """What `convert(row, item, place)` makes of each item's row, in the order of `items`, and counts of the rows left out.

    Rows of other items are left out (`other_items`), and with `keep_first` those that repeat an id (`repeated`); without it they
    raise ValueError. So does an item without a row, unless scripts/score.py noted that it could not read some: then it gets an
    empty list.
    """
    found: dict[str, Any] = {}
    left_out: Counter[str] = Counter()
    strangers = ""
    for file in prediction_files(path):
        for row, place in read_rows(file):
            # PRMBench's toolkit keeps each of its rows inside another.
            row = row["results"] if isinstance(row.get("results"), dict) else row
            name = next((str(row[key]) for key in ID_KEYS if key in row), None)
            if name is None:
                raise ValueError(f"{place}: a prediction without the id of its item; found {sorted(row)}")
            if name not in items:
                left_out["other_items"] += 1
                strangers = strangers or f" (and {place} is of {name!r}, which is none of them)"
            elif name not in found:
                found[name] = convert(row, items[name], place)
            elif keep_first:
                left_out["repeated"] += 1
            else:
                raise ValueError(f"{place}: a second prediction for item {name!r}; keep one of the two")
    missing, notes = [name for name in items if name not in found], notes_of(path)
    # scripts/score.py leaves out what it cannot read. It may have scored other items as well, but all its rows must be here.
    is_whole = notes is not None and len(found) + left_out.total() == notes.num_scored
    if missing and not (is_whole and len(missing) <= notes.num_left_out):
        raise ValueError(
            f"{path}: {len(missing)} of {len(items)} items have no prediction, such as {missing[0]!r}{strangers}; "
            'write {"id", "step_scores": null} for an item that the model cannot read'
        )
    return [found.get(name, []) for name in items], left_out


def prediction_files(path: str | Path) -> list[Path]:
    """A file, or those of a folder without what evaluations leave there. Raises FileNotFoundError where that is all."""
    files = [file for file in data_files(path) if file == Path(path) or file.name not in NOT_DATA]
    if not files:
        raise FileNotFoundError(f"{path}: the folder holds only what an evaluation leaves beside its scores; name a file")
    return files


def read_step_scores(scores: Any, num_steps: int, name: str, place: str) -> list[float]:
    """The `step_scores` of a row, checked to be one finite number per step; an empty list for null (the model could not read it).

    Raises ValueError, naming place and item, for anything else.
    """
    if scores is None:
        return []
    if not isinstance(scores, list) or len(scores) != num_steps:
        found = f"{len(scores)} of them: {scores!r:.80}" if isinstance(scores, list) else f"{scores!r:.80}"
        raise ValueError(f"{place}: item {name!r} has {num_steps} steps, but step_scores are {found}")
    if not all(map(is_number, scores)):
        bad = next(score for score in scores if not is_number(score))
        raise ValueError(f"{place}: step_scores of item {name!r} must be finite numbers up to {LARGEST:g}, found {bad!r:.80}")
    return [float(score) for score in scores]


def score_items(config: ModelConfig, items: Sequence[Response], output_dir: str | Path) -> tuple[list[list[float]], Counter[str]]:
    """Step scores of each item by `score_kept`, empty for what the model cannot read, and counts of those by reason.

    Writes them to `output_dir`/predictions.jsonl as well.
    """
    scored, unreadable = score_kept(config, items, output_dir)
    by_id = {scores.question_id: scores.step_scores for scores in scored}
    scores = [by_id.get(item.question_id, []) for item in items]
    rows = [{"id": item.question_id, "step_scores": found or None} for item, found in zip(items, scores, strict=True)]
    write_jsonl(Path(output_dir) / PREDICTIONS_FILE, rows)
    return scores, unreadable
