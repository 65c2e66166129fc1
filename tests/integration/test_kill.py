"""kill -9 at three points of a stage, then the same command again: every line of the output as if nothing had happened."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from operator import eq
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prm.files import write_jsonl
from prm.models import RewardModel, save_model
from prm.records import Question, Rollout
from prm.steps import StepEncoder

SCRIPTS = Path(__file__).parents[2] / "scripts"
NUM_QUESTIONS, NUM_SAMPLES = 130, 50


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """6,500 questions and rollouts: three shards are full before the last one."""
    folder = tmp_path_factory.mktemp("inputs")
    write_jsonl(folder / "questions.jsonl", [Question(f"q{i}", f"Take {i}. Add 4.", str(i + 4)) for i in range(NUM_QUESTIONS)])
    responses = [f"Think {i} times.\n\n\\boxed{{{i % 7}}}" if i % 9 else "No idea." for i in range(NUM_SAMPLES)]
    write_jsonl(
        folder / "rollouts.jsonl",
        [
            Rollout(f"q{q}", i, f"Question {q}?", str(q % 7), response, "stop", 9)
            for q in range(NUM_QUESTIONS)
            for i, response in enumerate(responses)
        ],
    )
    return folder


def command(stage: str, inputs: Path, output: Path, model: Path) -> list[str]:
    flags = {
        "generate_rollouts": {
            "model": model,
            "engine": "transformers",
            "questions": inputs / "questions.jsonl",
            "output": output,
            "num_samples": NUM_SAMPLES,
            "max_tokens": 1,
        },
        "score": {"model": model, "input": inputs / "rollouts.jsonl", "output": output, "device": "cpu"},
        "grade_rollouts": {"input": inputs / "rollouts.jsonl", "output": output, "num_workers": 1},
    }[stage]
    return [sys.executable, str(SCRIPTS / f"{stage}.py"), *(f"--{name}={value}" for name, value in flags.items())]


def lines(output: Path) -> list[str]:
    files = output.glob("*.jsonl") if output.is_dir() else [output]
    return sorted(line for file in files for line in file.read_text(encoding="utf-8").splitlines())


def run_until(arguments: list[str], shards: Path, count: int) -> None:
    """Start, and kill as soon as `count` shards are there."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(shards.glob("*.jsonl"))) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def are_close(broken: list[str], whole: list[str]) -> bool:
    """Which responses are scored together is another matter after a kill, and changes their scores by rounding."""
    rows = [sorted(map(json.loads, part), key=lambda row: (row["question_id"], row["sample_index"])) for part in (broken, whole)]
    scores = [[score for row in part for score in row.pop("step_scores")] for part in rows]
    return rows[0] == rows[1] and scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "output"), [("generate_rollouts", "out"), ("grade_rollouts", "out"), ("grade_rollouts", "out.jsonl")]
)
def test_killed_three_times(inputs, tiny_backbone, tmp_path, stage, output):
    kill_and_compare(inputs, tiny_backbone, tmp_path, stage, output)


def test_scoring_killed_three_times(inputs, tiny_backbone, tmp_path):
    encoder = StepEncoder.for_loss("asym", AutoTokenizer.from_pretrained(tiny_backbone))
    save_model(RewardModel.from_backbone(tiny_backbone, 1, vocab_size=len(encoder.tokenizer)), encoder, tmp_path / "model")
    kill_and_compare(inputs, tmp_path / "model", tmp_path, "score", "out", are_close)


def kill_and_compare(inputs: Path, model: Path, tmp_path: Path, stage: str, output: str, are_equal: Callable = eq) -> None:
    whole, broken = tmp_path / "whole" / output, tmp_path / "broken" / output
    subprocess.run(command(stage, inputs, whole, model), check=True, capture_output=True)
    arguments = command(stage, inputs, broken, model)
    shards = broken if broken.suffix != ".jsonl" else broken.with_name(broken.name + ".partial")
    for count in (1, 2, 3):
        run_until(arguments, shards, count)
    # The next shard was being written when the power went.
    shutil.copy(next(shards.glob("*.jsonl")), shards / ".part-00003.jsonl.1.tmp")
    subprocess.run(arguments, check=True, capture_output=True)
    assert are_equal(lines(broken), lines(whole))
    assert len(lines(whole)) == NUM_QUESTIONS * NUM_SAMPLES
