"""Constant scores are an error, certainty and few steps are not."""

import math
import random

import pytest

from prm.metrics.degenerate import MIN_STEPS, DegenerateDetector


def detector(scores, reading="probabilities", different=None):
    watch = DegenerateDetector("some/model", reading)
    for index, score in enumerate(scores):
        watch.update([f"step {index % (different or len(scores))}"], [score])
    return watch


def noise(center, width, count=MIN_STEPS):
    draw = random.Random(0)
    return [center + draw.uniform(-width, width) for _ in range(count)]


@pytest.mark.parametrize(
    ("scores", "reading"),
    [
        ([0.5] * MIN_STEPS, "probabilities"),
        (noise(0.5, 0.002), "probabilities"),
        (noise(0.7, 0.002), "probabilities"),
        (noise(0.0, 0.004), "differences"),
        ([0.0] * MIN_STEPS, "logits"),
        (noise(-3.0, 0.003), "logits"),
    ],
)
def test_a_constant_names_model_range_and_remedy(scores, reading):
    watch = detector(scores, reading)
    assert watch.is_degenerate
    message = rf"some/model: {MIN_STEPS} scores .* between {min(scores):.6g} and {max(scores):.6g}: .*--recipe"
    with pytest.raises(ValueError, match=message):
        watch.check()


@pytest.mark.parametrize(
    ("scores", "reading", "different"),
    [
        (noise(0.5, 0.05), "probabilities", None),  # a poor model, but not a constant
        ([1.0] * 1000, "probabilities", None),  # certainty
        ([0.9999] * 1000, "probabilities", None),
        ([0.0] * 1000, "probabilities", None),
        ([-1.0] * 1000, "differences", None),
        ([0.999] * 1000, "differences", None),
        ([0.5] * (MIN_STEPS - 1), "probabilities", None),  # too few
        ([0.5] * 1000, "probabilities", 7),  # the same seven steps again and again
        ([0.999] * 500 + [0.4] * 5, "probabilities", None),
        ([1e-3 * value for value in noise(0.0, 1.0)], "logits", None),  # small, as with coef 0.001
        ([], "probabilities", None),
    ],
)
def test_what_is_no_constant(scores, reading, different):
    watch = detector(scores, reading, different)
    assert not watch.is_degenerate
    watch.check()


def test_deviation_of_many_scores_is_that_of_one_pass_over_all():
    scores = noise(0.5, 0.4, 1000)
    logits = [math.log(score / (1 - score)) for score in scores]
    mean = sum(logits) / len(logits)
    watch = detector(scores)
    assert watch.mean == pytest.approx(mean, abs=1e-12)
    assert watch.squares == pytest.approx(sum((value - mean) ** 2 for value in logits), rel=1e-12)
