"""lint_dataset.py on public data, counted again from the source's own labels, and on what build_dataset.py writes."""

import json

import build_dataset
import lint_dataset
import pytest
from test_build_dataset import graded_rollouts

from prm.files import read_rows, write_jsonl


def checks_of(tmp_path, *flags: str, status: int) -> dict[str, dict]:
    assert lint_dataset.main(["--output_dir", str(tmp_path / "lint"), *flags]) == status
    return json.loads((tmp_path / "lint" / "metrics.json").read_text())["checks"]


@pytest.mark.parametrize("subset", ["gsm8k", "math", "olympiadbench", "omnimath"])
def test_false_positives_of_processbench(real_data, tmp_path, subset):
    """Right answers with a wrong step, and wrong answers without one, counted from the source's own keys."""
    file = real_data / "processbench" / f"{subset}.json"
    items = [row for row, _ in read_rows(file)]
    right = [item for item in items if item["final_answer_correct"]]
    checks = checks_of(tmp_path, "--input", str(file), status=0)
    assert checks["right_with_bad_step"]["count"] == sum(item["label"] >= 0 for item in right)
    assert checks["right_with_bad_step"]["population"] == len(right)
    assert checks["wrong_without_bad_step"]["count"] == sum(item["label"] < 0 for item in items if item not in right)


@pytest.mark.parametrize("file", ["prm800k/phase1_train_120records.jsonl", "math_shepherd/samples.jsonl"])
def test_imported_labels_pass(real_data, tmp_path, tiny_backbone, file):
    flags = ["--input", str(real_data / file), "--tokenizer", str(tiny_backbone), "--max_length", "4096"]
    checks = checks_of(tmp_path, *flags, status=0)
    assert checks["not_encodable"] | {"count": 0} == checks["not_encodable"]
    assert checks["too_long"]["population"] == checks["label_count"]["population"] > 0


def test_contaminated_benchmark_is_found(real_data, tmp_path):
    flags = ["--input", str(real_data / "prmbench" / "prmbench_meta_30idx.jsonl")]
    checks = checks_of(tmp_path, *flags, "--decontaminate", str(real_data / "math500.jsonl"), status=1)
    assert [checks["contamination"][name] for name in ("count", "population")] == [94, 276]


def test_a_built_dataset_passes(tmp_path, tiny_backbone):
    write_jsonl(tmp_path / "graded.jsonl", graded_rollouts(320))
    write_jsonl(tmp_path / "evaluation.jsonl", [{"problem": "Another question?"}])
    decontaminate = ["--decontaminate", str(tmp_path / "evaluation.jsonl")]
    flags = ["--rollouts", str(tmp_path / "graded.jsonl"), "--output", str(tmp_path / "dataset"), "--validation_fraction", "0.2"]
    build_dataset.main([*flags, *decontaminate])
    checks = checks_of(tmp_path, "--input", str(tmp_path / "dataset"), *decontaminate, "--tokenizer", str(tiny_backbone), status=0)
    assert {name for name, check in checks.items() if check["population"] == 320} >= {"empty_step", "split_leak", "contamination"}
