import json

import numpy as np
import pytest

from prm.benchmarks.page.review import review_items
from prm.benchmarks.processbench.evaluate import ProcessBenchConfig, evaluate_processbench, threshold_rules
from prm.benchmarks.processbench.items import FirstErrorItem, data_sources, load_items, load_predictions
from prm.benchmarks.processbench.report import plot_processbench, processbench_items, processbench_tables
from prm.benchmarks.tables import render
from prm.metrics import UNPARSABLE

ITEMS = [
    FirstErrorItem("g0", "gsm8k", "p", ["a", "b"], 1),
    FirstErrorItem("g1", "gsm8k", "p", ["a", "b"], -1),
    FirstErrorItem("m0", "math", "p", ["a", "b"], 0),
    FirstErrorItem("m1", "math", "p", ["a"], -1),
]
# gsm8k is solved for thresholds in (.3, .4], math for (.6, .7].
SCORES = [[0.8, 0.3], [0.4, 0.9], [0.6, 0.1], [0.7]]


def config(**changes):
    return ProcessBenchConfig(**({"num_bootstrap": 100} | changes))


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def item_row(**changes):
    return {"id": "g0", "problem": "p", "steps": ["a", "b"], "label": 1} | changes


class TestEvaluation:
    def test_three_thresholds_by_hand(self):
        results = evaluate_processbench(ITEMS, SCORES, config())["results"]
        gsm8k, math = (
            {rule: results[rule]["subsets"][name] for rule in ("fixed", "gsm8k", "oracle")} for name in ("gsm8k", "math")
        )
        assert [gsm8k[rule]["threshold"] for rule in gsm8k] == [0.5, 0.4, 0.4]
        assert [math[rule]["threshold"] for rule in math] == [0.5, 0.4, 0.7]
        # Fixed: g0 right, g1 called wrong at 0; m0 found at 1 instead of 0, m1 right.
        assert [gsm8k[rule]["f1"] for rule in gsm8k] == [0, 1, 1]
        assert (gsm8k["fixed"]["acc_error"], gsm8k["fixed"]["acc_correct"]) == (1, 0)
        assert [math[rule]["f1"] for rule in math] == [0, 0, 1]
        assert [results[rule]["average"]["f1"] for rule in results] == [0, 0.5, 1]

    def test_step_auc_counts_only_judged_steps(self):
        auc = evaluate_processbench(ITEMS, SCORES, config())["step_auc"]
        # gsm8k: good .8 .4 .9 against .3. math: good .7 against .6; the .1 behind the error is not judged.
        assert auc == {"subsets": {"gsm8k": 1.0, "math": 1.0}, "average": 1.0}

    def test_given_predictions_have_one_rule(self):
        result = evaluate_processbench(ITEMS, [1, UNPARSABLE, 0, -1], config())
        assert result["results"]["prediction"]["subsets"]["gsm8k"]["f1"] == 0
        assert result["results"]["prediction"]["subsets"]["math"]["f1"] == 1
        assert result["results"]["prediction"]["average"]["f1"] == 0.5
        assert result["step_auc"]["average"] is None
        assert "1 predictions are null, unparsable: counted as wrong." in render(processbench_tables(result))

    @pytest.mark.parametrize("option", [{"threshold": ["oracle"]}, {"fixed_threshold": 0.4}])
    def test_given_predictions_have_no_threshold(self, option):
        with pytest.raises(ValueError, match=f"--{next(iter(option))} is for step scores, but the predictions are steps"):
            evaluate_processbench(ITEMS, [1, UNPARSABLE, 0, -1], config(**option))

    def test_unreadable_items_are_wrong_under_every_rule(self):
        extra = FirstErrorItem("m2", "math", "p", ["a"], -1)
        read = evaluate_processbench(ITEMS, SCORES, config())
        result = evaluate_processbench([*ITEMS, extra], [*SCORES, []], config())
        assert result["num_unscored"] == {"gsm8k": 0, "math": 1}
        before, after = (r["results"]["oracle"]["subsets"]["math"] for r in (read, result))
        assert (before["acc_correct"], after["acc_correct"], after["num_correct"]) == (1, 0.5, 2)
        assert after["acc_error"] == before["acc_error"] == 1
        assert result["step_auc"] == read["step_auc"]
        assert result["calibration"] == read["calibration"]
        assert "could not read 1 of math: counted as predicted wrong" in processbench_tables(result)[0].note
        given = evaluate_processbench([*ITEMS, extra], [1, 0, 0, -1, UNPARSABLE], config())
        assert given["results"]["prediction"]["subsets"]["math"]["acc_correct"] == 0.5

    def test_a_subset_of_unreadable_items(self, tmp_path):
        predictions = [*SCORES[:2], [], []]
        result = evaluate_processbench(ITEMS, predictions, config())
        for rule, threshold in (("fixed", 0.5), ("gsm8k", 0.4), ("oracle", None)):
            math = result["results"][rule]["subsets"]["math"]
            assert (math["threshold"], math["f1"], math["acc_error"]) == (threshold, 0, 0)
        assert result["results"]["oracle"]["average"]["f1"] == 0.5
        assert (result["step_auc"]["subsets"]["math"], result["calibration"]["math"]["brier"]) == (None, None)
        main, calibration, *_ = processbench_tables(result)
        assert next(row for row in main.rows if row[0].startswith("oracle"))[1:3] == ["100.0*", "0.0*"]
        assert [row[2] for row in main.rows if row[0] == "  value"] == ["0.5", "0.4", "-"]
        assert calibration.rows[2] == ["math", "-", "-", "-", "-", "0"]
        assert "outside" not in calibration.note
        for rules in (["oracle"], ["fixed", "oracle"]):
            result = evaluate_processbench(ITEMS, predictions, config(threshold=rules))
            assert [item.predicted for item in processbench_items(ITEMS, predictions, result)][2:] == [None, None]
            text = plot_processbench(ITEMS, predictions, result, tmp_path / "f1")[1].read_text()
            assert ">gsm8k<" in text
            assert ">math<" not in text

    def test_nothing_to_tune_on_or_to_evaluate(self):
        with pytest.raises(ValueError, match="of which the model could read no item: give --threshold fixed oracle"):
            evaluate_processbench(ITEMS, [[], [], *SCORES[2:]], config())
        with pytest.raises(ValueError, match="could read no item: there is nothing to evaluate"):
            evaluate_processbench(ITEMS, [[]] * 4, config(threshold=["fixed"]))

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"num_random_draws": 0}, "--num_random_draws 0: the baseline is a mean over draws"),
            ({"num_calibration_bins": 0}, "--num_calibration_bins 0: give at least one"),
            ({"num_bootstrap": -1}, "--num_bootstrap -1: an interval needs resamples"),
            ({"confidence": 1.0}, "--confidence 1.0: give a share"),
            ({"confidence": float("nan")}, "--confidence nan: give a share"),
            ({"threshold": ["oracle"], "fixed_threshold": 0.4}, "--fixed_threshold 0.4: --threshold oracle does not use it"),
            ({"fixed_threshold": float("nan")}, "--fixed_threshold nan: give a finite number"),
            ({"fixed_threshold": float("inf")}, "--fixed_threshold inf: give a finite number"),
        ],
    )
    def test_numbers_that_cannot_be(self, option, message):
        with pytest.raises(ValueError, match=message):
            config(**option)

    def test_calibration_by_hand(self):
        found = evaluate_processbench(ITEMS, SCORES, config(num_calibration_bins=1))["calibration"]["math"]
        # Judged: .6 of a wrong step and .7 of a right one. One bin: mean score .65, half of them right.
        assert found["brier"] == pytest.approx((0.36 + 0.09) / 2, abs=1e-15)
        assert found["ece"] == pytest.approx(0.15, abs=1e-15)
        assert (found["brier_of_constant"], found["num_steps"], found["share_right"]) == (0.25, 2, 0.5)
        signed = evaluate_processbench(ITEMS, [[8.0, 3.0], *SCORES[1:]], config())["calibration"]
        assert (signed["gsm8k"]["brier"], signed["gsm8k"]["ece"]) == (None, None), "no probabilities"

    def test_groups_by_hand(self):
        copies = zip(ITEMS, (1, 4, 1, 9), "abba", strict=True)
        items = [FirstErrorItem(i.id, i.subset, i.problem, i.steps * n, i.label, g) for i, n, g in copies]
        scores = [SCORES[0], [0.4, 0.9] * 4, SCORES[2], [0.7] * 9]
        groups = evaluate_processbench(items, scores, config())["groups"]
        a, b = groups["generator"]["a"], groups["generator"]["b"]
        # Fixed: g0 and m1 right; g1 called wrong at 0, m0 found at 1 instead of 0.
        assert (a["f1"], a["num_error"], a["num_correct"], b["f1"]) == (1, 1, 1, 0)
        assert list(groups["num_steps"]) == ["1 to 4", "5 to 8", "9 to 12"]
        assert groups["num_steps"]["1 to 4"]["acc_error"] == 0.5
        assert groups["num_steps"]["1 to 4"]["f1"] is None
        titles = [table.title for table in processbench_tables(evaluate_processbench(items, scores, config(threshold=["oracle"])))]
        assert titles[2] == "First-error F1 (%) by generator, oracle threshold (tuned on each subset), all subsets"

    def test_content_free_baselines_by_hand(self):
        # Two steps with an error at 0 or at 1; right solutions of one and of two steps. "Wrong from step 1 on" finds the second
        # error and leaves the right solution of one step alone; "wrong at 0" spoils both right ones.
        kinds = [(2, 0), (2, 1), (1, -1), (2, -1)]
        items = [FirstErrorItem(str(i), "s", "p", ["a"] * n, label) for i, (n, label) in enumerate(kinds)]
        result = evaluate_processbench(items, [[0.5] * len(i.steps) for i in items], config(threshold=["fixed"]))
        assert result["baselines"]["step_number_oracle"]["average"]["f1"] == 0.5
        # Every last step has score 0, so any threshold that finds an error spoils every right solution.
        assert result["baselines"]["position_oracle"]["average"]["f1"] == result["baselines"]["all_correct"]["average"]["f1"] == 0

    def test_baselines_of_groups_count_the_items_that_the_prm_is_measured_on(self):
        """A subset of one kind, on which no threshold can be tuned, takes the one that is best on all items."""
        kinds = {"s": [(2, 0), (2, 1), (1, -1), (2, -1)], "errors": [(3, 1), (3, 1), (3, 1), (3, 0)]}
        items = [
            FirstErrorItem(f"{s}{i}", s, "p", ["a"] * n, label, "g") for s, own in kinds.items() for i, (n, label) in enumerate(own)
        ]
        result = evaluate_processbench(items, [[0.5] * len(i.steps) for i in items], config(threshold=["fixed"]))
        assert result["baselines"]["step_number_oracle"]["subsets"] == {"s": {"f1": 0.5}, "errors": {"f1": None}}
        group = result["groups"]["generator"]["g"]
        # "Wrong from step 1 on" finds one error of two in s and three of four elsewhere; one of two right solutions stays right.
        assert (group["num_error"], group["num_correct"]) == (6, 2)
        assert group["baselines"]["step_number_oracle"]["f1"] == pytest.approx(2 * (4 / 6) * 0.5 / (4 / 6 + 0.5))
        apart = [FirstErrorItem(str(i), str(label), "p", ["a"], label, "g") for label in (0, -1) for i in (label, label + 9)]
        result = evaluate_processbench(apart, [[0.5]] * 4, config(threshold=["fixed"], num_random_draws=100))
        found = result["groups"]["generator"]["g"]["baselines"]["random_oracle"]["f1"]
        assert 0.2 < found < 0.9, "with the kinds told apart it would be 1, without these items 0"

    def test_average_has_an_interval_of_its_own(self):
        items = [FirstErrorItem(f"{s}{i}", s, "p", ["a"], -(i % 2)) for s in ("x", "y", "z") for i in range(60)]
        scores = [[0.9 if (i.label == -1) == (index % 3 > 0) else 0.1] for index, i in enumerate(items)]
        results = evaluate_processbench(items, scores, config(threshold=["fixed"], num_bootstrap=2000))["results"]["fixed"]
        average = results["average"]
        assert average["low"] < average["f1"] < average["high"]
        widths = [subset["high"] - subset["low"] for subset in results["subsets"].values()]
        # Three independent subsets: narrower by the root of three.
        assert (average["high"] - average["low"]) / np.mean(widths) == pytest.approx(3**-0.5, rel=0.1)

    def test_the_average_over_one_subset_has_its_interval(self):
        items = [FirstErrorItem(f"x{i}", "x", "p", ["a"], -(i % 2)) for i in range(60)]
        scores = [[0.9 if (i.label == -1) == (index % 3 > 0) else 0.1] for index, i in enumerate(items)]
        results = evaluate_processbench(items, scores, config(threshold=["fixed"]))["results"]["fixed"]
        assert {k: results["average"][k] for k in ("low", "high")} == {k: results["subsets"]["x"][k] for k in ("low", "high")}

    def test_published_values_stand_in_the_table(self):
        result = evaluate_processbench(ITEMS, SCORES, config(published=["asym, paper=0.4699"]))
        assert result["published"] == {"asym, paper": 0.4699}
        assert processbench_tables(result)[0].rows[-1] == ["published: asym, paper", "", "", "47.0"]

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            (["0.4"], "give LABEL=VALUE"),
            (["a=47"], "between 0 and 1"),
            (["a=x"], "give LABEL"),
            (["a=0.1", "a=0.2"], "second value"),
        ],
    )
    def test_published_values_need_a_label_and_a_share(self, entries, message):
        with pytest.raises(ValueError, match=message):
            config(published=entries)

    def test_tuned_numbers_are_marked(self):
        table = processbench_tables(evaluate_processbench(ITEMS, SCORES, config()))[0]
        marked = {row[0]: [cell.endswith("*") for cell in row[1:]] for row in table.rows}
        assert marked["fixed threshold"] == [False, False, False]
        assert marked["gsm8k threshold (tuned on gsm8k)"] == [True, False, False]
        assert marked["oracle threshold (tuned on each subset)"] == [True, True, False]
        assert "\n* threshold tuned on the very items" in table.note

    def test_items_to_look_at_follow_the_first_rule(self):
        scores = [*SCORES[:3], []]
        shown = processbench_items(ITEMS, scores, evaluate_processbench(ITEMS, scores, config(threshold=["oracle", "fixed"])))
        found = [(i.id, i.group, i.first_error, i.predicted, i.step_scores) for i in shown]
        # math can no longer be solved, and its lowest threshold, .1, finds nothing.
        assert found == [
            ("g0", "gsm8k", 1, 1, scores[0]),
            ("g1", "gsm8k", -1, -1, scores[1]),
            ("m0", "math", 0, -1, scores[2]),
            ("m1", "math", -1, None, []),
        ]
        given = [1, UNPARSABLE, 0, -1]
        shown = processbench_items(ITEMS, given, evaluate_processbench(ITEMS, given, config()))
        assert [(i.predicted, i.step_scores) for i in shown] == [(1, []), (None, []), (0, []), (-1, [])]

    def test_options_matter(self):
        assert evaluate_processbench(ITEMS, SCORES, config(fixed_threshold=0.35))["results"]["fixed"]["subsets"]["gsm8k"]["f1"] == 1
        results = [evaluate_processbench(ITEMS, SCORES, config(seed=s, num_random_draws=2)) for s in (0, 1)]
        assert results[0]["baselines"]["random_oracle"] != results[1]["baselines"]["random_oracle"]

    def test_random_scores_by_hand(self):
        """Two steps, error at 0 or none: a threshold that is right on both exists iff max threshold order allows it."""
        items = [FirstErrorItem("e", "s", "p", ["a"], 0), FirstErrorItem("c", "s", "p", ["a"], -1)]
        result = evaluate_processbench(items, [[0.1], [0.9]], config(threshold=["oracle"], num_random_draws=2000))
        # F1 is 1 when the wrong step scores below the right one, half of the time, else 0.
        assert result["baselines"]["random_oracle"]["average"]["f1"] == pytest.approx(0.5, abs=0.05)

    def test_subset_of_one_kind(self):
        only = [ITEMS[0], FirstErrorItem("g2", "gsm8k", "p", ["a"], 0)]
        result = evaluate_processbench(only, [[0.8, 0.3], [0.2]], config(threshold=["fixed"]))
        assert result["results"]["fixed"]["subsets"]["gsm8k"] | {"threshold": 0.5} == {
            "threshold": 0.5,
            "acc_error": 1.0,
            "acc_correct": None,
            "f1": None,
            "num_error": 2,
            "num_correct": 0,
            "low": None,
            "high": None,
            "is_tuned_here": False,
        }
        json.dumps(result, allow_nan=False)
        assert processbench_tables(result)[0].rows[1] == ["fixed threshold", "-", "-"]
        for rule in ("oracle", "gsm8k"):
            with pytest.raises(ValueError, match="no threshold can be tuned on subset gsm8k"):
                threshold_rules(only, config(threshold=[rule]))
            with pytest.raises(ValueError, match="no threshold can be tuned on subset gsm8k"):
                evaluate_processbench(only, [[0.8, 0.3], [0.2]], config(threshold=[rule]))

    @pytest.mark.parametrize("rules", [[], ["fixed", "best"]])
    def test_unknown_rule(self, rules):
        with pytest.raises(ValueError, match=r"--threshold (best|is empty): choose from fixed, gsm8k, oracle; a number is"):
            config(threshold=rules)

    def test_gsm8k_rule_needs_gsm8k(self):
        with pytest.raises(ValueError, match=r"the data holds math: add gsm8k\.json or give --threshold fixed oracle"):
            evaluate_processbench(ITEMS[2:], SCORES[2:], config(threshold=["fixed", "gsm8k"]))

    def test_by_default_every_rule_that_the_items_allow(self):
        without_gsm8k = [item for item in ITEMS if item.subset != "gsm8k"]
        of_one_kind = [item for item in ITEMS if item.subset != "gsm8k" or item.label != -1]
        assert threshold_rules(ITEMS, config()) == ["fixed", "gsm8k", "oracle"]
        assert threshold_rules(without_gsm8k, config()) == ["fixed", "oracle"]
        assert threshold_rules(of_one_kind, config()) == ["fixed"]
        assert list(evaluate_processbench(ITEMS[2:], SCORES[2:], config())["results"]) == ["fixed", "oracle"]

    def test_plot(self, tmp_path):
        paths = plot_processbench(ITEMS, SCORES, evaluate_processbench(ITEMS, SCORES, config()), tmp_path / "f1")
        assert paths[0].read_bytes().startswith(b"\x89PNG")
        assert "gsm8k threshold" in paths[1].read_text()


def test_a_limit_is_said_first_and_is_a_number_of_items():
    table = processbench_tables(evaluate_processbench(ITEMS, SCORES, config(limit=2)))[0]
    assert table.note.startswith("--limit 2: of the first 2 items of every subset only, a smoke run; these are not the benchmark's")
    assert "smoke" not in processbench_tables(evaluate_processbench(ITEMS, SCORES, config()))[0].note
    with pytest.raises(ValueError, match="--limit 0: give at least 1 item, or leave it out for all"):
        config(limit=0)


class TestItems:
    def test_folder_of_subsets_in_the_field_s_order(self, tmp_path):
        write(tmp_path / "zzz.jsonl", [item_row(id="z")])
        write(tmp_path / "aaa.jsonl", [item_row(id="a")])
        (tmp_path / "omnimath.json").write_text(json.dumps([item_row(id="o")]))
        (tmp_path / "gsm8k.json").write_text(json.dumps([item_row(), item_row(id="g1", label=-1)]))
        (tmp_path / "manifest.json").write_text("{}")
        items = load_items(tmp_path)
        assert [(item.id, item.subset) for item in items] == [
            ("g0", "gsm8k"),
            ("g1", "gsm8k"),
            ("o", "omnimath"),
            ("a", "aaa"),
            ("z", "zzz"),
        ]
        assert items[0].as_response().steps == ["a", "b"]
        assert items[0].as_response().key == ("g0", 0)

    def test_the_first_items_of_every_subset(self, tmp_path):
        places = {"a/gsm8k.json": "abc", "b/math.json": "d", "b/gsm8k.json": "e"}
        for place, names in places.items():
            (tmp_path / place).parent.mkdir(exist_ok=True)
            (tmp_path / place).write_text(json.dumps([item_row(id=name) for name in names]))
        for limit, names in ((1, "ad"), (2, "abd"), (4, "abcde"), (None, "abcde")):
            assert [item.id for item in load_items([str(tmp_path / place) for place in places], limit)] == list(names)

    def test_presets_and_lists_of_sources(self, tmp_path, monkeypatch):
        rows = {name: [item_row(id=f"{name}-0", generator="g")] for name in ("gsm8k", "math", "olympiadbench", "omnimath")}
        monkeypatch.setattr("prm.data.hub._stream", lambda hub: rows[hub.split])
        assert data_sources(["processbench@main"])[1] == "processbench@main:math"
        items = load_items("processbench")
        assert [(item.id, item.subset) for item in items] == [(f"{name}-0", name) for name in rows]
        assert items[0].generator == "g"
        path = write(tmp_path / "mine.jsonl", [item_row()])
        assert [item.subset for item in load_items(["processbench:omnimath", str(path)])] == ["omnimath", "mine"]
        with pytest.raises(ValueError, match="no split 'algebra'"):
            load_items("processbench:algebra")

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"id": "g0", "problem": "p", "steps": ["a"]}, r"x\.jsonl:1: no 'label'"),
            (item_row(steps=[]), r"x\.jsonl:1: item 'g0' has steps \[\]"),
            (item_row(steps="ab"), "has steps 'ab'"),
            (item_row(label=2), "has label 2; of its 2 steps give the index of the first wrong one, an integer from 0, or -1"),
            (item_row(label=1.0), r"has label 1\.0; of its 2 steps"),
            (item_row(label=None), "has label None"),
            (item_row(problem=None), r"x\.jsonl:1: item 'g0' has problem None; expected a text"),
            (item_row(generator=["a"]), r"has generator \['a'\]; expected a text"),
            (item_row(final_answer_correct="no"), "has final_answer_correct 'no'; expected true, false or null"),
            (item_row(id=["g0"]), r"x\.jsonl:1: id \['g0'\]; expected a text or a number"),
            (item_row(id=None), "id None; expected a text or a number"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path, row, message):
        with pytest.raises(ValueError, match=message):
            load_items(write(tmp_path / "x.jsonl", [row]))

    def test_duplicates_and_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="id 'g0' stands 2 times"):
            load_items(write(tmp_path / "x.jsonl", [item_row(), item_row()]))
        (tmp_path / "empty.jsonl").write_text("")
        with pytest.raises(ValueError, match=r"empty\.jsonl: no items in it; remove it"):
            load_items([str(tmp_path / "empty.jsonl"), str(write(tmp_path / "x.jsonl", [item_row()]))])
        (tmp_path / "folder").mkdir()
        with pytest.raises(FileNotFoundError, match=r"holds no \.json"):
            load_items(tmp_path / "folder")
        (tmp_path / "folder" / "items.jsonl").write_text("{}")
        with pytest.raises(FileNotFoundError, match="holds only what an evaluation leaves beside its scores"):
            load_items(tmp_path / "folder")
        with pytest.raises(FileNotFoundError, match="no such file"):
            load_items(tmp_path / "missing")


class TestPredictions:
    def test_read_in_the_order_of_the_items(self, tmp_path):
        rows = [{"id": i.id, "step_scores": s} for i, s in zip(ITEMS, SCORES, strict=True)]
        path = write(tmp_path / "x.jsonl", [*rows[::-1], {"id": "other", "step_scores": [1]}])
        assert load_predictions(path, ITEMS) == (SCORES, {"other_items": 1})

    def test_null_scores_are_of_items_that_could_not_be_read(self, tmp_path):
        rows = [{"id": i.id, "step_scores": s} for i, s in zip(ITEMS, [[0.8, 0.3], None, None, [0.7]], strict=True)]
        assert load_predictions(write(tmp_path / "x.jsonl", rows), ITEMS)[0] == [[0.8, 0.3], [], [], [0.7]]

    def test_step_scores_of_score_py_and_indices(self, tmp_path):
        scores = [{"question_id": i.id, "sample_index": 0, "step_scores": s} for i, s in zip(ITEMS, SCORES, strict=True)]
        assert load_predictions(write(tmp_path / "x.jsonl", scores), ITEMS)[0] == SCORES
        indices = [{"id": i.id, "prediction": p} for i, p in zip(ITEMS, [1, None, -1, 0], strict=True)]
        (tmp_path / "folder").mkdir()
        write(tmp_path / "folder" / "gsm8k.jsonl", indices[:2])
        write(tmp_path / "folder" / "math.jsonl", indices[2:])
        assert load_predictions(tmp_path / "folder", ITEMS)[0] == [1, UNPARSABLE, -1, 0]

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{"id": "g0", "step_scores": [0.5]}], r"x\.jsonl:1: item 'g0' has 2 steps, but step_scores are 1 of them: \[0\.5\]"),
            ([{"id": "g0", "step_scores": [0.5, None]}], r"x\.jsonl:1: step_scores of item 'g0' must be finite"),
            ([{"id": "g0", "step_scores": [0.5, 1]}] * 2, r"x\.jsonl:2: a second prediction for item 'g0'"),
            ([{"id": "g0", "step_scores": [0.5, 1]}], "3 of 4 items have no prediction, such as 'g1'; write"),
            (
                [{"id": 0, "step_scores": [0.5, 1]}],
                "4 of 4 items have no prediction, such as 'g0' .and .*x.jsonl:1 is of '0', which",
            ),
            ([{"id": "g0", "step_scores": 0.5}], r"has 2 steps, but step_scores are 0\.5"),
            ([{"step_scores": [0.5, 1]}], r"x\.jsonl:1: a prediction without the id of its item; found \['step_scores'\]"),
            ([{"id": "g0"}], "neither step_scores nor prediction"),
            (
                [{"id": "g0", "step_scores": [0.5, 1], "prediction": 1}],
                "has step_scores and a prediction; leave one of the two out",
            ),
            ([{"id": "g0", "prediction": "1"}], "prediction '1' of item 'g0'"),
            ([{"id": "g0", "prediction": -2}], "prediction -2 of item 'g0'"),
            (
                [
                    {"id": "g0", "prediction": 1},
                    *({"id": i.id, "step_scores": s} for i, s in zip(ITEMS[1:], SCORES[1:], strict=True)),
                ],
                "give one kind",
            ),
        ],
    )
    def test_errors_name_line_and_item(self, tmp_path, rows, message):
        with pytest.raises(ValueError, match=message):
            load_predictions(write(tmp_path / "x.jsonl", rows), ITEMS)

    def test_behind_the_last_step_is_no_step_of_the_item_however_large(self, tmp_path):
        rows = [{"id": item.id, "prediction": 10**30} for item in ITEMS]
        predictions, _ = load_predictions(write(tmp_path / "x.jsonl", rows), ITEMS)
        assert predictions == [len(item.steps) for item in ITEMS]


def test_a_prediction_behind_the_last_step_is_wrong_and_can_be_shown():
    """As in the benchmark; the page knows it as a prediction that could not be read."""
    predictions = [len(item.steps) for item in ITEMS]
    result = evaluate_processbench(ITEMS, predictions, ProcessBenchConfig(num_bootstrap=10, num_random_draws=1))
    assert result["results"]["prediction"]["average"]["f1"] == 0
    reviews = review_items(processbench_items(ITEMS, predictions, result))
    assert {review.verdict for review in reviews} == {"no prediction"}


def test_real_items_under_an_oracle_and_under_noise(real_data):
    items = load_items(real_data / "processbench")
    assert len(items) == 200
    perfect = [[0.0 if index == item.label else 1.0 for index in range(len(item.steps))] for item in items]
    result = evaluate_processbench(items, perfect, config())
    assert [rule["average"]["f1"] for rule in result["results"].values()] == [1, 1, 1]
    assert list(result["step_auc"]["subsets"]) == ["gsm8k", "math", "olympiadbench", "omnimath"]
    assert 0.1 < result["baselines"]["random_oracle"]["average"]["f1"] < 0.3
    rng = np.random.default_rng(0)
    noise = [rng.random(len(item.steps)).tolist() for item in items]
    assert evaluate_processbench(items, noise, config())["results"]["oracle"]["average"]["f1"] < 0.35


def official_scores(rows, predicted):
    """The benchmark's own arithmetic (Zheng et al. 2024), from a reading of its scripts: percentages of exact matches."""
    matches = [(row["label"] != -1, found == row["label"]) for row, found in zip(rows, predicted, strict=True)]
    error, correct = ([hit for is_error, hit in matches if is_error is kind] for kind in (True, False))
    a, b = 100 * sum(error) / len(error), 100 * sum(correct) / len(correct)
    return a, b, 2 * a * b / (a + b) if a + b else 0.0


def official_predictions(rows, by_id, threshold):
    return [next((i for i, score in enumerate(by_id[row["id"]]) if score < threshold), -1) for row in rows]


def test_equals_the_official_evaluation_on_real_items(real_data):
    items = load_items(real_data / "processbench")
    rng = np.random.default_rng(7)
    hints = [[0.25 if index == item.label else 0.0 for index in range(len(item.steps))] for item in items]
    scores = [(rng.beta(3, 1, len(hint)) - hint).clip(0, 1).round(2).tolist() for hint in hints]
    by_id = {item.id: given for item, given in zip(items, scores, strict=True)}
    subsets = {file.stem: json.loads(file.read_text()) for file in sorted((real_data / "processbench").glob("*.json"))}
    candidates = sorted({score for given in scores for score in given})
    best = {
        name: max(candidates, key=lambda t, rows=rows: official_scores(rows, official_predictions(rows, by_id, t))[2])
        for name, rows in subsets.items()
    }
    rules = {"fixed": dict.fromkeys(subsets, 0.35), "gsm8k": dict.fromkeys(subsets, best["gsm8k"]), "oracle": best}
    results = evaluate_processbench(items, scores, config(fixed_threshold=0.35))["results"]
    for rule, thresholds in rules.items():
        expected = {n: official_scores(rows, official_predictions(rows, by_id, thresholds[n])) for n, rows in subsets.items()}
        for name, ours in results[rule]["subsets"].items():
            assert [100 * ours[key] for key in ("acc_error", "acc_correct", "f1")] == pytest.approx(expected[name], abs=1e-9)
            assert 0 < ours["f1"] < 1
        assert 100 * results[rule]["average"]["f1"] == pytest.approx(np.mean([f1 for _, _, f1 in expected.values()]), abs=1e-9)
