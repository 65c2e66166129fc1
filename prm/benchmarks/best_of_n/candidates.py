"""The candidates of every question: score records of one or several PRMs in, aligned arrays per question out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, groupby
from typing import Any

import numpy as np
from jaxtyping import Bool

from prm.aggregation import is_signed
from prm.benchmarks.score_files import check_keys
from prm.data.sources import load_responses
from prm.grading import GradingPool, Pair, normalize_answer
from prm.metrics import group_answers
from prm.records import Key, Response, StepScores


@dataclass(frozen=True)
class CandidatePool:
    """Entry q of `correct`, `answers` and `step_scores[prm]` belongs to question q; its candidates are in sample order.

    A candidate without an outcome (no final answer found) stays in the pool and counts as wrong: leaving it out would reward a
    PRM for nothing. A candidate without an extracted answer does not vote.
    """

    questions: list[str]
    keys: list[list[Key]]
    correct: list[np.ndarray]
    answers: list[np.ndarray]
    step_scores: dict[str, list[list[list[float]]]]
    is_scored: dict[str, list[Bool[np.ndarray, " _"]]]
    """Whether a PRM could read the candidate; for the others `step_scores` has stand-ins, ranked last and without a vote."""
    has_outcome: list[Bool[np.ndarray, " _"]]

    @property
    def num_without_outcome(self) -> int:
        """Candidates without an outcome."""
        return sum(int((~known).sum()) for known in self.has_outcome)

    @property
    def num_without_answer(self) -> int:
        """Candidates without an extracted answer."""
        return sum(int((answers < 0).sum()) for answers in self.answers)

    def num_unscored(self, prm: str) -> int:
        """Candidates that the PRM could not read."""
        return sum(int((~scored).sum()) for scored in self.is_scored[prm])

    @property
    def sizes(self) -> np.ndarray:
        """Number of candidates of each question."""
        return np.array([len(group) for group in self.correct])

    def is_signed(self, prm: str) -> bool:
        """Whether the PRM's scores are no probabilities."""
        return is_signed(chain.from_iterable(self.step_scores[prm]))

    def restrict(self, min_size: int) -> "CandidatePool":
        """The questions with at least `min_size` candidates."""
        rows = np.flatnonzero(self.sizes >= min_size).tolist()
        if not rows:
            raise ValueError(f"no question has {min_size} candidates (the largest pool has {self.sizes.max()})")

        def kept(groups: list[Any]) -> list[Any]:
            return [groups[row] for row in rows]

        return CandidatePool(
            kept(self.questions),
            kept(self.keys),
            kept(self.correct),
            kept(self.answers),
            {prm: kept(groups) for prm, groups in self.step_scores.items()},
            {prm: kept(groups) for prm, groups in self.is_scored.items()},
            kept(self.has_outcome),
        )


Answers = list[str | None]


def group_by_spelling(answers: Sequence[Answers]) -> list[np.ndarray]:
    """Number each question's answers; two are the same if they are spelled alike once normalized as in grading."""
    return [group_answers(group, normalize_answer) for group in answers]


def group_by_value(answers: Sequence[Answers]) -> list[np.ndarray]:
    """Number each question's answers; two are the same if Math-Verify says so (0.5 and 1/2), at some milliseconds a pair."""
    spelled = [[None if answer is None else normalize_answer(answer) for answer in group] for group in answers]
    distinct = [list(dict.fromkeys(answer for answer in group if answer is not None)) for group in spelled]
    with GradingPool() as pool:
        status = pool.compare(Pair(*pair) for group in distinct for pair in combinations(group, 2))
    numbers = []
    for group, spellings in zip(spelled, distinct, strict=True):
        first: dict[str, str] = {}
        for answer in spellings:
            first[answer] = next((known for known in first.values() if status[Pair(known, answer)] == "correct"), answer)
        numbers.append(group_answers([None if answer is None else first[answer] for answer in group]))
    return numbers


GROUPINGS: dict[str, Callable[[Sequence[Answers]], list[np.ndarray]]] = {
    "spelling": group_by_spelling,
    "math_verify": group_by_value,
}


def build_pool(records: Mapping[str, Sequence[StepScores]], grouping: str = "spelling") -> CandidatePool:
    """Group the records of every PRM by question, and the answers of a question by `GROUPINGS[grouping]`.

    Raises:
        ValueError: no records, a duplicate key, PRMs that cover different candidates or contradict each other about one,
            a response without scores or with one that is not finite, a question with two reference answers, or no candidate
            with an outcome.
    """
    by_prm = {prm: _by_key(prm, rows) for prm, rows in records.items()}
    if not by_prm or not all(by_prm.values()):
        empty = next((prm for prm, rows in by_prm.items() if not rows), "any PRM")
        raise ValueError(f"no scores of {empty}: Best-of-N needs scored candidates (scripts/score.py makes them)")
    keys = _common_keys(by_prm)
    correct = {key: _agreed(by_prm, key, "correct") for key in keys}
    extracted = {key: _agreed(by_prm, key, "extracted") for key in keys}
    if all(outcome is None for outcome in correct.values()):
        raise ValueError(
            "no candidate has an outcome (`correct`): grade the rollouts (scripts/grade_rollouts.py) and give them with --rollouts"
        )
    groups = [list(group) for _, group in groupby(keys, key=lambda key: key[0])]
    for group in groups:
        _check_reference(group[0][0], [rows[key].answer for rows in by_prm.values() for key in group])
    return CandidatePool(
        [group[0][0] for group in groups],
        groups,
        [np.array([correct[key] is True for key in group]) for group in groups],
        GROUPINGS[grouping]([[extracted[key] for key in group] for group in groups]),
        {prm: [[rows[key].step_scores for key in group] for group in groups] for prm, rows in by_prm.items()},
        {
            prm: [np.array([not isinstance(rows[key], StandIn) for key in group]) for group in groups]
            for prm, rows in by_prm.items()
        },
        [np.array([correct[key] is not None for key in group]) for group in groups],
    )


def load_graded(path: str) -> list[Response]:
    """Rollouts as responses. Raises ValueError without a single outcome: there is nothing to measure."""
    responses = load_responses(path)
    if all(response.correct is None for response in responses):
        raise ValueError(f"{path}: no rollout has an outcome; grade them first with scripts/grade_rollouts.py")
    return responses


class StandIn(StepScores):
    """Zeros in place of the scores of a candidate that a PRM could not read."""


def with_unscored(prm: str, scored: Sequence[StepScores], responses: Sequence[Response]) -> list[StepScores]:
    """Scores for all `responses`, with their outcomes where they have any; a `StandIn` for one that scoring dropped.

    It was sampled, so it belongs to the pool; a PRM that cannot read it selects it last, and it has no weight in a vote.
    """
    known = {record.key: record for record in scored}
    check_keys(prm, known, {response.key for response in responses}, "the rollouts")
    if not scored:
        raise ValueError(f"{prm}: not one of the {len(responses)} candidates has scores; the PRM could read none of them")
    has_one_each = all(len(record.step_scores) == 1 for record in scored)

    def of(r: Response) -> StepScores:
        if record := known.get(r.key):
            # The rollouts may have been graded, or graded anew, after they were scored.
            said = {name: getattr(r, name) for name in ("correct", "answer", "extracted")}
            return replace(record, **{name: value for name, value in said.items() if value is not None})
        zeros = [0.0] * (1 if has_one_each else max(len(r.steps), 1))
        return StandIn(r.question_id, r.sample_index, zeros, r.correct, r.answer, r.extracted)

    return [of(response) for response in responses]


def _by_key(prm: str, rows: Sequence[StepScores]) -> dict[Key, StepScores]:
    found: dict[Key, StepScores] = {}
    for row in rows:
        if row.key in found:
            raise ValueError(f"{prm}: candidate {row.key!r} is scored twice; keep one of the two rows")
        if not row.step_scores or not np.isfinite(row.step_scores).all():
            raise ValueError(
                f"{prm}: candidate {row.key!r} has the step scores {row.step_scores}; "
                "every step needs a number and every candidate a step"
            )
        found[row.key] = row
    return found


def _common_keys(by_prm: Mapping[str, Mapping[Key, StepScores]]) -> list[Key]:
    first, *others = by_prm
    for other in others:
        if missing := by_prm[first].keys() ^ by_prm[other].keys():
            raise ValueError(
                f"{first} and {other} score different candidates: {len(missing)} stand in one only, such as {min(missing)!r}; "
                "score the same candidates with both"
            )
    return sorted(by_prm[first])


def _check_reference(question_id: str, answers: Answers) -> None:
    references = {normalize_answer(answer): answer for answer in answers if answer is not None}
    if len(references) > 1:
        raise ValueError(
            f"question {question_id!r}: its candidates have {len(references)} reference answers, such as "
            f"{' and '.join(map(repr, list(references.values())[:2]))}; give two questions two ids, and score one set of rollouts"
        )


def _agreed(by_prm: Mapping[str, Mapping[Key, StepScores]], key: Key, field: str) -> Any:
    said = {prm: getattr(rows[key], field) for prm, rows in by_prm.items()}
    values = {value for value in said.values() if value is not None}
    if len(values) > 1:
        raise ValueError(f"candidate {key!r}: the PRMs' files disagree about {field!r}: {said}; score one set of rollouts")
    return next(iter(values), None)
