"""The script on real parts: vLLM on the CPU, killed half way and resumed; both engines agree; nothing survives a kill."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path

import generate_rollouts as script
import pytest

from prm.files import read_records, write_jsonl
from prm.records import Question, Rollout
from prm.sampling.base import EngineConfig, SampleRequest, SamplingConfig, make_engine

pytestmark = pytest.mark.slow
NUM_QUESTIONS, NUM_SAMPLES = 100, 30


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "questions.jsonl"
    write_jsonl(path, [Question(f"q{i}", f"Take {i}. Add 4.", str(i + 4)) for i in range(NUM_QUESTIONS)])
    return path


def flags(model: Path, questions: Path, output: Path, **more: object) -> list[str]:
    values = {"model": model, "questions": questions, "output": output, "num_samples": NUM_SAMPLES, "max_tokens": 32, **more}
    return [f"--{name}={value}" for name, value in values.items()]


def processes_marked(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def wait_until(condition, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)


def test_killed_and_resumed_under_vllm(tiny_backbone, questions, tmp_path):
    output, mark = tmp_path / "rollouts", uuid.uuid4().hex
    command = [sys.executable, script.__file__, *flags(tiny_backbone, questions, output, engine="vllm")]
    job = subprocess.Popen(command, env={**os.environ, "TEST_MARK": mark}, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(output.glob("*.jsonl")) or job.poll() is not None, 300)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    wait_until(lambda: not processes_marked(mark), 10)
    before = {rollout.key: rollout for rollout in read_records(output, Rollout)}
    assert 0 < len(before) < NUM_QUESTIONS * NUM_SAMPLES

    finished = subprocess.run(command, env={**os.environ, "TEST_MARK": mark}, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert not processes_marked(mark)
    rollouts = list(read_records(output, Rollout))
    expected = {(f"q{i}", j): 1 for i in range(NUM_QUESTIONS) for j in range(NUM_SAMPLES)}
    assert Counter(rollout.key for rollout in rollouts) == expected
    assert before.items() <= {rollout.key: rollout for rollout in rollouts}.items()
    assert f"{len(before)} already_there" in finished.stderr
    assert len({rollout.response for rollout in rollouts}) > 0.9 * len(rollouts)


def test_vllm_dies_under_way_and_every_request_is_still_answered_as_transformers_would(tiny_backbone):
    settings = {"model": str(tiny_backbone), "dtype": "float32", "max_num_seqs": 2, "data_parallel_size": 1, "max_model_len": 256}
    requests = [SampleRequest(i, [10 + i % 50, 20, 30 + i % 7], seed=i) for i in range(120)]
    greedy = SamplingConfig(max_tokens=24, temperature=0)
    with closing(make_engine(EngineConfig(engine="transformers", **settings))) as engine:
        expected = {result.key: result for result in engine.generate(requests, greedy)}
    with closing(make_engine(EngineConfig(engine="vllm", **settings))) as engine:
        results = []
        for result in engine.generate(requests, greedy):
            results.append(result)
            if len(results) == 1:
                os.killpg(engine.replicas[0].process.pid, signal.SIGKILL)
        assert engine.replicas[0].num_restarts == 1
        sampled = [{r.key: r.text for r in engine.generate(requests, SamplingConfig(max_tokens=12))} for _ in range(2)]
    assert sorted(result.key for result in results) == list(range(120))
    assert sum(result == expected[result.key] for result in results) >= 118  # a near tie may fall either way
    assert sampled[0] == sampled[1]


def test_the_script_refuses_before_it_loads_anything(tiny_backbone, questions, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--model .*/nowhere: no such folder"):
        script.main(flags(tmp_path / "nowhere", questions, tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        script.main(flags(tiny_backbone, tmp_path / "nothing.jsonl", tmp_path / "out"))
    with pytest.raises(SystemExit):
        script.main(["--num_sampels", "3"])
    assert not (tmp_path / "out").exists()
