"""Methods over training runs: the test of two of them against numerical integration, names, and tables."""

import mpmath
import numpy as np
import pytest

from prm.benchmarks.summary.training_runs import by_method, measure_runs, method_of, run_tables, same_runs
from prm.metrics import run_difference, run_spread
from prm.metrics.runs import t_quantile, two_sided


def density(freedom):
    """Student's t."""
    scale = mpmath.gamma((freedom + 1) / 2) / (mpmath.sqrt(freedom * mpmath.pi) * mpmath.gamma(freedom / 2))
    return lambda t: scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)


@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.7, 8.0, 60.5])
@pytest.mark.parametrize("t", [0.0, 0.3, 2.0, 12.0])
def test_tails_of_students_t(freedom, t):
    tail = mpmath.quad(density(freedom), [t, t + 1, t + 10, mpmath.inf])
    assert two_sided(t, freedom) == pytest.approx(float(2 * tail), rel=1e-9)
    assert two_sided(-t, freedom) == two_sided(t, freedom)


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (10, 2.2281), (120, 1.9799)])
def test_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-5)


def test_welchs_test_by_hand():
    first, second = [0.8, 0.9, 0.7], [0.5, 0.5, 0.6, 0.4]
    parts = 0.01 / 3, (0.02 / 3) / 4
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    found = run_difference(first, second)
    assert found.difference == pytest.approx(0.3)
    reach = t_quantile(0.975, freedom) * sum(parts) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.3 - reach, 0.3 + reach))
    tail = mpmath.quad(density(freedom), [0.3 / sum(parts) ** 0.5, 10, mpmath.inf])
    assert found.p_value == pytest.approx(float(2 * tail))
    turned = run_difference(second, first)
    assert (-turned.difference, -turned.high, -turned.low) == pytest.approx((found.difference, found.low, found.high))
    assert turned.p_value == pytest.approx(found.p_value)


def test_the_interval_holds_its_share_of_true_differences():
    """Five runs against three that vary three times as much."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        found = run_difference(list(rng.normal(0.7, 0.01, 5)), list(rng.normal(0.6, 0.03, 3)))
        covered += found.low <= 0.1 <= found.high
    assert 0.93 < covered / 2000 < 0.97


def test_one_run_is_taken_to_vary_as_the_other_method():
    found = run_difference([0.9], [0.5, 0.6, 0.7])
    error = (0.01 + 0.01 / 3) ** 0.5
    assert found.high - found.difference == pytest.approx(t_quantile(0.975, 2) * error)
    assert found.p_value == pytest.approx(two_sided(0.3 / error, 2))


def test_without_spread_there_is_no_test():
    for first, second in (([0.5], [0.4]), ([0.5, 0.5], [0.4, 0.4]), ([0.5, 0.5], [0.4])):
        found = run_difference(first, second)
        assert (found.difference, found.low, found.high, found.p_value) == (pytest.approx(0.1), None, None, None)
    found = run_difference([0.1] * 3, [0.2] * 3)  # whose mean, rounded at each step, is another number
    assert (found.difference, found.low, found.high, found.p_value) == (-0.1, None, None, None)
    assert (run_spread([0.1] * 3).mean, run_spread([0.1] * 3).std) == (0.1, 0.0)
    assert run_spread([0.5]).std is None
    with pytest.raises(ValueError, match="no runs"):
        run_spread([])


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("asym-seed0", "asym"),
        ("asym_seed-12", "asym"),
        ("asym seed 3", "asym seed 3"),
        ("runs: Asym-Seed=3", "runs: Asym"),
        ("asym", "asym"),
        ("seed0", "seed0"),
        ("asym-seed0-long", "asym-seed0-long"),
        ("linseed3", "linseed3"),
    ],
)
def test_methods_are_named_without_their_seed(name, method):
    assert method_of(name) == method


VALUES = {
    "min-seed0": {"F1": 0.5, "AUC": 0.7},
    "asym": {"F1": 0.8, "AUC": None},
    "asym-seed1": {"F1": 0.6, "AUC": 0.9},
    "orm": {"AUC": 0.6},
    "min-seed1": {"F1": 0.4, "AUC": 0.8, "other": 1.0},
}


def test_metrics_that_all_runs_have():
    assert by_method(VALUES) == {"min": {"F1": [0.5, 0.4], "AUC": [0.7, 0.8]}, "asym": {"F1": [0.8, 0.6]}, "orm": {"AUC": [0.6]}}


def test_a_training_under_two_names_is_told(caplog):
    values = {"asym": {"F1": 0.5}, "asym-seed0": {"F1": 0.5, "AUC": 0.7}, "asym-seed1": {"F1": 0.6}, "min": {"F1": 0.5}}
    assert same_runs(values) == [("asym", "asym-seed0")]
    assert same_runs({"asym": {"F1": 0.5}, "asym-seed1": {"AUC": 0.5}}) == [], "nothing in common"
    measure_runs(values)
    assert "asym and asym-seed0 reach the same by every metric" in caplog.text


def test_tables():
    runs = measure_runs(VALUES)
    assert [(test["first"], test["second"], test["metric"]) for test in runs["differences"]] == [
        ("min", "asym", "F1"),
        ("min", "orm", "AUC"),
    ]
    over_runs, by_f1, by_auc = run_tables(runs, ["F1", "AUC"], "items")
    assert over_runs.rows == [
        ["method", "runs", "F1", "AUC"],
        ["asym", "2", "70.0 ± 14.1 (60.0 to 80.0)", ""],
        ["min", "2", "45.0 ± 7.1 (40.0 to 50.0)", "75.0 ± 7.1 (70.0 to 80.0)"],
        ["orm", "1", "", "60.0"],
    ]
    found = run_difference([0.8, 0.6], [0.5, 0.4])
    assert by_f1.rows[1] == ["asym - min", "+25.0", f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]", f"{found.p_value:.4f}"]
    assert [row[0] for row in by_auc.rows[1:]] == ["min - orm"]
    assert (by_f1.is_folded, by_auc.is_folded) == (False, True)
