"""DeepSpeed's configuration: used under a launcher only, checked before a model loads, the process's environment completed."""

import json
import os

import pytest
from conftest import ROOT

from prm.training.zero import DEFAULT_DEEPSPEED, resolve_deepspeed

pytestmark = pytest.mark.usefixtures("no_launcher")


def test_deepspeed_under_a_launcher_only(monkeypatch):
    assert resolve_deepspeed(None) is None
    assert resolve_deepspeed("none") is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert resolve_deepspeed(None) == DEFAULT_DEEPSPEED


def test_deepspeed_under_plain_python_completes_the_environment(monkeypatch):
    assert resolve_deepspeed(DEFAULT_DEEPSPEED) == DEFAULT_DEEPSPEED
    assert {os.environ["RANK"], os.environ["LOCAL_RANK"]} == {"0"}
    assert os.environ["WORLD_SIZE"] == "1"


def test_missing_deepspeed_file():
    with pytest.raises(FileNotFoundError, match=r"zero7\.json: no such file"):
        resolve_deepspeed("ds_configs/zero7.json")


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs").iterdir()), ids=lambda path: path.name)
def test_our_configurations_pass(path):
    assert resolve_deepspeed(str(path)) == str(path)


BAD = {
    r"bad.json:2: not valid JSON": '{"zero_optimization":\n {"stage": 2,}}',
    "expected a JSON object, found list": "[]",
    "remove 'optimizer'; it comes from --optim": {"optimizer": {"type": "AdamW"}},
    "remove 'scheduler'; it comes from --lr_scheduler_type": {"scheduler": {"type": "WarmupLR"}},
    'train_batch_size is 64; set it to "auto"': {"train_batch_size": 64},
    "zero_optimization is 2, expected an object": {"zero_optimization": 2},
    r"zero_optimization.stage: Input should be .*\(found 7\)": {"zero_optimization": {"stage": 7}},
    r"zero_optimization.stag: Extra inputs are not permitted": {"zero_optimization": {"stag": 2}},
}


@pytest.mark.parametrize("message", BAD)
def test_configuration_that_cannot_work(tmp_path, message):
    content = BAD[message]
    path = tmp_path / "bad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        resolve_deepspeed(str(path))
