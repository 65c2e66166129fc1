"""prmbench_eval.py end to end: raw and assembled items, a checkpoint that cannot read all of them, given labels, mistakes."""

import json

import prmbench_eval
import pytest

from prm.benchmarks.results import read_items, read_tables
from prm.files import write_jsonl
from prm.scoring import Scorer

FILES = {"metrics.json", "tables.json", "items.jsonl", "manifest.json"}


@pytest.fixture(scope="module")
def checkpoint(make_prm):
    return make_prm(max_length=300)


def row(idx, steps, error_steps, classification="circular"):
    question = {"original_question": "1?", "modified_question": "2?"}
    processes = {"original_process": ["1. a", "2. b"], "modified_process": steps, "error_steps": error_steps}
    return {"idx": idx, "classification": classification, **question, **processes}


@pytest.fixture
def data(tmp_path):
    rows = [
        row("p0", ["1. a", " ", "2. c"], [2]),
        row("p1", ["", "b"], [1], "redundency"),
        row("p2", ["long " * 400, "b"], [2]),
    ]
    write_jsonl(tmp_path / "raw.jsonl", rows)
    return tmp_path / "raw.jsonl"


def run(tmp_path, *flags):
    out = tmp_path / "out"
    prmbench_eval.main([*map(str, flags), "--num_bootstrap", "50", "--num_random_draws", "2", "--output_dir", str(out)])
    return json.loads((out / "metrics.json").read_text())


def test_checkpoint_reads_what_it_can_and_says_so(tmp_path, data, checkpoint, capsys, monkeypatch):
    result = run(tmp_path, "--data", data, "--model", checkpoint)
    assert (result["num_items"], result["num_unscored"], result["validity_rate"]) == (3, 1, 2 / 3)
    assert result["prm"] == "asym"
    assert read_tables(tmp_path / "out")[0].title == "PRMBench, asym: PRMScore (%) on 3 items with 5 steps"
    scores = {r["id"]: r["step_scores"] for r in map(json.loads, (tmp_path / "out" / "predictions.jsonl").open())}
    assert list(scores) == ["circular_p0", "redundency_p1", "correct_p1", "circular_p2"]
    assert scores["circular_p2"] is None
    assert scores["circular_p0"][1] == scores["circular_p0"][0] != scores["circular_p0"][2], "a blank step has its neighbor's score"
    assert scores["redundency_p1"][0] == scores["redundency_p1"][1]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"] == {"num_items": 4, "too_long": 1}
    assert "The model could not read 1 items: left out" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES | {
        "scores",
        "predictions.jsonl",
        "prm_score.png",
        "prm_score.svg",
    }
    assert [item.predicted is None for item in read_items(tmp_path / "out")] == [False, False, False, True]
    again = run(tmp_path, "--data", data, "--predictions", tmp_path / "out" / "predictions.jsonl")
    assert again == result | {"prm": "predictions", "left_out": {}}
    with pytest.raises(ValueError, match=r"is of a run with responses .* name another --output_dir"):
        run(tmp_path, "--data", data, "--model", checkpoint, "--strip_numbering", "False")
    (tmp_path / "numbered").mkdir()
    assert run(tmp_path / "numbered", "--data", data, "--model", checkpoint, "--strip_numbering", "False")["step_auc"] is not None
    kept = {r["id"]: r["step_scores"] for r in map(json.loads, (tmp_path / "numbered" / "out" / "predictions.jsonl").open())}
    assert kept["circular_p0"] != scores["circular_p0"]
    with pytest.raises(ValueError, match="--strip_numbering False says what --model reads, but --predictions is given"):
        run(tmp_path, "--predictions", tmp_path / "out" / "predictions.jsonl", "--strip_numbering", "False")
    monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert run(tmp_path, "--data", data, "--model", checkpoint) == result
    assert run(tmp_path, "--data", data, "--model", checkpoint, "--rule", "difference")["left_out"] == {"too_long": 1}


def test_a_smoke_run_is_no_result(tmp_path, data):
    write_jsonl(tmp_path / "p.jsonl", [{"id": f"circular_p{i}", "step_scores": [0.5] * (3 - i // 2)} for i in (0, 2)])
    result = run(tmp_path, "--data", data, "--predictions", tmp_path / "p.jsonl", "--limit", 1)
    assert (result["limit"], result["num_items"], result["left_out"]) == (1, 1, {"other_items": 1})
    assert read_tables(tmp_path / "out")[0].note.startswith("--limit 1: of the first 1 items only, a smoke run")


def test_labels_of_the_toolkit_have_no_curve(tmp_path, data):
    ids = {"circular_p0": 3, "redundency_p1": 2, "correct_p1": 2, "circular_p2": 2}
    rows = [{"idx": name, "scores": {"step_level_validity_labels": [True] * number}} for name, number in ids.items()]
    write_jsonl(tmp_path / "p.jsonl", [*rows, rows[0]])
    result = run(tmp_path, "--data", data, "--predictions", tmp_path / "p.jsonl")
    assert result["left_out"] == {"repeated": 1}
    assert result["results"]["prediction"]["prm_score"] == result["baselines"]["all_correct"]["prm_score"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    assert "1 second predictions of an item were left out" in read_tables(tmp_path / "out")[0].note


def test_real_samples(tmp_path, real_data, capsys):
    source = real_data / "prmbench" / "prmbench_meta_30idx.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    write_jsonl(
        tmp_path / "p.jsonl", [{"id": r["idx"], "step_scores": [1 / (i + 1) for i in range(len(r["steps"]))]} for r in rows]
    )
    result = run(tmp_path, "--data", source, "--predictions", tmp_path / "p.jsonl", "--fixed_threshold", "0.05")
    assert (result["num_items"], result["num_correct_items"], result["left_out"]) == (246, 30, {"error_step_out_of_range": 9})
    assert "9 error steps name no step of their solution" in capsys.readouterr().out
    assert result["results"]["fixed"]["threshold"] == 0.05
    assert result["results"]["oracle"]["prm_score"] > result["results"]["fixed"]["prm_score"]


def test_missing_inputs_are_refused_and_nothing_is_written(tmp_path, data):
    with pytest.raises(ValueError, match="give either --model MODEL or --predictions"):
        run(tmp_path, "--data", data)
    write_jsonl(tmp_path / "p.jsonl", [{"id": "circular_p0", "step_scores": [1, 1, 1]}])
    with pytest.raises(ValueError, match="3 of 4 items have no prediction"):
        run(tmp_path, "--data", data, "--predictions", tmp_path / "p.jsonl")
    with pytest.raises(FileNotFoundError):
        run(tmp_path, "--data", tmp_path / "nothing.jsonl", "--predictions", tmp_path / "p.jsonl")
    assert not (tmp_path / "out").exists()
