"""Published step labels: one row of Math-Shepherd, PRMBench, ProcessBench or stepwise supervision in, responses out."""

import re
from collections.abc import Iterator
from typing import Any

from prm.data.shapes import Place, check_lengths
from prm.records import Response, Row, is_instance, to_record

STEP_MARK = "ки"
ANSWER_MARK = "The answer is:"
_FIRST_STEP = re.compile(r"\s*\bStep 1:")
_STEP_NUMBER = re.compile(r"\s*Step \d+:")


def stepwise(row: Row, place: Place) -> Iterator[Response]:
    """Stepwise supervision: a prompt, its completions and a label for each; True is 1, False is -1, numbers and nulls stay.

    A row may also say whether the final answer is right (`correct`).
    """
    if not isinstance(row["prompt"], str) or not isinstance(row["completions"], list):
        raise ValueError(f"{place.where}: expected a prompt as text and completions as a list of texts, not messages of a chat")
    check_lengths(row, place, "completions", "labels")
    labels = [(1 if label else -1) if isinstance(label, bool) else label for label in row["labels"]]
    values = {"question": row["prompt"], "steps": row["completions"], "step_labels": labels}
    values |= {"correct": row["correct"]} if "correct" in row else {}
    yield to_record(place.key_of(row["prompt"]) | values, Response, place.where)


def processbench(row: Row, place: Place) -> Iterator[Response]:
    """`label` is the first wrong step (-1: none). What follows it builds on the error and is labelled wrong too."""
    first_error = row["label"] if row["label"] >= 0 else len(row["steps"])
    values = {
        "question_id": row["id"],
        "sample_index": 0,
        "question": row["problem"],
        "steps": row["steps"],
        "correct": row["final_answer_correct"],
        "step_labels": [1 if index < first_error else -1 for index in range(len(row["steps"]))],
        "label_source": "human",
    }
    yield to_record(values, Response, place.where)


def prmbench(row: Row, place: Place) -> Iterator[Response]:
    """A published row: the modified process with its errors and, of a `redundency` row (so spelled), the original as correct."""
    idx = row["idx"]
    yield from _prmbench_item(
        f"{row['classification']}_{idx}", row["modified_question"], row["modified_process"], row["error_steps"], place
    )
    if row["classification"] == "redundency":
        yield from _prmbench_item(f"correct_{idx}", row["original_question"], row["original_process"], [], place)


def prmbench_assembled(row: Row, place: Place) -> Iterator[Response]:
    """A row of the assembled benchmark, whose `idx` is the full name."""
    yield from _prmbench_item(row["idx"], row["question"], row["steps"], row["error_steps"], place)


def _prmbench_item(name: str, question: str, steps: list[str], error_steps: Any, place: Place) -> Iterator[Response]:
    """Error steps count from 1. As in the benchmark, those out of range are ignored, and of items of one name the first is kept."""
    place.seen[name] += 1
    if place.seen[name] > 1:
        place.dropped["duplicate_id"] += 1
        return
    if error_steps is None and name.startswith("correct_"):
        error_steps = []
    if not is_instance(error_steps, list[int]):
        raise ValueError(f"{place.where}: error_steps of {name!r} are {error_steps!r:.80}; give step numbers from 1, [] for none")
    errors = set(error_steps)
    place.dropped["error_step_out_of_range"] += sum(not 1 <= number <= len(steps) for number in errors)
    labels = [-1 if number in errors else 1 for number in range(1, len(steps) + 1)]
    values = {"question_id": name, "sample_index": 0, "question": question, "steps": steps}
    yield to_record({**values, "step_labels": labels, "label_source": "synthetic"}, Response, place.where)


def math_shepherd(row: Row, place: Place) -> Iterator[Response]:
    """Question and steps in one text, each step behind `Step i:` and before a mark, which `label` has as + or -.

    `Step i:` is removed: it belongs to this format, and policies do not write it. A finished solution has only itself as
    completion, so that its last label is its outcome.
    """
    parts, marks = _split_at_marks(row["input"], row["label"], place)
    first = next((index for index, part in enumerate(parts) if _FIRST_STEP.search(part)), None)
    if first is None:
        raise ValueError(f"{place.where}: no 'Step 1:' behind the question in `input`; repair or remove the row")
    place.dropped["label_inside_question"] += first
    head = "".join(parts[: first + 1])
    start = list(_FIRST_STEP.finditer(head))[-1].start()
    texts = [_STEP_NUMBER.sub("", text, count=1).strip() for text in [head[start:], *parts[first + 1 :]]]
    steps = [(text, mark) for text, mark in zip(texts, marks[first:], strict=True) if text]
    place.dropped["blank_step"] += len(texts) - len(steps)
    if not steps:
        place.dropped["no_steps"] += 1
        return
    last, outcome = steps[-1]
    question, answer = head[:start].strip(), last.rpartition(ANSWER_MARK)[2].strip() if ANSWER_MARK in last else None
    values = {
        **place.key_of(question),
        "question": question,
        "steps": [text for text, _ in steps],
        "step_labels": [mark for _, mark in steps],
        "correct": None if answer is None or outcome is None else outcome > 0,
        "extracted": answer,
        "label_source": "monte_carlo",
    }
    yield to_record(values, Response, place.where)


def _split_at_marks(text: str, labelled: str, place: Place) -> tuple[list[str], list[int | None]]:
    """Texts before each mark, and the labels in the marks' places. A text behind the last mark has no label.

    Raises ValueError where `labelled` is not `text` with a + or - for each mark.
    """
    parts, marks, position = text.split(STEP_MARK), [], 0
    if len(parts) == 1:
        raise ValueError(f"{place.where}: `input` holds no step mark {STEP_MARK!r}; repair or remove the row")
    for number, part in enumerate(parts, start=1):
        end = position + len(part)
        is_last = number == len(parts)
        mark = None if is_last else {"+": 1, "-": -1}.get(labelled[end : end + 1])
        rest = labelled[end:] if is_last else mark is None
        if labelled[position:end] != part or rest:
            behind = "its end" if is_last else f"step mark {number} of {len(parts) - 1}"
            raise ValueError(
                f"{place.where}: `label` reads {labelled[position : end + 10]!r:.80} where `input` has {part!r:.80} and {behind}; "
                "it must be the same text with + or - for each mark: repair or remove the row"
            )
        marks.append(mark)
        position = end + 1
    has_rest = bool(parts[-1].strip())
    return (parts, marks) if has_rest else (parts[:-1], marks[:-1])
