"""What every way of labelling shares: the responses of a job in; labelled ones, dropped ones and a manifest of counts out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prm.data.hub import hash_sources, parse_source
from prm.data.sources import iter_responses
from prm.records import Response, Row, to_row
from prm.shards import ShardWriter, ShareConfig, WrittenBefore, in_shard
from prm.tracking import check_output, dropped_path, manifest_path, refuse_other_run, shard_prefix, write_manifest


@dataclass
class LabelConfig(ShareConfig):
    """Where the responses come from and where their labels go."""

    input: str = "data/responses"
    """Responses: a file or folder of any shape that `prm.data.sources` knows; a whole text is split at its blank lines."""
    output: str = "data/labelled"
    """Labelled responses: a folder of shards, or one file if the name ends in .jsonl. The same command resumes."""

    def check(self) -> None:
        """Raise ValueError for values that no method can use."""
        self.check_share(self.output)
        check_output("--output", self.output, [self.input], ".jsonl")


class Labelling:
    """One job of labelling, interrupted or not: what is left to do, where its labels and its drops go, and what came of it.

    Dropped responses are kept with their reason in `OUTPUT/dropped` (`NAME.dropped.jsonl` beside a file), so that resuming does not
    pay for them twice; delete them there to try again. `run` holds the settings on which the labels depend: an output of another
    run is refused. Counts are read back from the output, so they cover interrupted runs too.
    """

    def __init__(self, config: LabelConfig, run: dict[str, Any]):
        config.check()
        parse_source(config.input)
        self.config, self.run = config, run
        self.output = Path(config.output)
        job = (config.shard_index, config.num_shards)
        self.manifest = manifest_path(self.output, *job)
        refuse_other_run(self.output, run)
        self._write_manifest({})
        prefix = shard_prefix(*job)
        self.labelled = ShardWriter(self.output, prefix=prefix)
        self.dropped = ShardWriter(dropped_path(self.output), prefix=prefix, optional=True)
        self._before = [WrittenBefore(writer, ("question", "steps")) for writer in (self.labelled, self.dropped)]

    def todo(self) -> Iterator[Response]:
        """The responses of this job that are neither labelled nor dropped yet.

        Raises ValueError if there are none at all, or the output holds another response under one of their keys.
        """
        is_empty = True
        for response in iter_responses(self.config.input):
            if self._is_mine(response.question_id):
                is_empty = False
                if not any(before.holds(response) for before in self._before):
                    yield response
        if is_empty:
            raise ValueError(f"{self.config.input}: no responses for this job; check --input or lower --num_shards")

    def write(self, response: Response, **costs: int) -> None:
        """Write a labelled response; `costs` (such as num_label_tokens) are kept in its row and summed in the manifest."""
        self.labelled.write({**to_row(response), **costs})

    def drop(self, response: Response, reason: str, **costs: int) -> None:
        self.dropped.write({**to_row(response), "reason": reason, **costs})

    def __enter__(self) -> "Labelling":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        for writer in (self.labelled, self.dropped):
            writer.__exit__(error_type, *_)
        if error_type is None:
            self.counts = self.count()
            self._write_manifest(self.counts, hash_sources([self.config.input]))

    def count(self) -> dict[str, int]:
        """Responses labelled and dropped (by reason), steps by label, sums of costs: of this job, over all its runs."""
        counts: Counter[str] = Counter(labelled=0, dropped=0)
        for row in self._rows():
            if self._is_mine(row["question_id"]):
                is_dropped = "reason" in row
                counts["dropped" if is_dropped else "labelled"] += 1
                counts.update({f"dropped_{row['reason']}": 1} if is_dropped else _steps_by_label(row["step_labels"]))
                counts.update({name: value for name, value in row.items() if name.startswith("num_")})
        return dict(counts)

    def _rows(self) -> Iterator[Row]:
        yield from self.labelled.finished_rows()
        yield from self.dropped.finished_rows()

    def _is_mine(self, question_id: str) -> bool:
        return in_shard(question_id, self.config.shard_index, self.config.num_shards)

    def _write_manifest(self, counts: dict[str, int], inputs: dict[str, str] | None = None) -> None:
        write_manifest(self.manifest.parent, self.config, inputs or {}, counts, {"run": self.run}, self.manifest.name)


def _steps_by_label(labels: list[float | None]) -> Counter[str]:
    names = {None: "null", 1: "1", 0: "0", -1: "-1"}
    return Counter(f"steps_labelled_{names.get(label, 'between')}" for label in labels)
