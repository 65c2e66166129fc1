"""The speed benchmark's arithmetic and its refusals; the runs themselves are tested in integration/test_benchmark_training.py."""

import sys

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from prm.benchmarks.speed.padded import check_trl, on_one_gpu, pad_implicit, trainer_classes
from prm.benchmarks.speed.training import Meter, TrainingRun, measure_training, summary
from prm.benchmarks.speed.training_variants import TrainingSpeedConfig
from prm.benchmarks.speed.workload import make_workload

FAKE_TRL = """
from transformers import Trainer, TrainingArguments
class PRMTrainer(Trainer): pass
class PRMConfig(TrainingArguments): pass
"""


def training_run(seconds: float, peak: int | None = 100) -> TrainingRun:
    return TrainingRun(seconds, useful_tokens=600, computed_tokens=800, peak_memory_bytes=peak, estimated_memory_bytes=None)


def test_summary_by_hand():
    config = TrainingSpeedConfig(shape="tiny", use_cpu=True)
    workload = make_workload("tiny", 4, 100, 300, 0.5, seed=0)
    runs = [training_run(1.0, 100), training_run(2.0, 300), training_run(3.0, 200)]
    result = summary("packed", runs, config, workload)
    assert (result["tokens_per_second"], result["padding"], result["peak_memory_bytes"]) == (300, 0.25, 200)
    assert result["mfu"] is None
    assert len(result["repetitions"]) == 3
    implicit = summary("implicit_packed", runs, config, workload)
    assert implicit["flops_per_second"] > result["flops_per_second"]


def test_mfu_counts_three_forward_passes(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr("prm.benchmarks.speed.training.forward_flops", lambda *args, **kwargs: 989e12)
    config, workload = TrainingSpeedConfig(shape="tiny", use_cpu=True), make_workload("tiny", 4, 100, 300, 0.5, seed=0)
    config.use_cpu = False
    assert summary("packed", [training_run(30.0)], config, workload)["mfu"] == pytest.approx(0.1)


def test_a_meter_counts_every_embedded_token():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 1))
    meter = Meter(model, torch.device("cpu"))
    meter.on_epoch_begin()
    for shape in ((2, 3), (1, 5)):
        model(torch.zeros(shape, dtype=torch.long))
    meter.on_epoch_end()
    assert meter.computed_tokens == 11
    assert meter.seconds > 0


def test_padding_an_implicit_batch():
    examples = make_workload("tiny", 3, 40, 100, 0.5, seed=0).examples
    batch = pad_implicit([{"example": example} for example in examples])
    lengths = [example.num_tokens for example in examples]
    assert batch["input_ids"].shape == (3, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, example in enumerate(examples):
        assert batch["ref_logps"][row][batch["is_target"][row]].tolist() == example.ref_logps.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ["paked"]}, "paked: unknown; choose from packed"),
        ({"repetitions": 0}, "--repetitions is 0"),
        ({"padded_batch_size": 5}, "32 is no multiple of --padded_batch_size 5"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingSpeedConfig(**options)


def test_float32_is_refused_where_packed_training_would_not_take_it(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert TrainingSpeedConfig().bf16
    with pytest.raises(ValueError, match="--bf16 False: on CUDA packed training is in bfloat16"):
        TrainingSpeedConfig(bf16=False)
    assert not TrainingSpeedConfig(bf16=False, use_cpu=True).bf16


def test_padded_training_takes_one_gpu_of_eight(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=8)
    assert on_one_gpu(arguments).n_gpu == 0
    arguments._n_gpu = 8
    assert on_one_gpu(arguments).train_batch_size == 8


def test_a_folder_without_trl_is_refused_with_the_command_that_fills_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps --target .* trl==1\.13\.0"):
        measure_training(TrainingSpeedConfig(trl_path=str(tmp_path)))


def test_trl_is_taken_from_its_folder(tmp_path, monkeypatch):
    package = tmp_path / "trl" / "experimental" / "prm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE_TRL)
    monkeypatch.setattr(sys, "path", list(sys.path))
    check_trl(str(tmp_path))
    assert [c.__module__ for c in trainer_classes(str(tmp_path))] == ["trl.experimental.prm"] * 2
    assert trainer_classes(None)[0].__name__ == "Trainer"
    for name in [name for name in sys.modules if name.split(".")[0] == "trl"]:
        del sys.modules[name]
