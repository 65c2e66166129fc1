"""Data files: paths in, rows with their places out; rows in, files that are whole or absent out.

A file is `.jsonl` (one object a line), `.json` (one array), `.parquet` or `.csv`. Of a folder such files are read in name order;
folders within it are not, nor are `.json` files whose names say that they are manifests, configs or results (`NO_DATA`).
Everything is streamed: one row is held at a time (of a Parquet file a few rows, of a JSON array all of it).
"""

import csv
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from prm.records import Key, Record, Row, clean_values, from_cells, to_line, to_record

PARQUET_ROWS = 256
"""Rows of a Parquet file that are held at a time."""
LARGEST_CELL = 1 << 27
"""Longest cell of a CSV file, in characters; the csv module's own limit is 128 KiB."""
GZIP = b"\x1f\x8b"
"""The first bytes of every gzip file."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Holds a random name that Linux draws anew whenever the machine starts."""


def read_rows(path: str | Path) -> Iterator[tuple[Row, str]]:
    """Yield every object with its place: `file:line`, or `file[index]` in an array or a table.

    Raises FileNotFoundError for a missing path and ValueError, naming the place, for anything that is not an object.
    """
    for file in data_files(path):
        for place, value in READERS[file.suffix](file):
            if not isinstance(value, dict):
                raise ValueError(f"{place}: expected a JSON object, found {type(value).__name__}")
            yield value, place


def read_records(path: str | Path, record_type: type[Record]) -> Iterator[Record]:
    """Yield the rows of a file or folder as `record_type`; a duplicate key is an error that names both places."""
    return without_duplicates(lambda: ((to_record(row, record_type, place), place) for row, place in read_rows(path)))


def without_duplicates(read: Callable[[], Iterator[tuple[Record, str]]]) -> Iterator[Record]:
    """The records that `read()` gives with their places. Raises ValueError, naming both places, for a key that stands twice."""
    seen = KeySet()
    for record, place in read():
        key = record.key if isinstance(record.key, tuple) else (record.key, 0)
        if key in seen:
            first = next(where for other, where in read() if other.key == record.key)
            raise ValueError(f"{place}: duplicate key {record.key!r}, first seen at {first}; keep one of the two")
        seen.add(key)
        yield record


def hash64(text: str) -> int:
    """64 bits of a hash that depends on the text alone: not on the machine or the run, as Python's own `hash` does."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


class KeySet:
    """A set of keys that costs a few bits each: for every question it holds a number whose bit i says that sample i is there.

    Sample indices from `NUM_BITS` up are kept one by one: where they are times or hashes, such a number would be huge.
    """

    NUM_BITS = 4096

    def __init__(self, keys: Iterable[Key] = ()):
        self._samples: dict[str, int] = {}
        self._others: set[Key] = set()
        self._size = 0
        for key in keys:
            self.add(key)

    def add(self, key: Key) -> None:
        if key not in self:
            question_id, sample_index = key
            if sample_index < self.NUM_BITS:
                self._samples[question_id] = self._samples.get(question_id, 0) | 1 << sample_index
            else:
                self._others.add(key)
            self._size += 1

    def __contains__(self, key: Key) -> bool:
        question_id, sample_index = key
        return bool(self._samples.get(question_id, 0) >> sample_index & 1) or key in self._others

    def __iter__(self) -> Iterator[Key]:
        for question_id, samples in self._samples.items():
            yield from ((question_id, index) for index in range(samples.bit_length()) if samples >> index & 1)
        yield from self._others

    def __len__(self) -> int:
        return self._size


def data_files(path: str | Path) -> list[Path]:
    """The file itself, or the data files of a folder in name order.

    Raises FileNotFoundError where there is none, ValueError for an unknown format, and for a file of the folder that looks like
    data but would not be read.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
        if found := [file for file in files if _is_data(file)]:
            return found
        saved = "; `load_from_disk(FOLDER).to_parquet(FILE)` of datasets makes a file that is read" * any(
            path.rglob("data-*.arrow")
        )
        raise FileNotFoundError(
            f"{path}: the folder holds no {', '.join(FOLDER_SUFFIXES)} file and no array in a .json file{saved}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.suffix not in READERS:
        raise ValueError(f"{path}: {path.suffix or 'no ending'} is no known format; known are {', '.join(READERS)}{_remedy(path)}")
    return [path]


def is_data_name(path: Path) -> bool:
    """Whether a name ends as that of a data file, be it one that can be read or one of `UNREADABLE`."""
    return path.suffix.lower() in (*READERS, *UNREADABLE)


def _is_data(file: Path) -> bool:
    """Whether a file of a folder holds rows. Raises ValueError for one that seems to, and is in no form that is read."""
    if file.suffix not in READERS and is_data_name(file):
        raise ValueError(
            f"{file}: would be left out, as the files of a folder are {', '.join(READERS)}{_remedy(file)}, or move it away"
        )
    if file.suffix != ".json":
        return file.suffix in FOLDER_SUFFIXES
    with open(file, "rb") as start:
        is_array = start.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not is_array and NO_DATA.isdisjoint(re.split(r"[._-]", file.stem)):
        raise ValueError(
            f"{file}: is no array of objects, so it would be left out; a file with one object a line is named .jsonl, another one "
            "moved away"
        )
    return is_array


def _remedy(file: Path) -> str:
    suffix = file.suffix.lower()
    if suffix in COMPRESSED:
        return "; unpack it"
    return f"; rename it to {file.with_suffix(UNREADABLE.get(suffix) or suffix).name}" if is_data_name(file) else ""


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


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file}: not a Parquet file ({error}); restore it") from error
    index = 0
    for batch in table.iter_batches(PARQUET_ROWS):
        for row in batch.to_pylist():
            yield f"{file}[{index}]", clean_values(row)
            index += 1


def _csv_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """Cells as `from_cells` reads them. Raises ValueError for a row with more or fewer cells than the header."""
    csv.field_size_limit(LARGEST_CELL)
    with open(file, encoding="utf-8-sig", errors="strict", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                place = f"{file}:{reader.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{place}: the row has not as many cells as the header; quote cells that hold commas")
                yield place, clean_values(from_cells(row))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{file}:{reader.line_num + 1}: not valid CSV in UTF-8 ({error}); repair or delete it") from error


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _lines,
    ".json": _array_items,
    ".parquet": _parquet_rows,
    ".csv": _csv_rows,
}
FOLDER_SUFFIXES = (".jsonl", ".parquet", ".csv")
"""Endings of what is data in any case; a `.json` file is if it holds an array, as manifests and configs stand beside shards."""
NO_DATA = {
    *("manifest", "config", "configs", "metrics", "calibration", "info", "infos", "index", "state", "dict", "plan"),
    *("tokenizer", "tokens", "vocab", "complete", "settings", "statistics"),
}
"""A `.json` file with one of these words in its name holds no rows."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
UNREADABLE: dict[str, str | None] = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".jl": ".jsonl"} | dict.fromkeys(COMPRESSED)
"""Endings of data that is not read, and the ending that the file should have instead; None where it must be unpacked."""


def _parse(raw: bytes, place: str) -> Any:
    if raw.startswith(GZIP):
        raise ValueError(f"{place}: is compressed (gzip); unpack it, as `gunzip < FILE > FILE.jsonl` does")
    try:
        value = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON ({error}); repair or delete it") from error
    return clean_values(value) if b"\\u" in raw else value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def read_json(path: str | Path, remedy: str, kind: type = dict) -> Any:
    """The one JSON value of a file, an object if nothing else is said. Raises ValueError, naming file and remedy, for another."""
    try:
        value = clean_values(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); {remedy}") from error
    if not isinstance(value, kind):
        name = {dict: "object", list: "array"}[kind]
        raise ValueError(f"{path}: expected a JSON {name}, found {type(value).__name__}; {remedy}")
    return value


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A place to write to, renamed to `path` at the end: `path` is the old file or the new one, never a part of it.

    The place is this process's own, and may become a folder if `path` is not one yet. What writers of `path` that were killed on
    this machine left behind is removed; files of other machines stay, as their processes may still be writing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}.{_process_space()}."
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        writer = leftover.name.removeprefix(prefix).removesuffix(".tmp")
        if writer.isdecimal() and (int(writer) == os.getpid() or not _is_running(int(writer))):
            with suppress(PermissionError):  # another user's, in a folder where each removes only what is their own
                _remove(leftover)
    aside = path.with_name(f"{prefix}{os.getpid()}.tmp")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk names none
        raise
    finally:
        _remove(aside)


@cache
def _process_space() -> str:
    """Name of where a process number stands for one process: this machine since its last start, and this container on it.

    Not the host's name, which another machine that sees the same files may have, too. Random where the system has no boot id.
    """
    if not BOOT_ID.exists():
        return secrets.token_hex(8)
    return f"{hash64(BOOT_ID.read_text() + os.readlink('/proc/self/ns/pid')):016x}"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | Path, text: str | Iterable[str]) -> None:
    """Write aside, sync, rename: `path` holds the old text or the new one, never a part. Text may come in pieces."""
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(path: str | Path, records: Iterable[Any]) -> None:
    """Write records or dicts as one JSONL file, all or nothing."""
    write_text(path, map(to_line, records))


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON value with full precision, all or nothing."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
