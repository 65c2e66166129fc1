"""What a run leaves behind: the best checkpoint, logs for wandb and tensorboard, and a whole checkpoint on a disk that is full."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from safetensors.torch import load_file
from tiny_training import STEPS, trajectory

from prm.models import load_model
from prm.training.preemption import EXIT_CODE
from prm.training.trainer import PRMTrainer


@pytest.fixture
def best_at_step_4(monkeypatch):
    """Validation finds AUC .6, .9, .7 at steps 2, 4, 6."""
    aucs = {2: 0.6, 4: 0.9, 6: 0.7}

    def metrics(scored, encoder):
        return {"loss": 1.0, "outcome_auc": aucs[metrics.trainer.state.global_step]}

    evaluate = PRMTrainer.evaluate

    def remember(self, *args, **kwargs):
        metrics.trainer = self
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr("prm.training.trainer.validation_metrics", metrics)
    monkeypatch.setattr(PRMTrainer, "evaluate", remember)


EVERY_TWO = ["--eval_steps", "2", "--save_steps", "2", "--save_total_limit", "1"]


def test_the_best_checkpoint_is_kept_and_named(train, best_at_step_4):
    output_dir = train("--loss", "asym", *EVERY_TWO)
    assert {folder.name for folder in output_dir.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}
    result = json.loads((output_dir / "training_complete.json").read_text())
    assert (result["best_checkpoint"], result["best_metric"]) == ("checkpoint-4", 0.9)
    assert result["metrics"]["eval_outcome_auc"] == 0.7
    assert load_file(output_dir / "model.safetensors").keys() == load_file(output_dir / "checkpoint-4/model.safetensors").keys()


def test_the_best_checkpoint_becomes_the_model_when_asked_to(train, best_at_step_4):
    output_dir = train("--loss", "asym", *EVERY_TWO, "--load_best_model_at_end", "True")
    assert (output_dir / "model.safetensors").read_bytes() == (output_dir / "checkpoint-4/model.safetensors").read_bytes()
    assert json.loads((output_dir / "training_complete.json").read_text())["metrics"]["eval_outcome_auc"] == 0.9
    load_model(output_dir)
    assert not (output_dir / "optimizer.pt").exists()


HOW = {"checkpointing": ["--gradient_checkpointing", "True"], "workers": ["--dataloader_num_workers", "2"]}


@pytest.mark.parametrize("name", HOW)
@pytest.mark.parametrize("loss", ["asym", "implicit_prm"])
def test_options_that_change_how_and_not_what(train, loss, name):
    plain, other = train("--loss", loss, name="plain"), train("--loss", loss, *HOW[name], name="other")
    assert trajectory(other) == pytest.approx(trajectory(plain), rel=1e-5, abs=1e-6)
    assert trajectory(other, "grad_norm") == pytest.approx(trajectory(plain, "grad_norm"), rel=1e-4, abs=1e-6)


def test_best_without_validation_is_refused(train, dataset, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes((dataset / "train.jsonl").read_bytes())
    flags = ["--dataset", str(tmp_path / "data"), "--load_best_model_at_end", "True"]
    with pytest.raises(ValueError, match=r"needs .*validation\.jsonl"):
        train(*flags)
    output_dir = train(*flags[:2])
    assert trajectory(output_dir, "eval_loss") == []


def test_wandb_and_tensorboard_get_the_figures_and_where_they_come_from(train, tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    train("--loss", "asym", "--report_to", "wandb", "tensorboard")
    wandb.finish()
    (run,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    expected = (b"dataset_hash", b"code_version", b"tokens_per_second", b"gradient_on_lowest_wrong")
    deadline = time.monotonic() + 30
    while not all(name in run.read_bytes() for name in expected):  # wandb's own process writes the file
        assert time.monotonic() < deadline, run.read_bytes()[-2000:]
        time.sleep(0.1)
    (events,) = (tmp_path / "tensorboard").rglob("events.out.tfevents*")
    assert b"gradient_on_lowest_wrong" in events.read_bytes()
    assert b"dataset_hash" in events.read_bytes()


def test_a_full_disk_leaves_the_checkpoint_before(train, dataset, tiny_backbone, tmp_path):
    """No file may grow beyond 100 kB in the second start: the checkpoint fails, the one before survives, the third start ends."""
    common = ["--use_cpu", "True", "--dataset", str(dataset), "--model_name_or_path", str(tiny_backbone), *STEPS]
    output_dir = tmp_path / "full"
    flags = [*common, "--save_steps", "2", "--output_dir", str(output_dir)]

    def start(limit: int | None) -> subprocess.CompletedProcess:
        def restrict() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = [sys.executable, str(ROOT / "scripts" / "train.py"), *flags]
        environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        return subprocess.run(
            command, env=environment, preexec_fn=restrict if limit else None, capture_output=True, text=True, check=False
        )

    straight = train("--loss", "asym", name="straight")
    stop_after_two_steps(train, output_dir)
    failed = start(limit=100_000)
    assert failed.returncode not in (0, EXIT_CODE)
    assert [folder.name for folder in output_dir.glob("checkpoint-*")] == ["checkpoint-2"]
    finished = start(limit=None)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert "continuing from" in finished.stderr
    assert trajectory(output_dir) == trajectory(straight)


def stop_after_two_steps(train, output_dir: Path, *flags: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prm.training.callbacks.RunCallback.on_step_end", stop_at_two)
        train("--loss", "asym", "--save_steps", "2", *flags, name=output_dir.name, status=EXIT_CODE)
    assert [folder.name for folder in output_dir.glob("checkpoint-*")] == ["checkpoint-2"]


def stop_at_two(self, args, state, control, **kwargs) -> None:
    control.should_save = control.should_training_stop = state.global_step == 2


def test_a_run_with_adapters_continues_exactly_and_is_saved_merged(train, tmp_path):
    """Stopped after two steps and continued: the losses and the merged weights of the uninterrupted run."""
    lora = ["--loss", "asym", "--lora_rank", "4"]
    straight = train(*lora, name="straight")
    stop_after_two_steps(train, tmp_path / "stopped", *lora[2:])
    assert (tmp_path / "stopped" / "checkpoint-2" / "trainable.safetensors").exists()
    output_dir = train(*lora, "--save_steps", "2", name="stopped")
    assert trajectory(output_dir) == trajectory(straight)
    assert (output_dir / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert not (output_dir / "trainable.safetensors").exists()
    assert not any("lora" in name for name in load_file(output_dir / "model.safetensors"))
    load_model(output_dir)


def test_a_head_only_warm_up_goes_on_as_full_training(train, tiny_backbone):
    warm = train("--loss", "asym", "--freeze_backbone", "True", name="warm")
    weights, before = load_file(warm / "model.safetensors"), load_file(tiny_backbone / "model.safetensors")
    assert all((weights[name] == before[name]).all() for name in weights if name.startswith("model."))
    full = train("--loss", "asym", "--model_name_or_path", str(warm), name="full")
    assert trajectory(full)[0] < trajectory(warm)[0]
    assert any((load_file(full / "model.safetensors")[name] != weights[name]).any() for name in before if name in weights)
    with pytest.raises(ValueError, match="asym trained a model of 1 outputs per step, this objective needs 3 outputs"):
        train("--loss", "step_ce", "--model_name_or_path", str(warm), name="other")


def test_compiled_layers_take_the_same_steps(train):
    plain, compiled = train("--loss", "asym", name="plain"), train("--loss", "asym", "--torch_compile", "True", name="compiled")
    assert trajectory(compiled) == pytest.approx(trajectory(plain), rel=1e-4, abs=1e-5)
    assert load_file(compiled / "model.safetensors").keys() == load_file(plain / "model.safetensors").keys()
