"""What gives a benchmark's items their scores, and what results call it."""

import pytest

from prm.benchmarks.predictions import PredictionsConfig


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"model": "Qwen/Qwen2.5-Math-PRM-7B"}, "Qwen2.5-Math-PRM-7B"),
        ({"model": "models/Qwen2.5-Math-PRM-7B/"}, "Qwen2.5-Math-PRM-7B"),
        ({"predictions": "scores/asym-seed0.jsonl"}, "asym-seed0"),
        ({"predictions": "Qwen2.5-Math"}, "Qwen2.5-Math"),
        ({"predictions": "Qwen2.5-Math/."}, "Qwen2.5-Math"),
    ],
)
def test_a_prm_is_called_as_its_model_or_its_predictions(tmp_path, monkeypatch, given, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen2.5-Math").mkdir()
    assert PredictionsConfig(**given).prm_name == name
