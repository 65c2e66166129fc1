"""Conversion: data of any known shape in, one of our formats or stepwise supervision out, with counts of what was left out."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from prm.data.hub import hash_source
from prm.data.sources import iter_questions, iter_responses, iter_rollouts
from prm.files import write_jsonl
from prm.records import Response, Row
from prm.tracking import check_output, manifest_path, progress, refuse_other_run, write_manifest

logger = logging.getLogger(__name__)

READERS: dict[str, Callable[..., Iterator[Any]]] = {
    "response": iter_responses,
    "stepwise": iter_responses,
    "question": iter_questions,
    "rollout": iter_rollouts,
}
NEUTRAL = {"good": 1.0, "bad": -1.0}


@dataclass
class ConvertConfig:
    """Options of `scripts/convert_dataset.py`."""

    input: str
    """A file or folder of any known shape, a preset (gsm8k, prm800k, ...) or hub:OWNER/NAME[@REVISION][[:CONFIG]:SPLIT]."""
    output: str
    """A .jsonl file, written whole or not at all, or a folder of shards, where an interrupted run continues."""
    format: Literal["response", "stepwise", "question", "rollout"] = "response"
    """What to write: records of ours, or stepwise supervision (`prompt, completions, labels`)."""
    neutral: Literal["keep", "good", "bad"] = "keep"
    """What becomes of step label 0: it stays, or is 1 (as Qwen reads PRM800K) or -1."""
    labels: Literal["all", "last"] = "all"
    """Steps that keep their label: with `last` the others get null, so that each rating of PRM800K counts once."""
    label_type: Literal["bool", "number"] = "bool"
    """Labels of --format stepwise: true and false for 1 and -1, which TRL reads, or numbers, neutral and soft ones among them."""
    skip_unreadable: bool = False
    """Count rows that do not read as their shape and go on, instead of stopping at the first."""
    shard_size: int = 10_000
    """Rows of a shard, where --output is a folder."""

    def __post_init__(self) -> None:
        has_labels = self.format in ("response", "stepwise")
        for option, value, is_read in (
            ("neutral", self.neutral != "keep", has_labels),
            ("labels", self.labels != "all", has_labels),
            ("label_type", self.label_type != "bool", self.format == "stepwise"),
        ):
            if value and not is_read:
                raise ValueError(f"--{option} {getattr(self, option)}: --format {self.format} does not read it; leave it out")
        if self.shard_size < 1:
            raise ValueError(f"--shard_size {self.shard_size}: must be at least 1 row")


def convert_dataset(config: ConvertConfig) -> dict[str, Any]:
    """Convert and write; returns the manifest's counts.

    Raises as the readers do, and ValueError for an input that gives nothing to write, for labels that the format cannot hold, and
    for an output that is the input or was made from something else.
    """
    output, dropped = Path(config.output), Counter()
    check_output("--output", config.output, [config.input], ".jsonl")
    inputs = {config.input: hash_source(config.input)}
    options = {name: value for name, value in vars(config).items() if name not in ("input", "output")}
    run = {"input": inputs[config.input], **options}
    is_file, place = output.suffix == ".jsonl", manifest_path(output)
    if not is_file:
        refuse_other_run(output, run)
    manifest = partial(write_manifest, place.parent, config, inputs, extra={"run": run}, name=place.name)
    rows = converted(config, dropped)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{config.input}: nothing to write as --format {config.format}; dropped: {dict(+dropped)}")
    counted = Count(chain([first], rows))
    if is_file:
        write_jsonl(output, counted)
    else:
        manifest()
        write_shards(output, counted, config.shard_size)
    counts = {"written": counted.number, "dropped": dict(+dropped)}
    manifest(counts=counts)
    logger.info("%s: %d rows written, dropped: %s", output, counted.number, counts["dropped"] or "none")
    return counts


def converted(config: ConvertConfig, dropped: Counter[str]) -> Iterator[Any]:
    """The rows to write, one at a time; what is left out is counted by reason."""
    records = READERS[config.format](config.input, dropped, config.skip_unreadable)
    for record in progress(records, desc="converting", unit="row"):
        if isinstance(record, Response):
            record = keep_last_label(record) if config.labels == "last" else record
            record = record if config.neutral == "keep" else with_neutral(record, config.neutral)
        if config.format != "stepwise":
            yield record
        elif record.step_labels is None:
            dropped["unlabelled"] += 1
        else:
            yield to_stepwise(record, config.label_type)


def to_stepwise(response: Response, label_type: Literal["bool", "number"] = "bool") -> Row:
    """A row of stepwise supervision. Raises ValueError, naming the response, for labels that booleans cannot say."""
    labels = response.step_labels
    assert labels is not None
    check_labels(response)
    if label_type == "bool":
        if others := set(labels) - {1, -1, None}:
            raise ValueError(
                f"response {response.key!r}: step label {others.pop():g} is neither good (1) nor bad (-1): give --neutral good "
                "or bad, or --label_type number"
            )
        labels = [None if label is None else label > 0 for label in labels]
    return {"prompt": response.question, "completions": response.steps, "labels": labels}


def with_neutral(response: Response, policy: Literal["good", "bad"]) -> Response:
    """Step label 0 as good or bad. Raises ValueError, naming the response, for soft targets, of which 0 is one."""
    labels = response.step_labels
    if labels is None:
        return response
    if soft := set(labels) - {-1, 0, 1, None}:
        raise ValueError(f"response {response.key!r}: step label {soft.pop():g} is a soft target; --neutral is for -1, 0 and 1")
    return replace(response, step_labels=[NEUTRAL[policy] if label == 0 else label for label in labels])


def keep_last_label(response: Response) -> Response:
    """All labels but the last one are null."""
    labels = response.step_labels
    return response if not labels else replace(response, step_labels=[None] * (len(labels) - 1) + labels[-1:])


def check_labels(response: Response) -> None:
    """Raises ValueError unless every step has a label."""
    if len(response.step_labels or ()) != len(response.steps):
        raise ValueError(
            f"response {response.key!r}: {len(response.step_labels or ())} step labels for {len(response.steps)} steps; "
            "label every step, with null where nobody knows"
        )


def write_shards(folder: Path, rows: Iterable[Any], shard_size: int) -> None:
    """Write `part-00000.jsonl`, ... of `shard_size` rows each, whole or not at all; what an earlier run wrote stays as it is."""
    rows = iter(rows)
    for number, first in enumerate(rows):
        shard = chain([first], islice(rows, shard_size - 1))
        path = folder / f"part-{number:05d}.jsonl"
        if path.exists():
            deque(shard, maxlen=0)
        else:
            write_jsonl(path, shard)


class Count:
    """Passes rows on and counts them."""

    def __init__(self, rows: Iterable[Any]):
        self.rows, self.number = rows, 0

    def __iter__(self) -> Iterator[Any]:
        for row in self.rows:
            self.number += 1
            yield row
