"""Aggregations: by hand, against definitions in 50-digit arithmetic, and under padding."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch

from prm import aggregation
from prm.aggregation import AGGREGATIONS, SMALLEST, aggregate_lists, check_aggregation, pad_steps, without_rounding_errors

BY_HAND = {
    "min": 0.2,
    "geometric_mean": 0.4,  # (0.2 * 0.8 * 0.4) ** (1/3)
    "softmin": -0.1 * np.log((np.exp(-2) + np.exp(-8) + np.exp(-4)) / 3),
    "product": 0.064,
    "mean": 1.4 / 3,
    "sum": 1.4,
    "last": 0.4,
    "max": 0.8,
}


def rows(*lists: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    flat = torch.tensor([score for row in lists for score in row], dtype=torch.float64)
    return pad_steps(flat, torch.tensor([len(row) for row in lists]))


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_by_hand(name):
    assert aggregate_lists([[0.2, 0.8, 0.4]], name)[0] == pytest.approx(BY_HAND[name], rel=1e-14)


def test_the_by_hand_table_is_complete():
    assert set(BY_HAND) == set(AGGREGATIONS)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_padding_changes_neither_value_nor_gradient(name):
    scores = torch.tensor([0.2, 0.8, 0.4], dtype=torch.float64)
    results = []
    for junk in (0.0, 7.0, torch.nan, -torch.inf):
        padded = torch.cat([scores, torch.full((2,), junk, dtype=torch.float64)]).requires_grad_()
        value = AGGREGATIONS[name](padded, torch.tensor([True, True, True, False, False]), 0.1)
        (gradient,) = torch.autograd.grad(value, padded)
        results.append([value.item(), *gradient.tolist()])
    alone = scores.clone().requires_grad_()
    value = AGGREGATIONS[name](alone, torch.ones(3, dtype=torch.bool), 0.1)
    (gradient,) = torch.autograd.grad(value, alone)
    expected = [value.item(), *gradient.tolist(), 0.0, 0.0]
    np.testing.assert_allclose(results, [expected] * 4, rtol=1e-13)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_batch_shape_is_free(name):
    scores = torch.rand(2, 3, 5, dtype=torch.float64)
    mask = torch.ones_like(scores, dtype=torch.bool)
    pooled = AGGREGATIONS[name](scores, mask, 0.1)
    assert pooled.shape == (2, 3)
    torch.testing.assert_close(pooled[1, 2], AGGREGATIONS[name](scores[1, 2], mask[1, 2], 0.1))


@pytest.mark.parametrize("name", [name for name in AGGREGATIONS if name != "last"])
def test_order_of_steps_does_not_matter(name):
    scores = [0.9, 0.1, 0.5, 0.3]
    np.testing.assert_allclose(aggregate_lists([scores], name), aggregate_lists([scores[::-1]], name), rtol=1e-14)


@pytest.mark.parametrize("name", [name for name in AGGREGATIONS if name not in ("sum", "product")])
def test_a_constant_response_scores_that_constant(name):
    np.testing.assert_allclose(aggregate_lists([[0.3] * 4, [1e-9] * 7], name), [0.3, 1e-9], rtol=1e-12)


def test_softmin_between_min_and_mean():
    scores = [[0.3, 0.31, 0.9]]
    by_tau = [aggregate_lists(scores, "softmin", tau=tau)[0] for tau in (1e-4, 1e-2, 0.1, 1.0, 1e5)]
    assert by_tau == sorted(by_tau)
    assert by_tau[0] == pytest.approx(0.3 + 1e-4 * np.log(3))
    assert by_tau[-1] == pytest.approx(np.mean(scores), rel=1e-5)


SOFTMIN_INPUTS = {
    "tiny": lambda m: np.geomspace(1e-26, 1e-20, m),
    "one low": lambda m: np.r_[1e-6, np.full(m - 1, 0.99)],
    "one high, negated": lambda m: -np.r_[0.1, np.full(m - 1, 1e-26)],
    "saturated": lambda m: np.linspace(0.999, 1, m),
    "logits": lambda m: np.linspace(-60, 60, m),
}


@pytest.mark.parametrize("kind", SOFTMIN_INPUTS)
@pytest.mark.parametrize("num_steps", [1, 7, 300])
@pytest.mark.parametrize("tau", [0.01, 0.1, 10.0])
def test_softmin_in_float32_against_50_digits(kind, num_steps, tau):
    scores = torch.tensor(SOFTMIN_INPUTS[kind](num_steps), dtype=torch.float32, requires_grad=True)
    value = AGGREGATIONS["softmin"](scores, torch.ones(num_steps, dtype=torch.bool), tau)
    (gradient,) = torch.autograd.grad(value, scores)
    with mpmath.workdps(50):
        powers = [mpmath.exp(-mpmath.mpf(s) / tau) for s in scores.tolist()]
        expected = float(-tau * mpmath.log(mpmath.fsum(powers) / num_steps))
        weights = [float(p / mpmath.fsum(powers)) for p in powers]
    assert value.item() == pytest.approx(expected, rel=2e-6)
    np.testing.assert_allclose(gradient, weights, rtol=1e-4, atol=1e-35)


def test_zero_scores_are_scores():
    assert aggregate_lists([[0.0, 0.5]], "geometric_mean")[0] == 0
    assert aggregate_lists([[0.0, 0.5]], "product")[0] == 0


def test_products_too_small_for_a_number_keep_their_order():
    """The logarithms order them; from 1e-308 on plain products lose digits and end as ties at 0."""
    steps = [[score] * count for count in (1, 140, 145, 150, 165, 400, 4000) for score in (0.01, 0.0101, 0.3)]
    exact = [len(scores) * math.log(scores[0]) for scores in steps]
    found = aggregate_lists([*steps, [0.5, 0.0]], "product")
    assert np.argsort(found[:-1]).tolist() == np.argsort(exact).tolist()
    assert found[-1] == 0 < found[:-1].min()
    large = np.array(exact) > math.log(SMALLEST)
    assert 5 < large.sum() < 15
    assert found[:-1][large] == pytest.approx(np.exp(exact)[large], rel=1e-11)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_ragged_lists_in_chunks_equal_one_by_one(name, monkeypatch):
    monkeypatch.setattr(aggregation, "MAX_CELLS", 30)
    rng = np.random.default_rng(0)
    lists = [rng.random(length).tolist() for length in rng.integers(1, 12, size=23)]
    one_by_one = np.concatenate([aggregate_lists([scores], name) for scores in lists])
    np.testing.assert_allclose(aggregate_lists(lists, name), one_by_one, rtol=1e-13)


def test_one_long_response_does_not_widen_all_others(monkeypatch):
    """A policy that repeats itself may write thousands of steps; padded to it, a thousand responses would not fit into memory."""
    sizes = []
    monkeypatch.setattr(aggregation, "MAX_CELLS", 1000)
    monkeypatch.setattr(aggregation, "pad_steps", lambda *flat: (sizes.append((padded := pad_steps(*flat))[0].numel()), padded)[1])
    lists = [[0.5] * 5] * 500 + [[0.25] * 3000] + [[0.5] * 4] * 500
    assert aggregate_lists(lists, "min").tolist() == [0.5] * 500 + [0.25] + [0.5] * 500
    assert sorted(sizes) == [500, 1000, 1000, 1000, 1000, 3000]


COMPUTED = sorted(set(AGGREGATIONS) - {"min", "last", "max"})


@pytest.mark.parametrize("name", COMPUTED)
def test_equal_values_are_equal_whatever_the_order_and_the_neighbors(name):
    """Rounding errors would rank responses that are tied."""
    generator = np.random.default_rng(0)
    scores = (generator.integers(1, 10, 9) / 10).tolist()
    orders = [generator.permutation(scores).tolist() for _ in range(50)]
    together, beside_a_long_one = aggregate_lists(orders, name), aggregate_lists([*orders, [0.5] * 301], name)[:-1]
    assert len({*together, *beside_a_long_one}) == 1


@pytest.mark.parametrize("name", ["mean", "geometric_mean", "softmin"])
def test_a_constant_is_one_number_for_any_number_of_steps(name):
    assert len({*aggregate_lists([[0.7] * n for n in range(1, 200)], name)}) == 1


def test_forty_bits_at_every_magnitude():
    values = np.array([0.0, 2 / 3, -2 / 3, 123456.7890123456, 1e-300 / 3, 5e-324, 2e300 / 3])
    rounded = without_rounding_errors(values)
    np.testing.assert_allclose(rounded, values, rtol=2.0**-40)
    assert all((Fraction(x) * 2**60).denominator == 1 for x in rounded[:4])
    assert (
        without_rounding_errors(np.array([0.1 + 0.2, 1 - 1e-16])).tolist() == without_rounding_errors(np.array([0.3, 1.0])).tolist()
    )
    half = np.arange(1, 2**11) / 2**13
    assert without_rounding_errors(half).tolist() == half.tolist()


@pytest.mark.parametrize("name", ["mean", "geometric_mean", "softmin"])
def test_a_constant_in_half_precision_is_one_number_for_any_number_of_steps(name):
    for score in range(1025, 2047, 8):
        assert len({*aggregate_lists([[score / 8192] * n for n in (1, 2, 3, 7)], name)}) == 1


def test_no_responses_no_scores():
    assert aggregate_lists([], "min").shape == (0,)


def test_signed_scores(monkeypatch):
    monkeypatch.setattr(aggregation, "MAX_CELLS", 2)
    np.testing.assert_allclose(aggregate_lists([[-1.0, 2.0, -3.0]], "sum", signed=True), -2)
    for name in ("product", "geometric_mean"):
        with pytest.raises(ValueError, match=rf"{name} needs scores in \[0, 1\]"):
            aggregate_lists([[-1.0, 2.0]], name, signed=True)
        with pytest.raises(ValueError, match=f"response 3 has the step score -0.5, which {name} cannot take"):
            aggregate_lists([[0.5], [0.5], [0.5, 0.5], [0.5, -0.5]], name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_names_the_response(value):
    with pytest.raises(ValueError, match="response 1 has the step score"):
        aggregate_lists([[0.5, 0.5], [0.5, value]], "min")


def test_a_response_without_scores_is_named(monkeypatch):
    monkeypatch.setattr(aggregation, "MAX_CELLS", 1)
    with pytest.raises(ValueError, match="response 2 has no step scores"):
        aggregate_lists([[0.5], [0.5], []], "mean")


def test_unknown_aggregation_and_temperature():
    with pytest.raises(ValueError, match="unknown aggregation 'median': choose from min"):
        check_aggregation("median")
    with pytest.raises(ValueError, match=r"tau is 0\.0"):
        check_aggregation("softmin", tau=0.0)
    with pytest.raises(ValueError, match=r"tau is inf"):
        check_aggregation("softmin", tau=float("inf"))


def test_pad_steps_by_hand():
    padded, mask = pad_steps(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2]))
    assert padded.tolist() == [[1, 0], [2, 3]]
    assert mask.tolist() == [[True, False], [True, True]]


def test_pad_steps_keeps_classes_and_gradient():
    flat = torch.arange(6.0).reshape(3, 2).requires_grad_()
    padded, mask = pad_steps(flat, torch.tensor([2, 1]))
    assert padded.shape == (2, 2, 2)
    (padded * mask.unsqueeze(-1)).sum().backward()
    assert flat.grad.eq(1).all()


def test_pad_steps_of_an_empty_batch_stays_differentiable():
    flat = torch.zeros(0, requires_grad=True)
    padded, mask = pad_steps(flat, torch.zeros(0, dtype=torch.int64))
    assert padded.shape == mask.shape == (0, 1)
    padded.sum().backward()
    assert flat.grad.shape == (0,)


def test_pad_steps_refuses():
    with pytest.raises(ValueError, match="response 1 of the batch has no step"):
        pad_steps(torch.zeros(2), torch.tensor([2, 0]))
    with pytest.raises(ValueError, match="step_counts add up to 3, but there are 2 steps"):
        pad_steps(torch.zeros(2), torch.tensor([2, 1]))


def test_pad_steps_round_trip():
    padded, mask = rows([0.1, 0.2], [0.3])
    assert padded[mask].tolist() == [0.1, 0.2, 0.3]
