"""Calibration metrics: numbers worked by hand, then what must not matter, then each error."""

import numpy as np
import pytest

from prm import metrics

SCORES = np.array([0.1, 0.15, 0.7, 0.75, 0.9, 0.9])
LABELS = np.array([False, True, False, True, True, True])
EMPTY = np.empty(0), np.empty(0, dtype=bool)


def test_brier_score_by_hand():
    # .01 + .7225 + .49 + .0625 + .01 + .01 over 6
    assert metrics.brier_score(SCORES, LABELS) == pytest.approx(1.305 / 6)
    assert metrics.brier_score(LABELS.astype(float), LABELS) == 0
    assert np.isnan(metrics.brier_score(*EMPTY))


def test_log_loss_by_hand():
    assert metrics.log_loss(np.array([0.8, 0.8]), np.array([True, False])) == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2)
    assert metrics.log_loss(np.array([1.0]), np.array([False])) == pytest.approx(-np.log(1e-6)), "certain and wrong stays finite"
    assert np.isnan(metrics.log_loss(*EMPTY))


def test_bins_of_equal_width_by_hand():
    low, middle, top = metrics.reliability_bins(SCORES, LABELS, num_bins=5)
    assert (low.mean_score, low.share_positive, low.num_items) == (pytest.approx(0.125), 0.5, 2)
    assert (middle.mean_score, middle.share_positive, middle.num_items) == (pytest.approx(0.725), 0.5, 2)
    assert (top.mean_score, top.share_positive, top.num_items) == (pytest.approx(0.9), 1.0, 2)
    ece = (2 * 0.375 + 2 * 0.225 + 2 * 0.1) / 6
    assert metrics.expected_calibration_error(SCORES, LABELS, num_bins=5) == pytest.approx(ece)


def test_an_edge_belongs_to_the_bin_above_and_one_to_the_last():
    bins = metrics.reliability_bins(np.array([0.0, 0.5, 1.0]), np.array([True] * 3), num_bins=2)
    assert [b.num_items for b in bins] == [1, 2]


@pytest.mark.parametrize("num_bins", [10, 50, 100])
def test_every_edge_belongs_to_the_bin_above(num_bins):
    edges = np.arange(num_bins) / num_bins
    assert metrics.bin_of(edges, num_bins).tolist() == list(range(num_bins))
    assert metrics.bin_of(np.nextafter(edges[1:], 0), num_bins).tolist() == list(range(num_bins - 1))


def test_bins_of_equal_mass_by_hand():
    bins = metrics.reliability_bins(SCORES, LABELS, num_bins=3, binning="mass")
    assert [b.num_items for b in bins] == [2, 2, 2]
    assert [b.mean_score for b in bins] == pytest.approx([0.125, 0.725, 0.9])
    ece = (0.375 + 0.225 + 0.1) / 3
    assert metrics.expected_calibration_error(SCORES, LABELS, num_bins=3, binning="mass") == pytest.approx(ece)


def test_equal_scores_share_a_bin_whatever_their_order():
    scores, labels = np.array([0.5] * 8 + [0.9, 0.1]), np.array([True] * 4 + [False] * 4 + [True, False])
    bins = metrics.reliability_bins(scores, labels, num_bins=5, binning="mass")
    assert [b.num_items for b in bins] == [1, 8, 1]
    order = np.random.default_rng(0).permutation(10)
    assert metrics.reliability_bins(scores[order], labels[order], num_bins=5, binning="mass") == bins


def test_without_items_there_is_no_bin_and_no_error():
    for binning in ("width", "mass"):
        assert metrics.reliability_bins(*EMPTY, binning=binning) == []
        assert np.isnan(metrics.expected_calibration_error(*EMPTY, binning=binning))
    assert np.isnan(metrics.fit_temperature(*EMPTY))


@pytest.mark.parametrize("bad", [-0.1, 1.2, np.nan])
@pytest.mark.parametrize("metric", ["brier_score", "log_loss", "reliability_bins", "expected_calibration_error"])
def test_what_is_no_probability_is_refused(metric, bad):
    with pytest.raises(ValueError, match=rf"score 1 is {bad}: calibration needs probabilities"):
        getattr(metrics, metric)(np.array([0.5, bad]), np.array([True, False]))


class TestTemperature:
    def test_by_hand(self):
        # Claimed: log 9 at each of four items; held in three of four: sigmoid(log 9 / T) = 3/4 at T = log 9 / log 3 = 2.
        logits = np.full(4, np.log(9.0))
        assert metrics.fit_temperature(logits, np.array([True, True, True, False])) == pytest.approx(2, rel=1e-12)

    @pytest.mark.parametrize("true_temperature", [0.05, 0.5, 1.0, 3.0, 200.0])
    def test_finds_the_least_loss_of_a_fine_grid(self, true_temperature):
        rng = np.random.default_rng(1)
        logits = rng.normal(0, 4, 4000)
        labels = rng.random(4000) < metrics.apply_temperature(logits, true_temperature)
        fitted = metrics.fit_temperature(logits, labels)

        def loss(temperature):
            return np.logaddexp(0, -np.where(labels, logits, -logits) / temperature).mean()

        grid = fitted * np.exp(np.linspace(-1, 1, 401))
        assert loss(fitted) <= min(map(loss, grid)) + 1e-15
        assert 0.3 < fitted / true_temperature < 3

    def test_rounding_errors_are_no_evidence(self):
        """Right and wrong at the same distance from 0.5: no better than a constant, though the logits' sum is not quite 0."""
        logits, labels = metrics.to_logits(np.array([0.1, 0.9, 0.2, 0.8])), np.array([True, True, False, False])
        assert 0 < np.where(labels, logits, -logits).sum() < 1e-12
        assert metrics.fit_temperature(logits, labels) == np.inf

    def test_scales_with_the_logits(self):
        rng = np.random.default_rng(2)
        logits, labels = rng.normal(0, 1, 300), rng.random(300) < 0.6
        fitted = metrics.fit_temperature(logits, labels)
        assert metrics.fit_temperature(1e4 * logits, labels) == pytest.approx(1e4 * fitted, rel=1e-9)

    def test_probabilities_become_calibrated(self):
        rng = np.random.default_rng(3)
        truth = rng.normal(0, 1.5, 20_000)
        labels = rng.random(20_000) < 1 / (1 + np.exp(-truth))
        overconfident = 1 / (1 + np.exp(-3 * truth))
        logits = metrics.to_logits(overconfident)
        temperature = metrics.fit_temperature(logits, labels)
        assert temperature == pytest.approx(3, rel=0.05)
        after = metrics.expected_calibration_error(metrics.apply_temperature(logits, temperature), labels)
        assert after < 0.01 < 0.1 < metrics.expected_calibration_error(overconfident, labels)

    def test_without_a_minimum_the_limit_is_given(self):
        logits = np.array([2.0, -1.0, 0.0])
        assert metrics.fit_temperature(logits, np.array([True, False, True])) == 0
        assert metrics.fit_temperature(logits, np.array([False, True, True])) == np.inf
        assert metrics.fit_temperature(np.zeros(3), np.array([True, False, True])) == 1
        assert metrics.apply_temperature(logits, 0).tolist() == [1, 0, 0.5]
        assert metrics.apply_temperature(logits, np.inf).tolist() == [0.5] * 3

    def test_a_rounded_score_of_one_has_a_finite_logit(self):
        assert metrics.to_logits(np.array([0.0, 0.5, 1.0])).round(2).tolist() == [-13.82, 0, 13.82]

    def test_errors(self):
        with pytest.raises(ValueError, match="logit 1 is not finite"):
            metrics.fit_temperature(np.array([0.0, np.inf]), np.array([True, False]))
        with pytest.raises(ValueError, match=r"score 0 is -3\.0"):
            metrics.to_logits(np.array([-3.0]))
