"""grade_rollouts.py and build_dataset.py end to end: real data, interruption, hostile answers, mistakes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import build_dataset
import grade_rollouts
import pytest

from prm.files import read_records, write_jsonl
from prm.records import Response, Rollout
from prm.shards import in_shard

SCRIPTS = Path(__file__).parents[2] / "scripts"
SLOW_ANSWER = r"\prod_{k=1}^{10000000} k"


def rollouts(num_questions: int, num_samples: int = 4) -> list[Rollout]:
    """Answers 0, 1, 2, ... to questions whose reference is 1; the last sample of each has no box."""
    return [
        Rollout(f"q{q}", i, f"Question {q}?", "1", f"Think {i}.\n\n\\boxed{{{i}}}" if i < num_samples - 1 else "?", "stop", 3)
        for q in range(num_questions)
        for i in range(num_samples)
    ]


@pytest.mark.parametrize("output", ["graded", "graded.jsonl"])
def test_grade_to_folder_or_file(tmp_path, output):
    write_jsonl(tmp_path / "in.jsonl", rollouts(3))
    flags = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / output)]
    grade_rollouts.main(flags)
    graded = list(read_records(tmp_path / output, Rollout))
    assert [r.grade for r in graded] == ["wrong", "correct", "wrong", "no_answer"] * 3
    name = "graded/manifest.json" if output == "graded" else "graded.manifest.json"
    counts = json.loads((tmp_path / name).read_text())["counts"]
    assert counts == {"correct": 3, "wrong": 6, "no_answer": 3, "timeout": 0, "unparsable": 0}

    write_jsonl(tmp_path / "in.jsonl", rollouts(4))
    grade_rollouts.main(flags)
    assert len(list(read_records(tmp_path / output, Rollout))) == 16


def test_finished_rollouts_are_not_graded_again(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "in.jsonl", rollouts(2))
    flags = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "graded")]
    grade_rollouts.main(flags)
    monkeypatch.setattr(grade_rollouts, "grade", lambda todo, *_: iter([]) if not list(todo) else pytest.fail("graded again"))
    grade_rollouts.main(flags)


def test_two_jobs_share_the_questions_of_a_folder(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", rollouts(5))
    flags = ["--input", str(tmp_path / "in.jsonl"), "--num_shards", "2", "--output", str(tmp_path / "graded")]
    of_first = sum(in_shard(f"q{i}", 0, 2) for i in range(5))
    for index, num_questions in ((1, 5 - of_first), (0, of_first), (0, of_first)):
        grade_rollouts.main([*flags, "--shard_index", str(index)])
        counts = json.loads((tmp_path / "graded" / f"manifest-0000{index}-of-00002.json").read_text())["counts"]
        assert counts["wrong"] == 2 * num_questions
        questions = {r.question_id for f in tmp_path.glob(f"graded/part-0000{index}-*") for r in read_records(f, Rollout)}
        assert len(questions) == num_questions
    assert len(list(read_records(tmp_path / "graded", Rollout))) == 20
    empty = next(index for index in range(9) if not any(in_shard(f"q{i}", index, 9) for i in range(5)))
    with pytest.raises(ValueError, match="no rollouts to grade; lower --num_shards"):
        grade_rollouts.main([*flags, "--num_shards", "9", "--shard_index", str(empty)])


def test_kill_and_resume_lose_and_repeat_nothing(tmp_path):
    todo = rollouts(400)
    todo[700] = Rollout("slow", 0, "?", "1", rf"\boxed{{{SLOW_ANSWER}}}", "stop", 3)
    write_jsonl(tmp_path / "in.jsonl", todo)
    command = [sys.executable, SCRIPTS / "grade_rollouts.py", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "graded"]
    # The slow answer holds up the second of four chunks: the kill falls in there.
    process = subprocess.Popen([*command, "--timeout_seconds", "5"], stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1.5)
    process.send_signal(signal.SIGKILL)
    process.wait()

    subprocess.run([*command, "--timeout_seconds", "0.5"], check=True, capture_output=True)
    graded = {r.key: r for r in read_records(tmp_path / "graded", Rollout)}
    assert graded.keys() == {r.key for r in todo}
    assert graded["slow", 0].grade == "timeout"


def test_idle_workers_of_a_killed_parent_end(tmp_path):
    code = "import os, signal, time\nfrom prm.grading import GradingPool\npool = GradingPool(2)\n"
    code += "print(*[w.process.pid for w in pool._idle], flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    workers = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.split()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_grades_of_other_responses_are_never_kept(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", rollouts(1))
    flags = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "graded")]
    grade_rollouts.main(flags)
    write_jsonl(tmp_path / "in.jsonl", [Rollout("q0", 0, "?", "1", r"\boxed{1}", "stop", 3)])
    with pytest.raises(ValueError, match=r"for another response or answer under \('q0', 0\)"):
        grade_rollouts.main(flags)


def test_an_unreadable_reference_stops_before_anything_is_graded(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [*rollouts(2), Rollout("bad", 0, "?", "$", r"\boxed{1}", "stop", 3)])
    with pytest.raises(ValueError, match="of 1 of 3 questions: 'bad'"):
        grade_rollouts.main(["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_mistakes_of_the_grading_command(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [])
    with pytest.raises(ValueError, match="is the input itself"):
        grade_rollouts.main(["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "in.jsonl")])
    with pytest.raises(ValueError, match="no rollouts to grade"):
        grade_rollouts.main(["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out")])
    with pytest.raises(FileNotFoundError, match="missing"):
        grade_rollouts.main(["--input", str(tmp_path / "missing"), "--output", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="--shard_index 2 of --num_shards 2; it counts from 0"):
        grade_rollouts.main(["--shard_index", "2", "--num_shards", "2"])
    with pytest.raises(ValueError, match=r"--output graded\.jsonl: 2 jobs share a folder"):
        grade_rollouts.main(["--num_shards", "2", "--output", "graded.jsonl"])
    assert not (tmp_path / "out").exists()


def test_real_solutions_become_a_dataset(real_data, tmp_path):
    """The commands of the README for GSM8K's 800 example solutions."""
    file = real_data / "gsm8k_example_model_solutions_200.jsonl"
    grade_rollouts.main(["--input", str(file), "--output", str(tmp_path / "graded")])
    flags = ["--rollouts", str(tmp_path / "graded"), "--output", str(tmp_path / "dataset"), "--validation_fraction", "0.1"]
    build_dataset.main(flags)
    manifest = json.loads((tmp_path / "dataset" / "manifest.json").read_text())
    train, validation = (list(read_records(tmp_path / "dataset" / f"{s}.jsonl", Response)) for s in ("train", "validation"))
    assert manifest["counts"]["responses_read"] == 800
    assert manifest["counts"]["responses_dropped"]["no_answer"] == 5
    assert len(train) + len(validation) + sum(manifest["counts"]["responses_dropped"].values()) == 800
    assert {r.question_id for r in train}.isdisjoint(r.question_id for r in validation)
    assert all(r.steps and r.correct is not None for r in [*train, *validation])

    build_dataset.main([*flags, "--decontaminate", str(real_data / "bon" / "bon16_gsm8k_50.jsonl")])
    overlaps = json.loads((tmp_path / "dataset" / "manifest.json").read_text())["overlaps"]
    assert len(overlaps) == 50  # the candidate pool asks the first 50 questions of the same file


GRADE_EACH = """
import json, resource, sys
from prm.grading import grade
from prm.records import Rollout

grades = {}
for item in json.load(open(sys.argv[1]))["items"]:
    text = "".join(part * count for part, count in item.get("parts", [])) or item["text"]
    (graded,) = grade([Rollout(item["id"], 0, "?", item["gold"], text, "stop", 1)], 1, float(sys.argv[2]))
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    grades[item["id"]] = [graded.correct, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]
print(json.dumps(grades))
"""


def test_hostile_answers_are_bounded(real_data):
    """In CPU time, because wall-clock time would say how busy the machine is, and in a process without other children."""
    file, timeout_seconds = real_data / "hostile_answers.json", 0.4
    command = [sys.executable, "-c", GRADE_EACH, str(file), str(timeout_seconds)]
    grades = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    before = 0.0
    for item in json.loads(file.read_text())["items"]:
        is_correct, cpu_seconds, memory = grades[item["id"]]
        assert cpu_seconds - before < timeout_seconds + 0.3, item["id"]
        before = cpu_seconds
        assert not (is_correct and item["correct"] is False), item["id"]
        assert memory < 2.5 * 2**30, item["id"]
