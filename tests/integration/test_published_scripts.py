"""Published PRMs through the scripts: a name or folder behind --model, and nothing else to say."""

import json
import logging
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from tiny_published import linear_head, llama_tokenizer, qwen_tokenizer, random_lm, write, write_pure

from prm.records import Response
from prm.scoring import Scorer

STEPS = ["3 + 4 = 7.", "The answer is \\boxed{7}."]


@pytest.fixture(autouse=True)
def keep_pytest_s_log_handler(monkeypatch):
    for script in ("score", "processbench_eval", "prmbench_eval", "calibration_report"):
        __import__(script)
        monkeypatch.setattr(f"{script}.setup_logging", lambda: None)


@pytest.fixture
def responses(write_rows):
    rows = [{"question_id": "q", "sample_index": i, "question": "What is 3 + 4?", "steps": STEPS[: i + 1]} for i in range(2)]
    return write_rows(*rows, name="responses.jsonl")


def run_score(*flags):
    from score import main

    main([str(flag) for flag in flags])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def llama(folder):
    tokenizer = llama_tokenizer()
    return write(folder, random_lm("llama", tokenizer), tokenizer, "LlamaForCausalLM")


def test_score_py_reads_a_published_prm(tmp_path, responses, caplog):
    caplog.set_level(logging.INFO)
    tokenizer = qwen_tokenizer()
    head = linear_head("score", 2)
    model = write(tmp_path / "pure", random_lm("qwen2", tokenizer), tokenizer, "Qwen2ForTokenClassification", head)
    run_score("--model", model, "--input", responses, "--output", tmp_path / "scores.jsonl")
    scores = [row["step_scores"] for row in read(tmp_path / "scores.jsonl")]
    assert [len(row) for row in scores] == [1, 2]
    assert all(-1 < score < 1 for row in scores for score in row)
    assert "read as pure (jinachris/PURE-PRM-7B" in caplog.text


def test_a_recipe_by_name_and_none_but_it(tmp_path, responses):
    model = llama(tmp_path / "renamed")
    common = ["--model", model, "--input", responses, "--output", tmp_path / "scores.jsonl"]
    with pytest.raises(ValueError, match=r"neither a checkpoint .* --recipe"):
        run_score(*common)
    run_score(*common, "--recipe", "rlhflow")
    with pytest.raises(ValueError, match="recipe"):
        run_score(*common, "--recipe", "er_prm")


def test_an_implicit_prm_takes_the_reference_it_is_given(tmp_path, responses):
    tokenizer = qwen_tokenizer()
    model, reference = tmp_path / "EurusPRM-Stage1", tmp_path / "reference"
    for seed, folder in enumerate((model, reference)):
        write(folder, random_lm("qwen2", tokenizer, seed), tokenizer, "Qwen2ForCausalLM")
    run_score("--model", model, "--reference", reference, "--input", responses, "--output", tmp_path / "scores.jsonl")
    run_score("--model", model, "--reference", model, "--input", responses, "--output", tmp_path / "zeros.jsonl")
    scores, zeros = (read(tmp_path / name) for name in ("scores.jsonl", "zeros.jsonl"))
    assert all(score != 0 for row in scores for score in row["step_scores"])
    assert all(score == 0 for row in zeros for score in row["step_scores"])


def test_processbench_under_a_published_prm(tmp_path, write_rows):
    from processbench_eval import main

    item = {"generator": "g", "problem": "What is 3 + 4?", "steps": STEPS, "final_answer_correct": True}
    rows = [{**item, "id": f"gsm8k-{i}", "label": label} for i, label in enumerate((-1, 0))]
    write_rows(*rows, name="gsm8k.jsonl")
    model = llama(tmp_path / "renamed")
    flags = ["--data", tmp_path / "gsm8k.jsonl", "--model", model, "--recipe", "rlhflow", "--output_dir", tmp_path / "out"]
    main([str(flag) for flag in flags])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_scores_in_a_file_are_read_as_the_model_that_made_them(tmp_path, write_rows):
    """Those of `pure` are differences of probabilities, around 0: one file of score.py, then three evaluations of it."""
    import calibration_report
    import prmbench_eval
    import processbench_eval

    model, scored = tmp_path / "pure", tmp_path / "scores.jsonl"
    write_pure(model)
    common = {"problem": "What is 3 + 4?", "steps": STEPS, "final_answer_correct": True}
    data = write_rows(*({**common, "id": f"gsm8k-{i}", "label": label} for i, label in enumerate((-1, 0))), name="gsm8k.jsonl")
    run_score("--model", model, "--input", data, "--output", scored)

    def run(main, name, *flags):
        main([*map(str, flags), "--num_bootstrap", "20", "--output_dir", str(tmp_path / name)])
        return json.loads((tmp_path / name / "metrics.json").read_text())

    items = ["--data", data, "--threshold", "fixed"]
    by_model = run(processbench_eval.main, "model", *items, "--model", model)["results"]["fixed"]
    assert run(processbench_eval.main, "file", *items, "--predictions", scored)["results"]["fixed"] == by_model
    assert by_model["subsets"]["gsm8k"]["threshold"] == 0
    for kept in (tmp_path / "model" / "predictions.jsonl", tmp_path / "model"):
        assert run(processbench_eval.main, "kept", *items, "--predictions", kept)["results"]["fixed"] == by_model
    bare = write_rows(*read(scored), name="bare.jsonl")
    assert (
        run(processbench_eval.main, "bare", *items, "--predictions", bare)["results"]["fixed"]["subsets"]["gsm8k"]["threshold"]
        == 0.5
    )

    calibrated = run(calibration_report.main, "calibration", "--scores", scored, bare, "--responses", data, "--aggregation", "min")
    assert {name: prm["read_as"] for name, prm in calibrated["prms"].items()} == {"scores": "differences", "bare": "logits"}
    flags = ["--responses", data, "--aggregation", "min", "--num_perturbed", 0]
    assert run(calibration_report.main, "with_model", "--model", model, *flags)["prms"]["pure"]["read_as"] == "differences"
    again = run(calibration_report.main, "again", "--scores", tmp_path / "with_model" / "scores.jsonl", *flags[:4])
    assert again["prms"]["scores"]["read_as"] == "differences"
    with pytest.raises(ValueError, match=r"--aggregation sum: a sum of differences is none \(scores\)"):
        run(calibration_report.main, "sum", "--scores", scored, "--responses", data, "--aggregation", "sum")

    item = {"idx": "circular_1", "question": "What is 3 + 4?", "steps": STEPS, "error_steps": [1], "classification": "circular"}
    assembled = write_rows(item, name="prmbench.jsonl")
    run_score("--model", model, "--input", assembled, "--output", tmp_path / "prmbench_scores.jsonl")
    judged = run(prmbench_eval.main, "prmbench", "--data", assembled, "--predictions", tmp_path / "prmbench_scores.jsonl")
    assert judged["results"]["fixed"]["threshold"] == 0


class ConstantEngine:
    computed_tokens = 0

    def score_encoded(self, encoded):
        return [[0.5] * len(tokens.step_ends) for tokens in encoded]


def test_a_constant_score_is_an_error_and_no_result(tmp_path, responses):
    loaded = Scorer.load(llama(tmp_path / "er-prm"), recipe="er_prm", device="cpu")
    many = [Response("q", i, "How many?", [f"Step 1: {i} apples.", f"Step 2: {i} more."]) for i in range(60)]
    scorer = Scorer(ConstantEngine(), loaded.encoder, "some/model")
    assert len(list(scorer.score(many[:49]))) == 49
    with pytest.raises(ValueError, match=r"some/model: 1\d\d scores of \d+ or more different steps lie between 0.5 and 0.5"):
        next(scorer.score(many))
    assert len(list(loaded.score(many))) == 60
