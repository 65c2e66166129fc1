"""What grading found: graded rollouts in, counts and examples of every class out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from prm.grading.answers import GRADES
from prm.records import Rollout

EXAMPLES = 3
"""Examples of every class that a report keeps."""
LONGEST_EXCERPT = 100
"""Characters of an answer, or of the end of a response without one, that an example shows."""


@dataclass
class GradeReport:
    """Counts by grade, of them those cut at the token limit, and the first examples of each."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GRADES, 0))
    truncated: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GRADES, 0))
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {grade: [] for grade in GRADES})

    @classmethod
    def of(cls, rollouts: Iterable[Rollout]) -> "GradeReport":
        report = cls()
        for rollout in rollouts:
            report.add(rollout)
        return report

    def add(self, rollout: Rollout) -> None:
        """Raises ValueError for a rollout without a grade."""
        if rollout.grade not in self.counts:
            raise ValueError(f"rollout {rollout.key!r} has the grade {rollout.grade!r}, which is none of {', '.join(GRADES)}")
        self.counts[rollout.grade] += 1
        self.truncated[rollout.grade] += rollout.finish_reason == "length"
        if len(self.examples[rollout.grade]) < EXAMPLES:
            self.examples[rollout.grade].append(example(rollout))

    def lines(self) -> list[str]:
        """One line a class, and below it its examples."""
        total = max(sum(self.counts.values()), 1)
        lines = []
        for grade, count in self.counts.items():
            lines.append(f"{grade:<10} {count:8d}  {100 * count / total:5.1f}%  {self.truncated[grade]:8d} truncated")
            for shown in self.examples[grade]:
                found = f"..{shown['ends']!r}" if shown["extracted"] is None else repr(shown["extracted"])
                lines.append(f"    {shown['question_id']} #{shown['sample_index']}: reference {shown['answer']!r}, found {found}")
        return lines


def example(rollout: Rollout) -> dict[str, Any]:
    """What one needs to see why a rollout got its grade."""
    extracted = None if rollout.extracted is None else rollout.extracted[:LONGEST_EXCERPT]
    key = {"question_id": rollout.question_id, "sample_index": rollout.sample_index}
    ends = rollout.response[-LONGEST_EXCERPT:]
    return {**key, "answer": rollout.answer[:LONGEST_EXCERPT], "extracted": extracted, "ends": ends}
