"""Consensus of two label sets: the same responses labelled twice in, those on which both find the same first error out.

Source: the consensus filter of Zhang et al. 2025, "The Lessons of Developing Process Reward Models", where a judge and Monte-Carlo
estimation must agree. One side is held as a byte a step and sixteen a response, the other is streamed.
"""

import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prm.annotation.base import LabelConfig
from prm.data.hub import hash_source, parse_source
from prm.data.sources import iter_responses
from prm.files import hash64, write_json, write_jsonl
from prm.metrics import cohen_kappa
from prm.records import Response
from prm.shards import in_shard
from prm.tracking import check_output, manifest_path, progress, refuse_other_run, shard_prefix, write_manifest

logger = logging.getLogger(__name__)

BAD, NEUTRAL, GOOD, UNLABELLED = range(4)
CLASSES = ("bad", "neutral", "good", "unlabelled")
RELATIONS = ("both_none", "same", "earlier", "later", "only_input", "only_other", "unknown")
"""Where `--input` finds its first error, seen from that of `--other`; unknown if either has an unlabelled step before it."""
AGREEING = ("both_none", "same")
NO_ERROR = -1


@dataclass
class ConsensusConfig(LabelConfig):
    """Keep the responses on which two label sets agree about the first error."""

    input: str = "data/judged"
    """Labelled responses; those that are kept keep these labels."""
    other: str = "data/monte_carlo"
    """The same responses, labelled in another way."""
    output: str = "data/consensus"
    """Responses on which both agree: a folder, or one file if the name ends in .jsonl."""
    soft_threshold: float = 0.0
    """A step with Monte-Carlo completions is bad up to this label, that is this share of right completions; other steps below 0."""

    def check(self) -> None:
        super().check()
        if not 0 <= self.soft_threshold < 1:
            raise ValueError(f"--soft_threshold is {self.soft_threshold}; it must lie in [0, 1)")
        check_output("--output", self.output, [self.other], ".jsonl")
        if Path(self.other).resolve() == Path(self.input).resolve():
            raise ValueError(f"--other {self.other} is the input itself; name the second label set")


@dataclass
class Agreement:
    """What two label sets say about the same responses: relations of first errors, and pairs of step classes."""

    relations: Counter[str] = field(default_factory=Counter)
    steps: np.ndarray = field(default_factory=lambda: np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64))
    missing_in_other: int = 0
    missing_in_input: int = 0

    def add(self, mine: bytes, theirs: bytes) -> str:
        """Count one response; returns the relation of its first errors."""
        relation = relation_of(first_error(mine), first_error(theirs))
        self.relations[relation] += 1
        np.add.at(self.steps, (list(mine), list(theirs)), 1)
        return relation

    def counts(self) -> dict[str, int]:
        """Responses kept, and dropped by reason."""
        kept = sum(self.relations[name] for name in AGREEING)
        dropped = {f"dropped_{name}": self.relations[name] for name in RELATIONS if name not in AGREEING}
        return {"kept": kept, **dropped, "missing_in_other": self.missing_in_other, "missing_in_input": self.missing_in_input}

    def metrics(self) -> dict[str, Any]:
        known = sum(self.relations[name] for name in RELATIONS if name != "unknown")
        agreed = sum(self.relations[name] for name in AGREEING)
        return {
            "first_errors": {name: self.relations[name] for name in RELATIONS},
            "first_error_agreement": agreed / known if known else None,
            "steps": {name: dict(zip(CLASSES, row, strict=True)) for name, row in zip(CLASSES, self.steps.tolist(), strict=True)},
            "cohen_kappa": cohen_kappa(is_bad_matrix(self.steps)),
        }


def find_consensus(config: ConsensusConfig) -> dict[str, int]:
    """Write the responses on which both sets agree, and `metrics.json`; returns the counts that the manifest holds too.

    Raises ValueError for a key under which the two hold other steps, for labels that are not one a step, and if no key is in both.
    """
    config.check()
    for path in (config.input, config.other):
        parse_source(path)
    output, job = Path(config.output), (config.shard_index, config.num_shards)
    is_file, manifest = output.suffix == ".jsonl", manifest_path(output, *job)
    target = output if is_file else output / f"{shard_prefix(*job)}-00000.jsonl"
    run = {"method": "consensus", "soft_threshold": config.soft_threshold}
    run |= {"input": hash_source(config.input), "other": hash_source(config.other)}
    refuse_other_run(output, run)

    others = LabelIndex(mine(config, config.other), config.soft_threshold, config.other)
    agreement = Agreement()
    for _ in agreeing(config, others, agreement):
        pass
    if not agreement.relations:
        raise ValueError(f"--input {config.input} and --other {config.other} have no response in common; check both")
    agreement.missing_in_input = len(others) - agreement.relations.total()
    counts, metrics = agreement.counts(), agreement.metrics()
    # The rows come last: wherever this is interrupted, there are none without their manifest.
    write_json(manifest.with_name(manifest.name.replace("manifest", "metrics")), metrics)
    write_manifest(manifest.parent, config, counts=counts, extra={"run": run, "metrics": metrics}, name=manifest.name)
    write_jsonl(target, agreeing(config, others, Agreement()))
    logger.info("%s", format_agreement(metrics))
    return counts


def mine(config: ConsensusConfig, path: str) -> Iterator[Response]:
    """The responses of this job."""
    responses = progress(iter_responses(path), desc=Path(path).name, unit="response")
    return (response for response in responses if in_shard(response.question_id, config.shard_index, config.num_shards))


def agreeing(config: ConsensusConfig, others: "LabelIndex", agreement: Agreement) -> Iterator[Response]:
    """The responses to keep; all of them are counted in `agreement`."""
    for response in mine(config, config.input):
        theirs = others.get(response, config.input)
        if theirs is None:
            agreement.missing_in_other += 1
        elif agreement.add(step_classes(response, config.soft_threshold), theirs) in AGREEING:
            yield replace(response, label_source="consensus")


class LabelIndex:
    """Step classes by key, found through 64-bit hashes."""

    def __init__(self, responses: Iterable[Response], soft_threshold: float, path: str):
        self.path = path
        keys, contents, ends, self._classes = array("Q"), array("Q"), array("Q"), bytearray()
        for response in responses:
            self._classes += step_classes(response, soft_threshold)
            keys.append(_hash(response.key))
            contents.append(_hash((response.question, response.steps)))
            ends.append(len(self._classes))
        self._order = np.argsort(np.asarray(keys))
        self._keys, self._contents, self._ends = np.asarray(keys)[self._order], np.asarray(contents), np.asarray(ends)

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, response: Response, path: str) -> bytes | None:
        """Classes of the same response here; None without it. Raises ValueError if its key stands for another response."""
        key = np.uint64(_hash(response.key))
        place = int(np.searchsorted(self._keys, key))
        if place == len(self) or self._keys[place] != key:
            return None
        index = int(self._order[place])
        if self._contents[index] != _hash((response.question, response.steps)):
            raise ValueError(
                f"{path} and {self.path} hold another question or other steps under {response.key!r}; "
                "label the same responses twice"
            )
        return bytes(self._classes[int(self._ends[index - 1]) if index else 0 : int(self._ends[index])])


def step_classes(response: Response, soft_threshold: float) -> bytes:
    """One class a step; a response without labels is unlabelled throughout."""
    labels = response.step_labels if response.step_labels is not None else [None] * len(response.steps)
    is_soft = response.has_soft_labels
    return bytes(_class(label, is_soft, soft_threshold) for label in labels)


def _class(label: float | None, is_soft: bool, soft_threshold: float) -> int:
    if label is None:
        return UNLABELLED
    if label < 0 or (is_soft and label <= soft_threshold):
        return BAD
    return NEUTRAL if label == 0 else GOOD


def first_error(classes: bytes) -> int | None:
    """Index of the first bad step, `NO_ERROR`, or None where an unlabelled step comes first. Later ones do not matter."""
    for index, name in enumerate(classes):
        if name == UNLABELLED:
            return None
        if name == BAD:
            return index
    return NO_ERROR


def relation_of(mine: int | None, theirs: int | None) -> str:
    if mine is None or theirs is None:
        return "unknown"
    if mine == theirs:
        return "both_none" if mine == NO_ERROR else "same"
    if NO_ERROR in (mine, theirs):
        return "only_other" if mine == NO_ERROR else "only_input"
    return "earlier" if mine < theirs else "later"


def is_bad_matrix(steps: np.ndarray) -> np.ndarray:
    """Pairs of (bad, not bad) over the steps that both sets label."""
    labelled = steps[:UNLABELLED, :UNLABELLED]
    rows = np.stack([labelled[BAD], labelled[NEUTRAL:].sum(0)])
    return np.stack([rows[:, BAD], rows[:, NEUTRAL:].sum(1)], axis=1)


def format_agreement(metrics: dict[str, Any]) -> str:
    """The agreement as a table."""
    rows = [("first error", "responses"), *((name, str(count)) for name, count in metrics["first_errors"].items())]
    lines = [f"{name:<14}{count:>12}" for name, count in rows]
    lines += ["", f"{'step: input':<14}" + "".join(f"{f'other {name}':>18}" for name in CLASSES)]
    lines += [f"{name:<14}" + "".join(f"{row[other]:>18}" for other in CLASSES) for name, row in metrics["steps"].items()]
    numbers = {name: metrics[name] for name in ("first_error_agreement", "cohen_kappa")}
    lines += ["", *(f"{name:<24}" + ("undefined" if value is None else f"{value:.4f}") for name, value in numbers.items())]
    return "\n".join(["", *lines])


def _hash(value: Any) -> int:
    return hash64(json.dumps(value))
