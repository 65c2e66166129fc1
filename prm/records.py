"""The records that travel between stages: rows of JSON in, checked dataclasses out, and back."""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

Key = tuple[str, int]
"""(question_id, sample_index): names one response everywhere."""

Row = dict[str, Any]

COUNTS = ("sample_index", "num_tokens")
FLOAT_LISTS = ("step_labels", "step_scores")
LARGEST = 1e30
"""Largest score, label or count: sums and squares of larger ones would overflow. Float32 logits could reach 3e38."""


@dataclass(frozen=True, slots=True)
class Question:
    """A problem with its reference answer."""

    id: str
    question: str
    answer: str
    source: str | None = None

    @property
    def key(self) -> str:
        return self.id


class _Keyed:
    __slots__ = ()
    question_id: str
    sample_index: int

    @property
    def key(self) -> Key:
        return self.question_id, self.sample_index

    @property
    def name(self) -> str:
        """The key as messages and tables show it."""
        return f"{self.question_id} #{self.sample_index}"


@dataclass(frozen=True, slots=True)
class Rollout(_Keyed):
    """One sampled response; `correct`, `extracted` and `grade` are filled by grading."""

    question_id: str
    sample_index: int
    question: str
    answer: str
    response: str
    finish_reason: str = "unknown"
    num_tokens: int = 0
    correct: bool | None = None
    extracted: str | None = None
    grade: str | None = None


@dataclass(frozen=True, slots=True)
class Response(_Keyed):
    """A response split into steps: what training and scoring read."""

    question_id: str
    sample_index: int
    question: str
    steps: list[str]
    correct: bool | None = None
    step_labels: list[float | None] | None = None
    """-1 (bad), 0 (neutral), 1 (good), or soft targets in [0, 1]; null for a step that nobody labelled."""
    answer: str | None = None
    extracted: str | None = None
    label_source: str | None = None
    """Who labelled the steps: `human`, `judge`, `monte_carlo`, `consensus`, ..."""
    completions: list[list[int]] | None = None
    """Of each step, [k, K]: how many of K completions from behind it were right (Monte-Carlo labels)."""

    @property
    def has_soft_labels(self) -> bool:
        """Whether the step labels are shares of right completions, of which 0 is bad, and not classes, of which 0 is neutral."""
        labels = self.step_labels or ()
        return self.completions is not None or any(label is not None and 0 < label < 1 for label in labels)


@dataclass(frozen=True, slots=True)
class StepScores(_Keyed):
    """One score per step of a response."""

    question_id: str
    sample_index: int
    step_scores: list[float]
    correct: bool | None = None
    answer: str | None = None
    extracted: str | None = None


Record = TypeVar("Record")
"""One of the above, or another dataclass of JSON values."""


def to_record(row: Row, record_type: type[Record], place: str) -> Record:
    """Build one record; keys it does not know are dropped. Raises ValueError for a missing key or a wrong type."""
    values = {}
    for name, (annotation, is_required) in _fields(record_type).items():
        if name not in row:
            if is_required:
                raise ValueError(
                    f"{place}: no {name!r}; a {record_type.__name__} needs {_required(record_type)}, found {sorted(row)}"
                )
            continue
        if not is_instance(row[name], annotation):
            raise ValueError(f"{place}: {name!r} is {row[name]!r:.80}, expected {type_in_words(annotation)}")
        # JSON writes 1.0 as 1 when it comes from elsewhere.
        values[name] = _floats(row[name]) if name in FLOAT_LISTS and row[name] is not None else row[name]
    for name in COUNTS:
        if values.get(name, 0) < 0:
            raise ValueError(f"{place}: {name!r} is {values[name]}, it counts from 0")
    if record_type is StepScores and not values["step_scores"]:
        raise ValueError(f"{place}: 'step_scores' are empty; leave the row out, as a response without steps has no scores")
    return record_type(**values)


def from_cells(cells: dict[str, str]) -> Row:
    """The row behind a line of CSV, whose cells are all texts.

    What is no text in our records (scores, steps, counts, outcomes) is read as JSON, or as other programs write True and False; a
    cell that is neither stays text, for `to_record` to refuse. An empty cell of a field that a record may lack is left out.
    """
    typed, optional = _cell_types()
    kept = {name: cell for name, cell in cells.items() if cell or name not in optional}
    return {name: _parse_cell(cell) if name in typed else cell for name, cell in kept.items()}


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a score or a label may be: finite, and no larger than `LARGEST`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def is_text_or_number(value: Any) -> bool:
    """Whether a value of JSON can be an id or an answer; neither 1e400 nor true is one."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and not isinstance(value, bool)


def _floats(numbers: list[float | None]) -> list[float | None]:
    return [None if number is None else float(number) for number in numbers]


def to_row(record: Any) -> Row:
    """The JSON object of a record; fields that are None by default and by value are left out."""
    if isinstance(record, dict):
        return record
    values = ((f, getattr(record, f.name)) for f in dataclasses.fields(record))
    return {f.name: value for f, value in values if not (value is None and f.default is None)}


def to_line(record: Any) -> str:
    """One JSON line. Raises ValueError for NaN or infinity, which JSON does not have."""
    row = to_row(record)
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise ValueError(f"a row with a number that is not finite cannot be written: {row!r:.200}") from error


def clean_text(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 file can hold, and NUL bytes."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def clean_values(value: Any) -> Any:
    """`clean_text` on every string of a JSON value."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [clean_values(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(name): clean_values(item) for name, item in value.items()}
    return value


def _parse_cell(cell: str) -> Any:
    try:
        return json.loads(cell.lower() if cell.lower() in ("true", "false") else cell)
    except (ValueError, RecursionError):
        return cell


@cache
def _cell_types() -> tuple[set[str], set[str]]:
    """The fields of our records, and a benchmark's prediction, that hold no text; and those that every record may lack."""
    fields = [field for record_type in (Question, Rollout, Response, StepScores) for field in _fields(record_type).items()]
    typed = {name for name, (annotation, _) in fields if not is_instance("", annotation)}
    required = {name for name, (_, is_required) in fields if is_required}
    return typed | {"prediction"}, {name for name, _ in fields} - required


@cache
def _fields(record_type: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(record_type)
    return {f.name: (hints[f.name], f.default is dataclasses.MISSING) for f in dataclasses.fields(record_type)}


def _required(record_type: type) -> list[str]:
    return [name for name, (_, is_required) in _fields(record_type).items() if is_required]


def is_instance(value: Any, annotation: Any) -> bool:
    """Whether a value of JSON is what the annotation of a field says."""
    if annotation is float:
        return is_number(value)
    if isinstance(annotation, type):
        if isinstance(value, bool):
            return annotation is bool
        return isinstance(value, annotation) and (annotation is not int or is_number(value))
    if isinstance(annotation, types.UnionType):
        return any(is_instance(value, option) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Literal:
        return value in typing.get_args(annotation)
    if typing.get_origin(annotation) is list:
        (item_type,) = typing.get_args(annotation)
        return isinstance(value, list) and all(is_instance(item, item_type) for item in value)
    raise TypeError(f"{annotation}: no annotation of a JSON value")


def type_in_words(annotation: Any) -> str:
    """What `is_instance` takes, for an error."""
    options = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType):
        return " or ".join(map(type_in_words, options))
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(map(repr, options))
    if typing.get_origin(annotation) is list:
        return f"a list, each item {type_in_words(options[0])}"
    return {
        int: f"a whole number up to {LARGEST:g}",
        float: f"a finite number up to {LARGEST:g}",
        str: "a text",
        bool: "true or false",
        types.NoneType: "null",
    }[annotation]
