"""Objectives: by hand, against 50-digit arithmetic at every scale, invariances, and each error."""

import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from prm.aggregation import pad_steps
from prm.losses import (
    IGNORED,
    LOSSES,
    OPTIONS,
    check_options,
    compute_loss,
    implicit_loss,
    num_items,
    response_losses,
    step_classes,
)

TAU, BETA = 0.1, 0.05
POOLED = ("asym", "reversed_asym", "min", "geometric_mean", "softmin")
AGGREGATION = {
    "asym": {1: "min", 0: "geometric_mean"},
    "reversed_asym": {1: "geometric_mean", 0: "min"},
    **{name: {0: name, 1: name} for name in POOLED[2:]},
}
VARIANTS = [
    *[(name, "prob") for name in (*POOLED, "orm", "implicit_prm")],
    *[(name, "literal") for name in POOLED],
    ("min", "logit"),
    ("softmin", "logit"),
]
FROM_OUTCOMES = [name for name, objective in LOSSES.items() if objective.needs == "outcome"]
NUM_STEPS = (1, 7, 60, 2000)
LOSS_TOLERANCE, GRADIENT_TOLERANCE, BF16_GRADIENT_TOLERANCE = 1e-5, 3e-4, 5e-3
UNDERFLOW = 1e-37  # float32 holds nothing smaller with full precision


def steps_mask(logits: torch.Tensor) -> torch.Tensor:
    return torch.ones(logits.shape[:2], dtype=torch.bool)


def loss_and_gradient(name: str, rows: list[list[float]], c: float, **options) -> tuple[float, torch.Tensor]:
    logits = torch.tensor(rows, requires_grad=True)
    correct = torch.full((len(rows),), float(c))
    loss = compute_loss(name, logits, steps_mask(logits), correct, num_items=1, **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.item(), gradient


# By hand.


def test_orm_by_hand():
    loss, gradient = loss_and_gradient("orm", [[5.0, math.log(3)]], 1)
    assert loss == pytest.approx(math.log(4 / 3))
    assert gradient[0].tolist() == pytest.approx([0, -0.25])


def test_pooled_losses_by_hand():
    """r = (1/2, 3/4): min 1/2, geometric mean sqrt(3/8)."""
    rows, root = [[0.0, math.log(3)]], math.sqrt(3 / 8)
    soft = -TAU * math.log((math.exp(-5) + math.exp(-7.5)) / 2)
    expected = {"asym": (0.5, root), "reversed_asym": (root, 0.5), "min": (0.5, 0.5), "geometric_mean": (root, root)}
    expected["softmin"] = soft, soft
    for name, (for_correct, for_wrong) in expected.items():
        assert loss_and_gradient(name, rows, 1)[0] == pytest.approx(-math.log(for_correct))
        assert loss_and_gradient(name, rows, 0)[0] == pytest.approx(-math.log(1 - for_wrong))
        literal = loss_and_gradient(name, rows, 0, reading="literal")[0]
        assert literal == pytest.approx(math.log(1 + math.exp(for_wrong)))
    assert loss_and_gradient("min", rows, 1, reading="logit")[0] == pytest.approx(math.log(2))


def best_shifted(name: str, noise: torch.Tensor) -> float:
    """The lowest mean loss of logits `noise` + b over b; half of the outcomes are right, and the logits know nothing of them."""
    mask, correct = steps_mask(noise).repeat(2, 1), torch.tensor([1.0, 0.0]).repeat_interleave(len(noise))
    low, high = -3.0, 3.0
    for _ in range(25):
        thirds = low + (high - low) / 3, high - (high - low) / 3
        losses = [response_losses(name, noise.repeat(2, 1) + shift, mask, correct).mean().item() for shift in thirds]
        low, high = (low, thirds[1]) if losses[0] < losses[1] else (thirds[0], high)
    return losses[0]


@pytest.mark.parametrize(("name", "tax"), [("asym", 0.0158), ("reversed_asym", -0.0154)])
def test_two_pools_tax_or_pay_for_scores_that_differ(name, tax):
    """Scores that differ within a response, for no reason: two pools change the loss in proportion to how far."""
    near, far = costs_of_spread(name)
    assert near == pytest.approx(tax, rel=0.02)
    assert far / near == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("name", ["min", "geometric_mean", "softmin"])
def test_not_two_pools_but_one_hardly_notices_scores_that_differ(name):
    near, far = costs_of_spread(name)
    assert 0 < near < 1.4e-4
    assert far / near == pytest.approx(4, rel=0.1)


def costs_of_spread(name: str) -> list[float]:
    """How far logits that spread by 0.05 and by 0.1, knowing nothing, stay behind a constant."""
    noise = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
    return [best_shifted(name, spread * noise) - math.log(2) for spread in (0.05, 0.1)]


def test_implicit_prm_by_hand():
    loss, gradient = loss_and_gradient("implicit_prm", [[30.0, -8.0]], 1)
    z = BETA * 22
    assert loss == pytest.approx(math.log(1 + math.exp(-z)))
    assert gradient[0].tolist() == pytest.approx([-BETA / (1 + math.exp(z))] * 2)
    ratio = torch.tensor([22.0])
    assert implicit_loss(ratio, torch.ones(1)).item() == pytest.approx(loss)
    assert implicit_loss(ratio, torch.ones(1), beta=0.1).item() == pytest.approx(math.log(1 + math.exp(-2.2)))


def test_step_ce_by_hand():
    logits = torch.zeros(1, 3, 3)
    labels = torch.tensor([[1.0, torch.nan, -1.0]])
    loss = compute_loss("step_ce", logits, steps_mask(logits), None, labels, num_items=2)
    assert loss.item() == pytest.approx(math.log(3))


def test_figures_of_confident_mistakes():
    """Eight steps at z = +6 in a wrong response: the literal reading hardly learns from them."""
    for reading, expected in {"literal": 0.0018, "prob": 0.9975}.items():
        _, gradient = loss_and_gradient("geometric_mean", [[6.0] * 8], 0, reading=reading)
        assert gradient.abs().sum().item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("name", POOLED)
def test_floors_of_the_literal_reading(name):
    floor_correct, _ = loss_and_gradient(name, [[60.0] * 4], 1, reading="literal")
    floor_wrong, _ = loss_and_gradient(name, [[-60.0] * 4], 0, reading="literal")
    assert (round(floor_correct, 3), round(floor_wrong, 3)) == (0.313, 0.693)


@pytest.mark.parametrize("c", [0, 1])
def test_min_is_bce_with_logits_of_the_lowest(c):
    rows = [[3.0, -1.5, 0.2]]
    expected = binary_cross_entropy_with_logits(torch.tensor(-1.5), torch.tensor(float(c))).item()
    for reading in ("prob", "logit"):
        assert loss_and_gradient("min", rows, c, reading=reading)[0] == pytest.approx(expected)


@pytest.mark.parametrize("reading", ["prob", "logit", "literal"])
def test_ties_at_the_minimum_share_the_gradient(reading):
    _, gradient = loss_and_gradient("min", [[-1.0, 2.0, -1.0]], 1, reading=reading)
    assert gradient[0, 0] == gradient[0, 2] < 0 == gradient[0, 1]


def test_blame_of_the_geometric_mean_is_bounded_and_proportional_to_1_minus_r():
    torch.manual_seed(0)
    for row in (torch.randn(20, 9) * 5).tolist():
        _, gradient = loss_and_gradient("geometric_mean", [row], 0)
        r = torch.tensor(row).sigmoid()
        aggregate = r.log().mean().exp()
        assert 0 < gradient.sum() == gradient.abs().sum() <= aggregate * (1 + 1e-5) <= 1 + 1e-5
        share = torch.sigmoid(-torch.tensor(row))
        torch.testing.assert_close(gradient[0] / gradient.sum(), share / share.sum(), rtol=1e-5, atol=0)


# Against 50 digits. The gradient is compared element by element.

INPUTS = {
    "random": lambda rng, m: rng.normal(0, 3, m),
    "extreme": lambda rng, m: rng.uniform(-60, 60, m),
    "good_random": lambda rng, m: rng.uniform(6, 60, m),
    "constant": lambda rng, m: np.full(m, 2.5),
    "constant_in_the_series": lambda rng, m: np.full(m, 7.05),
    "one_bad_step": lambda rng, m: np.r_[np.full(m - 1, 4.6), -13.7],
    "one_doubtful_step": lambda rng, m: np.r_[np.full(m - 1, 60.0), 2.2],
    "confident": lambda rng, m: np.full(m, 60.0),
    "hopeless": lambda rng, m: np.full(m, -60.0),
    "both_ends": lambda rng, m: np.resize([60.0, -60.0], m),
    "at_the_branches": lambda rng, m: np.resize([6.9, 15.0, 15.1, 0.0, -0.1], m),
}


@cache
def row_of(kind: str, num_steps: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = INPUTS[kind](np.random.default_rng(num_steps), num_steps)
    return torch.tensor(values, dtype=dtype)


@cache
def reference_pool(row: tuple[float, ...], aggregation: str, of_logits: bool, tau: float = TAU) -> tuple[mpf, list[mpf]]:
    """An aggregate of the logits z or of r = sigmoid(z) by its definition, and its derivatives with respect to z."""
    x = [mpf(z) for z in row] if of_logits else [1 / (1 + mpmath.exp(-z)) for z in row]
    m = len(x)
    if aggregation == "sum":
        pooled, slopes = mpmath.fsum(x), [mpf(1)] * m
    elif aggregation == "last":
        pooled, slopes = x[-1], [mpf(0)] * (m - 1) + [mpf(1)]
    elif aggregation == "min":
        pooled = min(x)
        share = mpf(1) / x.count(pooled)
        slopes = [share if value == pooled else mpf(0) for value in x]
    elif aggregation == "geometric_mean":
        pooled = mpmath.exp(mpmath.fsum(mpmath.log(value) for value in x) / m)
        slopes = [pooled / value / m for value in x]
    else:
        powers = [mpmath.exp(-value / tau) for value in x]
        whole = mpmath.fsum(powers)
        pooled, slopes = -tau * mpmath.log(whole / m), [power / whole for power in powers]
    if not of_logits:
        slopes = [slope * r * (1 - r) for slope, r in zip(slopes, x, strict=True)]
    return pooled, slopes


def reference(name: str, reading: str, c: int, row: tuple[float, ...], tau: float = TAU) -> tuple[float, np.ndarray]:
    """Loss and gradient in 50 digits."""
    if name in POOLED:
        pooled, slopes = reference_pool(row, AGGREGATION[name][c], reading == "logit", tau)
    else:
        pooled, slopes = reference_pool(row, {"orm": "last", "implicit_prm": "sum"}[name], True)
    if name in POOLED and reading == "prob":
        p = pooled if c else 1 - pooled
        loss, slope = -mpmath.log(p), (-1 if c else 1) / p
    else:
        scale = (1 if c else -1) * (mpf(BETA) if name == "implicit_prm" else 1)
        loss, slope = mpmath.log(1 + mpmath.exp(-scale * pooled)), -scale / (1 + mpmath.exp(scale * pooled))
    return float(loss), np.array([float(slope * s) for s in slopes])


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


@pytest.mark.parametrize(("name", "reading"), VARIANTS)
@pytest.mark.parametrize("c", [0, 1])
def test_the_reference_gradient_is_the_derivative_of_its_loss(name, reading, c):
    row = (0.3, -1.2, 2.0)
    loss, gradient = reference(name, reading, c, row)
    for m in range(3):
        nudged = tuple(z + 1e-6 * (i == m) for i, z in enumerate(row))
        assert (reference(name, reading, c, nudged)[0] - loss) / 1e-6 == pytest.approx(gradient[m], rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("num_steps", NUM_STEPS)
@pytest.mark.parametrize("c", [0, 1])
def test_losses_against_50_digits(kind, num_steps, c):
    row = row_of(kind, num_steps)
    for name, reading in VARIANTS:
        expected_loss, expected_gradient = reference(name, reading, c, tuple(row.tolist()))
        loss, gradient = loss_and_gradient(name, [row.tolist()], c, reading=reading)
        assert math.isfinite(loss)
        assert gradient.isfinite().all()
        assert loss == pytest.approx(expected_loss, rel=LOSS_TOLERANCE, abs=UNDERFLOW), (name, reading)
        np.testing.assert_allclose(
            gradient[0], expected_gradient, rtol=GRADIENT_TOLERANCE, atol=UNDERFLOW, err_msg=f"{name} {reading}"
        )


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("c", [0, 1])
def test_bf16_logits_against_50_digits_at_the_rounded_logits(kind, c):
    row = row_of(kind, 60, torch.bfloat16)
    for name, reading in VARIANTS:
        logits = row.unsqueeze(0).clone().requires_grad_()
        correct = torch.tensor([float(c)])
        loss = compute_loss(name, logits, steps_mask(logits), correct, num_items=1, reading=reading)
        (gradient,) = torch.autograd.grad(loss, logits)
        expected_loss, expected = reference(name, reading, c, tuple(row.tolist()))
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected_loss, rel=LOSS_TOLERANCE, abs=UNDERFLOW), (name, reading)
        np.testing.assert_allclose(gradient[0].double(), expected, rtol=BF16_GRADIENT_TOLERANCE, atol=UNDERFLOW)


@pytest.mark.parametrize("tau", [0.01, 1.0])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("c", [0, 1])
def test_softmin_at_other_temperatures(tau, kind, c):
    row = row_of(kind, 60)
    expected_loss, expected = reference("softmin", "prob", c, tuple(row.tolist()), tau)
    loss, gradient = loss_and_gradient("softmin", [row.tolist()], c, tau=tau)
    assert loss == pytest.approx(expected_loss, rel=LOSS_TOLERANCE, abs=UNDERFLOW)
    np.testing.assert_allclose(gradient[0], expected, rtol=GRADIENT_TOLERANCE, atol=UNDERFLOW)


@pytest.mark.parametrize(("name", "reading"), VARIANTS)
@pytest.mark.parametrize("c", [0, 1])
def test_finite_far_outside_the_working_range(name, reading, c):
    for row in ([300.0] * 3, [-300.0] * 3, [1e4, -1e4, 0.0], [300.0, 300.0, 0.0]):
        loss, gradient = loss_and_gradient(name, [row], c, reading=reading)
        assert math.isfinite(loss)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", POOLED)
def test_confident_mistakes_beyond_underflow_keep_their_gradient(name):
    for z, c in ((200.0, 0), (-200.0, 1)):
        loss, gradient = loss_and_gradient(name, [[z] * 4], c)
        assert loss == pytest.approx(200)
        assert gradient.abs().sum().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("num_steps", NUM_STEPS)
@pytest.mark.parametrize("scale", [0.0, 3.0, 60.0])
def test_step_ce_against_50_digits(num_classes, num_steps, scale):
    rng = np.random.default_rng(num_steps)
    logits = torch.tensor(rng.uniform(-scale, scale, (1, num_steps, num_classes)), dtype=torch.float32)
    logits.requires_grad_()
    labels = torch.tensor(rng.choice([-1.0, 1.0], (1, num_steps)), dtype=torch.float32)
    loss = compute_loss("step_ce", logits, steps_mask(logits), None, labels, num_items=1)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected_loss, expected = mpf(0), []
    for z, label in zip(logits[0].tolist(), labels[0].tolist(), strict=True):
        target = 0 if label < 0 else num_classes - 1
        powers = [mpmath.exp(value) for value in z]
        others = mpmath.fsum(power for k, power in enumerate(powers) if k != target)
        expected_loss += mpmath.log(1 + others / powers[target])
        whole = others + powers[target]
        expected.append([float(-others / whole if k == target else p / whole) for k, p in enumerate(powers)])
    assert loss.item() == pytest.approx(float(expected_loss), rel=LOSS_TOLERANCE)
    np.testing.assert_allclose(gradient[0], expected, rtol=GRADIENT_TOLERANCE, atol=UNDERFLOW)


@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("z", [-60.0, -20.0, 0.0, 20.0, 60.0])
def test_soft_targets_against_50_digits(target, z):
    logits = torch.tensor([[[z]]], requires_grad=True)
    loss = compute_loss("step_ce", logits, steps_mask(logits), None, torch.tensor([[target]]), num_items=1)
    (gradient,) = torch.autograd.grad(loss, logits)
    r, t = 1 / (1 + mpmath.exp(-mpf(z))), mpf(target)
    assert loss.item() == pytest.approx(float(-t * mpmath.log(r) - (1 - t) * mpmath.log(1 - r)), rel=LOSS_TOLERANCE)
    assert gradient.item() == pytest.approx(float(r - t), rel=GRADIENT_TOLERANCE)


# Labels.


def test_labels_become_classes():
    labels = torch.tensor([-1.0, 0.0, 1.0, torch.nan])
    assert step_classes(labels, 3).tolist() == [0, 1, 2, IGNORED]
    for neutral, expected in {"good": 1, "bad": 0, "ignored": IGNORED}.items():
        assert step_classes(labels, 2, neutral).tolist() == [0, expected, 1, IGNORED]
    booleans = torch.tensor([False, True])
    assert step_classes(booleans, 3).tolist() == [0, 2]
    assert step_classes(booleans, 2, "bad").tolist() == [0, 1]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_step_ce_is_torchs_cross_entropy(num_classes):
    logits = torch.randn(2, 4, num_classes)
    labels = torch.tensor([[1.0, -1.0, 0.0, torch.nan], [0.0, 1.0, -1.0, -1.0]])
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    for neutral in ("good", "bad", "ignored"):
        classes = step_classes(labels, num_classes, neutral).masked_fill(~mask, IGNORED)
        expected = cross_entropy(logits.flatten(0, 1), classes.flatten(), ignore_index=IGNORED)
        count = num_items("step_ce", None, labels, mask, num_labels=num_classes, neutral=neutral)
        loss = compute_loss("step_ce", logits, mask, None, labels, num_items=count, neutral=neutral)
        torch.testing.assert_close(loss, expected)


def test_one_output_takes_booleans():
    logits = torch.tensor([[1.0, 2.0]])
    losses = [
        compute_loss("step_ce", logits, steps_mask(logits), None, labels, num_items=1)
        for labels in (torch.tensor([[True, False]]), torch.tensor([[1.0, 0.0]]))
    ]
    assert losses[0] == losses[1]


def test_items_are_responses_or_labelled_steps():
    correct = torch.tensor([1.0, torch.nan, 0.0])
    labels = torch.tensor([0.0, 1.0, torch.nan, -1.0])
    mask = torch.tensor([True, True, True, False])
    assert all(num_items(name, correct, labels) == 2 for name in FROM_OUTCOMES)
    assert num_items("step_ce", None, labels) == 3
    assert num_items("step_ce", None, labels, mask) == 2
    assert num_items("step_ce", None, labels.abs(), num_labels=1) == 3
    assert num_items("step_ce", None, labels, num_labels=2, neutral="ignored") == 2


# Invariances.


def random_batch(name: str, lengths: tuple[int, ...] = (3, 1, 5, 2)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor(lengths)
    shape = (sum(lengths), 3) if name == "step_ce" else (sum(lengths),)
    logits, mask = pad_steps(torch.randn(shape, generator=generator), counts)
    labels, _ = pad_steps(torch.randint(-1, 2, (sum(lengths),), generator=generator).float(), counts)
    if name == "mc_regression":
        labels = labels.abs() / 2
    correct = torch.arange(len(lengths)).remainder(2).float()
    prefixes = torch.arange(max(lengths)).expand_as(mask)  # step m of every response stands behind the same steps
    return {"logits": logits, "mask": mask, "correct": correct, "step_labels": labels, "prefixes": prefixes}


def count_items(name: str, batch: dict[str, torch.Tensor]) -> int:
    return num_items(name, batch["correct"], batch["step_labels"], batch["mask"], batch["prefixes"])


@pytest.mark.parametrize("name", [name for name, objective in LOSSES.items() if objective.unit == "response"])
def test_splits_of_a_batch_sum_to_the_whole(name):
    batch = random_batch(name)
    count = count_items(name, batch)
    whole = compute_loss(name, **batch, num_items=count)
    for size in (1, 2, 3):
        parts = [{key: value[i : i + size] for key, value in batch.items()} for i in range(0, 4, size)]
        assert sum(count_items(name, part) for part in parts) == count
        torch.testing.assert_close(sum(compute_loss(name, **part, num_items=count) for part in parts), whole)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("junk", [5.0, -torch.inf, torch.nan])
def test_padding_changes_neither_loss_nor_gradient(name, junk):
    batch = random_batch(name)
    results = []
    for extra, value in ((0, 0.0), (3, junk)):
        mask = torch.nn.functional.pad(batch["mask"], (0, extra))
        widened = torch.nn.functional.pad(batch["logits"], (0, 0, 0, extra) if name == "step_ce" else (0, extra))
        logits = widened.clone()
        logits[~mask] = value
        logits.requires_grad_()
        labels = torch.nn.functional.pad(batch["step_labels"], (0, extra))
        labels[~mask] = value
        prefixes = torch.nn.functional.pad(batch["prefixes"], (0, extra))
        assert num_items(name, batch["correct"], labels, mask, prefixes) == count_items(name, batch)
        loss = compute_loss(name, logits, mask, batch["correct"], labels, prefixes, num_items=1)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[~mask].eq(0).all()
        results.append((loss, gradient[mask]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computed_in_float32_whatever_the_dtype(name, dtype):
    batch = random_batch(name)
    logits = batch["logits"].to(dtype)
    expected = compute_loss(name, **(batch | {"logits": logits.float()}), num_items=1)
    loss = compute_loss(name, **(batch | {"logits": logits}), num_items=1)
    assert loss.dtype == torch.float32
    assert loss == expected


@pytest.mark.parametrize("name", [name for name in FROM_OUTCOMES if name not in ("orm", "td_lambda")])
@pytest.mark.parametrize("c", [0, 1])
def test_order_of_steps_does_not_matter(name, c):
    row = [0.3, -2.0, 4.0, 1.0]
    assert loss_and_gradient(name, [row], c)[0] == pytest.approx(loss_and_gradient(name, [row[::-1]], c)[0], rel=1e-6)


@pytest.mark.parametrize("name", FROM_OUTCOMES)
def test_responses_without_an_outcome_cost_nothing(name):
    batch = random_batch(name)
    labelled = compute_loss(name, **{key: value[:2] for key, value in batch.items()}, num_items=1)
    batch["correct"][2:] = torch.nan
    batch["logits"].requires_grad_()
    loss = compute_loss(name, **batch, num_items=1)
    loss.backward()
    torch.testing.assert_close(loss, labelled)
    assert batch["logits"].grad[2:].eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_learn_from_gives_a_differentiable_zero(name):
    unlabelled = random_batch(name)
    unlabelled["correct"] = torch.full_like(unlabelled["correct"], torch.nan)
    unlabelled["step_labels"] = torch.full_like(unlabelled["step_labels"], torch.nan)
    empty = {key: value[:0] for key, value in random_batch(name).items()}
    for batch in (unlabelled, empty):
        batch["logits"].requires_grad_()
        count = count_items(name, batch)
        loss = compute_loss(name, **batch, num_items=count)
        loss.backward()
        assert count == loss.item() == 0
        assert batch["logits"].grad.eq(0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_sum_over_responses_divided_by_the_items(name):
    batch = random_batch(name)
    losses = response_losses(name, **batch)
    assert losses.shape == (4,)
    assert losses.count_nonzero() > 1
    torch.testing.assert_close(compute_loss(name, **batch, num_items=7), losses.sum() / 7)


def test_heads_with_a_trailing_single_output():
    batch = random_batch("asym")
    expected = compute_loss("asym", **batch, num_items=1)
    assert compute_loss("asym", **(batch | {"logits": batch["logits"].unsqueeze(-1)}), num_items=1) == expected


def test_every_option_changes_something():
    for name, objective in LOSSES.items():
        batch = random_batch(name)
        if name == "step_ce":
            batch["logits"] = batch["logits"][..., :2]
        default = compute_loss(name, **batch, num_items=1)
        other = {"reading": "literal", "tau": 0.5, "beta": 0.1, "neutral": "bad", "zeta": 2.0, "gamma": 0.9, "gae_lambda": 0.5}
        other |= {"margin": 0.5, "flip_rate": 0.2}
        assert set(other) == set(OPTIONS)
        for option in objective.options:
            changed = compute_loss(name, **batch, num_items=1, **{option: other[option]})
            assert (changed != default) or (option == "tau" and name != "softmin"), (name, option)


# Errors.

BAD_OPTIONS = [
    ("asimm", {}, "unknown loss 'asimm': choose from asym"),
    ("min", {"reading": "raw"}, "unknown reading 'raw': choose from prob"),
    ("orm", {"reading": "literal"}, "reading 'literal' needs a loss that pools steps, and orm does not"),
    ("asym", {"reading": "logit"}, "reading 'logit' exists for min and softmin, not for asym"),
    ("geometric_mean", {"reading": "logit"}, "not for geometric_mean"),
    ("softmin", {"tau": 0.0}, "tau is 0.0: it must be positive"),
    ("implicit_prm", {"beta": -1.0}, "beta is -1.0: it must be positive"),
    ("step_ce", {"neutral": "skip"}, "unknown policy for neutral steps 'skip': choose from good"),
    ("pqm", {"zeta": -1.0}, "zeta is -1.0: it must not be negative"),
    ("td_lambda", {"gamma": 0.0}, "gamma is 0.0: it must be positive"),
    ("td_lambda", {"gamma": 1.5}, "gamma is 1.5: it must lie between 0 and 1"),
    ("td_lambda", {"gae_lambda": -0.1}, "gae_lambda is -0.1: it must lie between 0 and 1"),
    ("margin_ranking", {"margin": 0.0}, "margin is 0.0: it must be positive"),
    ("robust_asym", {"flip_rate": 1.0}, "flip_rate is 1.0: it must be at least 0 and below 1"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        check_options(name, **options)
    with pytest.raises(ValueError, match=message):
        compute_loss(name, **random_batch("asym"), num_items=1, **options)


@pytest.mark.parametrize("name", LOSSES)
def test_missing_labels(name):
    batch = random_batch(name) | {"correct": None, "step_labels": None}
    with pytest.raises(ValueError, match=f"loss {name} needs labels"):
        compute_loss(name, **batch, num_items=1)
    with pytest.raises(ValueError, match=f"loss {name} needs labels"):
        num_items(name, None, None)


def test_outcomes_are_0_or_1():
    batch = random_batch("asym") | {"correct": torch.tensor([0.0, 1.0, 0.5, torch.nan])}
    with pytest.raises(ValueError, match=r"outcome label 0\.5 is not 0, 1 or NaN"):
        compute_loss("asym", **batch, num_items=1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_response_without_steps(name):
    batch = random_batch(name)
    batch["mask"][1] = False
    with pytest.raises(ValueError, match="response 1 of the batch has no step"):
        compute_loss(name, **batch, num_items=1)


def test_head_of_the_wrong_width():
    batch = random_batch("step_ce")
    with pytest.raises(ValueError, match="loss orm needs a head with one output, not 3"):
        compute_loss("orm", **batch, num_items=1)
    with pytest.raises(ValueError, match="step_ce has 5 outputs"):
        compute_loss("step_ce", **(batch | {"logits": torch.zeros(4, 5, 5)}), num_items=1)


def test_labels_that_do_not_fit_the_head():
    with pytest.raises(ValueError, match=r"step label 0\.3 is not -1, 0 or 1"):
        step_classes(torch.tensor([1.0, 0.3]), 3)
    with pytest.raises(ValueError, match="unknown policy for neutral steps"):
        step_classes(torch.tensor([1.0]), 2, "skip")
    with pytest.raises(ValueError, match=r"step label -1 is outside \[0, 1\]"):
        compute_loss("step_ce", **random_batch("asym"), num_items=1)
