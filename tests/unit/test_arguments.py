"""Training options: the paper's defaults, the division of the global batch, DeepSpeed under a launcher, and refusals."""

import typing

import pytest

from prm.config import field_docs, parse_args
from prm.losses import LOSSES
from prm.training.arguments import Loss, TrainingConfig, divide_global_batch
from prm.training.sampler import Division

pytestmark = pytest.mark.usefixtures("no_launcher")


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
    ("given", "world_size", "expected"),
    [
        ({}, 4, Division(32, 16384, 4)),
        ({"size": 8}, 1, Division(8, 16384)),
        ({"per_device": 2}, 4, Division(32, 16384, 4, max_items=2)),
        ({"accumulation": 4}, 1, Division(32, 16384, min_micro_batches=4)),
        ({"per_device": 4, "accumulation": 3}, 2, Division(24, 16384, 2, 4, 3)),
    ],
)
def test_division_of_the_global_batch(given, world_size, expected):
    assert divide_global_batch(16384, world_size, **given) == expected


def test_trainer_takes_an_optimizer_step_for_one_batch():
    options = config("--gradient_accumulation_steps", "4")
    assert (options.division.min_micro_batches, options.gradient_accumulation_steps) == (4, 1)
    assert (options.global_batch_size, options.per_device_train_batch_size) == (32, 32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 1}, "--global_batch_size 1 leaves some of 2 ranks without work"),
        (
            {"size": 8, "per_device": 2, "accumulation": 4},
            "--global_batch_size 8 is not 2 ranks x --per_device_train_batch_size 2",
        ),
    ],
)
def test_global_batch_that_cannot_be_divided(given, message):
    with pytest.raises(ValueError, match=message):
        divide_global_batch(16384, 2, **given)


@pytest.mark.parametrize("loss", ["asym", "geometric_mean", "orm", "step_ce"])
def test_reading_logit_is_refused_where_it_does_not_exist(loss):
    with pytest.raises(ValueError, match="reading 'logit'"):
        config("--loss", loss, "--reading", "logit")


@pytest.mark.parametrize("name", ["tau", "beta", "max_length", "global_batch_size", "token_budget", "per_device_train_batch_size"])
def test_positive_options(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        config(f"--{name}", "0")


def test_unknown_flag_names_the_closest(capsys):
    with pytest.raises(SystemExit):
        config("--los", "asym")
    assert "did you mean --loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora_rank", "-1"], "--lora_rank -1"),
        (["--lora_dropout", "1"], "a dropout from 0 to below 1"),
        (["--lora_alpha", "0"], "a positive alpha"),
        (["--freeze_backbone", "True", "--loss", "implicit_prm"], "leaves implicit_prm nothing to train"),
        (["--freeze_backbone", "True", "--lora_rank", "4"], "adapters train the backbone"),
    ],
)
def test_what_cannot_train_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        config(*flags)


def test_adapters_need_peft_before_anything_loads(monkeypatch):
    monkeypatch.setattr("prm.models.adapt.is_peft_available", lambda: False)
    with pytest.raises(ValueError, match="--lora_rank needs peft"):
        config("--lora_rank", "4")


def test_names_of_adapted_layers_are_a_list(monkeypatch):
    monkeypatch.setattr("prm.models.adapt.is_peft_available", lambda: True)
    assert config("--lora_rank", "4", "--lora_target_modules", "q_proj", "v_proj").lora_target_modules == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "flags", [["--per_device_eval_batch_size", "4"], ["--auto_find_batch_size", "True"], ["--dataloader_drop_last", "True"]]
)
def test_options_that_would_change_nothing_are_refused(flags):
    with pytest.raises(ValueError, match=f"{flags[0]}: packed batches are made by --token_budget"):
        config(*flags)


def test_compiling_is_by_layer_with_the_backend_asked_for():
    assert not config().compile_layers
    options = config("--torch_compile_backend", "eager", "--torch_compile_mode", "reduce-overhead")
    assert (options.compile_layers, options.compile_options) == (True, {"backend": "eager", "mode": "reduce-overhead"})
    assert not options.torch_compile  # Trainer would compile the whole model
