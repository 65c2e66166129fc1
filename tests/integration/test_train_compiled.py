"""Training with compiled layers takes the steps of eager training, and compiles once."""

import pytest
import torch
from tiny_training import STEPS, trajectory, write_dataset
from torch._dynamo.utils import counters
from train import main

from prm.models import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_compiled_run_takes_the_steps_of_an_eager_one(tiny_backbone, tmp_path):
    flags = ["--use_cpu", "True", "--dataset", str(write_dataset(tmp_path / "data")), "--model_name_or_path", str(tiny_backbone)]
    torch._dynamo.reset()
    counters.clear()
    for name, options in (("eager", []), ("compiled", ["--torch_compile", "True", "--gradient_checkpointing", "True"])):
        assert main([*flags, *STEPS, *options, "--output_dir", str(tmp_path / name)]) == 0
    assert trajectory(tmp_path / "compiled") == pytest.approx(trajectory(tmp_path / "eager"), rel=1e-4)
    # Four parts of a layer around the attention; training and inference each have their own.
    assert 0 < counters["stats"]["unique_graphs"] <= 8
    load_model(tmp_path / "compiled")
