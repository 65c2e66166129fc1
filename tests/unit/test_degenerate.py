"""Constant scores are an error, certainty and few steps are not."""

import random

import pytest

from prm.metrics.degenerate import MIN_STEPS, DegenerateDetector


def detector(scores, activation="sigmoid", different=None):
    watch = DegenerateDetector("some/model", activation)
    for index, score in enumerate(scores):
        watch.update([f"step {index % (different or len(scores))}"], [score])
    return watch


def noise(center, width, count=MIN_STEPS):
    draw = random.Random(0)
    return [center + draw.uniform(-width, width) for _ in range(count)]


@pytest.mark.parametrize(
    ("scores", "activation"),
    [
        ([0.5] * MIN_STEPS, "sigmoid"),
        (noise(0.5, 0.002), "softmax"),
        (noise(0.7, 0.002), "sigmoid"),
        (noise(0.0, 0.004), "difference"),
        ([0.0] * MIN_STEPS, "identity"),
        (noise(-3.0, 0.003), "identity"),
    ],
)
def test_a_constant_names_model_range_and_remedy(scores, activation):
    watch = detector(scores, activation)
    assert watch.is_degenerate
    message = rf"some/model: {MIN_STEPS} scores .* between {min(scores):.6g} and {max(scores):.6g}: .*--recipe"
    with pytest.raises(ValueError, match=message):
        watch.check()


@pytest.mark.parametrize(
    ("scores", "activation", "different"),
    [
        (noise(0.5, 0.05), "sigmoid", None),  # a poor model, but not a constant
        ([1.0] * 1000, "softmax", None),  # certainty
        ([0.9999] * 1000, "sigmoid", None),
        ([0.0] * 1000, "sigmoid", None),
        ([-1.0] * 1000, "difference", None),
        ([0.999] * 1000, "difference", None),
        ([0.5] * (MIN_STEPS - 1), "sigmoid", None),  # too few
        ([0.5] * 1000, "sigmoid", 7),  # the same seven steps again and again
        ([0.999] * 500 + [0.4] * 5, "sigmoid", None),
        ([1e-3 * value for value in noise(0.0, 1.0)], "identity", None),  # small, as with coef 0.001
        ([], "sigmoid", None),
    ],
)
def test_what_is_no_constant(scores, activation, different):
    watch = detector(scores, activation, different)
    assert not watch.is_degenerate
    watch.check()


def test_deviation_of_many_scores_is_that_of_one_pass_over_all():
    scores = noise(0.5, 0.4, 1000)
    logits = [DegenerateDetector("m", "sigmoid")._value(score) for score in scores]
    mean = sum(logits) / len(logits)
    watch = detector(scores)
    assert watch.mean == pytest.approx(mean, abs=1e-12)
    assert watch.squares == pytest.approx(sum((value - mean) ** 2 for value in logits), rel=1e-12)
