"""Training under `deepspeed` with ZeRO-2 on two CPU ranks: every objective, kill -9 and resume, and stopping when asked to."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from tiny_training import STEPS, for_loss, trajectory, write_dataset
from train import main

from prm.losses import LOSSES
from prm.models import load_model
from prm.training.preemption import EXIT_CODE, STOP_FILE
from prm.training.zero import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "train.py"
EVERY_LOSS = ROOT / "tests" / "integration" / "train_every_loss.py"
LONG = ["--max_steps", "60", "--save_steps", "10"]
"""Long enough to be killed half way: a later flag wins over an earlier one."""


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_backbone) -> list[str]:
    dataset = write_dataset(tmp_path_factory.mktemp("data") / "dataset")
    return ["--use_cpu", "True", "--dataset", str(dataset), "--model_name_or_path", str(tiny_backbone), *STEPS]


def start(script: Path, *arguments: str, num_ranks: int = 2) -> subprocess.Popen:
    """`deepspeed` on so many ranks, in a process group of its own."""
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    launcher = [deepspeed, "--num_accelerators", str(num_ranks), "--master_port", free_port()]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [*launcher, str(script), *arguments],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(script: Path, *arguments: str, status: int = 0, num_ranks: int = 2) -> str:
    process = start(script, *arguments, num_ranks=num_ranks)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == status, output[-4000:]
    return output


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stdout.read()[-4000:]
        time.sleep(0.02)


def ranks(process: subprocess.Popen) -> list[psutil.Process]:
    """The training processes below the launcher, by rank."""
    children = psutil.Process(process.pid).children(recursive=True)
    by_rank = {flag: child for child in children for flag in child.cmdline() if flag.startswith("--local_rank")}
    return [by_rank[flag] for flag in sorted(by_rank)]


@pytest.fixture(scope="module")
def two_ranks(flags, tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("two_ranks")
    for which in ("losses", "stages"):
        run(EVERY_LOSS, *flags, which, str(output_dir))
    return output_dir


@pytest.mark.parametrize("loss", LOSSES)
def test_two_ranks_take_the_steps_of_one(two_ranks, flags, tmp_path, monkeypatch, loss):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert main([*for_loss(loss, flags), "--output_dir", str(tmp_path)]) == 0
    assert trajectory(two_ranks / loss) == pytest.approx(trajectory(tmp_path), rel=1e-5, abs=1e-6)
    assert trajectory(two_ranks / loss, "grad_norm") == pytest.approx(trajectory(tmp_path, "grad_norm"), rel=1e-4, abs=1e-6)
    for name in ("eval_loss", "eval_outcome_auc", "eval_step_auc"):
        assert trajectory(two_ranks / loss, name) == pytest.approx(trajectory(tmp_path, name), rel=1e-5, abs=1e-6)
    assert load_model(two_ranks / loss)[1].loss == loss


@pytest.mark.parametrize("name", ["budget", "zero3-4096", "zero3-120", "zero2_offload-4096", "zero2_offload-120"])
def test_zero_stages_and_token_budgets_take_the_same_steps_and_save_whole_models(two_ranks, name):
    """A budget of 120 tokens makes several micro-batches, now and then one more on one rank than the other could fill."""
    assert trajectory(two_ranks / name) == pytest.approx(trajectory(two_ranks / "asym"), rel=1e-5, abs=1e-6)
    assert trajectory(two_ranks / name, "grad_norm") == pytest.approx(trajectory(two_ranks / "asym", "grad_norm"), rel=1e-4)
    assert trajectory(two_ranks / name, "eval_loss") == pytest.approx(trajectory(two_ranks / "asym", "eval_loss"), rel=1e-5)
    load_model(two_ranks / name)  # repeats the self-test


def test_zero3_gathers_the_lm_head_and_keeps_the_reference_whole(two_ranks):
    saved, expected = two_ranks / "zero3-implicit_prm", two_ranks / "implicit_prm"
    assert trajectory(saved) == pytest.approx(trajectory(expected), rel=1e-5, abs=1e-6)
    assert trajectory(saved, "eval_loss") == pytest.approx(trajectory(expected, "eval_loss"), rel=1e-5)
    load_model(saved)


@pytest.mark.parametrize("name", ["lora", "zero3-lora"])
def test_adapters_take_the_steps_of_one_rank_and_are_saved_merged(two_ranks, flags, tmp_path, monkeypatch, name):
    pytest.importorskip("peft")
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    assert main([*flags, "--lora_rank", "4", "--output_dir", str(tmp_path)]) == 0
    assert trajectory(two_ranks / name) == pytest.approx(trajectory(tmp_path), rel=1e-5, abs=1e-6)
    assert load_file(two_ranks / name / "model.safetensors").keys() == load_file(two_ranks / "asym/model.safetensors").keys()
    load_model(two_ranks / name)  # repeats the self-test, of the model with adapters on that with merged weights


@pytest.fixture(scope="module")
def straight(flags, tmp_path_factory) -> Path:
    """Output folders of uninterrupted runs."""
    output_dir = tmp_path_factory.mktemp("straight")
    run(EVERY_LOSS, *flags, *LONG, "losses", str(output_dir))
    return output_dir


@pytest.fixture(scope="module")
def killed(flags, tmp_path_factory) -> Path:
    """The same runs, each with a rank killed half way, once the one and once the other."""
    output_dir = tmp_path_factory.mktemp("killed")
    command = [*flags, *LONG, "losses", str(output_dir)]
    for number, loss in enumerate(LOSSES):
        process = start(EVERY_LOSS, *command)
        wait_for(output_dir / loss / "checkpoint-20", process)
        ranks(process)[number % 2].kill()
        process.communicate(timeout=60)  # the launcher takes the other rank down
        assert process.returncode != 0
        assert not (output_dir / loss / "prm_config.json").exists()
    assert "continuing from" in run(EVERY_LOSS, *command)
    return output_dir


@pytest.mark.parametrize("loss", LOSSES)
def test_killed_run_ends_where_the_uninterrupted_one_does(straight, killed, loss):
    """Losses and weights agree bit for bit."""
    assert trajectory(killed / loss) == trajectory(straight / loss)
    assert trajectory(killed / loss, "grad_norm") == trajectory(straight / loss, "grad_norm")
    assert len(trajectory(killed / loss)) == 60
    assert (killed / loss / "model.safetensors").read_bytes() == (straight / loss / "model.safetensors").read_bytes()
    assert 2 <= len(list((killed / loss).glob("checkpoint-*"))) <= 3  # the best one is kept, too


@pytest.mark.parametrize(("stage", "before", "after"), [("zero2", 2, 1), ("zero2", 1, 2), ("zero3", 2, 1)])
def test_stopped_run_continues_on_another_number_of_ranks(straight, flags, tmp_path, stage, before, after):
    """The same responses in the same order, and the same losses up to rounding."""
    command = [*flags, *LONG, "--deepspeed", str(ROOT / "ds_configs" / f"{stage}.json"), "--output_dir", str(tmp_path)]
    process = start(SCRIPT, *command, num_ranks=before)
    wait_for(tmp_path / "checkpoint-10", process)
    (tmp_path / STOP_FILE).touch()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODE, output[-4000:]
    output = run(SCRIPT, *command, num_ranks=after)
    assert f"was written by {before} ranks, this run has {after}" in output
    assert "continuing from" in output
    assert trajectory(tmp_path) == pytest.approx(trajectory(straight / "asym"), rel=1e-4, abs=1e-5)
    load_model(tmp_path)
