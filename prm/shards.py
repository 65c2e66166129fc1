"""Resumable output: records in; shards that are whole or absent, and the keys that an interrupted stage has finished, out."""

import shutil
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.files import KeySet, hash64, read_rows, write_jsonl, write_text
from prm.records import Key, Row, to_line, to_record, to_row


@dataclass(kw_only=True)
class ShareConfig:
    """Which share of the questions a job takes, where several write to one folder."""

    shard_index: int = 0
    """Which share of the questions this job takes, from 0."""
    num_shards: int = 1
    """Jobs that share the questions; all write to the same output folder."""

    def check_share(self, output: str) -> None:
        """Raise ValueError for a share that does not exist, and for an output that jobs cannot share."""
        if not 0 <= self.shard_index < self.num_shards:
            raise ValueError(f"--shard_index {self.shard_index} of --num_shards {self.num_shards}; it counts from 0")
        if self.num_shards > 1 and output.endswith(".jsonl"):
            raise ValueError(f"--output {output}: {self.num_shards} jobs share a folder; leave the ending out")


@dataclass(frozen=True, slots=True)
class KeyedRow:
    """What the rows of every stage have in common."""

    question_id: str
    sample_index: int


class ShardWriter:
    """Output of a long stage. `output` is a folder of shards, or a `.jsonl` file joined from them, in the order of writing.

    Shards reach the disk whole (aside, sync, rename) after `shard_size` records or `flush_seconds`, so a kill costs only what was
    still in memory. `finished_keys` holds the keys already there: a stage skips them. Every row there must be a `record_type`.
    Writers that share a folder have different `prefix`es. An `optional` output does not exist before its first record.
    """

    def __init__(
        self,
        output: str | Path,
        shard_size: int = 2000,
        flush_seconds: float = 10.0,
        prefix: str = "part",
        record_type: type = KeyedRow,
        optional: bool = False,
    ):
        self.output, self.record_type = Path(output), record_type
        self.is_file, self.optional = self.output.suffix == ".jsonl", optional
        self.folder = self.output.with_name(self.output.name + ".partial") if self.is_file else self.output
        self.shard_size, self.flush_seconds, self.prefix = shard_size, flush_seconds, prefix
        self._is_new = not self.folder.exists()
        if not optional:
            self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f".{prefix}-*.tmp"):
            leftover.unlink()
        self.finished_keys = KeySet(row_key(row) for row in self.finished_rows())
        numbers = [int(f.stem.rsplit("-", 1)[1]) for f in self.folder.glob(f"{prefix}-*.jsonl")]
        self._next_shard = max(numbers, default=-1) + 1
        self._lines: list[str] = []
        self._last_flush = time.monotonic()

    def finished_rows(self) -> Iterator[Row]:
        """What is on disk: the file of an earlier run, then its shards. A key may stand twice after a kill in `close`.

        Raises ValueError, naming the place, for a row that is no `record_type`.
        """
        places = [self.output] if self.is_file and self.output.exists() else []
        for place in [*places, *([self.folder] if any(self.folder.glob("*.jsonl")) else [])]:
            for row, where in read_rows(place):
                try:
                    to_record(row, self.record_type, where)
                except ValueError as error:
                    raise ValueError(f"{error}; repair or remove the row, or name another --output") from error
                yield row

    def last_shard_size(self) -> int:
        """Rows of the newest shard; 0 if there is none."""
        last = self.folder / f"{self.prefix}-{self._next_shard - 1:05d}.jsonl"
        return sum(1 for _ in read_rows(last)) if last.exists() else 0

    def write(self, record: Any) -> None:
        row = to_row(record)
        self._lines.append(to_line(row))
        self.finished_keys.add(row_key(row))
        if len(self._lines) >= self.shard_size or time.monotonic() - self._last_flush > self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory. Raises ValueError where another job has written that shard: it would be lost."""
        if self._lines:
            path = self.folder / f"{self.prefix}-{self._next_shard:05d}.jsonl"
            if path.exists():
                raise ValueError(
                    f"{path}: another job writes here; let it end and give the command again, or name another --output"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, self._lines)
            self._next_shard += 1
            self._lines = []
        self._last_flush = time.monotonic()

    def close(self) -> None:
        """Flush; a file output is joined here, and its shards removed."""
        self.flush()
        if self.is_file and self.folder.exists():
            write_jsonl(self.output, self._distinct_rows())
            shutil.rmtree(self.folder)

    def _distinct_rows(self) -> Iterator[Row]:
        """Every row once: a kill between the two steps of `close` leaves shards whose rows already stand in the file."""
        seen = KeySet()
        for row in self.finished_rows():
            if row_key(row) not in seen:
                seen.add(row_key(row))
                yield row

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            self.flush()
            if self._is_new and not self.optional and not any(self.folder.iterdir()):
                self.folder.rmdir()


class WrittenBefore:
    """Tells whether a record was written before, with the same content in `fields`; holds 8 bytes of a hash per row on disk."""

    def __init__(self, writer: ShardWriter, fields: Sequence[str]):
        self.writer, self.fields = writer, fields
        self.digests = array("Q", sorted(self._digest(row) for row in writer.finished_rows()))

    def holds(self, record: Any) -> bool:
        """Whether the record stands there. Raises ValueError if its key does, but with other content."""
        if record.key not in self.writer.finished_keys:
            return False
        digest = self._digest(to_row(record))
        place = bisect_left(self.digests, digest)
        if place == len(self.digests) or self.digests[place] != digest:
            raise ValueError(
                f"{self.writer.output}: holds a result for another {' or '.join(self.fields)} under {record.key!r}; remove it or "
                "name another --output"
            )
        return True

    def _digest(self, row: Row) -> int:
        return hash64("\0".join(str(row.get(name)) for name in ("question_id", "sample_index", *self.fields)))


def in_shard(question_id: str, shard_index: int, num_shards: int) -> bool:
    """Whether a question belongs to this one of several jobs: decided by a hash of its id, so that no job has to see all."""
    return hash64(question_id) % num_shards == shard_index


def row_key(row: Row) -> Key:
    return row["question_id"], row["sample_index"]
