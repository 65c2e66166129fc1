"""PRMBench's measures: counts, both F1, what undefined ratios become, the exact threshold."""

import numpy as np
import pytest

from prm import metrics


def measures(*counts):
    return metrics.step_measures(np.array([counts]))


def test_counts_by_hand():
    is_good, called = np.array([1, 1, 0, 0, 0, 1], dtype=bool), np.array([1, 0, 1, 0, 0, 1], dtype=bool)
    counts = metrics.count_steps(is_good, called, np.array([0, 0, 0, 0, 2, 2]), 3)
    assert metrics.COUNTS == ("TP", "FP", "FN", "TN")
    assert counts.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]]


def test_measures_by_hand():
    # 6 right steps, 4 called so; 4 wrong ones, 3 called so: precision 4/5, recall 4/6, of the wrong ones 3/5 and 3/4.
    found = measures(4, 1, 2, 3)
    assert (found.precision, found.recall, found.negative_precision, found.negative_recall) == (0.8, 4 / 6, 0.6, 0.75)
    assert found.f1 == pytest.approx(8 / 11, abs=1e-15)
    assert found.negative_f1 == pytest.approx(6 / 9, abs=1e-15)
    assert found.prm_score == pytest.approx((8 / 11 + 6 / 9) / 2, abs=1e-15)


@pytest.mark.parametrize(
    ("counts", "f1", "negative_f1"),
    [
        ((0, 0, 0, 0), -1, -1),  # no step at all: every ratio is -1, and 2 * (-1) * (-1) / (-2) = -1
        ((5, 2, 0, 0), 10 / 12, 0),  # all called right: negative precision -1, recall 0, so 0 / -1
        ((0, 2, 3, 0), -1, -1),  # all wrong: precision and recall are 0, 0/0 is -1
        ((0, 0, 3, 2), 0, 4 / 7),  # none called right: precision -1, recall 0
        ((4, 0, 0, 0), 1, -1),  # no wrong step
    ],
)
def test_undefined_ratios_are_minus_one_and_stay_in(counts, f1, negative_f1):
    found = measures(*counts)
    assert (found.f1.item(), found.negative_f1.item()) == (pytest.approx(f1, abs=1e-15), pytest.approx(negative_f1, abs=1e-15))
    assert found.prm_score == pytest.approx((f1 + negative_f1) / 2, abs=1e-15)


def test_batches_are_worked_out_one_by_one():
    counts = np.random.default_rng(0).integers(3, size=(50, 2, 4))
    batch = metrics.step_measures(counts).prm_score
    assert batch.tolist() == [[measures(*row).prm_score.item() for row in pair] for pair in counts]


def test_threshold_by_hand():
    scores, is_good = np.array([0.9, 0.7, 0.4, 0.7]), np.array([True, True, False, False])
    thresholds, values = metrics.prm_score_curve(scores, is_good)
    assert thresholds.tolist() == [-0.6, 0.4, 0.7, 0.9]
    by_hand = [measures(2, 2, 0, 0), measures(2, 1, 0, 1), measures(1, 0, 1, 2), measures(0, 0, 2, 2)]
    assert values.tolist() == [m.prm_score.item() for m in by_hand]
    # Above .4 and above .7 one step of four is wrong, and both F1 are 4/5 and 2/3, the other way around: the lower wins.
    assert metrics.best_prm_threshold(scores, is_good) == (0.4, pytest.approx(11 / 15, abs=1e-15))


def test_every_step_can_be_called_good_however_large_the_scores_are():
    scores = np.array([-1e20, 1e20])
    threshold, value = metrics.best_prm_threshold(scores, np.array([True, False]))
    assert (scores > threshold).all()
    assert value == measures(1, 1, 0, 0).prm_score


@pytest.mark.parametrize("seed", range(10))
def test_sweep_equals_trying_every_threshold(seed):
    rng = np.random.default_rng(seed)
    scores, is_good = rng.integers(12, size=40) / 12, rng.random(40) < 0.8
    thresholds, values = metrics.prm_score_curve(scores, is_good)

    def tried(threshold):
        counts = metrics.count_steps(is_good, scores > threshold, np.zeros(40, dtype=int), 1)
        return metrics.step_measures(counts).prm_score.item()

    assert values.tolist() == [tried(t) for t in thresholds]
    assert max(values) >= max(tried(t) for t in np.linspace(-0.2, 1.2, 300))


def test_errors():
    with pytest.raises(ValueError, match="no step has a score"):
        metrics.best_prm_threshold(np.array([]), np.array([], dtype=bool))
    with pytest.raises(ValueError, match="step score 1 is nan: it must be finite"):
        metrics.best_prm_threshold(np.array([0.5, np.nan]), np.array([True, False]))
