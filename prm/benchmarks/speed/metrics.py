"""What the metrics cost: sizes in, CPU seconds of every part out, on synthetic scores."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from prm import metrics
from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, measure_best_of_n, summarize
from prm.records import StepScores

LIMITS = {"curve and bootstrap": 10.0, "threshold sweep": 1.0}
"""Seconds that a part may take at the default sizes."""


@dataclass
class MetricSpeedConfig:
    """Sizes of the benchmark, by default those of the field's largest evaluations."""

    num_questions: int = 500
    """Questions of Best-of-N."""
    num_candidates: int = 1024
    """Candidates of each question."""
    num_bootstrap: int = 10_000
    """Resamples of the questions."""
    num_items: int = 3400
    """Items of the threshold sweep (ProcessBench's size)."""
    num_steps: int = 8
    """Mean number of steps of an item."""
    with_votes: bool = True
    """Time a whole Best-of-N evaluation too, whose votes are drawn and cost the most."""
    seed: int = 0
    """Seed of the synthetic scores."""


def measure_metrics(config: MetricSpeedConfig) -> dict[str, float]:
    """CPU seconds of each part."""
    rng = np.random.default_rng(config.seed)
    shape = config.num_questions, config.num_candidates
    scores, correct = rng.random(shape).round(3), rng.random(shape) < rng.random((config.num_questions, 1))
    ns = [2**k for k in range(config.num_candidates.bit_length()) if 2**k <= config.num_candidates]
    steps = [rng.random(n).round(4).tolist() for n in rng.poisson(config.num_steps - 1, config.num_items) + 1]
    labels = np.array([int(rng.integers(-1, len(s))) for s in steps])
    flat, is_good = np.concatenate(steps), rng.random(sum(map(len, steps))) < 0.5
    parts: dict[str, Callable[[], Any]] = {
        "curve and bootstrap": lambda: metrics.bootstrap_interval(
            metrics.best_of_n(scores, correct, ns), num_draws=config.num_bootstrap
        ),
        "threshold sweep": lambda: metrics.best_threshold(steps, labels),
        "calibration error": lambda: metrics.expected_calibration_error(scores.ravel(), correct.ravel()),
        "temperature fit": lambda: metrics.fit_temperature(metrics.to_logits(flat), is_good),
    }
    if config.with_votes:
        records = synthetic_records(scores, correct, rng)
        best_of_n = BestOfNConfig(aggregation=["min"], num_bootstrap=config.num_bootstrap)
        parts["whole evaluation"] = lambda: summarize(measure_best_of_n({"prm": records}, best_of_n), best_of_n)
    return {name: cpu_seconds(part) for name, part in parts.items()}


def synthetic_records(scores: np.ndarray, correct: np.ndarray, rng: np.random.Generator) -> list[StepScores]:
    """Candidates of one step with answers: 0 where right, one of twenty others where wrong."""
    answers = np.where(correct, 0, rng.integers(1, 21, scores.shape))
    return [
        StepScores(f"q{q:04d}", i, [float(scores[q, i])], bool(correct[q, i]), "0", str(answers[q, i]))
        for q in range(len(scores))
        for i in range(scores.shape[1])
    ]


def cpu_seconds(part: Callable[[], Any]) -> float:
    start = time.process_time()
    part()
    return time.process_time() - start
