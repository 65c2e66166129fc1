"""Validation metrics, worked by hand on three responses."""

import math

import pytest

from prm.steps import StepEncoder
from prm.training.validation import Scored, good_and_bad, validation_metrics

NAN = math.nan


def scored(correct: list[float], labels: list[list[float]] | None = None) -> list[Scored]:
    """Two micro-batches: responses with the minima 0.6, 0.4 and 0.7."""
    labels = labels or [[NAN, NAN], [NAN, NAN], [NAN]]
    return [
        Scored(1.5, 2, [[0.6, 0.9], [0.8, 0.4]], labels[:2], correct[:2]),
        Scored(0.3, 1, [[0.7]], labels[2:], correct[2:]),
    ]


def test_by_hand(tiny_tokenizer):
    """Loss 1.8 / 3; 0.6 and 0.7 are on the right side, 0.4 too; of the labelled steps 0.6, 0.9, 0.4 only 0.6 is bad."""
    encoder = StepEncoder.for_loss("asym", tiny_tokenizer)
    metrics = validation_metrics(scored([1.0, 0.0, 1.0], [[-1.0, 1.0], [0.0, 1.0], [NAN]]), encoder)
    assert metrics == pytest.approx({"loss": 0.6, "outcome_accuracy": 1.0, "outcome_auc": 1.0, "step_auc": 0.5})


def test_undefined_metrics_are_left_out(tiny_tokenizer):
    encoder = StepEncoder.for_loss("asym", tiny_tokenizer)
    assert set(validation_metrics(scored([NAN, NAN, NAN]), encoder)) == {"loss"}
    assert set(validation_metrics(scored([1.0, 1.0, NAN]), encoder)) == {"loss", "outcome_accuracy"}


def test_implicit_prm_is_judged_by_its_sum(tiny_tokenizer):
    """Sums 1.0 and -0.5: both on their side of 0, though the right response has a negative step."""
    encoder = StepEncoder.for_loss("implicit_prm", tiny_tokenizer)
    batch = Scored(0.0, 2, [[-1.0, 2.0], [0.5, -1.0]], [[NAN, NAN], [NAN, NAN]], [1.0, 0.0])
    assert validation_metrics([batch], encoder)["outcome_accuracy"] == 1.0


def test_raw_values_have_no_accuracy(tiny_tokenizer):
    """pqm's values only rank: 0.5 is no threshold for them."""
    encoder = StepEncoder.for_loss("pqm", tiny_tokenizer)
    assert set(validation_metrics(scored([1.0, 0.0, 1.0]), encoder)) == {"loss", "outcome_auc"}


def test_hard_and_soft_labels():
    """Hard: -1 bad, 0 neutral, 1 good. Soft: good from 0.5 on."""
    scores, is_good = good_and_bad([[0.1, 0.2, 0.3]], [[-1.0, 0.0, 1.0]])
    assert (scores.tolist(), is_good.tolist()) == ([0.1, 0.3], [False, True])
    scores, is_good = good_and_bad([[0.1, 0.2, 0.3]], [[0.0, 0.5, NAN]])
    assert (scores.tolist(), is_good.tolist()) == ([0.1, 0.2], [False, True])
