"""The worlds of the controlled study: values and outcomes by hand, shares of right traces, streams that belong to one seed."""

import math

import numpy as np
import pytest

from prm.simulation.environment import AdditiveWorld, WeakestLinkWorld, prob_right, streams, uniform_traces


def test_step_values_and_outcome_by_hand():
    q = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    b = np.array([[[0.1, 0.2], [0.3, 0.4]]])
    world = AdditiveWorld([0], q, b, np.array([[True, False, True]]))
    traces = np.array([[[1, 0, 1]]])
    # 2 * 3, then 3 + B[1, 0], then 6 * 3 + B[0, 1].
    assert world.step_values(traces)[0, 0] == pytest.approx([6.0, 3.3, 18.2])
    assert world.outcomes(traces)[0, 0] == pytest.approx(1 / (1 + math.exp(-27.5 / 3)))


def test_an_exchanged_token_changes_the_outcome_as_the_exchanged_trace_has_it():
    seeds = [3, 4]
    world = AdditiveWorld.make(seeds, num_steps=5, num_tokens=4)
    traces = uniform_traces(streams(seeds, "test"), (6, 5), 4)
    tokens = uniform_traces(streams(seeds, "alternatives"), (6, 5, 3), 4)
    found = world.outcomes_with(traces, tokens)
    for step in range(5):
        for k in range(3):
            exchanged = traces.copy()
            exchanged[..., step] = tokens[..., step, k]
            np.testing.assert_allclose(found[..., step, k], world.outcomes(exchanged), rtol=1e-12)


def test_scales_and_critical_steps():
    world = AdditiveWorld.make(range(40), num_steps=50, num_tokens=20)
    assert world.q.std() == pytest.approx(0.5, rel=0.02)
    assert world.b.std() == pytest.approx(0.3, rel=0.02)
    assert world.is_critical[:, [0, -1]].all()
    assert world.is_critical[:, 1:-1].mean() == pytest.approx(0.3, abs=0.03)
    assert (world.values[world.is_critical] == 3 * world.q[world.is_critical]).all()


def test_half_of_the_traces_are_above_the_median():
    world = AdditiveWorld.make(range(5), num_steps=8)
    traces = uniform_traces(streams(range(5), "test"), (4000, 8), 10)
    assert world.is_right(traces).mean(-1) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("num_steps", [2, 5, 8, 16, 64])
def test_about_half_of_the_traces_meet_no_wrong_cell(num_steps):
    seeds = range(4)
    world = WeakestLinkWorld.make(seeds, num_steps)
    assert world.prob_right == pytest.approx(0.5, abs=0.07)
    traces = uniform_traces(streams(seeds, "test"), (4000, num_steps), 10)
    assert world.is_right(traces).mean(-1) == pytest.approx(world.prob_right, abs=0.04)
    assert (world.is_right(traces) == ~world.wrong_steps(traces).any(-1)).all()
    counts = world.is_wrong.sum(-1)
    assert counts.max() - counts.min() <= 1, "wrong cells are spread evenly over the steps"
    assert prob_right(int(counts[0].sum()), num_steps, 10) == pytest.approx(world.prob_right)


@pytest.mark.parametrize("make", [AdditiveWorld.make, WeakestLinkWorld.make])
def test_a_seed_s_world_does_not_depend_on_the_others(make):
    many, one = make(range(5), 6), make([3], 6)
    assert (many.values[3] == one.values[0]).all()
    traces = uniform_traces(streams(range(5), "traces"), (7, 6), 10)
    assert (traces[3] == uniform_traces(streams([3], "traces"), (7, 6), 10)[0]).all()
    assert (traces[3] != uniform_traces(streams([3], "test"), (7, 6), 10)[0]).any(), "each purpose has a stream of its own"
    assert (many.is_right(traces)[3] == one.is_right(traces[3:4])[0]).all()


@pytest.mark.parametrize("make", [AdditiveWorld.make, WeakestLinkWorld.make])
def test_a_world_needs_a_choice_and_a_sequence(make):
    with pytest.raises(ValueError, match="1 steps: a trace needs at least 2"):
        make([0], 1)
    with pytest.raises(ValueError, match="1 tokens: a step needs at least 2"):
        make([0], 4, 1)
    with pytest.raises(ValueError, match=r"share_right 1\.0: give a share"):
        WeakestLinkWorld.make([0], 4, share_right=1.0)
