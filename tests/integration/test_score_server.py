"""scripts/score.py --engine server: a real vLLM behind an address scores as torch does, and a killed run goes on."""

import signal
import subprocess
import sys
import time

import pytest
import score
from fake_server import FakeServer, PooledModel, after, models
from test_export_vllm import RESPONSES, export, make_checkpoint
from vllm_server import vllm_serve

from prm.files import read_records, write_jsonl
from prm.records import Response, StepScores

FROM_ITS_FILE = ["--config", "{folder}/vllm.yaml"]
OTHERWISE = ["--runner", "pooling", "--dtype", "float32"]
"""Without vllm.yaml, so that it pools at every token and applies an activation unless it is told not to."""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def scores_at(output) -> dict:
    return {scores.key: scores.step_scores for scores in read_records(output, StepScores)}


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "options"), [("step_ce", FROM_ITS_FILE), ("asym", OTHERWISE)], ids=["dense", "by_token"])
def test_a_server_scores_as_torch_does(tiny_backbone, tmp_path, loss, options):
    checkpoint, served = make_checkpoint(tiny_backbone, tmp_path / "checkpoint", loss), tmp_path / "served"
    export(checkpoint, served, "--parity", "False")
    write_jsonl(tmp_path / "in.jsonl", RESPONSES)
    files = ["--input", str(tmp_path / "in.jsonl"), "--output"]
    score.main(["--model", checkpoint, *files, str(tmp_path / "torch.jsonl")])
    expected = scores_at(tmp_path / "torch.jsonl")
    options = [option.format(folder=served) for option in options]
    with vllm_serve([str(served), *options, "--enforce-eager"], tmp_path) as address:
        for weights in served.glob("*.safetensors"):
            weights.unlink()
        score.main(["--model", str(served), *files, str(tmp_path / "out.jsonl"), "--engine", "server", "--base_url", address])
    found = scores_at(tmp_path / "out.jsonl")
    assert len(found) == len(RESPONSES)
    for key, scores in found.items():
        assert scores == pytest.approx(expected[key], abs=1e-4)
    values = [value for row in expected.values() for value in row]
    assert max(values) - min(values) > 0.01


def test_a_killed_run_goes_on(tiny_backbone, tmp_path):
    checkpoint = make_checkpoint(tiny_backbone, tmp_path / "checkpoint", "asym")
    responses = [Response(f"q{i}", 0, f"Take {i}.", [f"{j} of {i}." for j in range(1 + i % 4)]) for i in range(300)]
    write_jsonl(tmp_path / "in.jsonl", responses)
    pooled = PooledModel(checkpoint)
    with FakeServer(lambda body: after(0.2, pooled(body)), models=models()) as server:
        options = [
            "--model",
            checkpoint,
            "--input",
            str(tmp_path / "in.jsonl"),
            "--engine",
            "server",
            "--base_url",
            server.base_url,
        ]
        broken, whole = (["--output", str(tmp_path / name)] for name in ("broken", "whole"))
        process = subprocess.Popen([sys.executable, score.__file__, *options, *broken])
        while not list((tmp_path / "broken").glob("*.jsonl")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_kept, num_requests = len(scores_at(tmp_path / "broken")), len(server.bodies)
        assert 0 < num_kept < len(responses)
        score.main([*options, *broken])
        assert sum(len(body["input"]) for body in server.bodies[num_requests + 1 :]) == len(responses) - num_kept
        score.main([*options, *whole])
    assert scores_at(tmp_path / "broken") == scores_at(tmp_path / "whole")
