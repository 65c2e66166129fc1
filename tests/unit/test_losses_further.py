"""Objectives beyond the paper: by hand, against 50-digit arithmetic at every scale, what sets each of them apart, errors."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf

from prm.losses import compute_loss, counterfactual_pairs, num_items, prefix_ids, response_losses

NUM_STEPS = (1, 7, 60, 2000)
LOSS_TOLERANCE, GRADIENT_TOLERANCE, UNDERFLOW = 1e-5, 3e-4, 1e-37
INPUTS = {
    "random": lambda rng, m: rng.normal(0, 3, m),
    "extreme": lambda rng, m: rng.uniform(-60, 60, m),
    "confident": lambda rng, m: np.full(m, 60.0),
    "hopeless": lambda rng, m: np.full(m, -60.0),
    "both_ends": lambda rng, m: np.resize([60.0, -60.0], m),
    "one_bad_step": lambda rng, m: np.r_[np.full(m - 1, 4.6), -13.7],
}


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


def row_of(kind: str, num_steps: int) -> list[float]:
    return torch.tensor(INPUTS[kind](np.random.default_rng(num_steps), num_steps), dtype=torch.float32).tolist()


def loss_and_gradient(name: str, row: list[float], labels: float | list[float], **options) -> tuple[float, list[float]]:
    """Of one response: `labels` is its outcome or its step labels."""
    logits = torch.tensor([row], requires_grad=True)
    correct, step_labels = (torch.tensor([labels]), None) if isinstance(labels, float) else (None, torch.tensor([labels]))
    loss = compute_loss(name, logits, torch.ones(1, len(row), dtype=torch.bool), correct, step_labels, num_items=1, **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all()
    return loss.item(), gradient[0].tolist()


def sigmoid(z: float) -> mpf:
    return 1 / (1 + mpmath.exp(-mpf(z)))


# robust_asym


def test_robust_asym_by_hand():
    """A = 1/2 3/4 = 3/8 and e = 1/5: P(c=1) = 1/2, and its derivative by z is (1-e) A (1-r)."""
    row = [0.0, math.log(3)]
    loss, gradient = loss_and_gradient("robust_asym", row, 1.0, flip_rate=0.2)
    assert loss == pytest.approx(math.log(2))
    assert gradient == pytest.approx([-0.8 * 3 / 8 / 2 / 0.5, -0.8 * 3 / 8 / 4 / 0.5])
    loss, gradient = loss_and_gradient("robust_asym", row, 0.0)
    assert loss == pytest.approx(-math.log(5 / 8))
    assert gradient == pytest.approx([3 / 5 / 2, 3 / 5 / 4])


@pytest.mark.parametrize("c", [0.0, 1.0])
@pytest.mark.parametrize("flip_rate", [0.0, 1e-6, 0.1, 0.5])
@pytest.mark.parametrize("kind", INPUTS)
def test_robust_asym_against_50_digits(kind, flip_rate, c):
    for num_steps in NUM_STEPS:
        row, e = row_of(kind, num_steps), mpf(flip_rate)
        loss, gradient = loss_and_gradient("robust_asym", row, c, flip_rate=flip_rate)
        r = [sigmoid(z) for z in row]
        a = mpmath.fprod(r)
        p = a + (1 - a) * e if c else mpmath.fsum((1 - x) * mpmath.fprod(r[:m]) for m, x in enumerate(r))
        slope = -(1 - e) * a / p if c else a / p
        assert loss == pytest.approx(float(-mpmath.log(p)), rel=LOSS_TOLERANCE, abs=UNDERFLOW)
        expected = [float(slope / (1 + mpmath.exp(mpf(z)))) for z in row]
        np.testing.assert_allclose(gradient, expected, rtol=GRADIENT_TOLERANCE, atol=UNDERFLOW)


@pytest.mark.parametrize("row", [[300.0] * 3, [-300.0] * 3, [1e4, -1e4, 0.0]])
@pytest.mark.parametrize("flip_rate", [0.0, 0.1])
def test_robust_asym_far_outside_the_working_range(row, flip_rate):
    assert all(math.isfinite(loss_and_gradient("robust_asym", row, c, flip_rate=flip_rate)[0]) for c in (0.0, 1.0))


def test_a_surely_wrong_step_of_a_right_response_is_let_go():
    """The pull on a bad step grows up to A = sqrt(e) / (1 + sqrt(e)) and fades below; asym's grows all the way to 1."""
    at = [abs(loss_and_gradient("robust_asym", [z], 1.0, flip_rate=0.1)[1][0]) for z in (2.0, -math.log(10) / 2, -4.0, -8.0, -60.0)]
    assert at[0] < at[1] > at[2] > at[3] > at[4] > 0
    assert at[3] < 0.004
    assert abs(loss_and_gradient("asym", [-8.0], 1.0)[1][0]) > 0.999


def test_a_wrong_response_that_has_its_wrong_step_asks_nothing_of_the_others():
    """The length trap: 20 steps, one of them found. asym goes on pushing the 19 good ones down, over fifteen times harder."""
    row = [-4.6] + [4.6] * 19
    pushed = {name: sum(loss_and_gradient(name, row, 0.0)[1][1:]) for name in ("robust_asym", "asym")}
    assert 0 < pushed["robust_asym"] < 0.002
    assert pushed["asym"] > 0.03


# td_lambda


def test_td_lambda_by_hand():
    """V = (1/2, 3/4), c = 1, gamma = lambda = 1/2: G = (1/2 (3/8 + 1/2), 1); the targets carry no gradient."""
    loss, gradient = loss_and_gradient("td_lambda", [0.0, math.log(3)], 1.0, gamma=0.5, gae_lambda=0.5)
    errors = (0.5 - 0.4375, 0.75 - 1)
    assert loss == pytest.approx((errors[0] ** 2 + errors[1] ** 2) / 2)
    assert gradient == pytest.approx([errors[0] / 4, errors[1] * 3 / 16])


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (1.0, 0.0), (1.0, 1.0), (0.9, 0.5)])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("c", [0.0, 1.0])
def test_td_lambda_against_50_digits(kind, gamma, gae_lambda, c):
    for num_steps in NUM_STEPS:
        row, (g, lam) = row_of(kind, num_steps), map(mpf, (gamma, gae_lambda))
        values = [sigmoid(z) for z in row]
        advantage, errors = mpf(c) - values[-1], []
        for value, following in zip(reversed(values), [None, *reversed(values[1:])], strict=True):
            if following is not None:  # GAE: delta_m + gamma lambda A_{m+1}
                advantage = g * following - value + g * lam * advantage
            errors.insert(0, -advantage)
        loss, gradient = loss_and_gradient("td_lambda", row, c, gamma=gamma, gae_lambda=gae_lambda)
        # A value within 1e-6 of its target has an error of rounding only.
        assert loss == pytest.approx(float(mpmath.fsum(e * e for e in errors) / num_steps), rel=LOSS_TOLERANCE, abs=1e-12)
        slopes = [2 * v * (1 - v) / num_steps for v in values]
        for got, error, slope in zip(gradient, errors, slopes, strict=True):
            assert got == pytest.approx(float(error * slope), rel=GRADIENT_TOLERANCE, abs=max(float(2e-6 * slope), UNDERFLOW))


def test_td_lambda_of_1_regresses_every_step_on_the_outcome_and_0_on_the_next_value():
    row, values = [0.3, -1.0, 2.0], torch.tensor([0.3, -1.0, 2.0]).sigmoid()
    for gae_lambda, targets in ((1.0, torch.ones(3)), (0.0, torch.cat([values[1:], torch.ones(1)]))):
        expected = (values - targets).square().mean().item()
        assert loss_and_gradient("td_lambda", row, 1.0, gae_lambda=gae_lambda)[0] == pytest.approx(expected)


# mc_regression


def test_mc_regression_by_hand():
    loss, gradient = loss_and_gradient("mc_regression", [0.0, math.log(3), 5.0], [1.0, 0.5, torch.nan])
    assert loss == pytest.approx(0.25 + 0.0625)
    assert gradient == pytest.approx([2 * -0.5 / 4, 2 * 0.25 * 3 / 16, 0])


@pytest.mark.parametrize("target", [0.0, 0.125, 0.5, 1.0])
@pytest.mark.parametrize("kind", INPUTS)
def test_mc_regression_against_50_digits(kind, target):
    for num_steps in NUM_STEPS:
        row = row_of(kind, num_steps)
        loss, gradient = loss_and_gradient("mc_regression", row, [target] * num_steps)
        r = [sigmoid(z) for z in row]
        assert loss == pytest.approx(float(mpmath.fsum((x - target) ** 2 for x in r)), rel=LOSS_TOLERANCE, abs=UNDERFLOW)
        expected = [float(2 * (x - target) * x * (1 - x)) for x in r]
        np.testing.assert_allclose(gradient, expected, rtol=GRADIENT_TOLERANCE, atol=UNDERFLOW)


def test_mc_regression_counts_labelled_steps_and_takes_booleans():
    labels = torch.tensor([0.25, torch.nan, 1.0])
    assert num_items("mc_regression", None, labels) == 2
    booleans = loss_and_gradient("mc_regression", [1.0, 2.0], [True, False])
    assert booleans == loss_and_gradient("mc_regression", [1.0, 2.0], [1.0, 0.0])
    with pytest.raises(ValueError, match=r"step label -1 is outside \[0, 1\]: labels -1, 0, 1 need step_ce"):
        loss_and_gradient("mc_regression", [1.0], [-1.0])


# pqm


def test_pqm_by_hand():
    """Q = 0, log 2 (bad), log 3 and e^zeta = 4: the good steps have 1/(1 + 8) and 3/(1 + 3 + 8)."""
    row, labels = [0.0, math.log(2), math.log(3)], [1.0, -1.0, 1.0]
    loss, gradient = loss_and_gradient("pqm", row, labels, zeta=math.log(4))
    assert loss == pytest.approx((math.log(9) + math.log(4)) / 2)
    assert gradient == pytest.approx([(-8 / 9 + 1 / 12) / 2, (8 / 9 + 8 / 12) / 2, (-9 / 12) / 2])


def pqm_reference(row: list[float], labels: list[float], zeta: float = 4.0) -> tuple[mpf, list[mpf], list[mpf]]:
    """Loss, gradient and the sum of the gradient's absolute terms."""
    powers = [mpmath.exp(mpf(z) + (zeta if label < 0 else 0)) for z, label in zip(row, labels, strict=True)]
    bad = mpmath.fsum(p for p, label in zip(powers, labels, strict=True) if label < 0)
    goods = [m for m, label in enumerate(labels) if label > 0]
    sums = [bad + partial for partial in itertools.accumulate(powers[m] for m in goods)]
    n = max(len(goods), 1)
    loss = mpmath.fsum(mpmath.log(s / powers[m]) for m, s in zip(goods, sums, strict=True)) / n
    tails = list(itertools.accumulate(1 / s for s in reversed(sums)))[::-1] or [mpf(0)]
    gradient, scale = [powers[m] * tails[0] / n for m in range(len(row))], [powers[m] * tails[0] / n for m in range(len(row))]
    for k, m in enumerate(goods):
        later = powers[m] * (tails[k] - 1 / sums[k]) / n
        own = (sums[k] - powers[m]) / sums[k] / n
        gradient[m], scale[m] = later - own, later + own
    return loss, gradient, scale


@pytest.mark.parametrize("share_good", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("num_steps", NUM_STEPS)
def test_pqm_against_50_digits(kind, num_steps, share_good):
    row = row_of(kind, num_steps)
    labels = np.where(np.random.default_rng(1).random(num_steps) < share_good, 1.0, -1.0).tolist()
    loss, gradient = loss_and_gradient("pqm", row, labels)
    expected_loss, expected, scale = pqm_reference(row, labels)
    assert loss == pytest.approx(float(expected_loss), rel=LOSS_TOLERANCE, abs=UNDERFLOW)
    for got, value, terms in zip(gradient, expected, scale, strict=True):  # pulls up and down may cancel
        assert got == pytest.approx(float(value), abs=max(float(GRADIENT_TOLERANCE * terms), UNDERFLOW))


def test_pqm_reads_differences_only():
    row, labels = [0.3, -2.0, 4.0, 1.0], [1.0, -1.0, 0.0, 1.0]
    shifted = loss_and_gradient("pqm", [z + 7 for z in row], labels)
    assert shifted[0] == pytest.approx(loss_and_gradient("pqm", row, labels)[0])
    assert sum(shifted[1]) == pytest.approx(0, abs=1e-6)


def test_pqm_settles_neutral_steps_by_the_policy():
    row = [0.3, -2.0, 4.0]
    for neutral, same in {"good": [1.0, 1.0, -1.0], "bad": [1.0, -1.0, -1.0], "ignored": [1.0, torch.nan, -1.0]}.items():
        expected = loss_and_gradient("pqm", row, same)
        assert loss_and_gradient("pqm", row, [1.0, 0.0, -1.0], neutral=neutral) == expected
    assert loss_and_gradient("pqm", row, [True, False, True]) == loss_and_gradient("pqm", row, [1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match=r"step label 0\.5 is not -1, 0 or 1: soft targets need mc_regression"):
        loss_and_gradient("pqm", row, [1.0, 0.5, -1.0])


def test_pqm_counts_responses_with_a_good_step():
    labels = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, torch.nan], [torch.nan, torch.nan]])
    mask = torch.ones(4, 2, dtype=torch.bool)
    assert num_items("pqm", None, labels, mask) == 2
    assert num_items("pqm", None, labels, mask, neutral="bad") == 1
    assert num_items("pqm", None, labels.flatten(), step_counts=torch.tensor([2, 2, 2, 2])) == 2
    mask[0] = False
    assert num_items("pqm", None, labels, mask) == 1
    losses = response_losses("pqm", torch.zeros(4, 2), torch.ones(4, 2, dtype=torch.bool), None, labels)
    assert losses.gt(0).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="loss pqm counts ranked responses: give the step_counts of the packed labels"):
        num_items("pqm", None, labels.flatten())


# margin_ranking


def test_margin_ranking_by_hand():
    """Two answers part at the second step; a third one agrees with the good one and is better still."""
    prefixes = prefix_ids(["q", "q", "q"], [["a", "b"], ["a", "c", "d"], ["a", "b"]])
    assert prefixes.tolist() == [[0, 1, -1], [0, 1, 3], [0, 1, -1]]
    mask = prefixes >= 0
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, -1.0], [1.0, 1.0, 0.0]])
    logits = torch.tensor([[9.0, 0.5, 9.0], [9.0, 0.25, -9.0], [9.0, 2.0, 9.0]], requires_grad=True)
    arguments = (logits, mask, None, labels, prefixes)
    assert response_losses("margin_ranking", *arguments).tolist() == [0.375, 0.375, 0]
    loss = compute_loss("margin_ranking", *arguments, num_items=num_items("margin_ranking", None, labels, mask, prefixes))
    assert loss.item() == 0.375  # of two pairs
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.tolist() == [[0, -0.5, 0], [0, 0.5, 0], [0, 0, 0]]
    assert compute_loss("margin_ranking", *arguments, num_items=1, margin=2.0).item() == 2 - 0.25 + 2 - 1.75


def random_tree(rng: np.random.Generator, num_responses: int) -> tuple[list[str], list[list[str]]]:
    """Responses to two questions, of two letters, so that they share prefixes."""
    steps = [list(map(str, rng.choice(["a", "b"], rng.integers(1, 6)))) for _ in range(num_responses)]
    return [str(rng.integers(2)) for _ in steps], steps


@pytest.mark.parametrize("seed", range(5))
def test_prefix_ids_are_equal_if_and_only_if_the_texts_are(seed):
    questions, responses = random_tree(np.random.default_rng(seed), 20)
    ids = prefix_ids(questions, responses).tolist()
    behind = {
        (row, m): (question, *steps[:m])
        for row, (question, steps) in enumerate(zip(questions, responses, strict=True))
        for m in range(len(steps))
    }
    for (first, one), (second, other) in itertools.combinations(behind.items(), 2):
        assert (ids[first[0]][first[1]] == ids[second[0]][second[1]]) == (one == other)
    assert all(value == -1 for row, steps in zip(ids, responses, strict=True) for value in row[len(steps) :])


def test_prefix_ids_take_token_ids_and_tell_the_question_from_a_step():
    assert prefix_ids([(1, 2), (1,)], [[(3,), (4,)], [(2,), (3,)]]).unique().numel() == 4
    assert prefix_ids(["a", "b"], [["b", "c"], ["c"]]).tolist() == [[0, 1], [3, -1]]
    assert prefix_ids([], []).shape == (0, 0)


@pytest.mark.parametrize("margin", [1.0, 30.0])
@pytest.mark.parametrize("kind", INPUTS)
def test_margin_ranking_against_all_pairs_of_texts(kind, margin):
    rng = np.random.default_rng(0)
    questions, responses = random_tree(rng, 60)
    prefixes = prefix_ids(questions, responses)
    mask = prefixes >= 0
    logits = torch.tensor([row_of(kind, mask.numel())]).reshape(mask.shape).requires_grad_()
    labels = torch.tensor(rng.choice([-1.0, 0.0, 1.0, np.nan], mask.shape), dtype=torch.float32)
    expected, expected_gradient, count = 0.0, np.zeros(mask.shape), 0
    places = [(row, m) for row, steps in enumerate(responses) for m in range(len(steps))]
    for good, bad in itertools.permutations(places, 2):
        texts = [(questions[row], *responses[row][:m]) for row, m in (good, bad)]
        if texts[0] != texts[1] or not (labels[good] >= 0 and labels[bad] < 0):
            continue
        count += 1
        hinge = margin - (logits[good].item() - logits[bad].item())
        if hinge > 0:
            expected += hinge
            expected_gradient[good] -= 1
            expected_gradient[bad] += 1
    loss = compute_loss("margin_ranking", logits, mask, None, labels, prefixes, num_items=1, margin=margin)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert count == num_items("margin_ranking", None, labels, mask, prefixes) > 100
    assert loss.item() == pytest.approx(expected, rel=LOSS_TOLERANCE)
    np.testing.assert_array_equal(gradient, expected_gradient)


def test_pairs_of_packed_steps_and_of_2000_steps():
    prefixes = torch.arange(2000).expand(2, -1)
    labels = torch.stack([torch.ones(2000), -torch.ones(2000)])
    good, bad = counterfactual_pairs(prefixes, torch.ones(2, 2000, dtype=torch.bool), labels)
    assert good.tolist() == list(range(2000))
    assert bad.tolist() == list(range(2000, 4000))
    counts = torch.tensor([2000, 2000])
    assert num_items("margin_ranking", None, labels.flatten(), None, prefixes.flatten(), step_counts=counts) == 2000


def test_a_step_labelled_both_ways_teaches_nothing():
    """The same text has the same logit, whose gradients cancel."""
    logits = torch.tensor([0.7], requires_grad=True)
    both = logits.expand(2).unsqueeze(-1)
    labels, prefixes = torch.tensor([[1.0], [-1.0]]), torch.zeros(2, 1, dtype=torch.long)
    compute_loss("margin_ranking", both, torch.ones(2, 1, dtype=torch.bool), None, labels, prefixes, num_items=1).backward()
    assert logits.grad.item() == 0


def test_margin_ranking_needs_prefixes():
    labels, mask = torch.tensor([[1.0]]), torch.ones(1, 1, dtype=torch.bool)
    for call in (
        lambda: compute_loss("margin_ranking", torch.zeros(1, 1), mask, None, labels, num_items=1),
        lambda: num_items("margin_ranking", None, labels, mask),
    ):
        with pytest.raises(ValueError, match="loss margin_ranking needs the prefixes of the steps"):
            call()
