"""calibration_report.py end to end: a checkpoint on labelled responses, real candidate pools, ProcessBench, mistakes."""

import json

import calibration_report
import pytest

from prm.benchmarks.results import read_items, read_tables
from prm.files import write_jsonl
from prm.records import Response, StepScores
from prm.scoring import Scorer

FAST = ["--num_bootstrap", "100"]


@pytest.fixture(scope="module")
def checkpoint(make_prm):
    return make_prm(max_length=200)


def responses():
    return [
        Response(f"q{q}", i, f"{q} + {i}?", [f"Take {q}. Add {i}.", f"So {q + i}."], i > 0, [1, 1 if i else -1])
        for q in range(3)
        for i in range(3)
    ]


def run(tmp_path, *flags):
    calibration_report.main([*map(str, flags), *FAST, "--output_dir", str(tmp_path / "out")])
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_checkpoint_on_labelled_responses(tmp_path, checkpoint, tiny_backbone, capsys, monkeypatch):
    long = Response("q0", 3, "long?", ["x " * 150], True, [1])
    write_jsonl(tmp_path / "labelled.jsonl", [*responses(), long])
    flags = ["--responses", tmp_path / "labelled.jsonl", "--aggregation", "min"]
    result = run(tmp_path, *flags, "--model", checkpoint, "--tokenizer", tiny_backbone)
    found = result["prms"]["asym"]
    assert (found["num_responses"], found["num_unscored"], found["steps"]["num_items"]) == (9, 1, 18)
    assert result["length_unit"] == "tokens"
    perturbed = result["perturbations"]
    assert (perturbed["num_responses"], perturbed["num_left_out"]) == (9, 1)
    steps = {name: found["steps_after"] for name, found in perturbed["perturbations"].items()}
    assert steps == {"merge": 1, "split": 3, "filler": 3}
    assert perturbed["perturbations"]["merge"]["responses"]["min"]["change"]["value"] != 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    figures = {f"{name}.{suffix}" for name in ("reliability", "bias", "perturbations") for suffix in ("png", "svg")}
    files = {"metrics.json", "tables.json", "items.jsonl", "calibration.json", "scores.jsonl", "manifest.json"}
    assert names == figures | files | {"scores", "perturbed-2000-0"}
    assert {path.name for path in (tmp_path / "out" / "perturbed-2000-0").iterdir()} == {"merge", "split", "filler"}
    text = capsys.readouterr().out
    for table in read_tables(tmp_path / "out"):
        assert table.title in text
    assert len(list(read_items(tmp_path / "out"))) == 9
    fitted = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert fitted["fitted_on"] == "steps"

    monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert run(tmp_path, *flags, "--model", checkpoint, "--tokenizer", tiny_backbone) == result
    other = run(tmp_path, *flags[:2], "--model", checkpoint, "--num_calibration_bins", 5)
    assert list(other["prms"]["asym"]["responses"]) == ["min", "mean", "last"]
    assert (
        other["perturbations"]["perturbations"]["split"]["responses"]["min"]
        == perturbed["perturbations"]["split"]["responses"]["min"]
    )
    again = run(tmp_path, *flags, "--scores", f"asym={tmp_path / 'out' / 'scores.jsonl'}")
    assert again["perturbations"] is None
    assert again["prms"]["asym"]["steps"] == found["steps"]
    assert again["length_unit"] == "characters"
    without = run(tmp_path, *flags, "--model", checkpoint, "--num_perturbed", 0)
    assert without["perturbations"] is None
    left = {path.name for path in (tmp_path / "out").glob("*.*g")}
    assert left == {name for name in figures if not name.startswith("perturbations")}, "a figure of the run before"


def test_candidate_pool_brings_its_own_texts(tmp_path, real_data):
    pool = real_data / "bon" / "bon16_math500_50.jsonl"
    result = run(tmp_path, "--scores", pool, "--aggregation", "min", "mean")
    found = result["prms"]["qwen_prm"]["responses"]["min"]
    assert (found["num_items"], found["share_positive"]) == (800, 0.78125)
    # Counted pair by pair, and averaged, in the file itself.
    assert found["auc"] == pytest.approx(0.9364434285714286)
    assert found["before"]["brier"] == pytest.approx(0.08513032089442732)
    assert result["prms"]["qwen_prm"]["steps"] is None
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["fitted_on"] == "responses, min"


def test_processbench_with_predictions(tmp_path, real_data):
    data = real_data / "processbench" / "gsm8k.json"
    rows = json.loads(data.read_text())
    write_jsonl(tmp_path / "p.jsonl", [{"id": row["id"], "step_scores": [0.9 for _ in row["steps"]]} for row in rows])
    result = run(tmp_path, "--responses", data, "--scores", tmp_path / "p.jsonl", "--aggregation", "min")
    steps = result["prms"]["p"]["steps"]
    num_good = sum(row["label"] if row["label"] >= 0 else len(row["steps"]) for row in rows)
    assert steps["num_items"] == sum(len(row["steps"]) for row in rows)
    assert steps["share_positive"] == pytest.approx(num_good / steps["num_items"])
    assert steps["before"]["ece"] == pytest.approx(abs(0.9 - num_good / steps["num_items"]))


def test_options_that_contradict_are_refused(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", responses())
    for flags in ([], ["--model", "m"], ["--model", "m", "--scores", "s", "--responses", "r"]):
        with pytest.raises(ValueError, match="give either --scores FILE"):
            run(tmp_path, *flags)
    with pytest.raises(ValueError, match="--dtype says how --model is loaded, but --scores is given"):
        run(tmp_path, "--scores", "s", "--dtype", "float32")
    with pytest.raises(ValueError, match="--perturbations shuffle: choose from"):
        run(tmp_path, "--scores", "s", "--perturbations", "shuffle")
    with pytest.raises(ValueError, match="--num_perturbed -1: give 0"):
        run(tmp_path, "--scores", "s", "--num_perturbed", -1)
    for option in (["--num_perturbed", 5], ["--perturbations", "merge"]):
        with pytest.raises(ValueError, match="say what --model scores anew, but --scores is given"):
            run(tmp_path, "--scores", "s", *option)
    with pytest.raises(ValueError, match="--prm chooses among the PRMs of candidate pools, but --model scores"):
        run(tmp_path, "--model", "m", "--responses", "r", "--prm", "x")
    write_jsonl(tmp_path / "other.jsonl", [Response("q0", 0, "another?", ["a", "b"], True)])
    write_jsonl(tmp_path / "s.jsonl", [StepScores("q0", 0, [0.1, 0.2])])
    with pytest.raises(ValueError, match=r"--scores .*s\.jsonl: holds no texts; give --responses, the file that was scored"):
        run(tmp_path, "--scores", tmp_path / "s.jsonl")
    with pytest.raises(ValueError, match=r"other\.jsonl: response \('q0', 0\) is another one than in the files before it"):
        run(tmp_path, "--scores", tmp_path / "s.jsonl", "--responses", tmp_path / "r.jsonl", tmp_path / "other.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"empty\.jsonl: no responses in it; leave it out"):
        run(tmp_path, "--scores", tmp_path / "s.jsonl", "--responses", tmp_path / "r.jsonl", tmp_path / "empty.jsonl")
    with pytest.raises(ValueError, match="the names x/y, x-y make one file of two"):
        run(tmp_path, "--scores", *(f"{n}={tmp_path / 's.jsonl'}" for n in ("x/y", "x-y")), "--responses", tmp_path / "r.jsonl")
    write_jsonl(tmp_path / "s.jsonl", [StepScores("q0", 0, [0.1, 0.2, 0.3])])
    with pytest.raises(ValueError, match=r"s: response \('q0', 0\) has 3 step scores but 2 steps"):
        run(tmp_path, "--scores", tmp_path / "s.jsonl", "--responses", tmp_path / "r.jsonl")
    write_jsonl(tmp_path / "s.jsonl", [StepScores("q9", 0, [0.1, 0.2])])
    with pytest.raises(ValueError, match="1 scored responses are not among --responses"):
        run(tmp_path, "--scores", tmp_path / "s.jsonl", "--responses", tmp_path / "r.jsonl")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_nowhere_is_named_before_the_model_scores(tmp_path, checkpoint, monkeypatch):
    write_jsonl(tmp_path / "labelled.jsonl", responses())
    monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(FileNotFoundError, match="nope: no such checkpoint folder, and no model of the hub"):
        run(tmp_path, "--responses", tmp_path / "labelled.jsonl", "--model", checkpoint, "--tokenizer", "nope")
