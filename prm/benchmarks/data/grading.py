"""Speed of grading: rollouts in; graded pairs per CPU-second with and without the pool, and how far the two agree, out."""

import resource
import time
from collections.abc import Sequence
from typing import Any

from prm.grading import GradingPool, Pair, extract_answer, grade, reference_answer
from prm.grading.answers import judge, read_answer
from prm.records import Rollout


def grading_report(rollouts: Sequence[Rollout], num_workers: int, timeout_seconds: float, repetitions: int) -> dict[str, Any]:
    """Median speed over repetitions, and the agreement with the naive path: every pair by itself, nothing remembered.

    CPU seconds are those of this process and its workers, the start of the workers included.
    """
    read_answer("1")  # loads Math-Verify
    runs = [timed_grading(rollouts, num_workers, timeout_seconds) for _ in range(repetitions)]
    seconds = sorted(run[0] for run in runs)[repetitions // 2]
    start = time.process_time()
    naive = [naive_status(rollout) for rollout in rollouts]
    naive_seconds = time.process_time() - start
    pooled = runs[0][1]
    return {
        "rollouts": len(rollouts),
        "distinct_pairs": len({(r.answer, extract_answer(r.response)) for r in rollouts}),
        "per_cpu_second": len(rollouts) / seconds,
        "naive_per_cpu_second": len(rollouts) / naive_seconds,
        "agreement": sum(a == b for a, b in zip(pooled, naive, strict=True)) / len(rollouts),
    }


def timed_grading(rollouts: Sequence[Rollout], num_workers: int, timeout_seconds: float) -> tuple[float, list[str]]:
    """CPU seconds of a run of the pool, and the grades."""
    start = cpu_seconds()
    grades = [rollout.grade for rollout in grade(rollouts, num_workers, timeout_seconds)]
    return cpu_seconds() - start, grades


def naive_status(rollout: Rollout) -> str:
    """Parse both and verify, without pool, limits, or memory of earlier pairs."""
    answer = extract_answer(rollout.response)
    return "no_answer" if answer is None else judge(read_answer(reference_answer(rollout.answer)), read_answer(answer))


def hostile_report(answers: Sequence[tuple[str, Rollout]], timeout_seconds: float) -> dict[str, Any]:
    """CPU seconds of the workers for each hostile answer by itself: the largest, and by name."""
    seconds, grades = {}, {}
    for name, rollout in answers:
        with GradingPool(1, timeout_seconds) as pool:
            pool.compare([Pair("1", "1")])  # the worker has started
            before = worker_seconds()
            answer = extract_answer(rollout.response)
            pair = None if answer is None else Pair(reference_answer(rollout.answer), answer)
            grades[name] = "no_answer" if pair is None else pool.compare([pair])[pair]
        seconds[name] = worker_seconds() - before
    return {"most_cpu_seconds": max(seconds.values()), "cpu_seconds": seconds, "grades": grades}


def cpu_seconds() -> float:
    return time.process_time() + worker_seconds()


def worker_seconds() -> float:
    """CPU time of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
