"""Training on a GPU: the losses of the CPU, every kind of objective; the fixtures are those of the training tests."""

import pytest
from tiny_training import for_loss, trajectory

from prm.models import load_model

pytestmark = pytest.mark.gpu
pytest.importorskip("datasets", reason="training keeps tokens in datasets' tables: pip install datasets")

FLAGS = {"plain": [], "compiled": ["--torch_compile", "True"], "checkpointed": ["--gradient_checkpointing", "True"]}


@pytest.mark.parametrize("loss", ["asym", "softmin", "step_ce", "orm", "implicit_prm"])
@pytest.mark.parametrize("kind", FLAGS)
def test_bfloat16_losses_are_near_those_of_the_cpu(gpu, train, dataset, loss, kind):
    objective = for_loss(loss, ["--dataset", str(dataset)])
    expected = trajectory(train(*objective, name="cpu"))
    output_dir = train(*objective, "--use_cpu", "False", "--bf16", "True", *FLAGS[kind], name="gpu")
    assert trajectory(output_dir) == pytest.approx(expected, rel=0.05, abs=0.02)
    assert load_model(output_dir)[1].loss == loss  # repeats the checkpoint's self-test
