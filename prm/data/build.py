"""Dataset builder: graded rollouts in, a folder with train.jsonl, validation.jsonl and a manifest of everything dropped out.

The recipe of the paper's appendix B.1: unlabelled responses go, questions that are too easy or too hard go, training and validation
are split by question. Responses are streamed into buckets of whole questions, filtered bucket by bucket, and merged in key order:
memory does not grow with their number.
"""

import logging
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prm.data.buckets import Buckets, by_question, merge, num_buckets
from prm.data.card import write_card
from prm.data.decontaminate import EvaluationIndex, Overlap
from prm.data.duplicates import drop_duplicates, drop_near_duplicates
from prm.data.filters import (
    balance,
    check_response,
    check_trainable,
    drop_rate_above,
    drop_rate_below,
    join_step_labels,
    last_held_out,
    seeded_hash,
)
from prm.data.histograms import draw_histograms
from prm.data.hub import hash_sources
from prm.data.labelled import input_of, iter_labelled
from prm.data.options import BuildConfig
from prm.data.sources import iter_responses
from prm.data.statistics import Statistics
from prm.data.tokens import encode_file
from prm.files import write_jsonl
from prm.records import Response, to_line
from prm.steps import StepEncoder, join_steps, load_tokenizer, token_counts
from prm.tracking import check_output, progress, write_manifest

logger = logging.getLogger(__name__)

Stage = Callable[[list[Response]], list[Response]]
"""All responses of one question in, those that stay out."""

MAX_LISTED = 100
"""Overlaps with evaluation files that the manifest lists; report/decontamination.jsonl has all."""
SPLITS = ("train", "validation")
REPORT = "report"
"""Folder for what is not data: readers of a folder take every .jsonl file in it for responses."""


def build_dataset(config: BuildConfig) -> dict[str, Any]:
    """Build and write the dataset; returns the manifest's counts. After an error the output is what it was before.

    Raises ValueError, naming the response, for steps or labels that do not fit, and for a dataset that cannot teach anything.
    """
    output = Path(config.output)
    aside, old, work = (output.with_name(f".{output.name}.{role}") for role in ("new", "old", "work"))
    if old.exists() and not output.exists():  # killed while it replaced a dataset
        old.rename(output)
    inputs = [config.responses or config.rollouts, config.step_labels, *config.decontaminate]
    check_output("--output", config.output, inputs)
    _check_dataset(output)
    for leftover in (aside, old, work):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        counts = Build(config, work, aside).run()
        if output.exists():
            output.rename(old)
        aside.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        for leftover in (aside, work):
            shutil.rmtree(leftover, ignore_errors=True)
    _log(counts)
    return counts


def _check_dataset(output: Path) -> None:
    """A dataset may be replaced; anything else that stands there was not made by us."""
    if output.exists() and not (output / "train.jsonl").exists() and (output.is_file() or any(output.iterdir())):
        raise ValueError(f"--output {output}: stands there already and is not a dataset; name another folder")


class Build:
    """One run: buckets and what stays of them go to `work`, the finished dataset to `folder`."""

    def __init__(self, config: BuildConfig, work: Path, folder: Path):
        self.config, self.work, self.folder = config, work, folder
        self.count_tokens = partial(token_counts, load_tokenizer(config.tokenizer)) if config.tokenizer else None
        self.index = EvaluationIndex.from_files(config.decontaminate, config.ngram)
        self.overlaps: list[Overlap] = []
        self.stages = self._stages()
        self.dropped, self.left_out = Counter[str](), Counter[str]()
        self.dropped_questions = Counter(dict.fromkeys(self.stages, 0))
        self.num_labels = self.num_joined = 0
        self.kept_questions = array("Q")
        """A hash of every question that stays."""
        self.statistics = {name: Statistics() for name in ("read", *SPLITS)}

    def run(self) -> dict[str, Any]:
        responses, labels = self._partition()
        self.dropped.update(dict.fromkeys(self.stages, 0))
        self.folder.mkdir(parents=True)
        indices = progress(range(responses.num_buckets), desc="filtering", unit="bucket")
        kept = [self._filter(responses.responses(index), labels.responses(index), f"{index:05d}.jsonl") for index in indices]
        if self.config.step_labels and self.kept_questions and not self.num_joined:
            path = self.config.step_labels
            raise ValueError(f"--step_labels {path}: none of its {self.num_labels} keys is among the responses kept")
        self._write_splits(merge(kept))
        check_trainable(self.statistics["train"], self.dropped)
        if self.config.tokenize:
            encoder = StepEncoder.for_loss(self.config.loss or "asym", load_tokenizer(self.config.tokenize))
            for path in sorted(self.folder.glob("*.jsonl")):
                encode_file(path, encoder, self.folder)
        return self._describe()

    def _partition(self) -> tuple[Buckets, Buckets]:
        """Responses that have an outcome or may get step labels, and the responses that carry those labels."""
        config = self.config
        size = num_buckets(input_of(config))
        responses, labels = (Buckets(self.work / name, size) for name in ("responses", "labels"))
        responses.fill(iter_labelled(config, self.count_tokens, self.dropped, self.left_out))
        if config.step_labels:
            self.num_labels = labels.fill(r for r in iter_responses(config.step_labels) if r.step_labels is not None)
        return responses, labels

    def _stages(self) -> dict[str, Stage]:
        """What drops responses, in this order, by the reason under which the manifest counts them."""
        config = self.config
        stages: dict[str, Stage] = {
            "overlaps_evaluation": self._drop_overlapping,
            "pass_rate_too_low": partial(drop_rate_below, bound=config.min_pass_rate),
            "pass_rate_too_high": partial(drop_rate_above, bound=config.max_pass_rate),
            "duplicate": drop_duplicates if config.deduplicate else list,
        }
        if config.near_duplicates is not None:
            stages["near_duplicate"] = partial(drop_near_duplicates, threshold=config.near_duplicates)
        if config.balance:
            stages["imbalance"] = partial(balance, seed=config.seed)
        return stages

    def _drop_overlapping(self, responses: list[Response]) -> list[Response]:
        questions = dict.fromkeys(response.question for response in responses)
        found = {overlap.file: overlap for text in questions for overlap in self.index.find(responses[0].question_id, text)}
        self.overlaps += found.values()
        return [] if found else responses

    def _filter(self, responses: list[Response], labels: list[Response], name: str) -> Path:
        """Send every question of a bucket through the stages, and write what stays, in key order."""
        labels_of = {labelled[0].question_id: labelled for labelled in by_question(labels)}
        path = self.work / name
        with open(path, "w", encoding="utf-8") as file:
            for question in by_question(responses):
                question_id = question[0].question_id
                self.statistics["read"].add_question(question)
                if kept := self._apply_stages(question):
                    self.num_joined += len({r.key for r in kept} & {r.key for r in labels_of.get(question_id, ())})
                    kept = join_step_labels(kept, labels_of.get(question_id, []))
                    for response in kept:
                        check_response(response)
                    file.writelines(map(to_line, kept))
                    self.kept_questions.append(seeded_hash(self.config.seed, question_id))
        return path

    def _apply_stages(self, responses: list[Response]) -> list[Response]:
        for reason, stage in self.stages.items():
            if responses:
                kept = stage(responses)
                self.dropped[reason] += len(responses) - len(kept)
                self.dropped_questions[reason] += not kept
                responses = kept
        return responses

    def _write_splits(self, responses: Iterator[Response]) -> None:
        last = last_held_out(self.kept_questions, self.config.validation_fraction)
        with _open(self.folder / "train.jsonl") as train, _open(self.folder / "validation.jsonl") as validation:
            for question in progress(by_question(responses), total=len(self.kept_questions), desc="writing", unit="question"):
                is_held_out = seeded_hash(self.config.seed, question[0].question_id) <= last
                (validation if is_held_out else train).writelines(map(to_line, question))
                num_tokens = self.count_tokens([join_steps(r.steps) for r in question]) if self.count_tokens else ()
                self.statistics["validation" if is_held_out else "train"].add_question(question, num_tokens)
            for file in (train, validation):
                file.flush()
                os.fsync(file.fileno())
        if not self.statistics["validation"].responses:
            (self.folder / "validation.jsonl").unlink()

    def _describe(self) -> dict[str, Any]:
        """Write the card, histograms, overlaps and the manifest; returns the manifest's counts."""
        config = self.config
        summaries = {name: statistics.summary() for name, statistics in self.statistics.items()}
        unlabelled = sum(self.dropped[reason] for reason in self.dropped.keys() - self.stages)
        counts = {
            "responses_read": self.statistics["read"].responses + unlabelled,
            "responses_dropped": dict(self.dropped),
            "questions_dropped": dict(self.dropped_questions),
            **summaries,
        }
        if +self.left_out:
            counts["left_out_of_rows"] = dict(+self.left_out)
        if config.step_labels:
            counts["step_labels"] = {"read": self.num_labels, "joined": self.num_joined}
        self.overlaps.sort(key=lambda overlap: (overlap.question_id, overlap.file))
        overlaps = list(map(asdict, self.overlaps))
        if config.decontaminate:
            matches = {path: Counter(o.match for o in self.overlaps if o.file == path) for path in self.index.paths}
            counts["overlaps"] = {path: dict(by_match) for path, by_match in matches.items()}
            write_jsonl(self.folder / REPORT / "decontamination.jsonl", overlaps)
        write_card(self.folder, summaries)
        draw_histograms(self.statistics, self.folder / REPORT / "statistics")
        inputs = [input_of(config), *filter(None, [config.step_labels]), *config.decontaminate]
        write_manifest(self.folder, config, hash_sources(inputs), counts, {"overlaps": overlaps[:MAX_LISTED]})
        return counts


_open = partial(open, mode="w", encoding="utf-8")


def _log(counts: dict[str, Any]) -> None:
    for reason, count in counts["responses_dropped"].items():
        questions = counts["questions_dropped"].get(reason)
        logger.info("dropped %-22s %8d responses%s", reason, count, "" if questions is None else f" {questions:6d} questions")
    for path, matches in counts.get("overlaps", {}).items():
        logger.info("overlaps with %s: %s", path, ", ".join(f"{n} by {match}" for match, n in matches.items()) or "none")
