"""Grouping without memory: a stream of responses in, buckets that hold whole questions out, and back to one sorted stream.

What is held at a time is one bucket, however many responses there are. Nothing that comes out depends on the number of buckets.
"""

import heapq
import itertools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from prm.data.hub import parse_source
from prm.files import data_files, read_rows
from prm.records import Response, Row, to_line, to_record
from prm.tracking import progress

BUCKET_BYTES = 1 << 23
"""Input per bucket; as Python objects it takes about five times as much."""
MAX_OPEN = 256
"""Files that are read side by side; systems often allow 1024."""


class Buckets:
    """Files in a folder, each with all rows of its questions, in their order."""

    def __init__(self, folder: Path, num_buckets: int):
        self.folder, self.num_buckets = folder, num_buckets
        self._lines: list[list[str]] = [[] for _ in range(num_buckets)]
        self._held = 0
        folder.mkdir(parents=True)

    def fill(self, records: Iterable[Response | Row]) -> int:
        """Sort a stream of responses, or of rows with a `question_id`, into the files; returns how many there were."""
        count = 0
        for record in progress(records, desc="reading", unit="response"):
            count += 1
            question_id = record["question_id"] if isinstance(record, dict) else record.question_id
            line = to_line(record)
            self._lines[zlib.crc32(question_id.encode()) % self.num_buckets].append(line)
            self._held += len(line)
            if self._held > BUCKET_BYTES:
                self._flush()
        self._flush()
        return count

    def _flush(self) -> None:
        for index, lines in enumerate(self._lines):
            if lines:
                with open(self.file(index), "a", encoding="utf-8") as file:
                    file.writelines(lines)
                lines.clear()
        self._held = 0

    def file(self, index: int) -> Path:
        return self.folder / f"{index:05d}.jsonl"

    def rows(self, index: int) -> Iterator[Row]:
        """The rows of one bucket, in the order in which they came."""
        return (row for row, _ in read_rows(self.file(index))) if self.file(index).exists() else iter(())

    def responses(self, index: int) -> list[Response]:
        """The responses of one bucket, in key order."""
        return sorted((to_record(row, Response, "bucket") for row in self.rows(index)), key=lambda response: response.key)


def num_buckets(source: str | Path) -> int:
    """Enough for the files at a path; of a hub dataset the size is not known."""
    if parse_source(source) is not None:
        return MAX_OPEN
    return 1 + sum(file.stat().st_size for file in data_files(source)) // BUCKET_BYTES


def read_responses(file: Path) -> Iterator[Response]:
    """Responses of a file that this package wrote."""
    return (to_record(row, Response, place) for row, place in read_rows(file))


def by_question(responses: Iterable[Response]) -> Iterator[list[Response]]:
    """The responses of one question at a time; they must follow each other."""
    return (list(group) for _, group in itertools.groupby(responses, key=lambda response: response.question_id))


def merge(files: list[Path]) -> Iterator[Response]:
    """The responses of files that are in key order each, in key order."""
    while len(files) > MAX_OPEN:
        first, rest = files[:MAX_OPEN], files[MAX_OPEN:]
        merged = first[0].with_name(f"{first[0].stem}-merged.jsonl")
        with open(merged, "w", encoding="utf-8") as file:
            file.writelines(map(to_line, merge(first)))
        for source in first:
            source.unlink()
        files = [*rest, merged]
    return heapq.merge(*map(read_responses, files), key=lambda response: response.key)
