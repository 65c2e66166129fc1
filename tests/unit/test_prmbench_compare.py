"""PRMBench's paired comparison of two PRMs: by hand, against a bootstrap of its own, and through the command."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from prmbench_eval import main

from prm.benchmarks.comparison import Evaluation
from prm.benchmarks.prmbench.compare import compare, load_evaluation
from prm.benchmarks.prmbench.evaluate import PRMBenchConfig, evaluate_prmbench
from prm.benchmarks.prmbench.items import AREAS, CORRECT, PRMBenchItem

SETTINGS = PRMBenchConfig(num_bootstrap=200, num_random_draws=1)
STEPS = ["a", "b", "c", "d"]


def make_items(sizes: dict[str, int]) -> list[PRMBenchItem]:
    draw = random.Random(0)
    good = {f"{name}_{i}": [draw.random() < 0.7 for _ in STEPS] for name, size in sizes.items() for i in range(size)}
    return [
        PRMBenchItem(name, name.rsplit("_", 1)[0], "q", STEPS, labels, labels.index(False) if False in labels else None)
        for name, labels in good.items()
    ]


def make_scores(items: list[PRMBenchItem], skill: float, seed: int) -> list[list[float]]:
    draw = random.Random(seed)
    return [[skill * good + (1 - skill) * draw.random() for good in item.is_good] for item in items]


def at(scores: list[list[float]], threshold: float = 0.5) -> Evaluation:
    return Evaluation(scores, {"fixed": threshold})


def prm_score(truth: np.ndarray, called: np.ndarray) -> float:
    right = [((called == kind) & (truth == kind)).sum() for kind in (True, False)]
    return np.mean(
        [2 * hit / ((called == kind).sum() + (truth == kind).sum()) for hit, kind in zip(right, (True, False), strict=True)]
    )


def test_a_bootstrap_of_its_own_finds_the_same():
    items = make_items({"deception": 150, "confidence": 90, CORRECT: 20})
    scores = [make_scores(items, 0.3, 1), make_scores(items, 0.2, 2)]
    found = compare(items, at(scores[0]), at(scores[1], 0.4), replace(SETTINGS, num_bootstrap=3000))["fixed"]
    assert found["num_items"] == 240
    truth = np.array([item.is_good for item in items])
    calls = [np.array(scores[0]) > 0.5, np.array(scores[1]) > 0.4]
    rng = np.random.default_rng(99)
    places = {name: np.array([i for i, item in enumerate(items) if item.category == name]) for name in ("deception", "confidence")}
    draws: dict[str, list[float]] = {"deception": [], "confidence": [], "all": []}
    for _ in range(3000):
        picks = {name: rng.choice(own, len(own)) for name, own in places.items()}
        for name, pick in (picks | {"all": np.concatenate(list(picks.values()))}).items():
            draws[name].append(np.subtract(*(prm_score(truth[pick], called[pick]) for called in calls)))
    for name, own in (places | {"all": np.concatenate(list(places.values()))}).items():
        test = found["tests"][name]
        assert test["difference"] == pytest.approx(np.subtract(*(prm_score(truth[own], called[own]) for called in calls)))
        low, high = np.quantile(draws[name], [0.025, 0.975])
        assert (test["low"], test["high"]) == pytest.approx((low, high), abs=0.006)
        p = 2 * min(np.mean(np.array(draws[name]) <= 0), np.mean(np.array(draws[name]) >= 0))
        assert test["p_value"] == pytest.approx(p, abs=0.01)
    assert set(found["tests"]) == {"all", "deception", "confidence"}, "no area is whole"


def test_areas_are_means_of_their_categories():
    items = make_items({name: 10 for names in AREAS.values() for name in names})
    scores = [make_scores(items, 0.4, 1), make_scores(items, 0.2, 2)]
    results = [evaluate_prmbench(items, given, SETTINGS)["results"]["fixed"] for given in scores]
    tests = compare(items, at(scores[0]), at(scores[1]), SETTINGS)["fixed"]["tests"]
    for area, names in AREAS.items():
        gap = np.subtract(*(result["areas"][area]["prm_score"] for result in results))
        assert tests[area]["difference"] == pytest.approx(gap)
        assert gap == pytest.approx(np.mean([tests[name]["difference"] for name in names]))
    assert tests["all"]["difference"] == pytest.approx(np.subtract(*(result["prm_score"] for result in results)))
    same = compare(items, at(scores[0]), at(scores[0]), SETTINGS)["fixed"]["tests"]
    assert all(test == {"difference": 0, "low": 0, "high": 0, "p_value": 1} for test in same.values())


def test_only_items_that_both_could_read():
    items = make_items({"deception": 12})
    scores = make_scores(items, 0.4, 1), make_scores(items, 0.2, 2)
    gaps = [[[], *scores[0][1:]], [*scores[1][:-1], []]]
    found = compare(items, at(gaps[0]), at(gaps[1]), SETTINGS)["fixed"]
    inner = compare(items[1:-1], *(at(given[1:-1]) for given in scores), SETTINGS)["fixed"]
    assert found == inner
    assert found["num_items"] == 10
    with pytest.raises(ValueError, match="no item with an error that both PRMs could read"):
        compare(items[:1], at([[]]), at(scores[0][:1]), SETTINGS)


def test_one_item_in_a_category_of_its_own_proves_nothing():
    """It is in every resample. Of the others, which are called alike, one has its errors swapped: no count of it differs."""
    items = [PRMBenchItem(f"circular_{i}", "circular", "q", STEPS, [True, True, False, False], 2) for i in range(200)]
    items.append(PRMBenchItem("deception_0", "deception", "q", STEPS, [True, True, True, False], 3))
    first = [[1.0, 1.0, 1.0, 0.0], *[[1.0, 1.0, i % 2, 0.0] for i in range(199)], [1.0, 1.0, 1.0, 0.0]]
    second = [[1.0, 1.0, 0.0, 1.0], *first[1:-1], [1.0, 1.0, 1.0, 1.0]]
    tests = compare(items, at(first), at(second), SETTINGS)["fixed"]["tests"]
    assert tests["all"]["low"] > 0
    assert (tests["all"]["p_value"], tests["deception"]["p_value"], tests["circular"]["p_value"]) == (1, None, 1)


@pytest.fixture
def folder(tmp_path):
    """Six problems in each of three categories, and their correct solutions.

    `a` has scores, `b` labels of the benchmark's toolkit, `c` differences of scores.
    """
    draw = random.Random(0)
    rows = [
        {
            "idx": f"p{i}",
            "classification": category,
            "original_question": "q",
            "modified_question": "q",
            "original_process": ["a", "b"],
            "modified_process": STEPS,
            "error_steps": [1 + i % 3],
        }
        for category in ("deception", "confidence", "redundency")
        for i in range(6)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = {f"{row['classification']}_{row['idx']}": 4 for row in rows} | {f"correct_p{i}": 2 for i in range(6)}
    scored = [{"id": name, "step_scores": [draw.random() for _ in range(size)]} for name, size in ids.items()]
    labels = [
        {"idx": name, "validity": True, "scores": {"step_level_validity_labels": [int(draw.random() < 0.7) for _ in range(size)]}}
        for name, size in ids.items()
    ]
    for name, predictions in {"a": scored, "b": labels, "c": scored}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
    evaluate(tmp_path, "b")
    evaluate(tmp_path, "c", "--rule", "difference")
    return tmp_path


def evaluate(folder, name, *options):
    places = ("--predictions", str(folder / f"{name}.jsonl"), "--output_dir", str(folder / name))
    main(["--data", str(folder / "data.jsonl"), *places, "--num_bootstrap", "50", "--num_random_draws", "1", *options])
    return json.loads((folder / name / "metrics.json").read_text())


def test_the_command_compares_scores_labels_and_differences(folder, capsys):
    others = {name: json.loads((folder / name / "metrics.json").read_text())["results"] for name in ("b", "c")}
    found = evaluate(folder, "a", "--compare", str(folder / "b"), str(folder / "c"))
    for name, rules in (("b", {"fixed": "prediction", "oracle": "prediction"}), ("c", {"fixed": "fixed", "oracle": "oracle"})):
        for rule, theirs in rules.items():
            compared = found["comparisons"][str(folder / name)][rule]
            gap = found["results"][rule]["prm_score"] - others[name][theirs]["prm_score"]
            assert (compared["rule"], compared["num_items"]) == (theirs, 18)
            assert compared["tests"]["all"]["difference"] == pytest.approx(gap)
    printed = capsys.readouterr().out
    assert "PRMScore of a minus that of other PRMs, points, paired over items" in printed
    assert f"oracle threshold, against {folder / 'b'} (prediction)" in printed
    assert f"oracle threshold, against {folder / 'c'}  " in printed
    assert "not corrected for the number of tests" in printed
    back = evaluate(folder, "b", "--compare", str(folder / "a"))["comparisons"][str(folder / "a")]["prediction"]
    assert back["rule"] == "fixed"
    forth = found["comparisons"][str(folder / "b")]["fixed"]
    assert back["tests"]["all"]["difference"] == pytest.approx(-forth["tests"]["all"]["difference"])


def test_what_cannot_be_compared(folder):
    with pytest.raises(ValueError, match="given twice, or the --output_dir itself"):
        evaluate(folder, "b", "--compare", str(folder / "b"))
    items = make_items({"deception": 2})
    with pytest.raises(ValueError, match="b: evaluates other items: 26 stand there or here only, such as 'confidence_p0'"):
        load_evaluation(folder / "b", items)
    path = folder / "b" / "items.jsonl"
    path.write_text(path.read_text().replace('"wrong_steps": [0]', '"wrong_steps": [3]', 1))
    with pytest.raises(ValueError, match="b: item 'deception_p0' has another group, text or labels there"):
        evaluate(folder, "a", "--compare", str(folder / "b"))
    path.write_text(
        path.read_text().replace('"wrong_steps": [3]', '"wrong_steps": [0]').replace('"question": "q"', '"question": "p"', 1)
    )
    with pytest.raises(ValueError, match="b: item 'deception_p0' has another group, text or labels there"):
        evaluate(folder, "a", "--compare", str(folder / "b"))
    (folder / "b" / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="did not come to its end"):
        evaluate(folder, "a", "--compare", str(folder / "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"benchmark": "ProcessBench"},
            r"is not of PRMBench, or of an older version; give the --output_dir of .*prmbench_eval\.py, or",
        ),
        ({"rule": None}, "rule is None, expected score or difference;"),
        ({"rule": ["score"]}, r"rule is \['score'\], expected score or difference;"),
        ({"results": {}}, r"results are \{\}, expected them by rule;"),
        ({"results": {"fixed": {}}}, "results.fixed.threshold is 'missing', expected a number;"),
        ({"results": {"fixed": {"threshold": None}}}, "results.fixed.threshold is None, expected a number;"),
        ({"results": {"oracle": {"threshold": True}}}, "results.oracle.threshold is True, expected a number;"),
    ],
)
def test_metrics_that_no_evaluation_writes(folder, change, message):
    path = folder / "c" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"c/metrics\.json: {message} run the evaluation again"):
        evaluate(folder, "a", "--compare", str(folder / "c"))
