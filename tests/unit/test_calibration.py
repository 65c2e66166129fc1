"""The calibration and bias report's parts: scores joined with truth, calibration by hand, biases that were put in and found."""

import json
from dataclasses import replace

import numpy as np
import pytest

from prm.aggregation import Aggregation
from prm.benchmarks.calibration.bias import evaluate_bias
from prm.benchmarks.calibration.evaluate import CalibrationConfig, evaluate_calibration, exportable_temperature
from prm.benchmarks.calibration.report import calibration_items, report_calibration
from prm.benchmarks.calibration.scored_steps import join_scores, soft_labels, truth_of
from prm.benchmarks.results import read_items, read_tables
from prm.records import Response, StepScores
from prm.scoring import ScoringNotes

CONFIG = CalibrationConfig(aggregation=["min", "last"], num_bootstrap=200)


def response(question, index, labels, correct=None, steps=None):
    return Response(question, index, "1 + 1?", steps or [f"step {i}" for i in range(len(labels))], correct, labels)


def scores(responses, values):
    return [StepScores(r.question_id, r.sample_index, list(v)) for r, v in zip(responses, values, strict=True)]


TWO = [response("a", 0, [1, -1], False), response("b", 0, [1, 0, None], True)]


class TestJoin:
    def test_by_hand(self):
        joined = join_scores("x", scores(TWO, [[0.9, 0.2], [0.8, 0.6, 0.4]]), TWO)
        assert joined.step_truth.tolist() == [1, 0, 1, 1, -1]
        assert joined.truth.tolist() == [0, 1]
        assert joined.position.tolist() == [0, 1, 0, 1, 2]
        assert joined.response.tolist() == [0, 0, 1, 1, 1]
        assert joined.step_length.tolist() == [6] * 5
        assert joined.num_steps.tolist() == [2, 3]
        assert joined.response_scores("min").tolist() == [0.2, 0.4]
        assert not joined.is_signed

    @pytest.mark.parametrize(
        ("label", "neutral", "is_soft", "truth"),
        [
            (1, "good", False, 1),
            (-1, "good", False, 0),
            (0, "good", False, 1),
            (0, "bad", False, 0),
            (0, "ignored", False, -1),
            (None, "good", False, -1),
            (0.5, "good", True, 1),
            (0.25, "good", True, 0),
            (0, "good", True, 0),
        ],
    )
    def test_truth_of_a_label(self, label, neutral, is_soft, truth):
        assert truth_of(label, neutral, is_soft) == truth

    def test_labels_are_shares_by_completions_fractions_or_the_others_of_their_source(self):
        """Of shares 0 is bad, of classes it is neutral; the page's first error says the same."""
        half, ones = response("b", 0, [0.75, 0.0]), response("a", 0, [1.0, 0.0])
        sampled = replace(response("c", 0, [1.0, 0.0]), completions=[[1, 1], [0, 1]])
        human = replace(response("d", 0, [1.0, 0.0]), label_source="human")
        classes = response("e", 0, [1.0, -1.0])
        assert soft_labels([ones, half, human]) == [True, True, False]
        assert soft_labels([ones, half, classes]) == [False, True, False]
        assert soft_labels([ones, replace(sampled, label_source="monte_carlo")]) == [False, True]
        rows = [ones, half, human]
        joined = join_scores("x", scores(rows, [[0.9, 0.2]] * 3), rows)
        assert joined.step_truth.tolist() == [1, 0, 1, 0, 1, 1]
        assert [item.first_error for item in calibration_items({"x": joined}, CONFIG)] == [1, 1, -1]

    def test_zeros_that_may_mean_wrong_are_said(self):
        """Of a source with negative labels, or of shares, 0 is sure."""
        human = replace(response("d", 0, [1, 0, 0]), label_source="human")
        rows = [human, response("e", 0, [1, -1, 0]), replace(response("f", 0, [0.5, 0]), label_source="shares")]
        joined = join_scores("x", scores(rows, [[0.9, 0.2, 0.1], [0.9, 0.2, 0.1], [0.5, 0.1]]), rows)
        assert joined.num_doubtful_zeros == 2
        result = {"x": evaluate_calibration(joined, CONFIG)}
        assert result["x"]["num_zeros_called_good"] == 2
        bad = CalibrationConfig(aggregation=["min"], num_bootstrap=20, neutral="bad")
        assert evaluate_calibration(joined, bad)["num_zeros_called_good"] == 0

    def test_items_have_the_first_error_that_the_metrics_count(self):
        rows = [
            response("a", 0, [1.0, 0.25]),
            replace(response("b", 0, [1, 0, -1]), label_source="human"),
            response("c", 0, [None, -1]),
        ]
        joined = join_scores("x", scores(rows, [[0.9, 0.1], [0.9, 0.5, 0.1], [0.5, 0.1]]), rows)
        assert [item.first_error for item in calibration_items({"x": joined}, CONFIG)] == [1, 2, None]
        bad = CalibrationConfig(aggregation=["min"], neutral="bad")
        strict = join_scores("x", scores(rows, [[0.9, 0.1], [0.9, 0.5, 0.1], [0.5, 0.1]]), rows, "bad")
        assert [item.first_error for item in calibration_items({"x": strict}, bad)] == [1, 1, None]

    def test_steps_behind_the_first_bad_one_can_be_ignored(self):
        rows = [response("a", 0, [1, None, -1, 1, -1])]
        given = scores(rows, [[0.5] * 5])
        assert join_scores("x", given, rows).step_truth.tolist() == [1, -1, 0, 1, 0]
        assert join_scores("x", given, rows, behind_error="ignored").step_truth.tolist() == [1, -1, 0, -1, -1]

    def test_responses_without_scores_are_counted(self):
        joined = join_scores("x", scores(TWO[:1], [[0.9, 0.2]]), TWO)
        assert (len(joined.responses), joined.num_unscored) == (1, 1)

    def test_an_outcome_model_has_no_step_scores(self):
        joined = join_scores("x", scores(TWO, [[0.9], [0.8]]), TWO)
        assert (joined.step_score.size, joined.response_scores("last").tolist()) == (0, [0.9, 0.8])

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "x: no scores"),
            ([StepScores("z", 3, [0.1])], r"x: 1 scored responses are not among --responses, such as \('z', 3\)"),
            ([StepScores("a", 0, [0.1, float("nan")])], r"\('a', 0\) has the step scores \[0.1, nan\]"),
            ([StepScores("b", 0, [0.1, 0.2])], r"\('b', 0\) has 2 step scores but 3 steps"),
            ([StepScores("a", 0, [0.1, 0.2]), StepScores("b", 0, [0.1])], r"\('b', 0\) has 1 step scores but 3 steps"),
        ],
    )
    def test_mistakes(self, given, message):
        with pytest.raises(ValueError, match=message):
            join_scores("x", given, TWO)

    @pytest.mark.parametrize(
        ("values", "read_as", "used"),
        [
            ([0.5, 1.0], "auto", "probabilities"),
            ([0.5, -1.0], "auto", "logits"),
            ([0.5, -1.0], "differences", "differences"),
            ([0.5, 1.0], "logits", "logits"),
        ],
    )
    def test_what_scores_are_read_as(self, values, read_as, used):
        assert join_scores("x", scores(TWO[:1], [values]), TWO[:1], read_as=read_as).read_as == used

    def test_scores_that_are_not_what_they_are_to_be_read_as(self):
        with pytest.raises(ValueError, match=r"x: its scores are to be read as probabilities, but reach from -1 to 0\.5"):
            join_scores("x", scores(TWO[:1], [[0.5, -1.0]]), TWO[:1], read_as="probabilities")
        with pytest.raises(ValueError, match=r"x: its scores are to be read as differences, but reach from -1\.5 to 0\.5"):
            join_scores("x", scores(TWO[:1], [[0.5, -1.5]]), TWO[:1], read_as="differences")

    def test_scores_without_any_truth_are_refused(self):
        bare = [Response("a", 0, "?", ["s"])]
        with pytest.raises(ValueError, match="x: no response has an outcome or a step label"):
            join_scores("x", scores(bare, [[0.5]]), bare)
        assert join_scores("x", scores(bare, [[0.5]]), bare, needs_truth=False).truth.tolist() == [-1]


def world(num_questions=200, num_steps=6, temperature=1.0, bias=0.0, seed=0):
    """Steps that are good with the probability sigmoid(z); the PRM says sigmoid((z + bias * position) / temperature)."""
    rng = np.random.default_rng(seed)
    responses, values = [], []
    for question in range(num_questions):
        z = rng.normal(1, 1.5, num_steps)
        labels = np.where(rng.random(num_steps) < 1 / (1 + np.exp(-z)), 1, -1).tolist()
        steps = ["x" * int(n) for n in rng.integers(5, 80, num_steps)]
        responses.append(response(f"q{question}", 0, labels, min(labels) > 0, steps))
        values.append((1 / (1 + np.exp(-(z + bias * np.arange(num_steps)) / temperature))).tolist())
    return responses, values


class TestCalibration:
    def test_differences_are_as_calibrated_as_the_probabilities_behind_them(self):
        responses, values = world()
        halves = [[2 * p - 1 for p in row] for row in values]
        logits = [[float(np.log(p / (1 - p))) for p in row] for row in values]
        found = [
            evaluate_calibration(join_scores("x", scores(responses, v), responses, read_as=read_as), CONFIG)["steps"]
            for v, read_as in ((values, "auto"), (halves, "differences"), (logits, "auto"))
        ]
        for other in found[1:]:
            assert other["before"]["brier"] == pytest.approx(found[0]["before"]["brier"], rel=1e-9)
            assert other["temperature"] == pytest.approx(found[0]["temperature"], rel=1e-6)

    def test_a_sum_is_no_probability(self):
        with pytest.raises(ValueError, match="--aggregation sum: a sum of differences is none"):
            CalibrationConfig(aggregation=["sum"], read_as="differences")
        config = CalibrationConfig(aggregation=["min", "sum"])
        with pytest.raises(ValueError, match="--aggregation sum: a sum of probabilities is none"):
            config.take_defaults_of(ScoringNotes(Aggregation("min"), "sigmoid"))

    def test_bins_know_their_places(self):
        """The mean of equal scores on an edge may lie below it: a bin's place is not that of its mean."""
        rows = [response(f"q{i}", 0, [1 if i % 3 else -1]) for i in range(100)]
        joined = join_scores("x", scores(rows, [[(i // 10) / 10] for i in range(100)]), rows)
        bins = evaluate_calibration(joined, CONFIG)["steps"]["before"]["bins"]
        assert [b["index"] for b in bins] == list(range(10))

    def test_by_hand(self):
        joined = join_scores("x", scores(TWO, [[0.9, 0.2], [0.8, 0.6, 0.4]]), TWO)
        found = evaluate_calibration(joined, CONFIG)
        steps = found["steps"]
        assert (steps["num_items"], steps["share_positive"], steps["auc"]) == (4, 0.75, 1.0)
        assert steps["before"]["brier"] == pytest.approx((0.01 + 0.04 + 0.04 + 0.16) / 4)
        assert steps["before"]["ece"] == pytest.approx((0.1 + 0.2 + 0.2 + 0.4) / 4)
        assert steps["brier_of_constant"] == pytest.approx(0.1875)
        assert [b["num_items"] for b in steps["before"]["bins"]] == [1, 1, 1, 1]
        assert found["responses"]["min"]["before"]["brier"] == pytest.approx((0.04 + 0.36) / 2)
        assert found["responses"]["last"]["auc"] == 1.0
        assert exportable_temperature(found) == {"temperature": None, "fitted_on": "steps", "num_items": 4}

    def test_the_temperature_of_an_overconfident_prm_is_found(self):
        responses, values = world(temperature=0.4)
        steps = evaluate_calibration(join_scores("x", scores(responses, values), responses), CONFIG)["steps"]
        assert steps["temperature"] == pytest.approx(2.5, rel=0.15)
        assert steps["after"]["ece"] < 0.04 < 0.08 < steps["before"]["ece"]
        shy, values = world(temperature=2.5)
        steps = evaluate_calibration(join_scores("x", scores(shy, values), shy), CONFIG)["steps"]
        assert steps["temperature"] == pytest.approx(0.4, rel=0.15)
        assert steps["after"]["brier"] < steps["before"]["brier"] < steps["brier_of_constant"]

    def test_the_fit_is_judged_on_other_questions(self):
        """Labels that mean nothing: on its own items a fit could only help."""
        rng = np.random.default_rng(3)
        losses = []
        for _ in range(40):
            responses = [response(f"q{i}", 0, [1 if rng.random() < 0.5 else -1]) for i in range(12)]
            values = rng.random((12, 1)).tolist()
            steps = evaluate_calibration(join_scores("x", scores(responses, values), responses), CONFIG)["steps"]
            losses.append(steps["after"]["log_loss"])
        assert np.mean(losses) > np.log(2), "a constant would have done better"

    def test_signed_scores_are_logits(self):
        responses, values = world()
        logits = [[float(np.log(v / (1 - v))) for v in row] for row in values]
        as_logits = evaluate_calibration(join_scores("x", scores(responses, logits), responses), CONFIG)
        plain = evaluate_calibration(join_scores("x", scores(responses, values), responses), CONFIG)
        assert (as_logits["read_as"], plain["read_as"]) == ("logits", "probabilities")
        assert as_logits["steps"]["before"]["brier"] == pytest.approx(plain["steps"]["before"]["brier"])
        assert as_logits["steps"]["temperature"] == pytest.approx(plain["steps"]["temperature"])
        signed = join_scores("x", scores(responses, logits), responses)
        with pytest.raises(ValueError, match="product needs scores in"):
            evaluate_calibration(signed, CalibrationConfig(aggregation=["product"]))

    def test_what_is_exported_without_step_labels(self):
        responses, values = world()
        bare = [Response(r.question_id, 0, r.question, r.steps, r.correct) for r in responses]
        joined = join_scores("x", scores(bare, values), bare)
        found = evaluate_calibration(joined, CalibrationConfig(aggregation=["mean", "last"], num_bootstrap=50))
        assert found["steps"] is None
        assert exportable_temperature(found)["fitted_on"] == "responses, last", "a mean of sigmoids has no temperature of its own"
        found = evaluate_calibration(joined, CalibrationConfig(aggregation=["mean"], num_bootstrap=50))
        assert exportable_temperature(found) == {"temperature": None, "fitted_on": None, "num_items": 0}

    def test_options_are_checked(self):
        with pytest.raises(ValueError, match="--num_calibration_bins 0: give at least one"):
            CalibrationConfig(num_calibration_bins=0)
        with pytest.raises(ValueError, match="unknown aggregation 'minimum'"):
            CalibrationConfig(aggregation=["minimum"])


class TestBias:
    def test_none_where_there_is_none(self):
        responses, values = world()
        found = evaluate_bias(join_scores("x", scores(responses, values), responses), CONFIG)
        for covariate in ("position", "step_length"):
            rho = found["steps"][covariate]["good"]["rho"]
            assert rho["low"] < 0.08
            assert rho["high"] > -0.08
        gaps = [b["gap"] for b in found["steps"]["position"]["all"]["bins"]]
        assert max(map(abs, gaps)) < 0.08

    def test_a_score_that_rises_with_position_is_found_out(self):
        responses, values = world(bias=0.5)
        relation = evaluate_bias(join_scores("x", scores(responses, values), responses), CONFIG)["steps"]["position"]
        for truth in ("all", "good", "bad"):
            assert relation[truth]["rho"]["low"] > 0.2
            assert relation[truth]["rho_within"]["low"] > 0.2
        bins = relation["all"]["bins"]
        assert [b["from"] for b in bins] == [1, 2, 3, 4, 5, 6], "each position is a bin"
        assert bins[-1]["score"] > bins[0]["score"] + 0.1
        assert bins[-1]["gap"] > bins[0]["gap"] + 0.1
        assert all(b["low"] < b["score"] < b["high"] for b in bins)

    def test_outcomes_stand_in_for_step_labels(self):
        responses, values = world()
        bare = [Response(r.question_id, 0, r.question, r.steps, r.correct) for r in responses]
        found = evaluate_bias(join_scores("x", scores(bare, values), bare), CONFIG)
        assert found["truth"] == "outcomes"
        assert found["steps"]["position"]["good"]["num_items"] == 6 * sum(r.correct for r in bare)

    @pytest.mark.parametrize(("seed", "is_drawn"), [(0, False), (1, True)])
    def test_none_where_the_few_resamples_do_not_vary(self, seed, is_drawn):
        # One resample of two questions, of which the second has no two steps to compare: with seed 0 it stands there twice.
        responses = [response("q0", 0, [1, 1]), response("q1", 0, [1])]
        joined = join_scores("x", scores(responses, [[0.2, 0.4], [0.3]]), responses)
        found = evaluate_bias(joined, CalibrationConfig(num_bootstrap=1, seed=seed))["steps"]["position"]["all"]["rho_within"]
        assert (found is not None) == is_drawn
        assert not is_drawn or list(found.values()) == pytest.approx([1, 1, 1])

    def test_constant_scores_have_no_correlation(self):
        found = evaluate_bias(join_scores("x", scores(TWO, [[0.5] * 2, [0.5] * 3]), TWO), CONFIG)
        assert found["steps"]["position"]["all"]["rho"] is None


def test_scores_that_a_temperature_cannot_mend_are_named(tmp_path):
    responses, values = world(150)
    low = [[1 / (1 + np.exp(2) * (1 / v - 1)) for v in row] for row in values]
    _, tables = report_calibration({"low": scores(responses, low)}, responses, CONFIG, tmp_path)
    assert "no temperature mends the ECE: low: responses, last" in tables[0].note


def test_an_outcome_model_beside_a_prm(tmp_path):
    responses, values = world(40)
    rows = {"orm": scores(responses, [[v[-1]] for v in values]), "prm": scores(responses, values)}
    for names in (["orm", "prm"], ["prm", "orm"]):
        report_calibration({name: rows[name] for name in names}, responses, CONFIG, tmp_path)
        text = (tmp_path / "bias.svg").read_text()
        assert ">prm<" in text
        assert ">orm<" not in text
        assert ">step position<" in text


def test_bias_without_a_good_step(tmp_path):
    wrong = [response(f"q{i}", 0, [-1, -1], False) for i in range(3)]
    rows = {name: scores(wrong, [[0.2, 0.1 * i] for i in range(3)]) for name in ("_$one", "two$")}
    report_calibration(rows, wrong, CONFIG, tmp_path)
    assert ">two$<" not in (tmp_path / "bias.svg").read_text()
    text = (tmp_path / "reliability.svg").read_text()
    assert ">two$<" in text
    assert ">\u200b_$one<" in text


def test_one_bin_is_the_distance_of_two_means(tmp_path):
    responses, values = world(40)
    config = CalibrationConfig(aggregation=["min"], num_bootstrap=50, num_calibration_bins=1)
    result, _ = report_calibration({"one": scores(responses, values)}, responses, config, tmp_path)
    steps = result["prms"]["one"]["steps"]
    assert steps["before"]["ece"] == pytest.approx(abs(steps["before"]["mean_score"] - steps["share_positive"]))


def test_the_folder_holds_what_was_measured(tmp_path):
    responses, values = world(40)
    rows = {"one": scores(responses, values), "two": scores(responses, [v[::-1] for v in values])}
    result, tables = report_calibration(rows, responses, CONFIG, tmp_path / "two")
    assert json.loads((tmp_path / "two" / "metrics.json").read_text()) == result
    assert read_tables(tmp_path / "two") == tables
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert {"calibration-one.json", "calibration-two.json", "reliability.png", "bias.svg"} <= names
    items = list(read_items(tmp_path / "two"))
    assert len(items) == 80
    assert items[0].id == "one: q0 #0"
    assert items[0].first_error == next((i for i, label in enumerate(responses[0].step_labels) if label < 0), -1)
    assert items[0].response_score == min(values[0])
    assert "no temperature mends the ECE" not in tables[0].note
    report_calibration({"one": rows["one"]}, responses, CONFIG, tmp_path / "one")
    fitted = json.loads((tmp_path / "one" / "calibration.json").read_text())
    assert fitted == json.loads((tmp_path / "two" / "calibration-one.json").read_text())
    assert (fitted["prm"], fitted["fitted_on"], fitted["num_items"]) == ("one", "steps", 240)
    assert next(read_items(tmp_path / "one")).id == "q0 #0"
