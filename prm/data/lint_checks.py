"""Checks of labelled responses, each a pure function: the responses to one question in, what is wrong with which of them out."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from prm.data.decontaminate import EvaluationIndex
from prm.grading import extract_boxed, normalize_answer
from prm.records import Key, Response
from prm.steps import SEPARATOR, EncodedResponse


class Item(NamedTuple):
    """A response, its number in the input, and its place there."""

    index: int
    place: str
    response: Response


@dataclass(frozen=True)
class Context:
    """What checks know beside the responses; those whose part is missing do not run."""

    bad_below: float = 0.0
    """Labels below are bad: 0 where there are negative ones, else 0.5 (targets in [0, 1])."""
    encoded: dict[Key, EncodedResponse | str] = field(default_factory=dict)
    """The tokens of every response with `--tokenizer`, or why it has none."""
    max_length: int | None = None
    evaluation: EvaluationIndex | None = None
    compared: dict[Key, Response] = field(default_factory=dict)
    """The same responses with the labels of another source (`--compare`)."""

    def is_bad(self, label: float | None) -> bool:
        return label is not None and label < self.bad_below

    def is_good(self, label: float | None) -> bool:
        return label is not None and label >= 0.5

    def has_bad_step(self, response: Response) -> bool:
        return any(map(self.is_bad, response.step_labels or ()))


Finding = tuple[Item, str]
Find = Callable[[Sequence[Item], Context], Iterator[Finding]]


def each(find: Callable[[Response, Context], str | None]) -> Find:
    """A check of single responses as a check of those to a question."""

    def find_in_question(items: Sequence[Item], context: Context) -> Iterator[Finding]:
        return ((item, found) for item in items if (found := find(item.response, context)) is not None)

    return find_in_question


def label_count(response: Response, context: Context) -> str | None:
    labels, steps = len(response.step_labels), len(response.steps)
    return None if labels == steps else f"{labels} labels for {steps} steps"


def label_value(response: Response, context: Context) -> str | None:
    """Hard labels are -1, 0 and 1, soft ones lie in [0, 1]; negative labels anywhere say that all are hard."""
    is_hard = context.bad_below == 0
    for label in response.step_labels:
        if label is not None and not (label in (-1, 0, 1) if is_hard else 0 <= label <= 1):
            return f"label {label:g} beside {'hard' if is_hard else 'soft'} ones"
    return None


def empty_step(response: Response, context: Context) -> str | None:
    blank = [number for number, step in enumerate(response.steps, start=1) if not step.strip()]
    return "no steps" if not response.steps else f"step {blank[0]} is blank" if blank else None


def separator_in_text(response: Response, context: Context) -> str | None:
    inside = [number for number, step in enumerate(response.steps, start=1) if SEPARATOR in step]
    return f"step {inside[0]} holds {SEPARATOR}" if inside else None


def not_encodable(response: Response, context: Context) -> str | None:
    encoded = context.encoded[response.key]
    return encoded if isinstance(encoded, str) else None


def too_long(response: Response, context: Context) -> str | None:
    """What training would drop, and how many of its steps truncation would have cut."""
    encoded = context.encoded[response.key]
    if isinstance(encoded, str) or len(encoded.input_ids) <= context.max_length:
        return None
    cut = sum(end >= context.max_length for end in encoded.step_ends)
    return f"{len(encoded.input_ids)} tokens; {cut} of {len(response.steps)} steps end past {context.max_length}"


def repeated_step(response: Response, context: Context) -> str | None:
    seen: dict[str, int] = {}
    for number, step in enumerate(response.steps, start=1):
        if (first := seen.setdefault(step.strip(), number)) != number:
            return f"step {number} repeats step {first}"
    return None


def right_with_bad_step(response: Response, context: Context) -> str | None:
    bad = [number for number, label in enumerate(response.step_labels, start=1) if context.is_bad(label)]
    return f"right, but step {bad[0]} is bad" if bad else None


def wrong_without_bad_step(response: Response, context: Context) -> str | None:
    return None if context.has_bad_step(response) or None in response.step_labels else "wrong, but no step is bad"


def answer_boxed_early(response: Response, context: Context) -> str | None:
    for number, step in enumerate(response.steps[:-1], start=1):
        boxed = extract_boxed(step)
        if boxed is not None and normalize_answer(boxed) == normalize_answer(reference(response)):
            return f"step {number} of {len(response.steps)} boxes the answer"
    return None


def answer_in_question(response: Response, context: Context) -> str | None:
    answer = normalize_answer(reference(response))
    is_there = answer and re.search(rf"(?<![\w.]){re.escape(answer)}(?![\w]|\.\d)", normalize_answer(response.question))
    return f"the question holds the answer {answer!r:.40}" if is_there else None


def reference(response: Response) -> str:
    """The reference answer; of a right response its own will do. Empty if neither is known."""
    return response.answer or (response.extracted if response.correct else None) or ""


def duplicate_key(items: Sequence[Item], context: Context) -> Iterator[Finding]:
    return repeats(items, lambda response: response.key, "same key as")


def duplicate_response(items: Sequence[Item], context: Context) -> Iterator[Finding]:
    return repeats(items, lambda response: (response.question, *response.steps), "same steps as")


def repeats(items: Sequence[Item], identity: Callable[[Response], tuple], what: str) -> Iterator[Finding]:
    first: dict[tuple, Item] = {}
    for item in items:
        if (other := first.setdefault(identity(item.response), item)) is not item:
            yield item, f"{what} {other.place}"


def question_text(items: Sequence[Item], context: Context) -> Iterator[Finding]:
    first = items[0]
    return ((item, f"another question than {first.place}") for item in items if item.response.question != first.response.question)


def contradicting_prefix(items: Sequence[Item], context: Context) -> Iterator[Finding]:
    """The same question and the same steps so far, but a step that one response calls good and another bad."""
    verdicts: dict[tuple[str, ...], tuple[bool, Item]] = {}
    for item in items:
        for number, label in enumerate(item.response.step_labels or (), start=1):
            if context.is_bad(label) or context.is_good(label):
                prefix = (item.response.question, *item.response.steps[:number])
                is_good, other = verdicts.setdefault(prefix, (context.is_good(label), item))
                if is_good != context.is_good(label):
                    yield item, f"step {number} is {'bad' if is_good else 'good'} here, the opposite at {other.place}"
                    break


def contamination(items: Sequence[Item], context: Context) -> Iterator[Finding]:
    for text in dict.fromkeys(item.response.question for item in items):
        if found := context.evaluation.find(items[0].response.question_id, text):
            where = f"{found[0].match} of {found[0].file} row {found[0].row}"
            yield from ((item, where) for item in items if item.response.question == text)


def split_leak(items: Sequence[Item], context: Context) -> Iterator[Finding]:
    """A question of train.jsonl that validation.jsonl has too."""
    in_train = any(split_of(item.place) == "train" for item in items)
    return ((item, "train.jsonl has the question too") for item in items if in_train and split_of(item.place) == "validation")


def split_of(place: str) -> str:
    return next((split for split in ("train", "validation") if f"{split}.jsonl:" in place), "")


def label_disagreement(response: Response, context: Context) -> str | None:
    """A step that the two sources call good and bad."""
    for number, (label, other) in enumerate(zip(response.step_labels, context.compared[response.key].step_labels, strict=False), 1):
        if (context.is_bad(label) and context.is_good(other)) or (context.is_good(label) and context.is_bad(other)):
            return f"step {number}: {label:g} here, {other:g} there"
    return None


Applies = Callable[[Response, Context], bool]

POPULATIONS: dict[str, Applies] = {
    "responses": lambda r, context: True,
    "labelled": lambda r, context: r.step_labels is not None,
    "right, labelled": lambda r, context: r.correct is True and r.step_labels is not None,
    "wrong, labelled": lambda r, context: r.correct is False and r.step_labels is not None,
    "with an answer": lambda r, context: bool(reference(r)),
    "encoded": lambda r, context: r.key in context.encoded,
    "measured": lambda r, context: r.key in context.encoded and context.max_length is not None,
    "compared with evaluation": lambda r, context: context.evaluation is not None,
    "compared": lambda r, context: r.step_labels is not None and r.key in context.compared,
}
"""Which responses a check looks at; shares are of these."""


class Check(NamedTuple):
    """Errors fail the dataset however few they are; warnings only above a share that `--max_share` sets."""

    severity: Literal["error", "warning"]
    population: str
    find: Find


CHECKS: dict[str, Check] = {
    "label_count": Check("error", "labelled", each(label_count)),
    "label_value": Check("error", "labelled", each(label_value)),
    "empty_step": Check("error", "responses", each(empty_step)),
    "separator_in_text": Check("error", "responses", each(separator_in_text)),
    "not_encodable": Check("error", "encoded", each(not_encodable)),
    "duplicate_key": Check("error", "responses", duplicate_key),
    "question_text": Check("error", "responses", question_text),
    "split_leak": Check("error", "responses", split_leak),
    "contamination": Check("error", "compared with evaluation", contamination),
    "too_long": Check("warning", "measured", each(too_long)),
    "repeated_step": Check("warning", "responses", each(repeated_step)),
    "duplicate_response": Check("warning", "responses", duplicate_response),
    "contradicting_prefix": Check("warning", "labelled", contradicting_prefix),
    "right_with_bad_step": Check("warning", "right, labelled", each(right_with_bad_step)),
    "wrong_without_bad_step": Check("warning", "wrong, labelled", each(wrong_without_bad_step)),
    "answer_boxed_early": Check("warning", "with an answer", each(answer_boxed_early)),
    "answer_in_question": Check("warning", "with an answer", each(answer_in_question)),
    "label_disagreement": Check("warning", "compared", each(label_disagreement)),
}
