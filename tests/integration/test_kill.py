"""kill -9 at three points of a stage, then the same command again: every line of the output as if nothing had happened.

An evaluation is killed while its model scores: all its files are those of an unbroken run, byte for byte.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prm.files import write_jsonl
from prm.records import Question, Rollout

SCRIPTS = Path(__file__).parents[2] / "scripts"
NUM_QUESTIONS, NUM_SAMPLES, NUM_SCORED = 130, 50, 1000


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """6,500 questions and rollouts: three shards are full before the last one; fewer to score, whose shards begin smaller."""
    folder = tmp_path_factory.mktemp("inputs")
    write_jsonl(folder / "questions.jsonl", [Question(f"q{i}", f"Take {i}. Add 4.", str(i + 4)) for i in range(NUM_QUESTIONS)])
    rollouts = [
        Rollout(f"q{q}", i, f"Question {q}?", str(q % 7), f"Think {i} times.\n\n{answer(q, i)}", "stop", 9, i % 7 == q % 7)
        for q in range(NUM_QUESTIONS)
        for i in range(NUM_SAMPLES)
    ]
    write_jsonl(folder / "rollouts.jsonl", rollouts)
    write_jsonl(folder / "few.jsonl", rollouts[:NUM_SCORED])
    return folder


def answer(q: int, i: int) -> str:
    return f"Of {q} it is \\boxed{{{i % 7}}}." if i % 9 else "No idea."


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
        "score": {"model": model, "input": inputs / "few.jsonl", "output": output, "device": "cpu"},
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
    """The clock cuts windows that take long, and which responses are packed together changes their scores by rounding."""
    rows = [sorted(map(json.loads, part), key=lambda row: (row["question_id"], row["sample_index"])) for part in (broken, whole)]
    scores = [[score for row in part for score in row.pop("step_scores")] for part in rows]
    return rows[0] == rows[1] and scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("stage", "output"), [("generate_rollouts", "out"), ("grade_rollouts", "out"), ("grade_rollouts", "out.jsonl")]
)
def test_killed_three_times(inputs, tiny_backbone, tmp_path, stage, output):
    broken, whole = kill(inputs, tiny_backbone, tmp_path, stage, output)
    assert broken == whole
    assert len(whole) == NUM_QUESTIONS * NUM_SAMPLES


def test_scoring_killed_three_times(inputs, make_prm, tmp_path):
    broken, whole = kill(inputs, make_prm(max_length=4096), tmp_path, "score", "out")
    assert are_close(broken, whole)
    assert len(whole) == NUM_SCORED


def kill(inputs: Path, model: Path | str, tmp_path: Path, stage: str, output: str) -> tuple[list[str], list[str]]:
    """The lines of a run that was killed three times and of an unbroken one."""
    whole, broken = tmp_path / "whole" / output, tmp_path / "broken" / output
    subprocess.run(command(stage, inputs, whole, model), check=True, capture_output=True)
    arguments = command(stage, inputs, broken, model)
    shards = broken if broken.suffix != ".jsonl" else broken.with_name(broken.name + ".partial")
    for count in (1, 2, 3):
        run_until(arguments, shards, count)
    # The next shard was being written when the power went.
    shutil.copy(next(shards.glob("*.jsonl")), shards / ".part-00003.jsonl.1.tmp")
    subprocess.run(arguments, check=True, capture_output=True)
    return lines(broken), lines(whole)


RUN_BROKEN_AND_WHOLE = """
import json, os, sys
import bon_eval, processbench_eval
from prm.shards import ShardWriter

flush, num_flushes = ShardWriter.flush, 0


def flush_and_die(writer):
    global num_flushes
    flush(writer)
    num_flushes += 1
    if num_flushes == int(sys.argv[2]):
        os.kill(os.getpid(), 9)


evaluations = json.loads(sys.argv[1])
for script, flags in evaluations.items():
    if (child := os.fork()) == 0:
        ShardWriter.flush = flush_and_die
        sys.modules[script].main([*flags, "--output_dir", f"broken/{script}"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    with open(f"broken/{script}/scores/.part-00002.jsonl.1.tmp", "w") as torn:
        torn.write('{"half": ')
for script, flags in evaluations.items():
    for folder in ("broken", "whole"):
        sys.modules[script].main([*flags, "--output_dir", f"{folder}/{script}"])
"""


@pytest.mark.parametrize(("num_flushes", "num_scored"), [(1, 0), (3, 32), (4, 96)])
def test_evaluations_killed_while_they_score(inputs, make_prm, tmp_path, num_flushes, num_scored):
    """Of every window (32, 64, ...) what was dropped is written and then its scores; an item in nine cannot be read."""
    texts = [[f"Take {i}.", f"Add {i} to it.", "word " * (200 if i % 9 == 3 else i % 7 + 1)] for i in range(200)]
    items = [{"id": f"i{i}", "problem": "?", "steps": steps, "label": i % 3 - 1} for i, steps in enumerate(texts)]
    write_jsonl(tmp_path / "first_error.jsonl", items)
    rollouts = (inputs / "rollouts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "rollouts.jsonl").write_text("".join(rollouts[:200]), encoding="utf-8")
    common = ["--model", make_prm(max_length=200), "--device", "cpu", "--num_bootstrap", "50"]
    evaluations = {
        "processbench_eval": [*common, "--data", "first_error.jsonl", "--threshold", "fixed", "oracle"],
        "bon_eval": [*common, "--rollouts", "rollouts.jsonl", "--num_vote_draws", "20"],
    }
    command = [sys.executable, "-c", RUN_BROKEN_AND_WHOLE, json.dumps(evaluations), str(num_flushes)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    found = [int(number) for number in re.findall(r"responses to score, (\d+) already scored", done.stderr)]
    assert found == [0, 0, num_scored, 0, num_scored, 0]
    for script in evaluations:
        broken, whole = (files_of(tmp_path / part / script) for part in ("broken", "whole"))
        assert broken == whole
        assert {"metrics.json", "items.jsonl", "scores/part-00002.jsonl"} <= whole.keys()
        assert broken.keys() & {"predictions.jsonl", "scores.jsonl"}
    counts = [
        json.loads((tmp_path / part / "processbench_eval" / "manifest.json").read_text())["counts"] for part in ("broken", "whole")
    ]
    assert counts == [{"num_items": 200, "too_long": 22}] * 2


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents by name; manifests tell the command and the speed."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
