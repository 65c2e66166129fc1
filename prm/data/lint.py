"""The dataset linter: labelled responses in; how many fail each check, with the first examples, and a verdict out."""

import heapq
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from prm.data.buckets import Buckets, num_buckets
from prm.data.decontaminate import NGRAM, EvaluationIndex
from prm.data.lint_checks import CHECKS, POPULATIONS, Context, Finding, Item
from prm.data.sources import iter_placed_responses, iter_responses
from prm.metrics import cohen_kappa
from prm.records import Key, Response, Row, to_row
from prm.steps import EncodedResponse, StepEncoder, load_tokenizer
from prm.tracking import progress

MAX_EXAMPLES = 3
CLASSES = ("bad", "neutral", "good")


@dataclass
class LintConfig:
    """Options of `scripts/lint_dataset.py`."""

    input: str = "data/dataset"
    """Responses with labels: a dataset folder, or any shape that `prm.data.sources` knows."""
    tokenizer: str | None = None
    """Model name or folder: every response is encoded for training with its tokenizer."""
    max_length: int | None = None
    """Count responses of more tokens, question included, which training would drop; needs --tokenizer."""
    decontaminate: list[str] = field(default_factory=list)
    """Evaluation files: responses to questions that share their text or --ngram words in a row with one of them are errors."""
    ngram: int = NGRAM
    """Words in a row that count as an overlap with an evaluation file."""
    compare: str | None = None
    """The same responses with step labels of another source: counts where the two disagree."""
    min_kappa: float | None = None
    """Fail if Cohen's kappa between the labels and those of --compare is lower; 1 is full agreement, 0 what chance gives."""
    max_share: list[str] = field(default_factory=list)
    """Shares that a check may find before it fails, as CHECK=SHARE. Default: 0 for errors, no limit for warnings."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.tokenizer is None:
            raise ValueError(f"--max_length {self.max_length} counts tokens: give --tokenizer too")
        if self.min_kappa is not None and self.compare is None:
            raise ValueError(f"--min_kappa {self.min_kappa} measures agreement: give --compare too")
        self.limits()

    def limits(self) -> dict[str, float | None]:
        """The largest share of every check that passes. Raises ValueError for an unknown check or a share that is none."""
        limits: dict[str, float | None] = {name: 0.0 if check.severity == "error" else None for name, check in CHECKS.items()}
        for setting in self.max_share:
            name, _, share = setting.partition("=")
            if name not in CHECKS:
                raise ValueError(f"--max_share {setting}: no check {name!r}; write CHECK=SHARE, checks are {', '.join(CHECKS)}")
            try:
                limits[name] = float(share)
            except ValueError as error:
                raise ValueError(
                    f"--max_share {setting}: {share!r} is no number; write CHECK=SHARE with a share in [0, 1]"
                ) from error
            if not 0 <= limits[name] <= 1:
                raise ValueError(f"--max_share {setting}: a share lies in [0, 1]")
        return limits


@dataclass
class Tally:
    """What a check has found so far."""

    population: int = 0
    count: int = 0
    examples: list[tuple[int, str, str]] = field(default_factory=list)
    """The first in the order of the input, one of a row: number, place, finding."""

    def add(self, population: int, findings: list[Finding]) -> None:
        self.population += population
        self.count += len(findings)
        for item, found in findings:
            self.add_example(item, found)

    def add_example(self, item: Item, found: str) -> None:
        if item.place not in (place for _, place, _ in self.examples):
            found = f"{item.response.question_id} #{item.response.sample_index}: {found}"
            self.examples = heapq.nsmallest(MAX_EXAMPLES, [*self.examples, (item.index, item.place, found)])


def lint(config: LintConfig) -> dict[str, Any]:
    """Run all checks that the options allow, one question at a time; memory does not grow with the number of responses.

    Raises ValueError, with file and line, for what is not a response at all, and for an input without responses.
    """
    limits = config.limits()
    encoder = StepEncoder.for_loss("asym", load_tokenizer(config.tokenizer), max_length=sys.maxsize) if config.tokenizer else None
    evaluation = EvaluationIndex.from_files(config.decontaminate, config.ngram) if config.decontaminate else None
    tallies, agreement, labels = {name: Tally() for name in CHECKS}, Counter[tuple[str, str]](), Counter[float]()
    with tempfile.TemporaryDirectory(prefix="lint-") as folder:
        buckets, others = (Buckets(Path(folder) / name, num_buckets(config.input)) for name in ("input", "compare"))
        num_responses = buckets.fill(placed_rows(config.input, labels))
        if not num_responses:
            raise ValueError(f"--input {config.input}: holds no responses")
        if config.compare:
            others.fill(response for response in iter_responses(config.compare) if response.step_labels is not None)
        context = Context(0.0 if any(label < 0 for label in labels) else 0.5, max_length=config.max_length, evaluation=evaluation)
        for index in progress(range(buckets.num_buckets), desc="checking", unit="bucket"):
            context = replace(context, compared={response.key: response for response in others.responses(index)})
            for items in questions_of(buckets.rows(index)):
                if encoder:
                    context = replace(context, encoded=encode([item.response for item in items], encoder))
                for name, population, findings in check_question(items, context):
                    tallies[name].add(population, findings)
                agreement.update(step_classes(items, context))
    return report(config, tallies, limits, {"responses": num_responses, "labels": labels, "agreement": agreement})


def placed_rows(source: str, labels: Counter[float]) -> Iterator[Row]:
    """Rows for the buckets, each with its number and place; `labels` counts all step labels."""
    for number, (response, place) in enumerate(iter_placed_responses(source)):
        labels.update(label for label in response.step_labels or () if label is not None)
        yield {**to_row(response), "place": place, "number": number}


def questions_of(rows: Iterator[Row]) -> Iterator[list[Item]]:
    questions: dict[str, list[Item]] = {}
    for row in rows:
        item = Item(row.pop("number"), row.pop("place"), Response(**row))
        questions.setdefault(item.response.question_id, []).append(item)
    yield from questions.values()


def encode(responses: list[Response], encoder: StepEncoder) -> dict[Key, EncodedResponse | str]:
    """Tokens of responses that training could encode, else its refusal: together if none is refused, which is faster."""
    try:
        return {r.key: encoded for r, encoded in zip(responses, encoder.encode_batch(responses), strict=True)}
    except ValueError as error:
        if len(responses) == 1:
            return {responses[0].key: str(error)}
    return {key: encoded for response in responses for key, encoded in encode([response], encoder).items()}


def check_question(items: list[Item], context: Context) -> Iterator[tuple[str, int, list[Finding]]]:
    """Of every check its name, how many responses it looked at, and what it found."""
    for name, check in CHECKS.items():
        chosen = [item for item in items if POPULATIONS[check.population](item.response, context)]
        yield name, len(chosen), list(check.find(chosen, context)) if chosen else []


def step_classes(items: list[Item], context: Context) -> Iterator[tuple[str, str]]:
    """Of every step that both sources have labelled, what the input says and what the other says."""
    for response in (item.response for item in items if POPULATIONS["compared"](item.response, context)):
        for pair in zip(response.step_labels, context.compared[response.key].step_labels, strict=False):
            if None not in pair:
                first, second = ("bad" if context.is_bad(v) else "good" if context.is_good(v) else "neutral" for v in pair)
                yield first, second


def report(config: LintConfig, tallies: dict[str, Tally], limits: dict[str, float | None], seen: dict[str, Any]) -> dict[str, Any]:
    """What metrics.json holds. A check that had nothing to look at has not run."""
    checks = {}
    for name, tally in tallies.items():
        share = tally.count / tally.population if tally.population else None
        checks[name] = {
            "severity": CHECKS[name].severity,
            "count": tally.count,
            "population": tally.population,
            "of": CHECKS[name].population,
            "share": share,
            "max_share": limits[name],
            "passed": share is None or limits[name] is None or share <= limits[name],
            "examples": [{"place": place, "found": found} for _, place, found in tally.examples],
        }
    result = {"responses": seen["responses"], "labels": {f"{label:g}": n for label, n in sorted(seen["labels"].items())}}
    passed = all(check["passed"] for check in checks.values())
    if config.compare:
        matrix = {first: {second: seen["agreement"][first, second] for second in CLASSES} for first in CLASSES}
        kappa = cohen_kappa(np.array([list(row.values()) for row in matrix.values()]))
        result["agreement"] = {"steps": seen["agreement"].total(), "matrix": matrix, "kappa": kappa}
        passed &= config.min_kappa is None or (kappa is not None and kappa >= config.min_kappa)
    return {**result, "checks": checks, "passed": passed}
