"""Final-answer grading: rollouts in, the same rollouts with `extracted`, `grade` and `correct` out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from prm.grading.answers import (
    GRADES,
    Grade,
    Pair,
    extract_answer,
    extract_boxed,
    normalize_answer,
    reference_answer,
)
from prm.grading.pool import GradingPool
from prm.records import Rollout
from prm.shards import ShareConfig

__all__ = [
    "GRADES",
    "Grade",
    "GradingConfig",
    "GradingPool",
    "Pair",
    "check_references",
    "extract_answer",
    "extract_boxed",
    "grade",
    "normalize_answer",
    "reference_answer",
]

MAX_NAMED = 10
"""Questions whose unreadable references an error names."""
CHUNK = 512
"""Rollouts compared at a time; equal pairs among them, and among those the pool still knows, are compared once."""


@dataclass
class GradingConfig(ShareConfig):
    """Options of `scripts/grade_rollouts.py`."""

    input: str = "data/rollouts"
    """Rollouts: a .jsonl file, a folder of shards, or another shape that `prm.data.sources` knows."""
    output: str = "data/graded"
    """Graded rollouts: a folder of shards, or one file if the name ends in .jsonl. Finished responses are not graded again."""
    num_workers: int = 2
    """Processes that grade side by side."""
    timeout_seconds: float = 2.0
    """CPU time for one pair of reference and answer, in seconds; past it the grade is `timeout`."""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"--num_workers {self.num_workers}: at least one process must grade")
        if not self.timeout_seconds > 0:
            raise ValueError(f"--timeout_seconds {self.timeout_seconds}: must be positive")
        self.check_share(self.output)


def check_references(references: Mapping[str, str], num_workers: int = 2, timeout_seconds: float = 2.0) -> None:
    """Raise ValueError, naming the questions, if Math-Verify cannot read all of their reference answers (question id: answer)."""
    pairs = {
        question_id: Pair(gold, gold)
        for question_id, gold in zip(references, map(reference_answer, references.values()), strict=True)
    }
    with GradingPool(num_workers, timeout_seconds) as pool:
        statuses = pool.compare(pairs.values())
    unreadable = [question_id for question_id, pair in pairs.items() if not pair.gold or statuses[pair] != "correct"]
    if unreadable:
        named = ", ".join(f"{question_id!r} ({references[question_id]!r:.80})" for question_id in unreadable[:MAX_NAMED])
        raise ValueError(
            f"Math-Verify reads nothing in the reference answers of {len(unreadable)} of {len(pairs)} questions: {named}; "
            "correct the question set or remove these questions"
        )


def grade(rollouts: Iterable[Rollout], num_workers: int = 2, timeout_seconds: float = 2.0) -> Iterator[Rollout]:
    """Grade rollouts in their order. Raises ValueError naming the question whose reference answer cannot be read."""
    rollouts = iter(rollouts)
    with GradingPool(num_workers, timeout_seconds) as pool:
        while chunk := list(islice(rollouts, CHUNK)):
            golds = [reference_answer(rollout.answer) for rollout in chunk]
            answers = [extract_answer(rollout.response) for rollout in chunk]
            grades = pool.compare(Pair(g, a) for g, a in zip(golds, answers, strict=True) if a is not None)
            for rollout, gold, answer in zip(chunk, golds, answers, strict=True):
                status = "no_answer" if answer is None else grades[gold, answer]
                if not gold or status == "bad_gold":
                    raise ValueError(
                        f"question {rollout.question_id!r}: Math-Verify reads nothing in the reference answer "
                        f"{rollout.answer!r:.80}; correct the question set or remove the question"
                    )
                label = {"correct": True, "wrong": False}.get(status)
                yield replace(rollout, extracted=answer, grade=status, correct=label)
