import json

import numpy as np
import pytest

from prm.benchmarks.processbench import (
    FirstErrorItem,
    ProcessBenchConfig,
    evaluate_processbench,
    load_items,
    load_predictions,
    plot_processbench,
)
from prm.benchmarks.report import processbench_table
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
        assert "prediction" in processbench_table(result)

    def test_options_matter(self):
        assert evaluate_processbench(ITEMS, SCORES, config(fixed_threshold=0.35))["results"]["fixed"]["subsets"]["gsm8k"]["f1"] == 1
        results = [evaluate_processbench(ITEMS, SCORES, config(seed=s, num_random_draws=2)) for s in (0, 1)]
        assert results[0]["random_oracle_f1"] != results[1]["random_oracle_f1"]

    def test_random_scores_by_hand(self):
        """Two steps, error at 0 or none: a threshold that is right on both exists iff max threshold order allows it."""
        items = [FirstErrorItem("e", "s", "p", ["a"], 0), FirstErrorItem("c", "s", "p", ["a"], -1)]
        result = evaluate_processbench(items, [[0.1], [0.9]], config(threshold=["oracle"], num_random_draws=2000))
        # F1 is 1 when the wrong step scores below the right one, half of the time, else 0.
        assert result["random_oracle_f1"]["average"] == pytest.approx(0.5, abs=0.05)

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
        }
        json.dumps(result, allow_nan=False)
        assert "-" in processbench_table(result)
        for rule in ("oracle", "gsm8k"):
            with pytest.raises(ValueError, match="no threshold can be tuned on subset gsm8k"):
                evaluate_processbench(only, [[0.8, 0.3], [0.2]], config(threshold=[rule]))

    @pytest.mark.parametrize("rules", [[], ["fixed", "best"]])
    def test_unknown_rule(self, rules):
        with pytest.raises(ValueError, match=r"--threshold (best|is empty): choose from"):
            config(threshold=rules)

    def test_gsm8k_rule_needs_gsm8k(self):
        with pytest.raises(ValueError, match=r"the data holds math: add gsm8k\.json or ask for fixed and oracle only"):
            evaluate_processbench(ITEMS[2:], SCORES[2:], config())

    def test_plot(self, tmp_path):
        paths = plot_processbench(ITEMS, SCORES, evaluate_processbench(ITEMS, SCORES, config()), tmp_path / "f1")
        assert paths[0].read_bytes().startswith(b"\x89PNG")
        assert "gsm8k threshold" in paths[1].read_text()


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

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"id": "g0", "problem": "p", "steps": ["a"]}, r"x\.jsonl:1: no 'label'"),
            (item_row(steps=[]), r"x\.jsonl:1: item 'g0' has steps \[\]"),
            (item_row(steps="ab"), "has steps 'ab'"),
            (item_row(label=2), "has label 2, but 2 steps"),
            (item_row(label=None), "has label None"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path, row, message):
        with pytest.raises(ValueError, match=message):
            load_items(write(tmp_path / "x.jsonl", [row]))

    def test_duplicates_and_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="id 'g0' stands 2 times"):
            load_items(write(tmp_path / "x.jsonl", [item_row(), item_row()]))
        (tmp_path / "empty.jsonl").write_text("")
        with pytest.raises(ValueError, match="no items"):
            load_items(tmp_path / "empty.jsonl")
        (tmp_path / "folder").mkdir()
        with pytest.raises(FileNotFoundError, match=r"holds no \.json"):
            load_items(tmp_path / "folder")
        with pytest.raises(FileNotFoundError, match="no such file"):
            load_items(tmp_path / "missing")


class TestPredictions:
    def test_read_in_the_order_of_the_items(self, tmp_path):
        rows = [{"id": i.id, "step_scores": s} for i, s in zip(ITEMS, SCORES, strict=True)]
        assert load_predictions(write(tmp_path / "x.jsonl", [*rows[::-1], {"id": "other", "step_scores": [1]}]), ITEMS) == SCORES

    def test_step_scores_of_score_py_and_indices(self, tmp_path):
        scores = [{"question_id": i.id, "sample_index": 0, "step_scores": s} for i, s in zip(ITEMS, SCORES, strict=True)]
        assert load_predictions(write(tmp_path / "x.jsonl", scores), ITEMS) == SCORES
        indices = [{"id": i.id, "prediction": p} for i, p in zip(ITEMS, [1, None, -1, 0], strict=True)]
        (tmp_path / "folder").mkdir()
        write(tmp_path / "folder" / "gsm8k.jsonl", indices[:2])
        write(tmp_path / "folder" / "math.jsonl", indices[2:])
        assert load_predictions(tmp_path / "folder", ITEMS) == [1, UNPARSABLE, -1, 0]

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{"id": "g0", "step_scores": [0.5]}], r"x\.jsonl:1: item 'g0' has 2 steps, but step_scores \[0\.5\]"),
            ([{"id": "g0", "step_scores": [0.5, None]}], r"x\.jsonl:1: step_scores of item 'g0' must be finite"),
            ([{"id": "g0", "step_scores": [0.5, 1]}] * 2, r"x\.jsonl:2: a second prediction for item 'g0'"),
            ([{"id": "g0", "step_scores": [0.5, 1]}], "3 of 4 items have no prediction, such as 'g1'"),
            ([{"id": "g0"}], "neither step_scores nor prediction"),
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


def test_real_items_under_an_oracle_and_under_noise(real_data):
    items = load_items(real_data / "processbench")
    assert len(items) == 200
    perfect = [[0.0 if index == item.label else 1.0 for index in range(len(item.steps))] for item in items]
    result = evaluate_processbench(items, perfect, config())
    assert [rule["average"]["f1"] for rule in result["results"].values()] == [1, 1, 1]
    assert list(result["step_auc"]["subsets"]) == ["gsm8k", "math", "olympiadbench", "omnimath"]
    assert 0.1 < result["random_oracle_f1"]["average"] < 0.3
    rng = np.random.default_rng(0)
    noise = [rng.random(len(item.steps)).tolist() for item in items]
    assert evaluate_processbench(items, noise, config())["results"]["oracle"]["average"]["f1"] < 0.35
