"""A real vLLM server on the CPU behind the server engine: rollouts by chat, completions of token ids, its own refusals."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import generate_rollouts
import httpx2
import pytest

from prm.files import read_records, write_jsonl
from prm.records import Question, Rollout
from prm.sampling.base import EngineConfig, EngineError, SampleRequest, SamplingConfig, make_engine
from prm.steps import StepEncoder, load_tokenizer

pytestmark = pytest.mark.slow
START_SECONDS = 240


@pytest.fixture(scope="module")
def served(tiny_backbone, tmp_path_factory):
    """Base URL of `vllm serve` with the tiny backbone, in a process group of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_backbone), "--port", str(port)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--no-enable-chunked-prefill"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "NO_PROXY": "127.0.0.1"}
    log = tmp_path_factory.mktemp("server") / "log"
    with open(log, "w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx2.Client(trust_env=False) as client:
        while True:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                if client.get(url).status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.5)


def test_rollouts_by_chat_are_those_of_the_engine_here(served, tiny_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    questions = [Question(f"q{i}", f"Take {i}. Add 4.", str(i + 4)) for i in range(6)]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    common = ["--questions", str(tmp_path / "questions.jsonl"), "--num_samples", "1", "--temperature", "0", "--max_tokens", "12"]
    here = ["--model", str(tiny_backbone), "--engine", "transformers", "--dtype", "float32", "--output", str(tmp_path / "here")]
    there = ["--model", "tiny", "--engine", "server", "--base_url", served, "--output", str(tmp_path / "there")]
    for flags in (here, there):
        generate_rollouts.main([*common, *flags])
    expected, got = ({r.key: r for r in read_records(tmp_path / name, Rollout)} for name in ("here", "there"))
    assert got.keys() == expected.keys()
    assert sum(got[key] == expected[key] for key in expected) >= 5  # a near tie may fall either way
    assert {(r.finish_reason, r.num_tokens) for r in got.values() if r.finish_reason == "length"} <= {("length", 12)}


def test_token_ids_and_seeds(served, tiny_backbone, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    encoder = StepEncoder(tokenizer=load_tokenizer(tiny_backbone))
    question = "Take 2. Add 4."
    ids, messages = encoder.prompt_ids(question), encoder.messages(question)
    requests = [SampleRequest("ids", ids, 5), SampleRequest("chat", [], 5, messages), SampleRequest("other", ids, 6)]
    config = EngineConfig(model="tiny", engine="server", base_url=served, max_num_seqs=1)
    with closing(make_engine(config)) as engine:
        first, second = ({r.key: r.text for r in engine.generate(requests, SamplingConfig(max_tokens=20))} for _ in range(2))
    assert first == second
    assert first["ids"] == first["chat"] != first["other"]


@pytest.mark.parametrize(
    ("model", "prompt", "message"),
    [("huge", [5], "status 404: .*huge"), ("tiny", [5] * 300, "status 400: .*256"), ("tiny", [10**6], "status 400")],
)
def test_its_refusals_end_the_run_with_its_own_words(served, monkeypatch, model, prompt, message):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    config = EngineConfig(model=model, engine="server", base_url=served)
    with closing(make_engine(config)) as engine, pytest.raises(EngineError, match=message):
        list(engine.generate([SampleRequest("bad", prompt, 0)], SamplingConfig(max_tokens=4)))
