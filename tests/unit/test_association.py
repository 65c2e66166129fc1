"""Rank correlation: worked by hand, against the textbook formula, within cells, and its interval."""

import numpy as np
import pytest

from prm import metrics

RNG = np.random.default_rng(0)


def test_by_hand():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert metrics.rank_correlation(x, x**3) == pytest.approx(1)
    assert metrics.rank_correlation(x, -x) == pytest.approx(-1)
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6.
    assert metrics.rank_correlation(x, np.array([20.0, 10.0, 40.0, 30.0])) == pytest.approx(0.6)


def test_ties_share_their_rank():
    # Ranks 1.5 1.5 3 4 and 1 2 3.5 3.5: Pearson of them by hand, 4 / 4.5.
    assert metrics.rank_correlation(np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 5, 5])) == pytest.approx(4 / 4.5)


def test_what_does_not_vary_has_no_correlation():
    assert np.isnan(metrics.rank_correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(metrics.rank_correlation(np.arange(4.0), np.arange(4.0), np.arange(4)))
    cells = np.repeat(np.arange(300), 40)
    many = RNG.integers(2, 12, 300)[cells].astype(float)
    assert np.isnan(metrics.rank_correlation(many, RNG.random(12_000), cells)), "rounding is no variation"
    assert np.isnan(metrics.rank_correlation_interval(many, RNG.random(12_000), cells, cells, num_draws=20)).all()
    questions = np.arange(5)
    assert np.isnan(metrics.rank_correlation_interval(np.ones(5), np.arange(5.0), questions)).all()


def test_cells_take_out_what_lies_between_them():
    """Simpson's case: within each response the score rises, over responses it falls."""
    cells = np.repeat(np.arange(40), 5)
    x = 10.0 * cells + np.tile(np.arange(5.0), 40)
    y = -10.0 * cells + np.tile(np.arange(5.0), 40)
    assert metrics.rank_correlation(x, y) < -0.9
    assert metrics.rank_correlation(x, y, cells) == pytest.approx(1)


def test_interval_covers_and_widens_when_questions_repeat_themselves():
    x = RNG.normal(size=400)
    y = 0.5 * x + RNG.normal(size=400)
    alone = metrics.rank_correlation_interval(x, y, np.arange(400), num_draws=2000)
    assert alone[0] < metrics.rank_correlation(x, y) < alone[1]
    assert alone[1] - alone[0] == pytest.approx(2 * 1.96 * 0.8 / 20, rel=0.2)
    repeated = metrics.rank_correlation_interval(np.tile(x, 4), np.tile(y, 4), np.tile(np.arange(400), 4), num_draws=2000)
    assert repeated == pytest.approx(alone, abs=0.01)


def test_one_draw_may_have_no_correlation():
    """Where it draws a single question twice, nothing varies."""
    values, questions = np.array([0.0, 1.0]), np.arange(2)
    ends = [metrics.rank_correlation_interval(values, values, questions, num_draws=1, seed=seed) for seed in range(8)]
    assert {tuple(map(np.isnan, pair)) for pair in ends} <= {(True, True), (False, False)}


def test_bins_hold_equally_many():
    assert metrics.equal_mass_bins(np.array([5.0, 1, 3, 9, 7, 2]), 3).tolist() == [1, 0, 1, 2, 2, 0]
    assert metrics.equal_mass_bins(np.array([1.0, 1, 1, 2]), 2).tolist() == [0, 0, 0, 1]
    assert metrics.equal_mass_bins(np.empty(0), 3).tolist() == []
    every = np.arange(25.0)
    assert metrics.equal_mass_bins(every, 50).tolist() == [2 * rank + 1 for rank in range(25)], "each on the border of two bins"
