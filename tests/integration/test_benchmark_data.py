"""benchmark_data.py on little: every part gives its figures, and a stage that fails is an error."""

import json

import benchmark_data
import pytest

from prm.benchmarks.data import memory
from prm.benchmarks.data.memory import peak_bytes, synthetic_rollouts
from prm.data.sources import load_rollouts
from prm.files import write_json


def run(tmp_path, *flags: str) -> dict:
    benchmark_data.main(["--output_dir", str(tmp_path / "out"), *flags])
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_speed_of_grading_and_tokenizing(tmp_path, capsys):
    items = [{"id": "slow", "gold": "4", "text": "\\boxed{7^{99999999}}"}, {"id": "none", "gold": "4", "parts": [["x", 3]]}]
    write_json(tmp_path / "hostile.json", {"items": items})
    flags = [
        "--parts",
        "grading",
        "hostile",
        "tokenizing",
        "--num_rollouts",
        "60",
        "--repetitions",
        "1",
        "--timeout_seconds",
        "0.3",
    ]
    metrics = run(tmp_path, *flags, "--timeout_seconds", "0.3", "--hostile", str(tmp_path / "hostile.json"))
    assert metrics["grading"]["agreement"] == 1.0
    assert metrics["grading"]["distinct_pairs"] < 60
    assert metrics["hostile"]["grades"] == {"slow": "timeout", "none": "no_answer"}
    assert 0.3 <= metrics["hostile"]["cpu_seconds"]["slow"] < 1.0
    assert metrics["tokenizing"]["equal"]
    assert "100.00% equal grades" in capsys.readouterr().out


def test_memory_of_stages(tmp_path):
    metrics = run(tmp_path, "--parts", "memory", "--sizes", "64", "128", "--stages", "grading")
    small, large = metrics["memory"]["peak_bytes"]["grading"].values()
    assert metrics["memory"]["growth"]["grading"] == large / small
    assert small > 30e6


def test_sampling_without_a_model_to_run(tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(memory.sampling, "make_engine", memory.sampling.make_engine)  # so that it is restored
    memory.sample(str(tiny_backbone), "64", str(tmp_path / "out"))
    assert len(load_rollouts(tmp_path / "out")) == 64


def test_the_peak_is_the_processs_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nx = b'x' * int(sys.argv[1])\nif len(x) == 7: sys.exit('no')\n")
    small, large = (peak_bytes([script, size]) for size in (1, 300_000_000))
    assert large - small == pytest.approx(300e6, rel=0.05)
    assert small < 30e6
    with pytest.raises(RuntimeError, match=r"script\.py 7 ended with 1:\nno"):
        peak_bytes([script, 7])


def test_synthetic_rollouts_share_questions():
    rollouts = list(synthetic_rollouts(memory.SAMPLES_PER_QUESTION + 1))
    assert {r.question_id for r in rollouts} == {"q0", "q1"}
    assert len({r.response for r in rollouts}) == len(rollouts)


@pytest.mark.parametrize("flag", ["parts", "stages"])
def test_unknown_names(flag):
    with pytest.raises(ValueError, match=f"--{flag} nothing: unknown"):
        benchmark_data.main([f"--{flag}", "nothing"])
