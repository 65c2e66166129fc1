"""Length control: preferences worked by hand, then PRMs that are known to go by length, then what must not matter."""

import numpy as np
import pytest

from prm import metrics
from prm.benchmarks.best_of_n.candidates import with_unscored
from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, measure_best_of_n, summarize
from prm.benchmarks.best_of_n.length import candidate_lengths, evaluate_length, plot_length
from prm.benchmarks.best_of_n.tables import best_of_n_tables
from prm.benchmarks.score_files import Texts
from prm.benchmarks.tables import render
from prm.records import Response, StepScores

RNG = np.random.default_rng(0)
LENGTHS = [RNG.permutation(40).astype(float) + 10 for _ in range(60)]
# The shorter, the likelier right, as in truth.
CORRECT = [RNG.random(40) < np.interp(x, [10, 50], [0.8, 0.3]) for x in LENGTHS]
QUALITY = [c + RNG.normal(0, 1, 40) for c in CORRECT]


def test_percent_ranks_share_ties():
    assert metrics.percent_ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [0.5, 0.125, 0.5, 0.875]


def test_preference_by_hand():
    # Two right (ranks of length 1/4 and 3/4 less their mean, scores likewise) and two wrong, one pair for length, one against.
    scores, lengths = [np.array([0.1, 0.4, 0.3, 0.2])], [np.array([1.0, 2.0, 3.0, 4.0])]
    correct = [np.array([True, True, False, False])]
    # Right: length ranks -1/8, +1/8, score ranks 1/8, 7/8. Wrong: -1/8, +1/8 and 5/8, 3/8: (6/64 - 2/64) / (4/64).
    assert metrics.length_preference(scores, lengths, correct) == pytest.approx(1.0)
    assert np.isnan(metrics.length_preference(scores, [np.ones(4)], correct))


@pytest.mark.parametrize(("by_length", "slope"), [(1, 1.0), (-1, -1.0)])
def test_a_prm_that_scores_by_length_is_found_out(by_length, slope):
    scores = [by_length * x for x in LENGTHS]
    assert metrics.length_preference(scores, LENGTHS, CORRECT) == pytest.approx(slope)
    controlled = metrics.length_controlled(scores, LENGTHS, slope)
    assert np.ptp(np.concatenate(controlled)) < 1e-12, "nothing is left of it"
    wins, pairs = metrics.pair_wins(scores, LENGTHS, CORRECT)
    expected = {1: (1, 0), -1: (0, 1)}[by_length]
    assert tuple((wins / np.maximum(pairs, 1))[:, [0, 2]].sum(0) / (pairs[:, [0, 2]] > 0).sum(0)) == expected


def test_a_constant_has_no_preference_and_control_does_not_touch_it():
    """Of a rounding error as slope, length alone would rank the tied candidates."""
    constant = [np.full(40, 0.3)] * 60
    slope = metrics.length_preference(constant, LENGTHS, CORRECT)
    assert slope == 0
    assert all(np.ptp(scores) == 0 for scores in metrics.length_controlled(constant, LENGTHS, slope))


def test_truth_is_no_preference():
    """Right answers are shorter, and a PRM that knows what is right does not go by length for it."""
    slope = metrics.length_preference(QUALITY, LENGTHS, CORRECT)
    assert abs(slope) < 0.06
    unconditional = metrics.length_preference(QUALITY, LENGTHS, [np.ones(40, dtype=bool)] * 60)
    assert unconditional < -0.1, "without looking at the outcome it would seem to"


def test_the_preference_does_not_depend_on_scales():
    biased = [q + 0.05 * x for q, x in zip(QUALITY, LENGTHS, strict=True)]
    slope = metrics.length_preference(biased, LENGTHS, CORRECT)
    assert slope > 0.3
    again = metrics.length_preference([np.exp(s) for s in biased], [x**3 for x in LENGTHS], CORRECT)
    assert again == pytest.approx(slope, rel=1e-12)


def test_pair_wins_by_hand():
    # Right: .9 of length 10. Wrong: .5 of 20 (right one shorter), .9 of 10.5 (similar, a tie), .95 of 5 (right one longer).
    wins, pairs = metrics.pair_wins(
        [np.array([0.9, 0.5, 0.9, 0.95])], [np.array([10, 20, 10.5, 5])], [np.array([True, False, False, False])]
    )
    assert (wins.tolist(), pairs.tolist()) == ([[0, 0.5, 1]], [[1, 1, 1]])
    assert metrics.pair_wins([np.ones(2)], [np.ones(2)], [np.ones(2, dtype=bool)])[1].sum() == 0


def records(scores):
    return [
        StepScores(f"q{q:02d}", i, [float(1 / (1 + np.exp(-s)))], bool(CORRECT[q][i]))
        for q, group in enumerate(scores)
        for i, s in enumerate(group)
    ]


TEXTS = Texts(
    {
        (f"q{q:02d}", i): Response(f"q{q:02d}", i, "?", ["a" * int(x) for _ in range(2)])
        for q, group in enumerate(LENGTHS)
        for i, x in enumerate(group)
    },
    {(f"q{q:02d}", i): int(x) for q, group in enumerate(LENGTHS) for i, x in enumerate(group)},
)
CONFIG = BestOfNConfig(aggregation=["min"], num_bootstrap=300)


def test_control_helps_a_prm_that_loves_length(tmp_path):
    loving = [q + 0.08 * x for q, x in zip(QUALITY, LENGTHS, strict=True)]
    measured = measure_best_of_n({"fair": records(QUALITY), "loving": records(loving)}, CONFIG)
    unit, lengths = candidate_lengths(measured.pool, TEXTS)
    assert unit == "tokens"
    length = evaluate_length(measured, unit, lengths, CONFIG)
    fair, loving = (length["prms"][prm]["min"] for prm in ("fair", "loving"))
    assert loving["preference"]["low"] > 0.3 > fair["preference"]["high"]
    assert loving["loss"]["high"]["32"] < 0, "it gains by control"
    assert abs(fair["loss"]["difference"]["32"]) < 0.1
    assert loving["length_selected"]["32"] > 40 > 32 > fair["length_selected"]["32"]
    assert length["baselines"]["shortest"]["accuracy"]["40"] > 0.7 > 0.4 > length["baselines"]["longest"]["accuracy"]["40"]
    assert length["mean_length_of_right"] < length["mean_length"] < length["mean_length_of_wrong"]
    won = [loving["pairs"][name]["won"] for name in ("right_longer", "similar", "right_shorter")]
    assert won == sorted(won, reverse=True)
    result = {**summarize(measured, CONFIG), "length": length}
    assert "Does the PRM win by length?" in render(best_of_n_tables(result))
    assert plot_length(result, length, tmp_path / "length")[0].exists()


def test_what_a_prm_cannot_read_is_no_preference_of_its_own():
    """The longest are too long for it: last of all, they would make any PRM love brevity."""
    scored = [r for r in records(QUALITY) if LENGTHS[int(r.question_id[1:])][r.sample_index] <= 42]
    measured = measure_best_of_n({"prm": with_unscored("prm", scored, list(TEXTS.responses.values()))}, CONFIG)
    assert 100 < measured.pool.num_unscored("prm") < 2000
    found = evaluate_length(measured, *candidate_lengths(measured.pool, TEXTS), CONFIG)["prms"]["prm"]["min"]
    assert found["preference"]["low"] < 0.06
    assert found["preference"]["high"] > -0.06
    assert found["pairs"]["similar"]["num_pairs"] > 0
    assert found["length_controlled"]["accuracy"]["40"] == pytest.approx(found["length_controlled"]["accuracy"]["32"], abs=0.2)


def test_the_mean_length_is_over_candidates():
    rows = [StepScores("a", 0, [0.5], False), *(StepScores("b", i, [0.5], i != 1) for i in range(3))]
    measured = measure_best_of_n({"prm": rows}, CONFIG)
    found = evaluate_length(measured, "steps", [np.array([100.0]), np.array([10.0, 20.0, 30.0])], CONFIG)
    assert (found["mean_length"], found["mean_length_of_right"], found["mean_length_of_wrong"]) == (40, 20, 60)


def test_control_takes_no_length_of_what_the_prm_could_not_read():
    """Unread candidates change nothing but that they come last."""
    rng = np.random.default_rng(5)
    lengths = [rng.permutation(8) + 1.0 for _ in range(30)]
    read = [
        StepScores(f"q{q:02d}", i, [float(rng.random() + 0.05 * length)], bool(rng.random() < 0.5))
        for q, group in enumerate(lengths)
        for i, length in enumerate(group)
    ]
    unread = [Response(f"q{q:02d}", 8 + i, "?", ["s"], False) for q in range(30) for i in range(4)]
    rows = with_unscored("prm", read, [Response(r.question_id, r.sample_index, "?", ["s"], r.correct) for r in read] + unread)
    longer = [np.concatenate([group, 4.5 + np.arange(4)]) for group in lengths]
    of_read = evaluate_length(measure_best_of_n({"prm": read}, CONFIG), "steps", lengths, CONFIG)["prms"]["prm"]["min"]
    of_all = evaluate_length(measure_best_of_n({"prm": rows}, CONFIG), "steps", longer, CONFIG)["prms"]["prm"]["min"]
    assert of_all["preference"] == of_read["preference"]
    assert of_all["length_controlled"]["accuracy"]["12"] == pytest.approx(of_read["length_controlled"]["accuracy"]["8"])


def test_units_of_length():
    pool = measure_best_of_n({"prm": records(QUALITY)}, CONFIG).pool
    assert candidate_lengths(pool, TEXTS, "tokens")[1][3].tolist() == LENGTHS[3].tolist()
    assert candidate_lengths(pool, TEXTS, "characters")[1][3].tolist() == (2 * LENGTHS[3]).tolist()
    assert set(candidate_lengths(pool, TEXTS, "steps")[1][3]) == {2}
    assert candidate_lengths(pool, Texts(TEXTS.responses))[0] == "characters"
    unit, lengths = candidate_lengths(pool, Texts())
    assert (unit, set(lengths[0])) == ("steps", {1})
    by_step = [StepScores(r.question_id, r.sample_index, [*r.step_scores] * 3, r.correct) for r in records(QUALITY)]
    for prms in ({"orm": records(QUALITY), "prm": by_step}, {"prm": by_step, "orm": records(QUALITY)}):
        assert set(candidate_lengths(measure_best_of_n(prms, CONFIG).pool, Texts())[1][0]) == {3}
    with pytest.raises(ValueError, match="--length_unit tokens: not every candidate has a num_tokens"):
        candidate_lengths(pool, Texts(TEXTS.responses), "tokens")
    with pytest.raises(ValueError, match="--length_unit characters: not every candidate has a text"):
        candidate_lengths(pool, Texts(), "characters")


def test_equal_lengths_leave_nothing_to_control():
    measured = measure_best_of_n({"prm": records(QUALITY)}, CONFIG)
    assert evaluate_length(measured, "steps", [np.ones(40)] * 60, CONFIG) is None
    assert evaluate_length(measured, "steps", [np.ones(40)] * 59 + [LENGTHS[59]], CONFIG) is not None


def test_ratio_interval():
    counts = RNG.integers(1, 9, 300)
    sums = RNG.binomial(counts, 0.3)
    low, high = metrics.ratio_interval(sums.astype(float), counts.astype(float), num_draws=2000)
    assert low < sums.sum() / counts.sum() < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.21 / counts.sum()), rel=0.15)
    of_means = metrics.bootstrap_interval(sums.astype(float), 0.8, 500, 3)
    np.testing.assert_allclose(metrics.ratio_interval(sums.astype(float), np.ones(300), 0.8, 500, 3), of_means)
    low, high = metrics.ratio_interval(np.zeros((4, 2)), np.array([[0.0, 1.0]] * 4), num_draws=50)
    assert np.isnan([low[0], high[0]]).all()
    assert (low[1], high[1]) == (0, 0)
    with pytest.raises(ValueError, match="confidence is 2"):
        metrics.ratio_interval(sums.astype(float), counts.astype(float), confidence=2.0)
