"""The published estimators: one iteration against plain loops, what they reach, and seeds that do not disturb each other."""

import itertools

import numpy as np
import pytest

from prm.simulation.environment import AdditiveWorld, draw, streams, uniform_traces
from prm.simulation.estimators import METHODS, TrainingConfig, other_tokens, train
from prm.simulation.measures import row_correlation, squared_error

FEW = TrainingConfig(num_iterations=12, num_traces=3, init_scale=0.1)
"""More than a block of iterations, and weights that shut the gate for some pairs."""


def drawn(world, seed, num_alternatives):
    """W before training, and every iteration's traces [N, T] with their other tokens [N, T, K]: what `train` draws."""
    num_steps, num_tokens = world.q.shape[1:]
    weights = draw(streams([seed], "weights"), lambda rng: rng.normal(0, 0.1, (num_steps, num_tokens)))[0]
    rngs, others = streams([seed], "traces"), streams([seed], "alternatives")
    iterations = []
    for size in (10, 2):
        traces = uniform_traces(rngs, (size, 3, num_steps), num_tokens)
        iterations += zip(traces[0], other_tokens(others, traces, num_tokens, num_alternatives)[0], strict=True)
    return weights, iterations


def slow_step(method, world, weights, traces, others, gates):
    """W after one iteration, trace by trace and step by step, as the publication describes it."""
    before, after, rate = weights, weights.copy(), 0.01 / len(traces)

    def outcome(trace):
        return world.outcomes(np.array(trace)[None, None])[0, 0]

    def rank(t, best, worst, push):
        is_open = before[t, best] - before[t, worst] < 0.1
        gates.append(is_open)
        if is_open:
            after[t, best] += rate * push
            after[t, worst] -= rate * push

    for trace, choices in zip(traces, others, strict=True):
        values = [before[t, a] for t, a in enumerate(trace)]
        eligibility = 0.0
        for t in reversed(range(len(trace))):
            a = trace[t]
            exchanged = [outcome([*trace[:t], other, *trace[t + 1 :]]) for other in choices[t]]
            if method == "monte_carlo":
                after[t, a] += rate * 2 * (world.step_values(trace[None, None])[0, 0, t] - before[t, a])
            elif method == "td":
                following = outcome(trace) if t == len(trace) - 1 else 0.99 * values[t + 1]
                eligibility = following - values[t] + 0.99 * 0.8 * eligibility
                after[t, a] += rate * eligibility
            elif method == "contrastive":
                gap = outcome(trace) - exchanged[0]
                pair = (a, choices[t][0]) if gap > 0 else (choices[t][0], a)
                rank(t, *pair, 2 * abs(gap))
            elif world.is_critical[0, t]:
                best, worst = np.argmax(exchanged), np.argmin(exchanged)
                rank(t, choices[t][best], choices[t][worst], 2 / len(exchanged) * (exchanged[best] - exchanged[worst]))
    return after


@pytest.mark.parametrize("method", ["monte_carlo", "td", "contrastive", "intervention"])
def test_iterations_are_those_of_plain_loops(method):
    world = AdditiveWorld.make([5], 6)
    start, iterations = drawn(world, 5, 1 if method == "contrastive" else 4)
    weights, gates = start, []
    for traces, others in iterations:
        weights = slow_step(method, world, weights, traces, others, gates)
    np.testing.assert_allclose(train(method, world, FEW)[0], weights, rtol=1e-9)
    assert np.abs(weights - start).max() > 1e-6
    assert method in ("monte_carlo", "td") or {True, False} == set(map(bool, gates))


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_s_result_does_not_depend_on_the_batch(method):
    config = TrainingConfig(num_iterations=13, num_traces=5)
    many = train(method, AdditiveWorld.make(range(4), 6), config)
    assert (many[2] == train(method, AdditiveWorld.make([2], 6), config)[0]).all()


def test_monte_carlo_reads_the_answer_key():
    seeds = range(3)
    made = AdditiveWorld.make(seeds, 16)
    world = AdditiveWorld(seeds, made.q, 0 * made.b, made.is_critical)
    traces = uniform_traces(streams(seeds, "test"), (50, 16), 10)
    scores = train("monte_carlo", world, TrainingConfig())
    assert (row_correlation(scores, world.values) > 0.999).all()
    scores = train("monte_carlo", world, TrainingConfig(num_iterations=1500))
    assert (squared_error(scores, traces, world.step_values(traces)) < 0.02).all()


def test_untrained_weights_know_nothing():
    seeds = range(30)
    world = AdditiveWorld.make(seeds, 16)
    found = row_correlation(train("td", world, TrainingConfig(num_iterations=0)), world.values)
    assert abs(found.mean()) < 0.03


def test_contrastive_from_zero_does_not_fall_with_the_length():
    seeds = range(3)
    found = {}
    for init_scale in (0.0, 0.01):
        for length in (8, 64):
            world = AdditiveWorld.make(seeds, length)
            scores = train("contrastive", world, TrainingConfig(init_scale=init_scale))
            found[init_scale, length] = row_correlation(scores, world.values).mean()
    assert min(found[0.0, 8], found[0.0, 64]) > 0.95
    assert found[0.01, 64] < 0.65 < 0.9 < found[0.01, 8]


def test_td_without_decay_at_ten_times_the_rate():
    seeds = range(3)
    world = AdditiveWorld.make(seeds, 16)
    published, changed = (
        row_correlation(train("td", world, config), world.values).mean()
        for config in (TrainingConfig(), TrainingConfig(td_lambda=1.0, learning_rate=0.1))
    )
    assert published < 0.35
    assert changed > 0.95


def test_other_tokens_are_distinct_and_every_set_is_as_likely():
    traces = np.tile(np.arange(4), (1, 6000, 1))
    found = other_tokens(streams([0], "alternatives"), traces, num_tokens=4, num_alternatives=2)
    assert not (found == traces[..., None]).any()
    assert (found[..., 0] != found[..., 1]).all()
    sets = [tuple(sorted(pair)) for pair in found[0, :, 1]]
    for pair in itertools.combinations((0, 2, 3), 2):
        assert sets.count(pair) / len(sets) == pytest.approx(1 / 3, abs=0.03)


def test_mistakes():
    world = AdditiveWorld.make([0], 4, 5)
    with pytest.raises(ValueError, match="unknown method 'mc': choose from monte_carlo, td"):
        train("mc", world, FEW)
    for count in (1, 5):
        with pytest.raises(ValueError, match=f"num_alternatives {count}: an intervention compares at least 2 of the 4 other"):
            train("intervention", world, TrainingConfig(num_alternatives=count))
    assert train("td", AdditiveWorld.make([0], 4, 2), FEW).shape == (1, 4, 2), "the others need none"
