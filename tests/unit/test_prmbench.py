"""PRMBench: its edge cases by hand, every number against an independent reading of the protocol, baselines, mistakes."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from prm.benchmarks.prmbench.evaluate import PRMBenchConfig, evaluate_prmbench
from prm.benchmarks.prmbench.items import CORRECT, load_items, load_predictions
from prm.benchmarks.prmbench.report import plot_prmbench, prmbench_items, prmbench_tables
from prm.benchmarks.tables import render

STEPS = ["a", "b", "c", "d"]
SHARES = ("total_step_acc", "correct_step_acc", "wrong_step_acc", "first_error_acc", "similarity")
F1_KEYS = ("precision", "recall", "f1", "negative_precision", "negative_recall", "negative_f1")


def config(**changes):
    return PRMBenchConfig(**({"num_bootstrap": 100, "num_random_draws": 3} | changes))


def raw(idx, classification, error_steps, steps=STEPS, original=("a", "b")):
    process = {"original_process": list(original), "modified_process": list(steps), "error_steps": error_steps}
    return {"idx": idx, "classification": classification, "original_question": "q", "modified_question": "q", **process}


ROWS = [raw("p0", "redundency", [2, 3]), raw("p0", "deception", [4]), raw("p0", "multi_solutions", []), raw("p1", "circular", [1])]
IDS = ["redundency_p0", "correct_p0", "deception_p0", "multi_solutions_p0", "circular_p1"]
SCORES = [[0.9, 0.5, 0.8, 0.6], [0.7, 0.2], [0.9, 0.3, 0.9, 0.1], [0.9, 0.9, 0.4, 0.9], [0.6, 0.7, 0.8, 0.9]]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.fixture
def items(tmp_path):
    return load_items(write(tmp_path / "raw.jsonl", ROWS))[0]


class TestItems:
    def test_raw_rows_become_items_and_correct_items(self, items):
        assert [item.id for item in items] == IDS
        assert [item.category for item in items] == ["redundency", CORRECT, "deception", "multi_solutions", "circular"]
        assert [item.is_good for item in items][:2] == [[True, False, False, True], [True, True]]
        assert [item.first_error for item in items] == [1, None, 3, None, 0]
        assert [item.correct_id for item in items] == ["correct_p0"] * 4 + ["correct_p1"]

    def test_duplicates_keep_the_first_and_steps_out_of_range_are_ignored(self, tmp_path):
        rows = [
            raw("p0", "redundency", [2, 9]),
            raw("p0", "redundency", [1]),
            raw("p1", "deception", [7]),
            raw("p2", "circular", [0, 3]),
        ]
        items, left_out = load_items(write(tmp_path / "raw.jsonl", rows))
        assert [item.is_good for item in items if item.category != CORRECT] == [
            [True, False, True, True],
            [True] * 4,
            [True, True, False, True],
        ]
        # The benchmark takes the lowest error step before it looks whether there is such a step.
        assert [item.first_error for item in items if item.category != CORRECT] == [1, None, None]
        assert left_out == {"duplicate_id": 2, "error_step_out_of_range": 3}

    def test_numbers_before_steps_are_removed_for_the_model_only(self, tmp_path):
        rows = [raw("p0", "deception", [1], steps=["1. First", " Step 2. then", "3.5 is it", "four"])]
        (item,), _ = load_items(write(tmp_path / "raw.jsonl", rows))
        assert item.as_response(True).steps == ["First", "then", "5 is it", "four"], "as the toolkit's expression does"
        assert item.as_response(False).steps == item.steps == rows[0]["modified_process"]

    def test_errors(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"raw\.jsonl:1: item 'humour_p0' is of no category that PRMBench has: they are correct, redundency"
        ):
            load_items(write(tmp_path / "raw.jsonl", [raw("p0", "humour", [1])]))
        for steps in (None, [1.5], [True], "1"):
            message = rf"raw\.jsonl:1: error_steps of 'deception_p0' are {re.escape(repr(steps))}; give step numbers from 1"
            with pytest.raises(ValueError, match=message):
                load_items(write(tmp_path / "raw.jsonl", [raw("p0", "deception", steps)]))
        with pytest.raises(ValueError, match=r"raw\.jsonl:1: no known shape of PRMBench items: found keys \['id'\]"):
            load_items(write(tmp_path / "raw.jsonl", [{"id": 1}]))
        with pytest.raises(ValueError, match="no items to score in it, only 0 correct ones"):
            load_items(write(tmp_path / "raw.jsonl", []))
        with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl: no such file"):
            load_items(tmp_path / "nothing.jsonl")

    def test_preset(self, monkeypatch):
        monkeypatch.setattr("prm.data.hub._stream", lambda hub: ROWS)
        assert [item.id for item in load_items("prmbench")[0]] == IDS

    def test_the_first_items_without_those_that_stand_twice(self, tmp_path):
        again = [raw("p0", "redundency", [2]), *ROWS[:1], *ROWS]
        items, left_out = load_items(write(tmp_path / "raw.jsonl", again), 3)
        assert [item.id for item in items] == IDS[:3]
        assert left_out["duplicate_id"] == 4, "no more than were met"
        correct = {"idx": "correct_p0", "question": "?", "steps": ["a"], "error_steps": []}
        with pytest.raises(ValueError, match="no items to score among its first 1, only 1 correct ones"):
            load_items(write(tmp_path / "raw.jsonl", [correct, *ROWS]), 1)

    def test_a_limit_is_said_first(self, items):
        table = prmbench_tables(evaluate_prmbench(items, SCORES, config(limit=5)))[0]
        assert table.note.startswith("--limit 5: of the first 5 items only, a smoke run; these are not the benchmark's numbers.\n")
        assert "smoke" not in prmbench_tables(evaluate_prmbench(items, SCORES, config()))[0].note


class TestEvaluation:
    def test_by_hand(self, items):
        fixed = evaluate_prmbench(items, SCORES, config())["results"]["fixed"]
        categories = fixed["categories"]
        # redundency: good a (called good) and d (good), wrong b (.5 is not above .5: called wrong) and c (called good).
        assert [categories["redundency"][key] for key in ("TP", "FP", "FN", "TN")] == [2, 1, 0, 1]
        # deception: a and c good, b called wrong, d found. multi_solutions: three of four. circular: the error at a is missed.
        assert [categories["deception"][key] for key in ("TP", "FP", "FN", "TN")] == [2, 0, 1, 1]
        assert [categories["multi_solutions"][key] for key in ("TP", "FP", "FN", "TN")] == [3, 0, 1, 0]
        assert [categories["circular"][key] for key in ("TP", "FP", "FN", "TN")] == [3, 1, 0, 0]
        assert [fixed[key] for key in ("TP", "FP", "FN", "TN")] == [10, 2, 2, 2]
        f1, negative_f1 = 10 / 12, 0.5
        assert fixed["prm_score"] == pytest.approx((f1 + negative_f1) / 2, abs=1e-15)
        assert categories["redundency"]["prm_score"] == pytest.approx((4 / 5 + 2 / 3) / 2, abs=1e-15)
        assert categories["multi_solutions"]["prm_score"] == pytest.approx(6 / 7, abs=1e-15), "its F1 alone"
        # circular: no step is called wrong, so negative precision is -1, recall 0, F1 0.
        assert categories["circular"]["prm_score"] == pytest.approx(6 / 7 / 2, abs=1e-15)
        simplicity = (categories["redundency"]["prm_score"] + categories["circular"]["prm_score"]) / 2
        assert fixed["areas"]["simplicity"]["prm_score"] == pytest.approx(simplicity, abs=1e-15)
        assert fixed["areas"]["soundness"]["prm_score"] is None, "no such category here"
        # First errors: found, found, none, missed. Called good: 3/4, 2/4, 3/4 against the 1/2 of the correct item; p1 has none.
        assert fixed["first_error_acc"] == pytest.approx(2 / 3, abs=1e-15)
        assert fixed["similarity"] == pytest.approx((0.25 + 0 + 0.25) / 3, abs=1e-15)
        assert categories["circular"]["similarity"] == categories["multi_solutions"]["first_error_acc"] == -1
        assert categories[CORRECT]["correct_step_acc"] == 0.5

    def test_a_correct_item_without_a_good_step_compares_with_nothing(self, items):
        scores = [SCORES[0], [0.1, 0.2], *SCORES[2:]]
        assert evaluate_prmbench(items, scores, config())["results"]["fixed"]["similarity"] == -1

    def test_differences_as_for_skywork(self, items):
        result = evaluate_prmbench(items, SCORES, config(rule="difference"))
        assert result["results"]["fixed"]["threshold"] == -0.05
        # deception .9 .3 .9 .1: the score itself, then -.6, .6, -.8.
        assert [result["results"]["fixed"]["categories"]["deception"][key] for key in ("TP", "FP", "FN", "TN")] == [2, 0, 1, 1]
        assert result["results"]["fixed"]["categories"]["circular"]["TP"] == 3
        shifted, further = (
            evaluate_prmbench(items, SCORES, config(rule="difference", fixed_threshold=t))["results"]["fixed"] for t in (0.05, 0.1)
        )
        assert shifted["categories"]["circular"]["TP"] == 3
        assert further["TP"] < shifted["TP"]
        assert "less the score of the step before" in prmbench_tables(result)[0].note

    def test_unreadable_items_are_left_out_and_shown(self, items):
        result = evaluate_prmbench(items, [*SCORES[:4], []], config())
        assert (result["num_unscored"], result["validity_rate"]) == (1, 0.75)
        assert "circular" not in result["results"]["fixed"]["categories"]
        assert "could not read 1 items: left out, as the benchmark does (validity rate 75.00%)" in prmbench_tables(result)[0].note
        with pytest.raises(ValueError, match="could read no item that counts"):
            evaluate_prmbench(items, [[], SCORES[1], [], [], []], config())

    def test_labels_have_one_rule(self, items):
        labels = [[score > 0.5 for score in given] for given in SCORES]
        result = evaluate_prmbench(items, labels, config())
        fixed = evaluate_prmbench(items, SCORES, config())["results"]["fixed"]
        assert result["results"]["prediction"] | {"threshold": 0.5} == fixed
        assert list(result["results"]) == ["prediction"]
        assert "prediction" in render(prmbench_tables(result))
        for option in ({"rule": "difference"}, {"fixed_threshold": 0.4}):
            with pytest.raises(ValueError, match=r"--(rule difference|fixed_threshold) is for step scores"):
                evaluate_prmbench(items, labels, config(**option))

    def test_oracle_threshold_and_auc(self, items):
        result = evaluate_prmbench(items, SCORES, config())
        thresholds = [-1, *sorted({score for given in SCORES for score in given})]
        fixed = {t: evaluate_prmbench(items, SCORES, config(fixed_threshold=t))["results"]["fixed"] for t in thresholds}
        tried = {t: found["prm_score"] for t, found in fixed.items()}
        assert result["results"]["oracle"]["prm_score"] == max(tried.values())
        assert tried[result["results"]["oracle"]["threshold"]] == max(tried.values())
        perfect = [[float(good) for good in item.is_good] for item in items]
        assert evaluate_prmbench(items, perfect, config())["step_auc"] == 1

    def test_intervals_surround_their_scores_and_resample_within_categories(self, real_data):
        items, _ = load_items(real_data / "prmbench" / "prmbench_meta_30idx.jsonl")
        scores = noisy_scores(items)
        fixed = evaluate_prmbench(items, scores, config(num_bootstrap=500))["results"]["fixed"]
        for found in (fixed, *fixed["areas"].values(), *(v for k, v in fixed["categories"].items() if k != CORRECT)):
            assert found["low"] <= found["prm_score"] <= found["high"]
        widths = [fixed["categories"][name]["high"] - fixed["categories"][name]["low"] for name in ("confidence", "circular")]
        assert 0.02 < fixed["high"] - fixed["low"] < min(widths)
        once = evaluate_prmbench([items[0]], scores[:1], config())["results"]["fixed"]
        assert once["low"] == once["prm_score"] == once["high"], "one item can only be drawn as itself"

    def test_resampled_categories_keep_their_sizes(self, tmp_path):
        rows = [raw("p0", "circular", [1, 2]), *(raw(f"p{i}", "deception", [3]) for i in range(1, 4))]
        items, _ = load_items(write(tmp_path / "raw.jsonl", rows))
        fixed = evaluate_prmbench(items, [SCORES[0], *[SCORES[2]] * 3], config())["results"]["fixed"]
        # Equal items within each category: every resample is the benchmark itself.
        assert fixed["low"] == pytest.approx(fixed["prm_score"], abs=1e-12)
        assert fixed["high"] == pytest.approx(fixed["prm_score"], abs=1e-12)

    def test_a_resample_without_a_hit_has_an_f1_of_zero_and_not_the_placeholder(self, tmp_path):
        items, _ = load_items(write(tmp_path / "raw.jsonl", [raw(f"p{i}", "circular", [2]) for i in range(6)]))
        missed = [[0.1] + [0.9] * (len(item.steps) - 1) for item in items[1:]]
        found = [[0.9, 0.1] + [0.9] * (len(items[0].steps) - 2)]
        fixed = evaluate_prmbench(items, found + missed, config())["results"]["fixed"]
        assert fixed["negative_f1"] > 0
        assert fixed["categories"]["circular"]["low"] > 0.25, "half of the F1 of right steps; a third of the resamples lack the hit"
        assert fixed["low"] > 0.25

    def test_baselines_by_hand(self, items):
        baselines = evaluate_prmbench(items, SCORES, config(num_random_draws=200))["baselines"]
        # 12 of 16 steps are right: F1 24/28, of the wrong ones 0.
        assert baselines["all_correct"]["prm_score"] == pytest.approx(24 / 28 / 2, abs=1e-15)
        # 1 - (i+1)/n calls the last k of every four wrong; at k = 1 it finds deception's error and spoils three good steps.
        assert baselines["position_oracle"]["prm_score"] == pytest.approx(best_position(items), abs=1e-15)
        assert baselines["all_correct"]["prm_score"] < baselines["random_oracle"]["prm_score"] < 0.75
        seeds = [evaluate_prmbench(items, SCORES, config(seed=seed))["baselines"]["random_oracle"] for seed in (0, 1)]
        assert seeds[0] != seeds[1]

    def test_calibration_and_published(self, items):
        result = evaluate_prmbench(items, SCORES, config(num_calibration_bins=1, published=["asym=0.5"]))
        flat = [
            (s, g)
            for item, given in zip(items, SCORES, strict=True)
            if item.category != CORRECT
            for s, g in zip(given, item.is_good, strict=True)
        ]
        found = result["calibration"]["all items with errors"]
        assert found["brier"] == pytest.approx(np.mean([(s - g) ** 2 for s, g in flat]), abs=1e-15)
        assert found["ece"] == pytest.approx(abs(np.mean([s for s, _ in flat]) - 0.75), abs=1e-15)
        assert prmbench_tables(result)[0].rows[-1][:2] == ["published: asym", "50.0"]
        with pytest.raises(ValueError, match="--published 'x': give LABEL=VALUE"):
            config(published=["x"])

    def test_numbers_that_cannot_be(self):
        for option, message in (
            ({"num_random_draws": 0}, "--num_random_draws 0: the baseline is a mean over draws"),
            ({"num_calibration_bins": 0}, "--num_calibration_bins 0: give at least one"),
            ({"fixed_threshold": float("nan")}, "--fixed_threshold nan: give a finite number"),
        ):
            with pytest.raises(ValueError, match=message):
                config(**option)

    def test_items_to_look_at(self, items):
        shown = list(prmbench_items(items, [*SCORES[:4], []], config()))
        assert [(i.id, i.group, i.first_error, i.predicted) for i in shown] == [
            ("redundency_p0", "redundency", 1, 1),
            ("correct_p0", CORRECT, -1, 1),
            ("deception_p0", "deception", 3, 1),
            ("multi_solutions_p0", "multi_solutions", -1, 2),
            ("circular_p1", "circular", 0, None),
        ]
        assert [i.wrong_steps for i in shown] == [[step for step, good in enumerate(i.is_good) if not good] for i in items]
        assert shown[0].wrong_steps == [1, 2]

    def test_plot(self, items, tmp_path):
        paths = plot_prmbench(items, SCORES, evaluate_prmbench(items, SCORES, config()), tmp_path / "curve")
        assert paths[0].read_bytes().startswith(b"\x89PNG")
        assert all(f">{label}<" in paths[1].read_text() for label in ("PRM", "every step right", "1 - (i+1)/n", "fixed threshold"))


def best_position(items):
    """The best PRMScore of calling the last k of every solution's four steps wrong, by trying each k."""
    best = []
    for k in range(5):
        counts = Counter((good, index < 4 - k) for i in items if i.category != CORRECT for index, good in enumerate(i.is_good))
        best.append(official_f1(counts[True, True], counts[False, True], counts[True, False], counts[False, False])["prm_score"])
    return max(best)


class TestPredictions:
    def test_first_of_an_id_counts_and_others_are_left_out(self, tmp_path, items):
        rows = [{"id": name, "step_scores": given} for name, given in zip(IDS, SCORES, strict=True)]
        rows += [{"idx": IDS[0], "step_scores": [0, 0, 0, 0]}, {"question_id": "confidence_p7", "step_scores": [0.5]}]
        assert load_predictions(write(tmp_path / "p.jsonl", rows), items) == (SCORES, {"repeated": 1, "other_items": 1})

    def test_results_of_the_benchmark_s_toolkit(self, tmp_path, items):
        labels = {"step_level_validity_labels": [True, False, 1, 0]}
        redundancy = labels | {"step_level_redundancy_labels": [False, True, True, False]}
        rows = [{"idx": name, "scores": redundancy} for name in IDS]
        rows[1] = {"idx": IDS[1], "scores": {"step_level_validity_labels": [1, 0]}}
        rows[2] = {"task_name": "prmtest_classified", "results": {"idx": IDS[2], "scores": labels}}
        rows[3] = {"idx": IDS[3], "validity": False, "original_response": "I cannot tell"}  # so for critics behind an API
        rows[4] |= {"validity": None}  # no more valid than False for the toolkit
        predictions, _ = load_predictions(write(tmp_path / "p.jsonl", rows), items)
        # Redundancy labels count for redundency and circular alone, turned around.
        good = [True, False, True, False]
        assert predictions == [[True, False, False, True], [True, False], good, [], []]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"step_scores": [0.5]}, r"p\.jsonl:1: item 'redundency_p0' has 4 steps, but step_scores are 1 of them"),
            ({"step_scores": [0.5, None, 0.5, 0.5]}, "must be finite numbers"),
            ({"step_scores": [0.5, True, 0.5, 0.5]}, "must be finite numbers"),
            ({"step_scores": [0.5, 10**400, 0.5, 0.5]}, r"p\.jsonl:1: .* must be finite numbers up to 1e\+30, found 1000"),
            ({"scores": None}, r"p\.jsonl:1: the toolkit's scores of item 'redundency_p0' are None"),
            ({"scores": [1]}, r"p\.jsonl:1: the toolkit's scores of item 'redundency_p0' are \[1\]"),
            ({}, "neither step_scores nor the toolkit's scores"),
            ({"validity": True}, "neither step_scores nor the toolkit's scores"),
            ({"scores": {"step_level_validity_labels": [1]}}, r"has 4 steps, but step_level_validity_labels are \[1\]"),
            ({"scores": {"step_level_validity_labels": [1, 0, 2, 0]}}, "has 4 steps, but step_level_validity_labels are"),
            ({"step_scores": [0.5] * 4}, "4 of 5 items have no prediction, such as 'correct_p0'"),
        ],
    )
    def test_mistakes_name_line_and_item(self, tmp_path, items, row, message):
        with pytest.raises(ValueError, match=message):
            load_predictions(write(tmp_path / "p.jsonl", [{"id": IDS[0], **row}]), items)

    def test_nan_and_two_kinds(self, tmp_path, items):
        (tmp_path / "p.jsonl").write_text('{"id": "redundency_p0", "step_scores": [NaN, 1, 1, 1]}\n')
        with pytest.raises(ValueError, match=r"p\.jsonl:1: not valid JSON \(NaN is not a JSON number\)"):
            load_predictions(tmp_path / "p.jsonl", items)
        rows = [{"id": name, "step_scores": given} for name, given in zip(IDS, SCORES, strict=True)]
        rows[0] = {"id": IDS[0], "scores": {"step_level_validity_labels": [1, 0, 1, 0]}}
        with pytest.raises(ValueError, match="some rows hold step scores and some labels"):
            load_predictions(write(tmp_path / "p.jsonl", rows), items)


def noisy_scores(items, seed=0):
    rng = np.random.default_rng(seed)
    return [[float(rng.beta(4, 2) - 0.2 * (not good)) for good in item.is_good] for item in items]


def official_f1(tp, fp, fn, tn):
    """Both F1 as the benchmark works them out, one number after the other."""

    def divide(a, b):
        return a / b if b != 0 else -1

    precision, recall = divide(tp, tp + fp), divide(tp, tp + fn)
    negative_precision, negative_recall = divide(tn, tn + fn), divide(tn, tn + fp)
    f1 = divide(2 * precision * recall, precision + recall)
    negative_f1 = divide(2 * negative_precision * negative_recall, negative_precision + negative_recall)
    values = (precision, recall, f1, negative_precision, negative_recall, negative_f1)
    return dict(zip(F1_KEYS, values, strict=True)) | {"prm_score": 0.5 * f1 + 0.5 * negative_f1}


def official_results(assembled, labels):
    """The protocol of PRMBench's evaluator (Song et al. 2025) from a reading of it: labels in, results per category and in all.

    `assembled` are rows (idx, classification, steps, error_steps), `labels` maps an idx to booleans or None (not valid).
    """
    lists = {}
    share = {}

    def note(group, key, value):
        lists.setdefault(group, {}).setdefault(key, []).append(value)

    first_rows = {row["idx"]: row for row in reversed(assembled)}
    rows = sorted(first_rows.values(), key=lambda row: row["classification"] != "correct")
    for row in rows:
        called = labels[row["idx"]]
        if called is None:
            continue
        kind, errors = row["classification"], [number - 1 for number in row["error_steps"]]
        groups = [kind] if kind == "correct" else [kind, "all"]
        for index, label in enumerate(called):
            for group in groups:
                is_error = index in errors
                note(group, {(0, 1): "TP", (0, 0): "FN", (1, 1): "FP", (1, 0): "TN"}[is_error, bool(label)], 1)
                note(group, "total_step_acc", int(bool(label) != is_error))
                note(group, "wrong_step_acc" if is_error else "correct_step_acc", int(bool(label) != is_error))
                if errors and index == min(errors):
                    note(group, "first_error_acc", int(not label))
        share[row["idx"]] = sum(called) / len(called) if len(called) else -1
        original = share.get("correct_" + row["idx"][len(kind) + 1 :])
        if kind != "correct" and original and share[row["idx"]] != -1:
            for group in groups:
                note(group, "similarity", abs(share[row["idx"]] - original))
    results = {}
    for group, found in lists.items():
        counts = {key: len(found.get(key, ())) for key in ("TP", "FP", "FN", "TN")}
        results[group] = counts | official_f1(counts["TP"], counts["FP"], counts["FN"], counts["TN"])
        results[group] |= {key: sum(found[key]) / len(found[key]) if found.get(key) else -1 for key in SHARES}
        if group == "multi_solutions":
            results[group]["prm_score"] = results[group]["f1"]
    return results


def assert_equal_to_official(items, labels, assembled):
    predictions = [[bool(label) for label in labels[item.id] or ()] for item in items]
    measured = evaluate_prmbench(items, predictions, config(num_bootstrap=2, num_random_draws=1))["results"]["prediction"]
    expected = official_results(assembled, labels)
    for group, numbers in expected.items():
        ours = measured if group == "all" else measured["categories"][group]
        assert {key: ours[key] for key in numbers} == pytest.approx(numbers, abs=1e-9), group


def hostile(rows, rng):
    """The same rows with everything that the published file has been seen to hold, and worse."""
    changed = [dict(row) for row in rows]
    for row in changed:
        if rng.random() < 0.3:
            row["error_steps"] = [*row["error_steps"], len(row["steps"]) + int(rng.integers(1, 4))]
        if rng.random() < 0.1:
            row["error_steps"] = [0, *row["error_steps"]]
        if rng.random() < 0.1:
            row["steps"] = ["", *row["steps"][1:]]
        if rng.random() < 0.05:
            row["steps"] = []
    return changed + [row | {"error_steps": [1]} for row in changed[:5]]


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_official_evaluation_on_real_items(real_data, tmp_path, seed):
    source = real_data / "prmbench" / "prmbench_meta_30idx.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rng = np.random.default_rng(seed)
    rows = hostile(rows, rng) if seed else rows
    items, left_out = load_items(write(tmp_path / "items.jsonl", rows))
    assert left_out["duplicate_id"] == (5 if seed else 0)
    labels = {}
    for item in items:
        called = [bool(rng.random() < (0.85 if good else 0.6)) for good in item.is_good]
        unusual = rng.random()
        is_unreadable = seed and unusual < 0.05 and len(called)
        labels[item.id] = None if is_unreadable else [False] * len(called) if seed and unusual < 0.15 else called
    assert_equal_to_official(items, labels, rows)


def test_raw_form_equals_the_official_evaluation(real_data):
    source = real_data / "prmbench" / "prmtest_classified_raw_sample.jsonl"
    assembled = []
    for row in map(json.loads, source.read_text().splitlines()):
        kind = row["classification"]
        if kind == "redundency":
            original = {"idx": f"correct_{row['idx']}", "classification": "correct", "error_steps": []}
            assembled.append(original | {"steps": row["original_process"]})
        modified = {"idx": f"{kind}_{row['idx']}", "classification": kind, "error_steps": row["error_steps"]}
        assembled.append(modified | {"steps": row["modified_process"]})
    items, _ = load_items(source)
    assert [(item.id, item.category, item.steps) for item in items] == [
        (r["idx"], r["classification"], r["steps"]) for r in sorted(assembled, key=lambda r: [i.id for i in items].index(r["idx"]))
    ]
    rng = np.random.default_rng(0)
    labels = {item.id: [bool(rng.random() < (0.9 if good else 0.5)) for good in item.is_good] for item in items}
    assert_equal_to_official(items, labels, assembled)


def test_baselines_on_real_items_are_near_those_of_the_whole_benchmark(real_data):
    items, _ = load_items(real_data / "prmbench" / "prmbench_meta_30idx.jsonl")
    baselines = evaluate_prmbench(items, noisy_scores(items), config(num_random_draws=5))["baselines"]
    found = [baselines[name]["prm_score"] for name in ("all_correct", "position_oracle", "random_oracle")]
    assert found == pytest.approx([0.4572, 0.5501, 0.501], abs=0.01)
