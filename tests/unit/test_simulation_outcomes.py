"""The study of outcomes: what a budget buys, what each contestant makes of it, and what errors of the verifier do."""

import dataclasses

import numpy as np
import pytest

from prm.simulation.contestants import CONTESTANTS, fit
from prm.simulation.environment import AdditiveWorld, WeakestLinkWorld
from prm.simulation.measures import row_correlation
from prm.simulation.queries import SIGNALS, Verifier
from prm.simulation.runs import OutcomeRun, first_error_f1

SEEDS = range(3)


@dataclasses.dataclass(frozen=True)
class CountingVerifier(Verifier):
    """Counts the outcomes it was asked for, per seed."""

    asked: list = dataclasses.field(default_factory=list)

    def ask(self, traces):
        self.asked.append(int(np.prod(traces.shape[1:-1])))
        return super().ask(traces)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("budget", [7, 40])
def test_every_signal_asks_for_its_budget(signal, budget):
    verifier = CountingVerifier(WeakestLinkWorld.make(SEEDS, 8))
    examples = SIGNALS[signal](verifier, budget, 4)
    assert len(verifier.asked) == 1
    assert verifier.asked[0] == budget
    assert examples.traces.shape == (3, -(-budget // 4) if signal == "completions" else budget, 8)


def test_completions_keep_their_prefix_and_label_its_end():
    world = WeakestLinkWorld.make(SEEDS, 8)
    examples = SIGNALS["completions"](Verifier(world), 4000, 4)
    is_label = ~np.isnan(examples.step_labels)
    assert (is_label.sum(-1) == 1).all()
    assert set(np.unique(examples.step_labels[is_label])) <= {0, 0.25, 0.5, 0.75, 1}
    last = is_label.argmax(-1)
    met_wrong = (world.wrong_steps(examples.traces) & (np.arange(8) <= last[..., None])).any(-1)
    values = np.nanmax(examples.step_labels, axis=-1)
    assert (values[met_wrong] == 0).all(), "a wrong step cannot be completed to a right trace"
    at_end = ~met_wrong & (last == 7)
    assert at_end.any()
    assert (values[at_end] == 1).all()


@pytest.mark.parametrize("signal", ["exchanges at every step", "exchanges at one step"])
def test_exchanges_differ_from_their_trace_in_the_one_step_that_is_labelled(signal):
    num_steps, num_others = 5, 3
    group_size = 1 + (num_steps if signal == "exchanges at every step" else num_others)
    world = WeakestLinkWorld.make(SEEDS, num_steps)
    examples = SIGNALS[signal](Verifier(world), 2 * group_size, num_others)
    right = world.is_right(examples.traces)
    for start in (0, group_size):
        base = examples.traces[:, start : start + 1]
        others = examples.traces[:, start + 1 : start + group_size]
        is_label = ~np.isnan(examples.step_labels[:, start + 1 : start + group_size])
        assert ((others != base) == is_label).all()
        assert (is_label.sum(-1) == 1).all()
        assert (~np.isnan(examples.step_labels[:, start]) == is_label.any(1)).all(), "the trace is labelled where others differ"
    labelled = ~np.isnan(examples.step_labels)
    assert (examples.step_labels[labelled] == np.where(right, 1, -1)[..., None].repeat(num_steps, -1)[labelled]).all()
    prefixes = examples.prefixes.reshape(3, 2, group_size, num_steps)
    assert (prefixes == prefixes[:, :, :1]).all()
    assert len(np.unique(prefixes[0, :, 0])) == 2 * num_steps


def test_a_verifier_errs_at_its_rates():
    world = WeakestLinkWorld.make(SEEDS, 8)
    verifier = Verifier(world, false_negatives=0.2, false_positives=0.1)
    traces = SIGNALS["traces"](verifier, 20_000, 4).traces
    called, right = verifier.ask(traces), world.is_right(traces)
    assert called[right].mean() == pytest.approx(0.8, abs=0.01)
    assert called[~right].mean() == pytest.approx(0.1, abs=0.01)
    for rates in ({"false_negatives": 1.0}, {"false_positives": -0.1}):
        with pytest.raises(ValueError, match="give a share of at least 0 and below 1"):
            Verifier(world, **rates)


def correlation(seeds=range(6), **settings) -> np.ndarray:
    return np.array(OutcomeRun(**settings).measure(seeds)["correlation"])


def test_every_contestant_learns_from_plenty():
    world = WeakestLinkWorld.make(SEEDS, 8)
    for name, contestant in CONTESTANTS.items():
        examples = SIGNALS[contestant.signal](Verifier(world), 600, 4)
        scores = fit(contestant, examples, 10, 100, 0.1)
        assert scores.shape == (3, 8, 10)
        assert row_correlation(scores, world.values).mean() > 0.25, name


def test_a_seed_s_fit_does_not_depend_on_the_batch():
    for name, contestant in CONTESTANTS.items():
        tables = []
        for seeds in ([0, 1, 2], [1]):
            world = WeakestLinkWorld.make(seeds, 6)
            examples = SIGNALS[contestant.signal](Verifier(world, 0.1, 0.1), 40, 3)
            tables.append(fit(contestant, examples, 10, 60, 0.1))
        np.testing.assert_allclose(tables[0][1], tables[1][0], rtol=1e-4, atol=1e-4, err_msg=name)


def test_an_implicit_prm_s_logits_are_those_of_a_policy():
    world = WeakestLinkWorld.make(SEEDS, 6)
    examples = SIGNALS["traces"](Verifier(world), 60, 4)
    ratios = fit(CONTESTANTS["implicit_prm"], examples, 10, 50, 0.1)
    np.testing.assert_allclose((np.exp(ratios) / 10).sum(-1), 1, rtol=1e-5)


def test_the_weakest_link_rewards_pooling_and_the_additive_world_the_sum():
    weakest, additive = (
        {name: correlation(contestant=name, world=world).mean() for name in ("asym", "geometric_mean", "orm_sum")}
        for world in ("weakest_link", "additive")
    )
    assert weakest["asym"] > weakest["geometric_mean"] > weakest["orm_sum"] + 0.3
    assert additive["asym"] < additive["geometric_mean"] < additive["orm_sum"]


def test_false_positives_break_asym_and_false_negatives_cost_it_little():
    settings = {"contestant": "asym", "world": "weakest_link"}
    lost = {}
    for budget in (100, 400):
        clean, positives, negatives = (
            correlation(**settings, budget=budget, **noise).mean()
            for noise in ({}, {"false_positives": 0.12}, {"false_negatives": 0.2})
        )
        lost[budget] = clean - positives, clean - negatives
    assert min(lost[100][0], lost[400][0]) > 0.3
    assert lost[100][1] < lost[100][0] / 2, "not nothing, with few outcomes"
    assert lost[400][1] < 0.01


def test_first_error_f1_of_the_truth_and_of_nothing():
    world = WeakestLinkWorld.make(SEEDS, 8)
    assert first_error_f1(world.values, world) == [1.0, 1.0, 1.0]
    assert max(first_error_f1(np.zeros_like(world.values), world)) == 0.0
    noise = np.random.default_rng(0).random(world.values.shape)
    assert max(first_error_f1(noise, world)) < 0.6, "the threshold is not tuned on the traces that it is measured on"


def test_an_additive_world_has_no_first_error():
    run = OutcomeRun(contestant="orm_sum", world="additive", num_steps=4, budget=20, num_iterations=5)
    assert list(run.measure([0])) == ["correlation"]
    assert isinstance(run.make_world([0]), AdditiveWorld)
