"""The records that travel between stages, and their JSONL files: paths in, checked dataclasses out, and back.

A file is `.jsonl` (one object a line), `.json` (one array), or a folder of `.jsonl` shards read in name order. Writers write aside,
sync and rename, so a reader never meets half a file; what an interrupted stage has finished, `ShardWriter` finds again.
"""

import dataclasses
import json
import os
import shutil
import time
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

Key = tuple[str, int]
"""(question_id, sample_index): names one response everywhere."""

Row = dict[str, Any]

FLOAT_LISTS = ("step_labels", "step_scores")


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


@dataclass(frozen=True, slots=True)
class Rollout(_Keyed):
    """One sampled response; `correct`, `extracted` and `grade` are filled by grading."""

    question_id: str
    sample_index: int
    question: str
    answer: str
    response: str
    finish_reason: str
    num_tokens: int
    correct: bool | None = None
    extracted: str | None = None
    grade: str | None = None


@dataclass(frozen=True, slots=True)
class Response(_Keyed):
    """A response split into steps: what training and scoring read.

    Step labels are -1 (bad), 0 (neutral), 1 (good), or soft targets in [0, 1].
    """

    question_id: str
    sample_index: int
    question: str
    steps: list[str]
    correct: bool | None = None
    step_labels: list[float] | None = None
    answer: str | None = None
    extracted: str | None = None


@dataclass(frozen=True, slots=True)
class StepScores(_Keyed):
    """One score per step of a response."""

    question_id: str
    sample_index: int
    step_scores: list[float]
    correct: bool | None = None
    answer: str | None = None
    extracted: str | None = None


Record = TypeVar("Record", Question, Rollout, Response, StepScores)


def read_jsonl(path: str | Path) -> Iterator[tuple[Row, str]]:
    """Yield every object with its place, `file:line` (`file[index]` in a JSON array).

    Raises FileNotFoundError for a missing path and ValueError, naming the place, for anything that is not a JSON object.
    """
    path = Path(path)
    for file in _files(path):
        for place, value in _array_items(file) if file.suffix == ".json" else _lines(file):
            if not isinstance(value, dict):
                raise ValueError(f"{place}: expected a JSON object, found {type(value).__name__}")
            yield value, place


def read_records(path: str | Path, record_type: type[Record]) -> Iterator[Record]:
    """Yield the rows of a file or folder as `record_type`; a duplicate key is an error that names both places."""
    seen: dict[Any, str] = {}
    for row, place in read_jsonl(path):
        record = to_record(row, record_type, place)
        if record.key in seen:
            raise ValueError(f"{place}: duplicate key {record.key!r}, first seen at {seen[record.key]}; keep one of the two")
        seen[record.key] = place
        yield record


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
        if not _is_instance(row[name], annotation):
            raise ValueError(f"{place}: {name!r} is {row[name]!r:.80}, expected {annotation}")
        # JSON writes 1.0 as 1 when it comes from elsewhere.
        values[name] = [float(x) for x in row[name]] if name in FLOAT_LISTS and row[name] is not None else row[name]
    return record_type(**values)


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


def write_text(path: str | Path, text: str) -> None:
    """Write aside, sync, rename: `path` holds the old text or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_jsonl(path: str | Path, records: Iterable[Any]) -> None:
    """Write records or dicts as one JSONL file, all or nothing."""
    write_text(path, "".join(map(to_line, records)))


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value with full precision, all or nothing."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def clean_text(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 file can hold, and NUL bytes."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


class ShardWriter:
    """Resumable output of a long stage. `output` is a folder of shards, or a `.jsonl` file assembled from them at the end.

    Shards reach the disk whole (aside, sync, rename) after `shard_size` records or `flush_seconds`, so a kill costs only what was
    still in memory. `finished_keys` holds the keys already there: a stage skips them. `prefix` keeps concurrent writers apart.
    """

    def __init__(self, output: str | Path, shard_size: int = 2000, flush_seconds: float = 10.0, prefix: str = "part"):
        self.output = Path(output)
        self.is_file = self.output.suffix == ".jsonl"
        self.folder = self.output.with_name(self.output.name + ".partial") if self.is_file else self.output
        self.shard_size, self.flush_seconds, self.prefix = shard_size, flush_seconds, prefix
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f".{prefix}-*.tmp"):
            leftover.unlink()
        sources = [self.folder] if any(self.folder.glob("*.jsonl")) else []
        sources += [self.output] if self.is_file and self.output.exists() else []
        self.finished_keys: set[Key] = {(row["question_id"], row["sample_index"]) for s in sources for row, _ in read_jsonl(s)}
        numbers = [int(f.stem.rsplit("-", 1)[1]) for f in self.folder.glob(f"{prefix}-*.jsonl")]
        self._next_shard = max(numbers, default=-1) + 1
        self._lines: list[str] = []
        self._last_flush = time.monotonic()

    def write(self, record: Any) -> None:
        row = to_row(record)
        self._lines.append(to_line(row))
        self.finished_keys.add((row["question_id"], row["sample_index"]))
        if len(self._lines) >= self.shard_size or time.monotonic() - self._last_flush > self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            write_text(self.folder / f"{self.prefix}-{self._next_shard:05d}.jsonl", "".join(self._lines))
            self._next_shard += 1
            self._lines = []
        self._last_flush = time.monotonic()

    def close(self) -> None:
        """Flush; a file output is assembled here, in key order, and its shards removed."""
        self.flush()
        if not self.is_file:
            return
        rows = [row for row, _ in read_jsonl(self.output)] if self.output.exists() else []
        if any(self.folder.glob("*.jsonl")):
            # A kill between the rename and the removal leaves shards whose rows already stand in the file.
            known = {(row["question_id"], row["sample_index"]) for row in rows}
            rows += [row for row, _ in read_jsonl(self.folder) if (row["question_id"], row["sample_index"]) not in known]
        write_jsonl(self.output, sorted(rows, key=lambda row: (row["question_id"], row["sample_index"])))
        shutil.rmtree(self.folder)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            self.flush()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        if files := sorted(f for f in path.glob("*.jsonl") if not f.name.startswith(".")):
            return files
        raise FileNotFoundError(f"{path}: the folder holds no .jsonl file")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return [path]


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{file}:{number}", _parse(line, f"{file}:{number}")


def _array_items(file: Path) -> Iterator[tuple[str, Any]]:
    value = _parse(file.read_bytes(), str(file))
    if not isinstance(value, list):
        raise ValueError(f"{file}: expected a JSON array of objects; a file with one object a line is named .jsonl")
    yield from ((f"{file}[{index}]", item) for index, item in enumerate(value))


def _parse(raw: bytes, place: str) -> Any:
    try:
        value = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON ({error}); repair or delete it") from error
    return _clean(value) if b"\\u" in raw else value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(name): _clean(item) for name, item in value.items()}
    return value


@cache
def _fields(record_type: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(record_type)
    return {f.name: (hints[f.name], f.default is dataclasses.MISSING) for f in dataclasses.fields(record_type)}


def _required(record_type: type) -> list[str]:
    return [name for name, (_, is_required) in _fields(record_type).items() if is_required]


def _is_instance(value: Any, annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType):
        return any(_is_instance(value, option) for option in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        (item_type,) = typing.get_args(annotation)
        return isinstance(value, list) and all(_is_instance(item, item_type) for item in value)
    if isinstance(value, bool):
        return annotation is bool
    return isinstance(value, (int, float) if annotation is float else annotation)
