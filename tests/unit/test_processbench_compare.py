"""ProcessBench's paired comparison of two PRMs: by hand, against a bootstrap of its own, and through the command."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from processbench_eval import main

from prm.benchmarks.comparison import Evaluation
from prm.benchmarks.processbench.compare import compare, load_evaluation, thresholds_of
from prm.benchmarks.processbench.evaluate import ProcessBenchConfig, evaluate_processbench
from prm.benchmarks.processbench.items import FirstErrorItem
from prm.benchmarks.processbench.report import processbench_tables
from prm.metrics import UNPARSABLE

STEPS = ["a", "b", "c"]


def make_items(sizes: dict[str, int]) -> list[FirstErrorItem]:
    draw = random.Random(0)
    return [FirstErrorItem(f"{s}-{i}", s, "p", STEPS, draw.choice([-1, -1, 0, 1, 2])) for s, n in sizes.items() for i in range(n)]


def make_predictions(items: list[FirstErrorItem], skill: float, seed: int) -> list[int]:
    """The truth with probability `skill`, otherwise anything."""
    draw = random.Random(seed)
    return [item.label if draw.random() < skill else draw.choice([-1, 0, 1, 2, UNPARSABLE]) for item in items]


def given(predictions: list[int]) -> Evaluation:
    return Evaluation(list(predictions), {"prediction": {}})


def f1(hits: list[bool], labels: list[int]) -> float:
    accuracies = [
        np.mean([hit for hit, label in zip(hits, labels, strict=True) if (label == -1) is good]) for good in (False, True)
    ]
    return 2 * accuracies[0] * accuracies[1] / sum(accuracies)


def test_a_bootstrap_of_its_own_finds_the_same():
    items = make_items({"gsm8k": 120, "math": 200})
    first, second = make_predictions(items, 0.6, 1), make_predictions(items, 0.45, 2)
    found = compare(items, given(first), given(second), ProcessBenchConfig(num_bootstrap=4000))["prediction"]
    rng, draws, gaps = np.random.default_rng(99), [], {}
    for name in ("gsm8k", "math"):
        places = [i for i, item in enumerate(items) if item.subset == name]
        labels = [items[i].label for i in places]
        hits = [[said[i] == items[i].label for i in places] for said in (first, second)]
        gaps[name] = f1(hits[0], labels) - f1(hits[1], labels)
        kinds = [[k for k, label in enumerate(labels) if (label == -1) is good] for good in (False, True)]
        picks = [np.concatenate([rng.choice(kind, len(kind)) for kind in kinds]) for _ in range(4000)]
        sides = [[f1([h[k] for k in pick], [labels[k] for k in pick]) for pick in picks] for h in hits]
        draws.append(np.subtract(*sides))
    mean = np.mean(draws, axis=0)
    low, high = np.quantile(mean, [0.025, 0.975])
    assert {name: found["subsets"][name]["difference"] for name in gaps} == pytest.approx(gaps)
    assert found["average"]["difference"] == pytest.approx(np.mean(list(gaps.values())))
    assert (found["average"]["low"], found["average"]["high"]) == pytest.approx((low, high), abs=0.01)
    assert found["average"]["p_value"] == pytest.approx(2 * min((mean <= 0).mean(), (mean >= 0).mean()), abs=0.01)


def test_the_same_predictions_differ_in_nothing():
    items = make_items({"gsm8k": 40, "math": 30})
    said = make_predictions(items, 0.5, 1)
    found = compare(items, given(said), given(said), ProcessBenchConfig(num_bootstrap=200))["prediction"]
    for column in (*found["subsets"].values(), found["average"]):
        assert column == {"difference": 0, "low": 0, "high": 0, "p_value": 1}


def test_what_both_get_wrong_adds_no_spread():
    """Two PRMs that disagree on two items of 200 differ far more surely than their own intervals say; swapped, the sign changes."""
    items = make_items({"gsm8k": 200})
    first = make_predictions(items, 0.5, 1)
    second = list(first)
    for place in [i for i, item in enumerate(items) if first[i] == item.label][:2]:
        second[place] = UNPARSABLE
    settings = ProcessBenchConfig(num_bootstrap=1000)
    there, back = (
        compare(items, given(a), given(b), settings)["prediction"]["average"] for a, b in ((first, second), (second, first))
    )
    own = evaluate_processbench(items, first, settings)["results"]["prediction"]["average"]
    assert 0 == there["low"] < there["difference"] < there["high"] < (own["high"] - own["low"]) / 4
    assert there["difference"] == -back["difference"]
    assert there["p_value"] == back["p_value"] == 0.5


@pytest.mark.parametrize(("num_apart", "p_value"), [(0, 1), (1, 1), (2, 0.5), (5, 0.0625)])
def test_a_few_items_that_stand_in_every_resample_prove_little(num_apart, p_value):
    """Five items with an error, of which `first` finds some and `second` none: resampled apart, they are in every resample."""
    items = [
        FirstErrorItem(f"{label} {i}", "gsm8k", "p", STEPS, label)
        for label, n in ((0, num_apart or 1), (-1, 200))
        for i in range(n)
    ]
    first = [item.label for item in items]
    second = [UNPARSABLE] * num_apart + first[num_apart:]
    found = compare(items, given(first), given(second), ProcessBenchConfig())["prediction"]
    assert found["average"]["p_value"] == found["subsets"]["gsm8k"]["p_value"] == p_value


def test_each_rule_meets_its_own_and_predictions_the_first():
    items = make_items({"gsm8k": 30, "math": 30})
    draw = random.Random(3)
    scores = [[draw.random() for _ in STEPS] for _ in items]
    settings = ProcessBenchConfig(num_bootstrap=50)
    scored = evaluate_processbench(items, scores, settings)
    own = Evaluation(scores, thresholds_of(scored))
    assert list(own.thresholds) == ["fixed", "gsm8k", "oracle"]
    assert own.thresholds["fixed"] == {"gsm8k": 0.5, "math": 0.5}
    said = given(make_predictions(items, 0.5, 1))
    critic = evaluate_processbench(items, said.predictions, settings)["results"]["prediction"]["average"]["f1"]
    for rule, found in compare(items, own, said, settings).items():
        assert found["rule"] == "prediction"
        assert found["average"]["difference"] == pytest.approx(scored["results"][rule]["average"]["f1"] - critic)
    back = compare(items, said, own, settings)["prediction"]
    assert back["rule"] == "fixed"
    assert back["average"]["difference"] == pytest.approx(critic - scored["results"]["fixed"]["average"]["f1"])
    result = scored | {"comparisons": {"critic": compare(items, own, said, settings), "self": compare(items, own, own, settings)}}
    table = processbench_tables(result)[1]
    assert [row[0] for row in table.rows[1:3]] == ["fixed threshold, against critic (prediction)", "fixed threshold, against self"]
    assert table.rows[2][1:] == ["+0.0", "+0.0", "+0.0", "[+0.0, +0.0]", "1.0000"]
    assert len(table.rows) == 1 + 2 * 3
    assert "not corrected" in table.note
    assert table.title.startswith("F1 of the PRM minus that of other PRMs")


def test_a_subset_of_one_kind_has_no_difference():
    items = [FirstErrorItem("a", "gsm8k", "p", STEPS, 0), FirstErrorItem("b", "gsm8k", "p", STEPS, 1)]
    result = evaluate_processbench(items, [0, 0], ProcessBenchConfig(num_bootstrap=10))
    found = compare(items, given([0, 0]), given([0, 1]), ProcessBenchConfig(num_bootstrap=10))
    assert found["prediction"]["average"] == {"difference": None, "low": None, "high": None, "p_value": None}
    table = processbench_tables(result | {"comparisons": {"x": found}})[1]
    assert table.rows[1] == ["prediction, against x", "-", "-", "-", "-"]


@pytest.fixture
def folder(tmp_path):
    """A benchmark of one subset and two evaluations, `a` of scores and `b` of predictions."""
    items = make_items({"gsm8k": 12})
    rows = [{"id": i.id, "problem": i.problem, "steps": i.steps, "label": i.label, "final_answer_correct": True} for i in items]
    (tmp_path / "gsm8k.json").write_text(json.dumps(rows))
    draw = random.Random(0)
    said = {
        "a": [{"id": i.id, "step_scores": [draw.random() for _ in STEPS] if i.id != "gsm8k-0" else None} for i in items],
        "b": [{"id": i.id, "prediction": i.label if i.id != "gsm8k-1" else None} for i in items],
    }
    for name, predictions in said.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
        evaluate(tmp_path, name)
    return tmp_path


def evaluate(folder, name, *options):
    places = ("--predictions", str(folder / f"{name}.jsonl"), "--output_dir", str(folder / name))
    main(["--data", str(folder / "gsm8k.json"), *places, "--num_bootstrap", "50", "--num_random_draws", "1", *options])
    return json.loads((folder / name / "metrics.json").read_text())


def test_the_command_compares_with_folders(folder, capsys):
    before = {name: evaluate(folder, name)["results"] for name in ("a", "b")}
    assert evaluate(folder, "a")["comparisons"] == {}
    found = evaluate(folder, "a", "--compare", str(folder / "b"))
    ours = {rule: result["average"]["f1"] for rule, result in before["a"].items()}
    (comparison,) = found["comparisons"].values()
    for rule, value in ours.items():
        expected = value - before["b"]["prediction"]["average"]["f1"]
        assert comparison[rule]["average"]["difference"] == pytest.approx(expected)
    assert f"oracle threshold (tuned on each subset), against {folder / 'b'} (prediction)" in capsys.readouterr().out
    back = evaluate(folder, "b", "--compare", str(folder / "a"))["comparisons"][str(folder / "a")]["prediction"]
    assert back["average"]["difference"] == pytest.approx(-comparison["fixed"]["average"]["difference"])
    inputs = json.loads((folder / "b" / "manifest.json").read_text())["inputs"]
    assert {str(folder / "a" / "metrics.json"), str(folder / "a" / "items.jsonl")} <= inputs.keys()


def test_what_cannot_be_compared(folder):
    with pytest.raises(ValueError, match="given twice, or the --output_dir itself"):
        evaluate(folder, "a", "--compare", str(folder / "a"))
    with pytest.raises(ValueError, match="given twice, or the --output_dir itself"):
        evaluate(folder, "a", "--compare", str(folder / "b"), str(folder / "b"))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        evaluate(folder, "a", "--compare", str(folder / "nowhere"))
    items = make_items({"gsm8k": 12})
    with pytest.raises(ValueError, match="b: evaluates other items: 1 stand there or here only, such as 'gsm8k-11'"):
        load_evaluation(folder / "b", items[:11])
    relabelled = [FirstErrorItem("gsm8k-0", "gsm8k", "p", STEPS, (items[0].label + 2) % 4 - 1), *items[1:]]
    with pytest.raises(ValueError, match="b: item 'gsm8k-0' has another group, text or labels there"):
        load_evaluation(folder / "b", relabelled)
    for limited, whole in ((["--limit", "11"], []), ([], ["--limit", "11"])):
        evaluate(folder, "b", *whole)
        with pytest.raises(ValueError, match=r"b: evaluates other items: 1 stand .* on the same --data and with the same --limit"):
            evaluate(folder, "a", "--compare", str(folder / "b"), *limited)
    evaluate(folder, "b")
    other_problem = [replace(items[0], problem="another"), *items[1:]]
    with pytest.raises(ValueError, match="b: item 'gsm8k-0' has another group, text or labels there"):
        load_evaluation(folder / "b", other_problem)
    metrics = folder / "b" / "metrics.json"
    metrics.write_text(json.dumps({"results": {"fixed": {}}, "baselines": {}}))
    with pytest.raises(
        ValueError,
        match=r"metrics\.json: is not of ProcessBench, or of an older version; give the --output_dir of scripts/processbench_eval",
    ):
        load_evaluation(folder / "b", items)
    metrics.write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json: not valid JSON.*run the evaluation again"):
        load_evaluation(folder / "b", items)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (None, "results are None, expected them by rule"),
        ([], r"results are \[\], expected them by rule"),
        ({}, r"results are \{\}, expected them by rule"),
        ({"prediction": {}, "fixed": {}}, r"results are \{'prediction'.*, expected them by rule"),
        ({"fixed": None}, "results.fixed.subsets.gsm8k.threshold is 'missing', expected a number"),
        ({"fixed": {"subsets": []}}, "results.fixed.subsets.gsm8k.threshold is 'missing', expected a number"),
        (
            {"fixed": {"subsets": {"math": {"threshold": 1}}}},
            "results.fixed.subsets.gsm8k.threshold is 'missing', expected a number",
        ),
        (
            {"fixed": {"subsets": {"gsm8k": {"threshold": "0.5"}}}},
            r"results.fixed.subsets.gsm8k.threshold is '0\.5', expected a number",
        ),
        (
            {"fixed": {"subsets": {"gsm8k": {"threshold": None}}}},
            "results.fixed.subsets.gsm8k.threshold is None, expected a number",
        ),
    ],
)
def test_metrics_that_no_evaluation_writes(folder, results, message):
    path = folder / "a" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"results": results}))
    with pytest.raises(ValueError, match=rf"a/metrics\.json: {message}; run the evaluation again"):
        load_evaluation(folder / "a", make_items({"gsm8k": 12}))


def test_a_subset_that_the_other_could_not_read_has_no_threshold(folder):
    path = folder / "a" / "metrics.json"
    result = json.loads(path.read_text())
    result["results"]["oracle"]["subsets"]["gsm8k"]["threshold"] = None
    path.write_text(json.dumps(result))
    assert np.isnan(load_evaluation(folder / "a", make_items({"gsm8k": 12})).thresholds["oracle"]["gsm8k"])


def test_items_that_no_evaluation_writes(folder):
    items, path = make_items({"gsm8k": 12}), folder / "a" / "items.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for changed, message in (
        ([*rows, rows[3]], "item 'gsm8k-3' stands there twice"),
        ([rows[0], rows[1] | {"step_scores": [0.5]}, *rows[2:]], "item 'gsm8k-1' has 3 steps, but 1 step_scores"),
    ):
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
        with pytest.raises(ValueError, match=rf"a/items\.jsonl: {message}; run the evaluation again"):
            load_evaluation(folder / "a", items)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a/items\.jsonl: no such file; run the evaluation again"):
        load_evaluation(folder / "a", items)


def test_the_other_evaluation_is_checked_before_a_model_scores(folder, monkeypatch):
    monkeypatch.setattr("processbench_eval.score_items", lambda *_: pytest.fail("the model scores"))
    (folder / "a" / "metrics.json").write_text("{}")
    options = ["--model", str(folder), "--output_dir", str(folder / "c"), "--compare", str(folder / "a")]
    with pytest.raises(ValueError, match=r"a/metrics\.json: is not of ProcessBench"):
        main(["--data", str(folder / "gsm8k.json"), *options])
