"""PRMBench and ProcessBench equal the benchmarks' own code: its numbers, frozen with what it was fed in `fixtures/official`."""

import json
from collections import Counter
from pathlib import Path

import pytest

from prm.benchmarks.prmbench import evaluate as prmbench
from prm.benchmarks.prmbench import items as prmbench_files
from prm.benchmarks.processbench import evaluate as processbench
from prm.benchmarks.processbench import items as processbench_files

FIXTURES = Path(__file__).parent.parent / "fixtures" / "official"


def official(benchmark: str) -> dict:
    return json.loads((FIXTURES / benchmark / "official.json").read_text())["official"]


@pytest.mark.parametrize(("name", "left_out"), [("scores", {}), ("labels", {"repeated": 1, "other_items": 1}), ("hard", {})])
def test_prmbench(name, left_out):
    items, of_items = prmbench_files.load_items(FIXTURES / "prmbench" / "items.jsonl")
    assert of_items == {"duplicate_id": 3, "error_step_out_of_range": 3}
    assert Counter(item.category for item in items) == dict.fromkeys(prmbench_files.CATEGORIES, 6) | {"redundency": 5, "correct": 5}
    predictions, of_predictions = prmbench_files.load_predictions(FIXTURES / "prmbench" / f"{name}.jsonl", items)
    assert of_predictions == left_out
    config = prmbench.PRMBenchConfig(num_bootstrap=2, num_random_draws=1)
    result = prmbench.evaluate_prmbench(items, predictions, config)
    measured, expected = result["results"]["fixed" if name == "scores" else "prediction"], official("prmbench")[name]
    assert result["validity_rate"] == pytest.approx(expected["validity_rate"], abs=1e-9)
    assert {area: found["prm_score"] for area, found in measured["areas"].items()} == pytest.approx(expected["areas"], abs=1e-9)
    assert set(expected["groups"]) == {"all", *measured["categories"]}
    for group, numbers in expected["groups"].items():
        ours = measured if group == "all" else measured["categories"][group]
        assert {key: ours[key] for key in numbers} == pytest.approx(numbers, abs=1e-9), group


@pytest.mark.parametrize(
    ("name", "rule", "options"), [("critiques", "prediction", {}), ("scores", "fixed", {"threshold": ["fixed"]})]
)
def test_processbench(name, rule, options):
    items = processbench_files.load_items(FIXTURES / "processbench" / "items")
    predictions, _ = processbench_files.load_predictions(FIXTURES / "processbench" / f"{name}.jsonl", items)
    config = processbench.ProcessBenchConfig(num_bootstrap=2, num_random_draws=1, **options)
    measured = processbench.evaluate_processbench(items, predictions, config)["results"][rule]["subsets"]
    expected = official("processbench")[name]
    assert list(measured) == list(expected) == ["gsm8k", "math", "olympiadbench", "omnimath"]
    for subset, numbers in expected.items():
        ours = [100 * measured[subset][key] for key in ("acc_error", "acc_correct", "f1")]
        assert ours == pytest.approx([numbers[key] for key in ("acc1", "acc2", "f1")], abs=1e-9), subset
