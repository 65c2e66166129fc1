r"""The shapes in which the field publishes questions, rollouts and candidate pools: one row in, our records out.

A source that names no question id gets `<file stem>-<row number>`. What a source does not say stays unsaid: `finish_reason`
`unknown`, `num_tokens` 0.
"""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from prm.grading import extract_boxed
from prm.records import Question, Record, Response, Rollout, Row, StepScores, clean_text, is_text_or_number, to_record, to_row
from prm.steps import split_steps

GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
KEPT_OF_ROLLOUTS = ("question_id", "sample_index", "question", "correct", "answer", "extracted")
"""What a response in steps has from its rollout."""
_FINAL_LINE = re.compile(r"^(?:A:|####)\s*(.+?)\s*$")


@dataclass
class Place:
    """Where a row stands, which PRM was asked for, and what the source has shown so far."""

    where: str
    index: int
    prm: str | None = None
    seen: Counter[str] = field(default_factory=Counter)
    """Responses to each question so far."""
    dropped: Counter[str] = field(default_factory=Counter)
    """What the rows hold and the records do not, by reason."""

    @property
    def stem(self) -> str:
        """Name of the source in question ids: the file's stem, of `hub:owner/name:config:split` `name-config-split`."""
        source = re.sub(r"(:\d+|\[\d+\])$", "", self.where)
        return source.rsplit("/", 1)[-1].replace(":", "-") if source.startswith("hub:") else clean_text(Path(source).stem)

    def question_id(self, given: Any = None) -> str:
        """The source's own id; a bare number is only unique within its file and gets the file's name before it."""
        if isinstance(given, str) and not given.isdigit():
            return given
        if given is not None and not is_text_or_number(given):
            raise ValueError(f"{self.where}: the question's id is {given!r:.80}, expected a text or a number")
        return f"{self.stem}-{self.index if given is None else given}"

    def key_of(self, question: str) -> dict[str, Any]:
        """Key of the next response to a question without an id: equal texts share one, so that a split by question holds."""
        question_id = f"{self.stem}-{hashlib.sha256(question.encode()).hexdigest()[:12]}"
        self.seen[question_id] += 1
        return {"question_id": question_id, "sample_index": self.seen[question_id] - 1}


Convert = Callable[[Row, Place], Iterator[Any]]


class Shape(NamedTuple):
    """A known row: its name, the keys that it is recognised by, and its conversion to records."""

    name: str
    keys: tuple[str, ...]
    convert: Convert

    def matches(self, row: Row) -> bool:
        return all(key in row for key in self.keys)


def own(record_type: type[Record]) -> Convert:
    """Rows that are records of ours already; ids and reference answers may be numbers in them."""

    def convert(row: Row, place: Place) -> Iterator[Record]:
        yield to_record(with_texts(row, "question_id", "answer"), record_type, place.where)

    return convert


def own_question(row: Row, place: Place) -> Iterator[Question]:
    yield dataclasses.replace(to_record(with_texts(row, "id", "answer"), Question, place.where), answer=reference(row, place))


def with_texts(row: Row, *names: str) -> Row:
    """The row with those of its values that are numbers as texts."""
    return row | {name: number_text(row[name]) for name in names if name in row and is_text_or_number(row[name])}


def number_text(value: str | float) -> str:
    """A number as people write it (27.0 is 27); a text as it is."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def question(row: Row, place: Place) -> Iterator[Question]:
    """GSM8K, MATH, AIME, AMC and relatives: some name for the problem, some form of the answer."""
    given = next((row[key] for key in ("unique_id", "problem_id", "id", "idx") if key in row), None)
    text = row["problem"] if "problem" in row else row["question"]
    values = {"id": place.question_id(given), "question": text, "answer": reference(row, place), "source": place.stem}
    yield to_record(values, Question, place.where)


def reference(row: Row, place: Place) -> str:
    r"""The reference answer: behind GSM8K's `####`, or as given (27.0 is 27), or from the box of the solution."""
    answer = row.get("answer")
    if answer is None:
        answer = extract_boxed(row.get("solution") or "")
    elif not is_text_or_number(answer):
        raise ValueError(f"{place.where}: 'answer' is {answer!r:.80}, expected a text or a number")
    text = "" if answer is None else number_text(answer).rsplit("####", 1)[-1].strip()
    if not text:
        raise ValueError(
            f"{place.where}: no reference answer: neither `answer` nor a \\boxed{{}} in `solution`; remove the row, or let "
            "scripts/convert_dataset.py --format question --skip_unreadable True leave such rows out"
        )
    return text


def gsm8k_solutions(row: Row, place: Place) -> Iterator[Rollout]:
    """Four models' solutions to one question, ungraded: the published verdicts are what our grading is compared with."""
    answer = re.split(r"####|\nA:", row["ground_truth"])[-1].strip()
    for index, model in enumerate(GSM8K_MODELS):
        response = box_final_line(row[model]["solution"])
        yield _rollout(place, None, sample_index=index, question=row["question"], answer=answer, response=response)


def box_final_line(solution: str) -> str:
    r"""A GSM8K solution as our policies write: a step per line, and the answer that its last line marks in `\boxed{}`."""
    lines = [line for line in solution.splitlines() if line.strip()]
    return "\n\n".join([*lines[:-1], *(_FINAL_LINE.sub(r"The answer is \\boxed{\1}.", line) for line in lines[-1:])])


def evaluation_output(row: Row, place: Place) -> Iterator[Rollout]:
    """Qwen2.5-Math evaluation outputs: parallel lists of responses, extracted answers and verdicts."""
    check_lengths(row, place, "response", "pred", "score")
    for index, (response, extracted, verdict) in enumerate(zip(row["response"], row["pred"], row["score"], strict=True)):
        yield _rollout(
            place,
            row.get("idx"),
            sample_index=index,
            question=row["question"],
            answer=reference(row, place),
            response=response,
            **_verdict(verdict, extracted),
        )


def evaluation_scores(row: Row, place: Place) -> Iterator[StepScores]:
    """The outcome model's one score per response, as the score of a single step."""
    check_lengths(row, place, "response", "pred_score")
    for rollout, scores in zip(evaluation_output(row, place), row["pred_score"], strict=True):
        yield _scores(rollout, scores, place)


def pool_rollouts(row: Row, place: Place) -> Iterator[Rollout]:
    """The candidates of one question, with Math-Verify's verdict where the pool holds it. Raises ValueError if there are none."""
    if not row["candidates"]:
        raise ValueError(f"{place.where}: a question without candidates; remove the row, or sample some")
    for index, candidate in enumerate(row["candidates"]):
        yield _rollout(
            place,
            row.get("problem_id", row.get("id")),
            sample_index=candidate.get("index", index),
            question=row["question"],
            answer=reference(row, place),
            response=candidate["text"],
            num_tokens=candidate.get("num_tokens", 0),
            **_verdict(
                candidate.get("mv_correct", candidate.get("correct")), candidate.get("mv_answer", candidate.get("extracted"))
            ),
        )


def pool_responses(row: Row, place: Place) -> Iterator[Response]:
    """The pool's own steps, those that its scores belong to; they need not join to the text."""
    for rollout, candidate in zip(pool_rollouts(row, place), row["candidates"], strict=True):
        yield _response(rollout, candidate["steps"] if "steps" in candidate else split_steps(rollout.response), place)


def pool_scores(row: Row, place: Place) -> Iterator[StepScores]:
    for rollout, candidate in zip(pool_rollouts(row, place), row["candidates"], strict=True):
        scores = candidate["step_scores"]
        if isinstance(scores, dict):
            name = next(iter(scores)) if place.prm is None and len(scores) == 1 else place.prm
            if name not in scores:
                choice = "name one with --prm" if name is None else f"and none of --prm {name}: score all with it, or leave it out"
                found = ", ".join(sorted(scores)) or "no PRM"
                raise ValueError(f"{place.where}: candidate {rollout.sample_index} has scores of {found}, {choice}")
            scores = scores[name]
        yield _scores(rollout, scores, place)


def prediction_scores(row: Row, place: Place) -> Iterator[StepScores]:
    """A benchmark's item has one response."""
    yield to_record({"question_id": row["id"], "sample_index": 0, "step_scores": row["step_scores"]}, StepScores, place.where)


def own_rollout_in_steps(row: Row, place: Place) -> Iterator[Response]:
    """A rollout of ours as a response. To be scored it needs no reference answer."""
    if not isinstance(row["response"], str):
        raise ValueError(f"{place.where}: 'response' is {row['response']!r:.80}, expected text")
    steps = {"steps": split_steps(row["response"])}
    yield from own(Response)({name: row[name] for name in KEPT_OF_ROLLOUTS if name in row} | steps, place)


def split_rollouts(convert: Convert) -> Convert:
    """The same rollouts as responses, split at their blank lines."""

    def split(row: Row, place: Place) -> Iterator[Response]:
        for rollout in convert(row, place):
            yield _response(rollout, split_steps(rollout.response), place)

    return split


def _rollout(place: Place, given_id: Any, **values: Any) -> Rollout:
    return to_record({"question_id": place.question_id(given_id), **values}, Rollout, place.where)


def _verdict(correct: bool | None, extracted: str | None) -> dict[str, Any]:
    return {"correct": correct, "extracted": extracted, "grade": {True: "correct", False: "wrong"}.get(correct)}


def _response(rollout: Rollout, steps: list[str], place: Place) -> Response:
    return to_record({name: getattr(rollout, name) for name in KEPT_OF_ROLLOUTS} | {"steps": steps}, Response, place.where)


def _scores(rollout: Rollout, step_scores: list[float], place: Place) -> StepScores:
    return to_record({**to_row(rollout), "step_scores": step_scores}, StepScores, place.where)


def check_lengths(row: Row, place: Place, *keys: str) -> None:
    lengths = {key: len(row[key]) for key in keys}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{place.where}: lists that belong together differ in length: {lengths}")
