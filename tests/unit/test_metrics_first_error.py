"""First-error F1, its thresholds, and AUC."""

import time

import numpy as np
import pytest

from prm import metrics

RNG = np.random.default_rng(0)


class TestFirstError:
    SCORES = ((0.9, 0.4, 0.8), (0.9, 0.7), (0.3, 0.6), (0.6, 0.5))
    LABELS = np.array([1, -1, 0, -1])

    def test_prediction_by_hand(self):
        assert metrics.predict_first_error(self.SCORES, 0.5).tolist() == [1, -1, 0, -1]
        assert metrics.predict_first_error([[0.5, 0.4]], 0.4).tolist() == [-1], "an equal score counts as correct"

    def test_score_by_hand(self):
        score = metrics.first_error_score(np.array([1, -1, 1, metrics.UNPARSABLE]), self.LABELS)
        assert (score.acc_error, score.acc_correct, score.f1) == (0.5, 0.5, 0.5)
        assert (score.num_error, score.num_correct) == (2, 2)
        assert metrics.first_error_score(np.array([0, 0, 1, 0]), self.LABELS).f1 == 0, "0/0 is 0"

    def test_one_kind_of_item_has_no_f1(self):
        score = metrics.first_error_score(np.array([-1]), np.array([-1]))
        assert score.acc_correct == 1
        assert np.isnan([score.acc_error, score.f1]).all()
        assert np.isnan(metrics.f1_interval(np.array([-1]), np.array([-1]))).all()

    def test_best_threshold_by_hand(self):
        # t = .5 already catches both errors and leaves both right answers alone; so would every t in (.4, .5].
        assert metrics.best_threshold(self.SCORES, self.LABELS) == (0.5, 1.0)

    @pytest.mark.parametrize("seed", range(20))
    def test_sweep_equals_trying_every_score(self, seed):
        rng = np.random.default_rng(seed)
        scores = [(rng.integers(12, size=rng.integers(1, 7)) / 12).tolist() for _ in range(30)]
        labels = np.array([-1, 0, *(rng.integers(-1, len(s)) for s in scores[2:])])
        thresholds, f1 = metrics.threshold_curve(scores, labels)
        tried = [metrics.first_error_score(metrics.predict_first_error(scores, t), labels).f1 for t in thresholds]
        np.testing.assert_allclose(f1, tried, atol=1e-15)
        finer = np.linspace(-0.1, 1.1, 400)
        assert max(tried) >= max(metrics.first_error_score(metrics.predict_first_error(scores, t), labels).f1 for t in finer)
        threshold, best = metrics.best_threshold(scores, labels)
        assert best == max(f1)
        assert threshold == min(t for t, value in zip(thresholds, f1, strict=True) if value == best)

    def test_items_that_could_not_be_read_are_never_hit(self):
        scores, labels = [*self.SCORES, [], []], np.array([*self.LABELS, 0, -1])
        assert metrics.predict_first_error(scores, 0.5).tolist() == [1, -1, 0, -1, metrics.UNPARSABLE, metrics.UNPARSABLE]
        assert metrics.best_threshold(scores, labels) == (0.5, pytest.approx(2 / 3))
        assert metrics.step_auc(scores, labels) == metrics.step_auc(self.SCORES, self.LABELS)

    def test_sweep_of_a_full_benchmark_takes_less_than_a_second(self):
        lengths = RNG.integers(2, 15, size=3400)
        scores = [RNG.random(length).tolist() for length in lengths]
        labels = np.array([RNG.integers(-1, length) for length in lengths])
        start = time.process_time()
        metrics.best_threshold(scores, labels)
        assert time.process_time() - start < 1

    def test_equal_f1_is_a_tie_whatever_its_rounding_errors(self):
        """Accuracies of (7/10, 14/15) at 0.45 and (8/10, 12/15) at 0.95: both F1 are 4/5, but not as floats."""
        with_error = [[0.3]] * 7 + [[0.5]] + [[0.05, 0.99]] * 2
        scores = [*with_error, *[[0.95]] * 12, *[[0.45]] * 2, [0.1]]
        labels = np.array([0] * 8 + [1] * 2 + [-1] * 15)
        _, f1 = metrics.threshold_curve(scores, labels)
        assert len(np.unique(f1[np.isclose(f1, 0.8)])) == 2
        assert metrics.best_threshold(scores, labels) == (0.45, pytest.approx(0.8))

    def test_interval_surrounds_f1(self):
        labels = np.array([0] * 50 + [-1] * 50)
        predictions = np.where(RNG.random(100) < 0.7, labels, -2)
        low, high = metrics.f1_interval(predictions, labels)
        assert low < metrics.first_error_score(predictions, labels).f1 < high
        assert 0.1 < high - low < 0.3

    def test_items_without_an_error_are_resampled_apart(self):
        """They are all right here, so that only the others' accuracy moves."""
        labels = np.array([0] * 50 + [-1] * 20)
        predictions = np.where(np.arange(70) < 20, -2, labels)
        ends = metrics.bootstrap_interval((predictions == labels)[:50].astype(float))
        assert metrics.f1_interval(predictions, labels) == pytest.approx([2 * end / (1 + end) for end in ends])

    def test_errors(self):
        with pytest.raises(ValueError, match="label 2 names no step: the item has 2"):
            metrics.threshold_curve([[0.1, 0.2]], np.array([2]))
        with pytest.raises(ValueError, match="no item has a step score"):
            metrics.threshold_curve([], np.array([], dtype=int))
        with pytest.raises(ValueError, match="no item has a step score"):
            metrics.threshold_curve([[]], np.array([-1]))
        with pytest.raises(ValueError, match="NaN"):
            metrics.threshold_curve([[float("nan")]], np.array([-1]))
        with pytest.raises(ValueError, match="1 items have scores but 2"):
            metrics.threshold_curve([[0.1]], np.array([-1, 0]))
        with pytest.raises(ValueError, match="only one kind"):
            metrics.best_threshold([[0.1]], np.array([-1]))


class TestClassification:
    def test_auc_by_hand(self):
        # Positives .8 and .4, negatives .4 and .1: 3.5 of 4 pairs, the tie counting half.
        assert metrics.roc_auc(np.array([0.8, 0.4, 0.4, 0.1]), np.array([1, 1, 0, 0])) == 3.5 / 4

    def test_auc_equals_the_share_of_pairs(self):
        scores, labels = RNG.integers(10, size=80) / 10, RNG.random(80) < 0.4
        gaps = scores[labels][:, None] - scores[~labels]
        assert metrics.roc_auc(scores, labels) == pytest.approx((gaps > 0).mean() + (gaps == 0).mean() / 2, abs=1e-14)

    def test_undefined_auc_is_nan(self):
        assert np.isnan(metrics.roc_auc(np.array([0.1, 0.2]), np.array([True, True])))
        assert np.isnan(metrics.step_auc([], np.array([], dtype=int)))

    def test_steps_behind_the_first_error_are_not_judged(self):
        values, is_good = metrics.judged_steps([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.3, 0.2], []], np.array([-1, 1, 0, 0]))
        assert values.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.3]
        assert is_good.tolist() == [True, True, True, True, False, False]

    def test_step_auc_ignores_steps_behind_the_first_error(self):
        assert metrics.step_auc([[0.9, 0.2, 0.0], [0.8]], np.array([1, -1])) == 1.0
        assert metrics.step_auc([[0.9, 0.2, 0.99], [0.1]], np.array([1, -1])) == 0.5

    def test_accuracy_by_hand(self):
        assert metrics.accuracy(np.array([0.5, 0.4, 0.9]), np.array([True, True, False])) == pytest.approx(1 / 3)
        assert np.isnan(metrics.accuracy(np.array([]), np.array([], dtype=bool)))

    def test_errors(self):
        with pytest.raises(ValueError, match="score 1 is NaN"):
            metrics.roc_auc(np.array([0.1, np.nan]), np.array([True, False]))
