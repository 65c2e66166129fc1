"""The measures of a table of step scores, by hand."""

import numpy as np
import pytest

from prm.simulation.measures import (
    calibrated_squared_error,
    ranking_accuracy,
    ranking_accuracy_within_steps,
    row_correlation,
    squared_error,
)

VALUES = np.array([[[0.0, 1.0, 2.0], [10.0, 12.0, 14.0]]])


def test_correlation_forgets_each_step_s_mean_and_the_scale():
    shifted = 3 * VALUES + np.array([[[5.0], [-7.0]]])
    assert row_correlation(shifted, VALUES) == pytest.approx([1.0])
    assert row_correlation(-VALUES, VALUES) == pytest.approx([-1.0])
    # Rows (-1, 0, 1) and (-2, 0, 2) against (1, -1, 0) and (0, 0, 0): -1 / sqrt(2 * 10).
    scores = np.array([[[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]])
    assert row_correlation(scores, VALUES) == pytest.approx([-1 / np.sqrt(20)])
    assert np.isnan(row_correlation(0 * VALUES, VALUES)).all()


def test_squared_errors():
    traces = np.array([[[0, 1], [2, 2]]])
    values = np.array([[[1.0, 12.0], [2.0, 15.0]]])
    assert squared_error(VALUES, traces, values) == pytest.approx([(1 + 0 + 0 + 1) / 4])
    assert calibrated_squared_error(VALUES, traces, 3 * np.array([[[0.0, 12.0], [2.0, 14.0]]]) - 4) == pytest.approx([0.0])
    constant = np.zeros_like(VALUES)
    assert calibrated_squared_error(constant, traces, values) == pytest.approx([values.var()])


def test_ranking_over_all_pairs_and_over_some():
    scores = np.array([[[0.0, 1.0, 2.0], [3.0, 5.0, 4.0]]])
    assert ranking_accuracy(scores, VALUES) == pytest.approx([14 / 15])
    assert ranking_accuracy(scores, VALUES, np.array([[False, True]])) == pytest.approx([2 / 3])
    assert ranking_accuracy_within_steps(scores, VALUES) == pytest.approx([5 / 6])
    assert ranking_accuracy(0 * VALUES, VALUES) == pytest.approx([0.5]), "a pair of equal score counts half"
    twins = np.array([[[0.0, 0.0, 1.0]]])
    assert ranking_accuracy(np.array([[[0.3, 0.1, 0.2]]]), twins) == pytest.approx([0.5]), "equal values are no pair"
