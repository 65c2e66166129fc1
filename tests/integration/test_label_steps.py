"""label_steps.py end to end: a judge behind a server, killed at three points and resumed; both engines; consensus of two judges."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import label_steps
import pytest
from fake_server import FakeServer

from prm.files import read_records, write_jsonl
from prm.records import Response
from prm.sampling.base import EngineError

NUM_RESPONSES = 150
SHORT_SHARDS = """
import functools, sys
from prm.annotation import base
base.ShardWriter = functools.partial(base.ShardWriter, shard_size=10)
import label_steps
label_steps.main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(label_steps.__file__).parent), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def responses(tmp_path) -> Path:
    path = tmp_path / "responses.jsonl"
    steps = ["Add the two.", "It is {}."]
    write_jsonl(path, [Response(f"q{i // 4}", i % 4, f"What is {i} + 4?", steps, answer="7") for i in range(NUM_RESPONSES)])
    return path


def flags(server: FakeServer, responses: Path, output: Path, **more: object) -> list[str]:
    values = {"method": "judge", "engine": "server", "base_url": server.base_url, "model": "judge", "max_retries": 2}
    values |= {"input": responses, "output": output, "max_num_seqs": 8, **more}
    return [f"--{name}={value}" for name, value in values.items()]


def verdict(body: dict) -> str:
    """Decided by the seed alone; about a third cannot be read."""
    draw = random.Random(body["seed"])
    labels = [draw.choice(["Great", "Okay", "Bad"]) for _ in range(2)]
    return draw.choice([rf"\boxed{{[{', '.join(labels)}]}}"] * 4 + [r"\boxed{[Great]}", "I do not know."])


def lines(*files: Path) -> list[str]:
    return sorted(line for file in files for line in file.read_text().splitlines())


def test_killed_at_three_points_and_resumed_gives_the_same_bytes(responses, tmp_path):
    output, job, kills = tmp_path / "out.jsonl", [], [40, 90, 140]

    def answer(body: dict) -> str:
        if kills and len(server.bodies) >= kills[0]:
            kills.pop(0)
            os.kill(job[-1].pid, signal.SIGKILL)
        return verdict(body)

    with FakeServer(answer) as server:
        command = [sys.executable, "-c", SHORT_SHARDS, *flags(server, responses, output)]
        kept = []
        while kills:
            job.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
            assert job[-1].wait(timeout=120) == -signal.SIGKILL, job[-1].communicate()[1]
            job[-1].stderr.close()
            kept.append(len(lines(*(tmp_path / "out.jsonl.partial").glob("*.jsonl"))))
        assert 0 < kept[0] < kept[1] < kept[2] < NUM_RESPONSES
        label_steps.main(command[3:])
        num_requests = len(server.bodies)
        label_steps.main(flags(server, responses, tmp_path / "whole.jsonl"))
    assert lines(output) == lines(tmp_path / "whole.jsonl")
    assert lines(tmp_path / "out.dropped.jsonl") == lines(tmp_path / "whole.dropped.jsonl")
    counts, whole = (json.loads((tmp_path / f"{n}.manifest.json").read_text())["counts"] for n in ("out", "whole"))
    assert counts == whole
    assert counts["labelled"] + counts["dropped"] == NUM_RESPONSES
    assert 0 < counts["dropped_wrong_length"] + counts["dropped_no_box"] == counts["dropped"]
    assert counts["num_label_tokens"] == 3 * counts["num_label_requests"]
    # A kill costs what was in flight and in memory, never what was on disk.
    assert num_requests < counts["num_label_requests"] + 3 * (8 + 2 * 10 * 3)


def test_a_server_that_dies_ends_the_command_and_the_next_one_resumes(responses, tmp_path):
    with FakeServer(lambda body: verdict(body) if len(server.bodies) < 60 else 503) as server:
        dying = flags(server, responses, tmp_path / "out", max_request_retries=0)
        with pytest.raises(EngineError, match=r"status 503.*the same command resumes"):
            label_steps.main(dying)
    before = {r.key: r.step_labels for r in read_records(tmp_path / "out", Response)}
    assert 20 < len(before) < 60
    with FakeServer(verdict) as server:
        label_steps.main(flags(server, responses, tmp_path / "out"))
    assert before.items() <= {r.key: r.step_labels for r in read_records(tmp_path / "out", Response)}.items()


def test_two_judges_and_their_consensus(responses, tmp_path):
    with FakeServer(verdict) as server:
        for seed in (1, 2):
            label_steps.main(flags(server, responses, tmp_path / f"judge-{seed}", seed=seed, num_votes=seed))
    sets = [tmp_path / "judge-1", tmp_path / "judge-2"]
    consensus = ["--method", "consensus", "--input", str(sets[0]), "--other", str(sets[1]), "--output", str(tmp_path / "both")]
    label_steps.main(consensus)
    first, second = ({r.key: r.step_labels for r in read_records(path, Response)} for path in sets)
    kept = {r.key: r for r in read_records(tmp_path / "both", Response)}
    assert kept.keys() == {key for key in first.keys() & second.keys() if error(first[key]) == error(second[key])}
    assert {key: r.step_labels for key, r in kept.items()} == {key: first[key] for key in kept}
    counts = json.loads((tmp_path / "both" / "manifest.json").read_text())["counts"]
    assert counts["missing_in_other"] == len(first.keys() - second.keys())
    assert counts["missing_in_input"] == len(second.keys() - first.keys())
    assert -0.3 < json.loads((tmp_path / "both" / "metrics.json").read_text())["cohen_kappa"] < 0.3


def error(labels: list[float]) -> int:
    return labels.index(-1.0) if -1.0 in labels else -1


def test_an_engine_here_judges_too(responses, tiny_backbone, tmp_path):
    """A random model writes no verdict: every response is dropped and counted, at the price of its retries."""
    write_jsonl(responses, list(read_records(responses, Response))[:6])
    settings = {"max_tokens": 8, "max_retries": 1, "num_votes": 2, "input": responses, "output": tmp_path / "out"}
    values = {"method": "judge", "engine": "transformers", "model": tiny_backbone, **settings}
    label_steps.main([f"--{name}={value}" for name, value in values.items()])
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert (counts["labelled"], counts["dropped"], counts["num_label_requests"]) == (0, 6, 24)
    assert counts.get("dropped_truncated", 0) + counts.get("dropped_no_box", 0) == 6


def test_mistakes_of_the_command_line(capsys, tmp_path):
    with pytest.raises(SystemExit):
        label_steps.main(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}: {config.__doc__.splitlines()[0]}" in help_text for name, (config, _) in label_steps.METHODS.items())
    with pytest.raises(SystemExit):
        label_steps.main(["--method", "judge", "--help"])
    assert "--num_votes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        label_steps.main(["--method", "jugde"])
    assert "invalid choice: 'jugde'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        label_steps.main(["--input", "x"])
    assert "the following arguments are required: --method" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        label_steps.main(["--method=consensus", "--num_votes", "3"])
    assert "unknown argument '--num_votes'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--base_url is None"):
        label_steps.main(["--method", "judge", "--engine", "server", "--input", str(tmp_path)])
