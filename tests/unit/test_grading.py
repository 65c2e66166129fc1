"""Grading: extraction by hand, statuses, resource limits, agreement with published labels."""

import json
import os
import signal
import sys
import time

import pytest

import prm.grading.pool
from prm.data.sources import load_rollouts
from prm.grading import (
    GradingConfig,
    GradingPool,
    Pair,
    check_references,
    extract_answer,
    extract_boxed,
    grade,
    normalize_answer,
    reference_answer,
)
from prm.records import Rollout

ENDLESS_IN_C = "7^{99999999}"
SLOW_IN_PYTHON = r"\prod_{k=1}^{10000000} k"


def rollout(answer: str, response: str, question_id: str = "q", index: int = 0) -> Rollout:
    return Rollout(question_id, index, "?", answer, response, "stop", 1)


@pytest.fixture(scope="module")
def pool():
    with GradingPool(num_workers=1, timeout_seconds=5.0) as pool:
        yield pool


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{4} or \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{4} and then \boxed{5", "4"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"{ \boxed {4}}}}}", "4"),
        (r"\boxed{a\\}", "a\\\\"),
        ("no box", None),
        (r"\boxed{{{4}", None),
        (r"\boxed{}", ""),
    ],
)
def test_last_balanced_box(text, content):
    assert extract_boxed(text) == content


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        (r"\$2,125", "2125"),
        ("1,234,567.5", "1234567.5"),
        ("-10,000 dollars", "-10000"),
        ("18 dollars.", "18"),
        ("5 square feet", "5"),
        ("5 million", "5 million"),
        ("3 choose 2", "3 choose 2"),
        ("1 000", "1000"),
        (r"12\,345\,678", "12345678"),
        ("1 2", "1 2"),
        ("11,\\! 111", "11, 111"),
        ("10{,}000", "10000"),
        ("1,2,3", "1,2,3"),
        ("(1,234)", "(1,234)"),
        ("1,234, 5", "1,234, 5"),
        (r"10\%", "10"),
        (" 5 \n cm ", "5 cm"),
    ],
)
def test_normal_form(answer, normal):
    assert normalize_answer(answer) == normal


def test_only_the_end_of_a_response_is_read():
    assert extract_answer(r"\boxed{4}" + " " * 30_000) is None
    assert extract_answer("x" * 1_000_000 + r"\boxed{4}") == "4"


def test_a_reference_may_be_a_whole_solution():
    assert reference_answer(r"thus \boxed{2,000}.") == "2000"


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        ("18", "18", "correct"),
        ("2125", "2125.0", "correct"),
        (r"\frac{1}{2}", "0.5", "correct"),
        ("25", "025", "correct"),
        (r"\text{Evelyn}", "evelyn", "correct"),
        ("10", "0.1", "wrong"),
        ("4", r"\pm 4", "wrong"),
        ("4", r"\text{undefined}", "wrong"),
        ("4", r"\frac{", "unparsable"),
        ("", "4", "bad_gold"),
    ],
)
def test_status(pool, gold, answer, status):
    assert pool.compare([Pair(gold, answer)]) == {Pair(gold, answer): status}


def test_grade_fills_label_and_keeps_order(pool):
    rollouts = [rollout("4", r"\boxed{4}"), rollout("4", "four", index=1), rollout("4", r"\boxed{5}", index=2)]
    graded = list(grade(rollouts, num_workers=2))
    assert [(r.correct, r.extracted, r.grade) for r in graded] == [
        (True, "4", "correct"),
        (None, None, "no_answer"),
        (False, "5", "wrong"),
    ]


def test_equal_pairs_are_compared_once(pool, monkeypatch):
    pool.compare([Pair("4", "8/2")])
    monkeypatch.setattr(pool, "_idle", [])
    assert pool.compare([Pair("4", "8/2"), Pair("4", "8/2")]) == {Pair("4", "8/2"): "correct"}


@pytest.mark.parametrize("answer", [ENDLESS_IN_C, SLOW_IN_PYTHON])
def test_timeout_is_its_own_grade_and_the_pool_lives_on(answer):
    (graded, after) = grade([rollout("4", rf"\boxed{{{answer}}}"), rollout("4", r"\boxed{3+1}", index=1)], 1, 0.3)
    assert (graded.grade, graded.correct) == ("timeout", None)
    assert after.grade == "correct"


def test_the_limit_is_cpu_time(monkeypatch):
    """A worker that waits for a busy machine for longer than its timeout still gives the true label."""
    monkeypatch.setattr(prm.grading.pool, "compare", lambda pair: time.sleep(0.4) or "correct")
    with GradingPool(1, timeout_seconds=0.1) as pool:
        assert pool.compare([Pair("4", "4"), Pair("4", "5")]) == dict.fromkeys([Pair("4", "4"), Pair("4", "5")], "correct")


def test_nothing_can_swallow_the_timeout(monkeypatch):
    def swallow(pair):
        while pair.answer == "endless":
            try:
                while True:
                    pass
            except BaseException:  # noqa: BLE001
                continue
        return "wrong"

    monkeypatch.setattr(prm.grading.pool, "compare", swallow)
    with GradingPool(1, timeout_seconds=0.1) as pool:
        for answer, status in (("endless", "timeout"), ("5", "wrong"), ("6", "wrong")):
            assert pool.compare([Pair("4", answer)]) == {Pair("4", answer): status}


def test_a_worker_that_hangs_without_using_the_cpu_is_killed():
    with GradingPool(1, timeout_seconds=1.0) as pool:
        pool._wall_seconds = 0.3
        (worker,) = pool._idle
        os.kill(worker.process.pid, signal.SIGSTOP)
        assert pool.compare([Pair("4", "5")]) == {Pair("4", "5"): "timeout"}
        pool._wall_seconds = 60
        assert pool.compare([Pair("4", "6")]) == {Pair("4", "6"): "wrong"}
        assert not worker.process.is_alive()


def test_how_deep_an_answer_may_nest_does_not_depend_on_the_caller():
    nested = "\\sqrt{2+" * 110 + "2" + "}" * 110
    statuses, limit = [], sys.getrecursionlimit()
    try:
        for depth in (limit, 20 * limit):
            sys.setrecursionlimit(depth)
            with GradingPool(1, timeout_seconds=30) as pool:
                statuses += pool.compare([Pair("2", nested)]).values()
    finally:
        sys.setrecursionlimit(limit)
    assert statuses == ["unparsable", "unparsable"]


def test_a_worker_killed_from_outside_loses_its_pair_only(caplog):
    with GradingPool(1) as pool:
        (worker,) = pool._idle
        worker.start(Pair("4", "5"), 0.0)
        worker.process.kill()
        worker.process.join()
        assert worker.finish(is_late=False) in {"unparsable", "wrong"}
        assert pool.compare([Pair("4", "6")]) == {Pair("4", "6"): "wrong"}


def test_workers_end_with_their_parent():
    pool = GradingPool(2)
    workers = [worker.process.pid for worker in pool._idle]
    pool.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_unreadable_reference_names_its_question():
    with pytest.raises(ValueError, match=r"question 'q7'.*reference answer ' '"):
        list(grade([rollout(" ", r"\boxed{4}", "q7")]))


def test_unreadable_references_are_named_together():
    check_references({"q1": "4", "q2": r"thus \boxed{\frac{1}{2}}", "q3": r"\text{Evelyn}"})
    with pytest.raises(ValueError, match=r"of 2 of 3 questions: 'q1' \(' '\), 'q3' \('\$'\); correct the question set"):
        check_references({"q1": " ", "q2": "4", "q3": "$"})


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"timeout_seconds": 0.0}])
def test_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GradingConfig(**options)


def test_published_gsm8k_labels(real_data):
    file = real_data / "gsm8k_example_model_solutions_200.jsonl"
    rows = map(json.loads, file.read_text().splitlines())
    published = [solution["is_correct"] for row in rows for solution in row.values() if isinstance(solution, dict)]
    graded = list(grade(load_rollouts(file)))
    assert [r.correct is True for r in graded] == published
    assert sum(r.correct is None for r in graded) == 5  # five solutions stop before their answer


def test_published_qwen_labels(real_data):
    rollouts = load_rollouts(real_data / "rollouts" / "qwen25math_rm_100x8.jsonl")
    agree = [before.correct == after.correct for before, after in zip(rollouts, grade(rollouts), strict=True)]
    assert len(agree) == 800
    assert sum(agree) >= 799
