"""Training end to end on tiny models: every objective, equal trajectories however a batch is divided, resume, and bad input."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import for_loss, responses, soften, trajectory, vars_of

import prm.training.run
from prm.files import write_jsonl
from prm.losses import LOSSES
from prm.models import load_model
from prm.models.checkpoint import self_test
from prm.training.preemption import EXIT_CODE, STOP_FILE
from prm.training.trainer import PRMTrainer


@pytest.mark.parametrize("loss", LOSSES)
def test_the_division_into_micro_batches_changes_nothing(train, dataset, loss):
    objective = for_loss(loss, ["--dataset", str(dataset)])
    whole = train(*objective, "--eval_steps", "3", name="whole")
    for flags in (["--per_device_train_batch_size", "2"], ["--gradient_accumulation_steps", "4"], ["--token_budget", "150"]):
        parts = train(*objective, *flags, name=flags[0])
        assert trajectory(parts) == pytest.approx(trajectory(whole), rel=1e-5, abs=1e-6)
        assert trajectory(parts, "grad_norm") == pytest.approx(trajectory(whole, "grad_norm"), rel=1e-4, abs=1e-6)
    assert len(trajectory(whole)) == 6
    expected = {"eval_loss", "eval_outcome_auc", "eval_step_auc"} | ({"eval_outcome_accuracy"} if loss != "pqm" else set())
    assert all(len(trajectory(whole, name)) == 2 for name in expected)  # steps 3 and 6
    model, encoder = load_model(whole)  # repeats the self-test
    assert encoder.loss == loss
    assert not model.training


LABELS_OF_TWO_CLASSES_OR_SOFT = {
    "neutral is good": ({1.0: 0.0, -1.0: -1.0}, ["--num_labels", "2"]),
    "neutral is ignored": ({1.0: 1.0, -1.0: -1.0}, ["--num_labels", "2", "--neutral", "ignored"]),
    "soft": ({1.0: 0.9, -1.0: 0.2}, ["--num_labels", "1"]),
}


@pytest.mark.parametrize("case", LABELS_OF_TWO_CLASSES_OR_SOFT)
def test_step_labels_of_two_classes_or_soft(train, tmp_path, case):
    targets, flags = LABELS_OF_TWO_CLASSES_OR_SOFT[case]
    write_jsonl(tmp_path / "labels" / "train.jsonl", [soften(response, targets) for response in responses(32, seed=2)])
    output_dir = train("--loss", "step_ce", "--dataset", str(tmp_path / "labels"), *flags)
    assert load_model(output_dir)[1].num_labels == int(flags[1])


@pytest.mark.parametrize("loss", ["pqm", "asym", "implicit_prm"])
def test_a_model_trained_under_autocast_is_saved_with_its_scores_in_float32(train, dataset, loss):
    """Its weights are float32, and whoever loads them so is told of a changed score from 1e-3 on."""
    output_dir = train(*for_loss(loss, ["--dataset", str(dataset)]), "--bf16", "True")
    saved = json.loads((output_dir / "prm_config.json").read_text())["self_test"]
    model, encoder = load_model(output_dir, "float32")
    assert saved["dtype"] == "float32"
    assert self_test(model, encoder)["step_scores"] == pytest.approx(saved["step_scores"], abs=1e-5)


@pytest.mark.parametrize(("flags", "dtype"), [([], torch.float32), (["--bf16", "True"], torch.bfloat16)])
def test_the_reference_computes_in_the_precision_of_the_policy(train, monkeypatch, flags, dtype):
    used = []
    ours = prm.training.run.cached_ref_logps
    monkeypatch.setattr(prm.training.run, "cached_ref_logps", lambda *a, **k: used.append(k["dtype"]) or ours(*a, **k))
    train("--loss", "implicit_prm", *flags)
    assert set(used) == {dtype}


def test_stopped_run_continues_to_the_same_weights(train, monkeypatch):
    """A STOP file seen in step 3 travels with the reduction of step 4, which is saved; the exit status is 85."""
    straight = train("--loss", "asym", name="straight")
    take_step = PRMTrainer.training_step

    def touch_stop(self, *args, **kwargs):
        if self.state.global_step == 2:
            self.stop.file.touch()
        return take_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PRMTrainer, "training_step", touch_stop)
        stopped = train("--loss", "asym", name="stopped", status=EXIT_CODE)
    assert not (stopped / "model.safetensors").exists()
    assert [folder.name for folder in stopped.glob("checkpoint-*")] == ["checkpoint-4"]
    assert (stopped / STOP_FILE).exists()
    train("--loss", "asym", name="stopped")
    assert trajectory(stopped) == trajectory(straight)
    assert (stopped / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_finished_run_is_left_alone_and_another_one_refused(train, caplog):
    output_dir = train("--loss", "orm")
    before = (output_dir / "model.safetensors").stat().st_mtime_ns
    train("--loss", "orm")
    assert (output_dir / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        train("--loss", "orm", "--seed", "1")
    train("--loss", "orm", "--seed", "1", "--overwrite_output_dir", "True")
    assert (output_dir / "model.safetensors").stat().st_mtime_ns != before


def test_killed_between_the_last_checkpoint_and_the_model(train):
    """The last checkpoint is at max_steps: nothing is trained any more, and the model is written."""
    output_dir = train("--loss", "min")
    weights = load_file(output_dir / "model.safetensors")
    for name in ("training_complete.json", "model.safetensors", "prm_config.json"):
        (output_dir / name).unlink()
    train("--loss", "min")
    assert all((load_file(output_dir / "model.safetensors")[key] == value).all() for key, value in weights.items())
    assert len(trajectory(output_dir)) == 6


def test_loss_that_is_not_finite_stops_the_run_and_names_the_responses(train, monkeypatch):
    monkeypatch.setattr(PRMTrainer, "losses", lambda self, outputs, batch: outputs.sum() * batch["correct"] * float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss nan at step 1 in q0-\d+ #\d"):
        train("--loss", "asym")


def test_gradient_that_is_not_finite_stops_the_run(train, monkeypatch):
    def losses(self, outputs, batch):
        """Zero, with an infinite gradient times zero."""
        return outputs.sum().sub(1e9).abs().mul(0).sqrt() + 0 * batch["correct"]

    monkeypatch.setattr(PRMTrainer, "losses", losses)
    with pytest.raises(FloatingPointError, match="gradient norm nan at step 1"):
        train("--loss", "asym")


def test_too_long_responses_are_dropped_counted_and_named(train, dataset, caplog):
    output_dir = train("--loss", "step_ce", "--max_length", "90")
    counts = json.loads((output_dir / "manifest.json").read_text())["counts"]
    assert counts["train_too_long"] > 0
    assert counts["train_used"] == 64 - counts["train_too_long"]
    assert f"train: dropped {counts['train_too_long']} responses longer than 90 tokens: q0-" in caplog.text
    with pytest.raises(ValueError, match="train: all 64 responses are longer than 10 tokens"):
        train("--max_length", "10", name="short")


GOOD = vars_of(responses(1, seed=3)[0])
OTHER = GOOD | {"sample_index": 1, "correct": not GOOD["correct"]}
BAD_DATA = {
    "empty": ([], "train.jsonl is empty", "asym"),
    "equal outcomes": ([GOOD], r"'correct' is (True|False) for all 1 responses", "asym"),
    "no outcomes": ([GOOD | {"correct": None}], "none of the 1 responses has 'correct'", "orm"),
    "no step labels": (
        [GOOD | {"step_labels": None}],
        "none of the 1 responses has 'step_labels'.*build_dataset.py --step_labels",
        "step_ce",
    ),
    "only null labels": (
        [GOOD | {"step_labels": [None] * len(GOOD["steps"])}],
        "none of the 1 responses has 'step_labels'",
        "step_ce",
    ),
    "equal step labels": ([GOOD | {"step_labels": [1.0] * len(GOOD["steps"])}], "'step_labels' is 1.0 for all", "step_ce"),
    "one label and nulls": (
        [GOOD | {"steps": ["a", "b"], "step_labels": [None, 1]}],
        "'step_labels' is 1.0 for all",
        "pqm",
    ),
    "labels that do not match": ([OTHER | {"step_labels": [1.0] * 9}, GOOD], "q3-0 #1 has .* steps but 9 step labels", "asym"),
    "soft labels": ([GOOD | {"step_labels": [0.5] * len(GOOD["steps"])}], "step label 0.5, expected -1, 0 or 1", "step_ce"),
    "hard labels": ([GOOD | {"step_labels": [-1.0] * len(GOOD["steps"])}], "-1.0; --loss mc_regression learns", "mc_regression"),
    "no counterfactual pair": (
        [GOOD | {"steps": ["a", "b"], "step_labels": [1, 1]}, OTHER | {"steps": ["b", "b"], "step_labels": [1, -1]}],
        "no two responses part at a step that is good in one and bad in the other, which --loss margin_ranking",
        "margin_ranking",
    ),
    "no label beside a bad step": (
        [GOOD | {"steps": ["a", "b"], "step_labels": [1, None]}, OTHER | {"steps": ["a", "c"], "step_labels": [1, -1]}],
        "no two responses part at a step",
        "margin_ranking",
    ),
    "separator in a step": ([GOOD, OTHER | {"steps": ["a <extra_0> b"], "step_labels": None}], "q3-0 #1: step 0 contains", "min"),
    "no steps": ([GOOD, OTHER | {"steps": [], "step_labels": None}], "q3-0 #1: the response has no steps", "softmin"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_before_a_model_loads(train, tmp_path, monkeypatch, case):
    monkeypatch.setattr("prm.training.run.build_model", lambda *args: pytest.fail("a model was loaded"))
    rows, message, loss = BAD_DATA[case]
    write_jsonl(tmp_path / "bad" / "train.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        train("--loss", loss, "--dataset", str(tmp_path / "bad"))


def test_hard_labels_under_soft_targets_are_refused(train):
    with pytest.raises(ValueError, match=r"step label -1.0; --num_labels 1 learns from targets in \[0, 1\]"):
        train("--loss", "step_ce", "--num_labels", "1")


def test_missing_dataset_says_how_to_make_one(train):
    with pytest.raises(FileNotFoundError, match=r"no train.jsonl there. Make one .* scripts/build_dataset.py --rollouts"):
        train("--dataset", "data/nowhere")


def test_missing_model_is_named(train):
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        train("--model_name_or_path", "/nowhere")


def test_deepspeed_that_is_not_active_is_an_error(train, monkeypatch):
    create = PRMTrainer.create_accelerator_and_postprocess

    def without_deepspeed(self):
        create(self)
        self.args.deepspeed = "zero2.json"

    monkeypatch.setattr(PRMTrainer, "create_accelerator_and_postprocess", without_deepspeed)
    with pytest.raises(ValueError, match="DeepSpeed is not active"):
        train("--loss", "asym")
