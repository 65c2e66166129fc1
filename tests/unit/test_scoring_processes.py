"""Scoring in several processes: every question is in one share, each has its device, a failure stops all."""

import errno
import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from test_scoring import RESPONSES, make_checkpoint

import prm.scoring.processes
from prm.files import write_jsonl
from prm.records import Response
from prm.scoring import ScoringConfig, score_file, score_in_processes
from prm.scoring.processes import environment, occupied, share_of, wait_for_all
from prm.shards import in_shard


@pytest.fixture
def config(tmp_path, tiny_backbone) -> ScoringConfig:
    write_jsonl(tmp_path / "in.jsonl", RESPONSES)
    model = make_checkpoint(tmp_path / "model", tiny_backbone, "asym")
    return ScoringConfig(model=model, input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out"), device="cpu", num_processes=2)


def test_shares_of_shares(config):
    """Jobs divide the questions alike, whatever each has of processes: a requeued one may find fewer GPUs."""
    names = [f"question {number}" for number in range(500)]
    counts = {0: 1, 1: 2, 2: 5}
    for index, count in counts.items():
        job = replace(config, num_shards=3, shard_index=index, num_processes=count)
        shares = [share_of(job, rank) for rank in range(count)]
        assert [(share.num_shards, share.num_processes) for share in shares] == [(3 * count, 1)] * count
        held = [name for share in shares for name in names if in_shard(name, share.shard_index, share.num_shards)]
        assert sorted(held) == sorted(name for name in names if in_shard(name, index, 3))
    found = occupied(config, [share_of(replace(config, num_processes=50), rank) for rank in range(50)])
    assert 1 <= len(found) <= 3  # questions
    assert sum(score_file(share)["responses"] for share in found) == 4
    assert len(occupied(replace(config, limit=1), found)) == 1


def test_each_takes_a_gpu_or_its_part_of_the_cores(monkeypatch):
    monkeypatch.setattr(prm.scoring.processes, "num_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    on_gpu, on_cpu = environment(1, ["4", "6"], 2), environment(0, [], 2)
    assert (on_gpu["CUDA_VISIBLE_DEVICES"], on_gpu["RANK"]) == ("6", "1")
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["RANK"]) == ("3", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert environment(0, [], 2)["OMP_NUM_THREADS"] == "1"


def test_what_cannot_be_fails_before_a_process_starts(config, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(ValueError, match="2 jobs share a folder"):
        score_in_processes(replace(config, output=config.output + ".jsonl"))
    with pytest.raises(ValueError, match="--num_processes 0: at least 1"):
        score_in_processes(replace(config, num_processes=0))
    with pytest.raises(FileNotFoundError, match="no such checkpoint folder"):
        score_in_processes(replace(config, model=str(tmp_path / "gone")))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="no responses to score"):
        score_in_processes(replace(config, input=str(tmp_path / "empty.jsonl")))
    monkeypatch.setattr(prm.scoring.processes, "visible_gpus", lambda: ["0"])
    with pytest.raises(ValueError, match="each takes one of 1 GPUs"):
        score_in_processes(replace(config, device="auto"))
    with pytest.raises(ValueError, match="--device cuda:1: each takes one of"):
        score_in_processes(replace(config, device="cuda:1", num_processes=1))


def test_a_child_says_in_one_line_what_is_wrong(config, capfd):
    weights = Path(config.model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match="scoring failed with status"):
        score_in_processes(config)
    err = capfd.readouterr().err
    assert f"score.py: error: {config.model}: a .safetensors file is damaged" in err
    assert "Traceback" not in err


def test_a_parent_that_is_told_to_stop_leaves_no_process_behind(config, tmp_path):
    """Another run would write to the same shards while they go on."""
    steps = ["Add {0} and {0}. " * 20, "So it is {0}."]
    many = [Response(f"q{i % 50}", i, "How many?", [step.format(i) for step in steps]) for i in range(12_000)]
    write_jsonl(tmp_path / "in.jsonl", many)
    code = "import json, sys; from prm.scoring import *; score_in_processes(ScoringConfig(**json.loads(sys.argv[1])))"
    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(asdict(config))])
    deadline = time.monotonic() + 120
    while len(list(Path(config.output).glob("*.jsonl"))) < 2:  # both score, and have much left to score
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.terminate()
    parent.wait()
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_one_that_cannot_be_started_stops_those_before_it(config, monkeypatch):
    original, started = subprocess.Popen, []

    def start(*_, **__):
        if started:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(original([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        score_in_processes(replace(config, num_processes=3))
    assert started[0].poll() is not None


def test_a_failure_stops_the_others():
    fails, sleeps = (subprocess.Popen([sys.executable, "-c", code]) for code in ("exit(3)", "import time; time.sleep(60)"))
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"status \[3, None\].*the same command resumes"):
        wait_for_all([fails, sleeps])
    assert time.monotonic() - begin < 30
    assert sleeps.returncode is not None
