"""Training options: the paper's defaults, the division of the global batch, DeepSpeed under a launcher, and refusals."""

import typing

import pytest

from prm.config import field_docs, parse_args
from prm.losses import LOSSES
from prm.training.arguments import DEFAULT_DEEPSPEED, Loss, TrainingConfig, resolve_deepspeed, split_global_batch

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.setenv(name, "0")  # so that monkeypatch restores what a test adds
        monkeypatch.delenv(name)


def config(*flags: str) -> TrainingConfig:
    return parse_args(TrainingConfig, ["--use_cpu", "True", *flags])


def test_defaults_are_the_papers_main_run():
    options = config()
    assert (options.loss, options.reading, options.beta) == ("asym", "prob", 0.05)
    assert options.model_name_or_path == "Qwen/Qwen2.5-Math-1.5B-Instruct"
    assert (options.learning_rate, options.warmup_steps, options.global_batch_size) == (1e-5, 1000, 32)
    assert (options.dataset, options.output_dir) == ("data/dataset", "outputs/asym")
    assert options.deepspeed is None


def test_without_an_accelerator_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    options = parse_args(TrainingConfig, [])
    assert (options.use_cpu, options.bf16, options.device.type) == (True, False, "cpu")


def test_flags_override_and_output_dir_follows_the_loss():
    options = config("--loss", "step_ce", "--num_labels", "2", "--learning_rate", "1e-3", "--local_rank=0")
    assert (options.output_dir, options.num_labels, options.learning_rate) == ("outputs/step_ce", 2, 1e-3)


def test_every_loss_is_offered_and_every_field_is_documented():
    assert set(typing.get_args(Loss)) == set(LOSSES)
    assert set(TrainingConfig.__annotations__) <= set(field_docs(TrainingConfig))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((32, 4), (8, 1)),
        ((32, 1), (8, 4)),
        ((32, 8), (4, 1)),
        ((6, 1), (6, 1)),
        ((22, 1), (2, 11)),
        ((4, 1, 4), (4, 1)),
        ((4, 1, 2), (2, 2)),
        ((4, 2, 2), (2, 1)),
        ((32, 4, None, 4), (2, 4)),
    ],
)
def test_split_of_the_global_batch(arguments, expected):
    assert split_global_batch(*arguments) == expected


@pytest.mark.parametrize("arguments", [(32, 3), (32, 1, 5), (32, 4, 8, 4), (4, 1, 8), (4, 1, None, 3)])
def test_global_batch_that_cannot_be_split(arguments):
    with pytest.raises(ValueError, match=f"--global_batch_size {arguments[0]}"):
        split_global_batch(*arguments)


def test_deepspeed_under_a_launcher_only(monkeypatch):
    assert resolve_deepspeed(None) is None
    assert resolve_deepspeed("none") is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert resolve_deepspeed(None) == DEFAULT_DEEPSPEED


def test_deepspeed_under_plain_python_completes_the_environment(monkeypatch):
    import os

    assert resolve_deepspeed(DEFAULT_DEEPSPEED) == DEFAULT_DEEPSPEED
    assert {os.environ["RANK"], os.environ["LOCAL_RANK"]} == {"0"}
    assert os.environ["WORLD_SIZE"] == "1"


def test_missing_deepspeed_file():
    with pytest.raises(FileNotFoundError, match=r"zero7\.json: no such file"):
        resolve_deepspeed("ds_configs/zero7.json")


@pytest.mark.parametrize("loss", ["asym", "geometric_mean", "orm", "step_ce"])
def test_reading_logit_is_refused_where_it_does_not_exist(loss):
    with pytest.raises(ValueError, match="reading 'logit'"):
        config("--loss", loss, "--reading", "logit")


@pytest.mark.parametrize("name", ["tau", "beta", "max_length", "global_batch_size"])
def test_positive_options(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        config(f"--{name}", "0")


def test_unknown_flag_names_the_closest(capsys):
    with pytest.raises(SystemExit):
        config("--los", "asym")
    assert "did you mean --loss" in capsys.readouterr().err
