"""Grouping without memory: a stream of responses in, buckets that hold whole questions out, and back to one sorted stream.

What is held at a time is one bucket, however many responses there are. Nothing that comes out depends on the number of buckets.
"""

import heapq
import itertools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from prm.files import data_files, read_rows
from prm.records import Response, to_line, to_record
from prm.tracking import progress

BUCKET_BYTES = 1 << 23
"""Input per bucket; as Python objects it takes about five times as much."""
MAX_OPEN = 256
"""Files that are read side by side; systems often allow 1024."""


class Buckets:
    """Files in a folder, each with all responses of its questions."""

    def __init__(self, folder: Path, num_buckets: int):
        self.folder, self.num_buckets = folder, num_buckets
        self._lines: list[list[str]] = [[] for _ in range(num_buckets)]
        self._held = 0
        folder.mkdir(parents=True)

    def fill(self, responses: Iterable[Response]) -> int:
        """Sort a stream into the files; returns how many responses there were."""
        count = 0
        for response in progress(responses, desc="reading", unit="response"):
            count += 1
            line = to_line(response)
            self._lines[zlib.crc32(response.question_id.encode()) % self.num_buckets].append(line)
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

    def read(self, index: int) -> list[Response]:
        """The responses of one bucket, in key order."""
        return sorted(read_responses(self.file(index)), key=lambda response: response.key) if self.file(index).exists() else []


def num_buckets(path: str | Path) -> int:
    """Enough for the files at `path`."""
    return 1 + sum(file.stat().st_size for file in data_files(path)) // BUCKET_BYTES


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
