"""PRM800K: one labelling session in, one response per rated alternative out.

Of every step the labellers rated alternatives, then chose one, or wrote one, and went on from there. So a response is the chosen
completions before a step and one alternative at it, with the ratings of all of them; the same ratings return in many responses.
What a person wrote, and what was skipped, has no rating: a null label within a response, and no response of its own at the end of
one. The outcome is not in the records (`correct` stays null), though the reference answer and a solution's own answer may be.
Neutral ratings (0) stay 0.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from prm.data.shapes import Place
from prm.records import Response, Row, to_record

ANSWER_MARK = "# Answer"
RATINGS = (-1, 0, 1, None)


class Completion(NamedTuple):
    """One way to go on; `rating` is None where nobody rated it, `answer` where it ends no solution."""

    text: str
    rating: int | float | None
    answer: str | None


class Step(NamedTuple):
    """The alternatives at one step, and the one that the next step follows; None where the session ends."""

    completions: list[Completion]
    chosen: Completion | None


def prm800k(row: Row, place: Place) -> Iterator[Response]:
    """OpenAI's record: `question.problem`, `label.steps[].completions`, `.human_completion`, `.chosen_completion`."""
    steps = [_openai_step(step, number, place) for number, step in enumerate(row["label"]["steps"], start=1)]
    yield from _responses(row["question"]["problem"], steps, row["question"].get("ground_truth_answer"), place)


def prm800k_rebuilt(row: Row, place: Place) -> Iterator[Response]:
    """The flatter form: `problem`, `steps[].completions`, people's among them, and `.chosen`."""
    steps = [_rebuilt_step(step, number, place) for number, step in enumerate(row["steps"], start=1)]
    yield from _responses(row["problem"], steps, row.get("answer"), place)


def _responses(question: str, steps: Sequence[Step], answer: str | None, place: Place) -> Iterator[Response]:
    prefix: list[Completion] = []
    for number, (completions, chosen) in enumerate(steps, start=1):
        for completion in completions:
            reason = "unrated" if completion.rating is None else None if completion.text.strip() else "blank_step"
            if reason:
                place.dropped[reason] += 1
                continue
            path = [*prefix, completion]
            values = {
                **place.key_of(question),
                "question": question,
                "steps": [step.text for step in path],
                "step_labels": [step.rating for step in path],
                "answer": answer,
                "extracted": completion.answer,
                "label_source": "human",
            }
            yield to_record(values, Response, place.where)
        if chosen is None:
            place.dropped["behind_no_choice"] += sum(len(step.completions) for step in steps[number:])
            return
        if chosen.text.strip():
            prefix.append(chosen)


def _openai_step(step: Row, number: int, place: Place) -> Step:
    completions = [_completion(c, number, place) for c in step["completions"] or ()]
    index = step["chosen_completion"]
    if index is None and step["human_completion"] is not None:
        completions.append(_completion(step["human_completion"], number, place))
        index = len(completions) - 1
    return Step(completions, _choose(completions, index, number, place))


def _rebuilt_step(step: Row, number: int, place: Place) -> Step:
    completions = [_completion(c, number, place) for c in step["completions"]]
    return Step(completions, _choose(completions, step["chosen"], number, place))


def _completion(values: dict[str, Any], number: int, place: Place) -> Completion:
    rating, text = values["rating"], values["text"]
    if isinstance(rating, bool) or rating not in RATINGS:
        raise ValueError(f"{place.where}: step {number}: rating {rating!r}, expected -1, 0, 1 or null; repair or remove the row")
    answer = values["answer"] if "answer" in values else text.partition(ANSWER_MARK)[2].strip() or None
    return Completion(text, rating, answer)


def _choose(completions: list[Completion], index: int | None, number: int, place: Place) -> Completion | None:
    if index is None:
        return None
    if not 0 <= index < len(completions):
        raise ValueError(
            f"{place.where}: step {number}: completion {index} is chosen of {len(completions)} (counted from 0); "
            "repair or remove the row"
        )
    return completions[index]
