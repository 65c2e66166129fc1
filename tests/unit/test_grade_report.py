"""The report of grading: counts, truncated ones, and a few examples of every class."""

import pytest

from prm.grading.report import EXAMPLES, GradeReport
from prm.records import Rollout


def rollout(index: int, grade: str | None, extracted: str | None = None, finish_reason: str = "stop") -> Rollout:
    return Rollout("q", index, "?", "4", "x" * 500 + " the end", finish_reason, 9, None, extracted, grade)


def test_by_hand():
    rollouts = [rollout(i, "wrong", "5") for i in range(5)]
    rollouts += [rollout(5, "no_answer", finish_reason="length"), rollout(6, "timeout", "9" * 1000)]
    report = GradeReport.of(rollouts)
    assert report.counts == {"correct": 0, "wrong": 5, "no_answer": 1, "timeout": 1, "unparsable": 0}
    assert report.truncated["no_answer"] == 1 == sum(report.truncated.values())
    assert [shown["sample_index"] for shown in report.examples["wrong"]] == list(range(EXAMPLES))
    assert len(report.examples["timeout"][0]["extracted"]) == 100
    lines = report.lines()
    assert len(lines) == 5 + EXAMPLES + 2
    assert "    q #0: reference '4', found '5'" in lines
    assert any(line.startswith("    q #5") and line.endswith("the end'") for line in lines)


def test_an_ungraded_rollout_is_refused():
    with pytest.raises(ValueError, match=r"rollout \('q', 0\) has the grade None"):
        GradeReport.of([rollout(0, None)])
