"""The jobs under a real Slurm, two nodes on this machine: signaled, requeued and finished, results are the uninterrupted ones.

`make test-slurm` installs Slurm where it can; without Slurm and root these tests are skipped.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tiny_training import STEPS, trajectory, write_dataset

from prm.files import read_records, write_json, write_jsonl
from prm.records import Question, Rollout

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests" / "slurm" / "cluster.sh"
CAN_RUN = all(map(shutil.which, ("slurmctld", "slurmd", "sbatch"))) and os.geteuid() == 0
REMEDY = "needs Slurm (Debian: slurm-wlm) and root; make test-slurm installs it"
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200), pytest.mark.skipif(not CAN_RUN, reason=REMEDY)]

NUM_STEPS = 500
LONG = [*STEPS, "--max_steps", str(NUM_STEPS), "--save_steps", "100", "--warmup_steps", "20"]
"""Long enough to be signaled half way; a later flag wins over an earlier one."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Slurm:
    """A running cluster; jobs log into `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        environment = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {n: v for n, v in os.environ.items() if n not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
        self.env |= {"PATH": environment, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}

    def call(self, *command: object, **variables: object) -> str:
        env = self.env | {name: str(value) for name, value in variables.items()}
        done = subprocess.run([*map(str, command)], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def submit(self, job: str, *flags: object, options: tuple[str, ...] = (), **variables: object) -> str:
        """Submit scripts/slurm/JOB.sbatch with its own variables; the sizes in it are those of a larger machine."""
        sizes = ("--parsable", "--cpus-per-task=1", f"--output={self.folder}/%j.out", *options)
        return self.call("sbatch", *sizes, f"scripts/slurm/{job}.sbatch", *flags, **variables)

    def show(self, job: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", "--oneliner", job)))

    def log(self, job: str) -> str:
        path = Path(self.show(job)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else "no output"

    def wait_until(self, job: str, condition: Callable[[dict[str, str]], bool], timeout_seconds: float = 400) -> dict[str, str]:
        deadline = time.monotonic() + timeout_seconds
        while not condition(shown := self.show(job)):
            assert time.monotonic() < deadline, f"{shown['JobState']}\n{self.log(job)[-4000:]}"
            time.sleep(0.2)
        return shown

    def wait_for(self, job: str, state: str = "COMPLETED", timeout_seconds: float = 400) -> dict[str, str]:
        shown = self.wait_until(job, lambda shown: shown["JobState"] in {state, *ENDED}, timeout_seconds)
        assert shown["JobState"] == state, f"{shown['JobState']}\n{self.log(job)[-4000:]}"
        return shown

    def wait_for_requeue(self, job: str, restarts: int) -> None:
        """Wait until the job has been queued again, and let it start soon: Slurm holds it back for two minutes."""
        self.wait_until(job, lambda shown: shown["JobState"] in ("PENDING", *ENDED) and shown["Restarts"] == str(restarts))
        time.sleep(3)  # a node still refuses the job in the second in which it was taken back: "Job credential revoked"
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def signal(self, job: str) -> None:
        self.call("scancel", "--signal=USR1", "--batch", job)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([CLUSTER, "up", folder, "2"], check=True)
    try:
        yield Slurm(folder)
    finally:
        subprocess.run([CLUSTER, "down", folder], check=True)


@pytest.fixture(scope="module")
def flags(tmp_path_factory, tiny_backbone) -> list[object]:
    dataset = write_dataset(tmp_path_factory.mktemp("dataset"))
    return ["--use_cpu", "True", "--dataset", dataset, "--model_name_or_path", tiny_backbone, "--loss", "asym", *LONG]


@pytest.fixture(scope="module")
def uninterrupted(slurm, flags, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    shown = slurm.wait_for(slurm.submit("train", *flags, options=("--gpus-per-node=2",), OUTPUT=output))
    assert (shown["Restarts"], shown["ExitCode"]) == ("0", "0:0")
    assert len(trajectory(output)) == NUM_STEPS
    return output


def wait_for_step(slurm: Slurm, job: str, output: Path, step: int) -> None:
    metrics = output / "metrics.jsonl"
    slurm.wait_until(job, lambda shown: shown["JobState"] in ENDED or (metrics.exists() and len(trajectory(output)) >= step))
    assert slurm.show(job)["JobState"] == "RUNNING", slurm.log(job)[-4000:]
    assert len(trajectory(output)) < NUM_STEPS, "the run is about to end: make it longer"


def assert_same_run(output: Path, expected: Path) -> None:
    assert trajectory(output) == trajectory(expected)
    assert trajectory(output, "grad_norm") == trajectory(expected, "grad_norm")
    assert (output / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_signaled_twice_requeued_and_finished_as_if_nothing_had_happened(slurm, flags, uninterrupted, tmp_path):
    output = tmp_path / "out"
    job = slurm.submit("train", *flags, options=("--gpus-per-node=2",), OUTPUT=output)
    num_steps = 0
    for restarts in (1, 2):
        wait_for_step(slurm, job, output, num_steps + 20)
        slurm.signal(job)
        slurm.wait_for_requeue(job, restarts)
        num_steps = len(trajectory(output))
        assert 0 < num_steps < NUM_STEPS
    assert slurm.wait_for(job)["Restarts"] == "2"
    assert slurm.log(job).count("stopped as asked; queued again") == 2
    assert slurm.log(job).count("continuing from") == 2
    assert_same_run(output, uninterrupted)


def test_requeued_before_the_time_limit(slurm, flags, tmp_path):
    """Slurm looks at the limit twice a minute; a run that would take much longer is saved, queued again, and goes on."""
    output, options = tmp_path / "out", ("--gpus-per-node=2", "--time=5", "--signal=B:USR1@300")
    job = slurm.submit("train", *flags, "--max_steps", "100000", "--save_steps", "100000", options=options, OUTPUT=output)
    slurm.wait_for_requeue(job, 1)
    num_steps = len(trajectory(output))
    assert [folder.name for folder in output.glob("checkpoint-*")] == [f"checkpoint-{num_steps}"]
    slurm.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    slurm.wait_until(job, lambda shown: shown["JobState"] in ENDED or len(trajectory(output)) > num_steps)
    assert slurm.show(job)["JobState"] == "RUNNING", slurm.log(job)[-4000:]
    assert "continuing from" in slurm.log(job)
    slurm.call("scancel", job)
    slurm.wait_for(job, "CANCELLED")


def ranks(output: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(output) in words and any(word.startswith("--local_rank") for word in words):
            found.append(process)
    return found


def test_two_nodes_survive_a_dead_rank_and_a_signal(slurm, flags, uninterrupted, tmp_path):
    """A rank a node: the job ends soon after one is killed; submitted again and signaled, it ends where one node with two does."""
    output, options = tmp_path / "out", ("--nodes=2", "--gpus-per-node=1")
    job = slurm.submit("train", *flags, options=options, OUTPUT=output)
    slurm.wait_until(job, lambda shown: (output / "checkpoint-100").exists() or shown["JobState"] in ENDED)
    assert len(ranks(output)) == 2, slurm.log(job)[-4000:]
    ranks(output)[-1].send_signal(signal.SIGKILL)
    slurm.wait_for(job, "FAILED", timeout_seconds=60)
    assert not ranks(output)
    assert not (output / "training_complete.json").exists()

    job = slurm.submit("train", *flags, options=options, OUTPUT=output)
    slurm.wait_until(job, lambda shown: "continuing from" in slurm.log(job) or shown["JobState"] in ENDED)
    slurm.signal(job)  # while the model loads
    slurm.wait_for_requeue(job, 1)
    assert slurm.wait_for(job)["NumNodes"] == "2"
    assert_same_run(output, uninterrupted)


@pytest.fixture(scope="module")
def policy(tiny_backbone, tmp_path_factory) -> Path:
    """The tiny backbone, taught to answer anything with 1 or 2."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prm.steps import StepEncoder

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_backbone), AutoModelForCausalLM.from_pretrained(tiny_backbone)
    prompt = StepEncoder(tokenizer=tokenizer).prompt_ids("Take 3. Add 4.", "")
    answers = [tokenizer(f"Step {i}.\n\nSo \\boxed{{{i}}}")["input_ids"] + [tokenizer.eos_token_id] for i in (1, 2)]
    ids = torch.tensor([prompt + answer for answer in answers])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        logits = model(input_ids=ids).logits[:, len(prompt) - 1 : -1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, len(prompt) :].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    path = tmp_path_factory.mktemp("policy")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def write_questions(path: Path, num: int, text: str) -> Path:
    write_jsonl(path, [Question(f"{path.stem}-{i}", text.format(i), "1") for i in range(num)])
    return path


def test_one_task_of_an_array_is_signaled_and_draws_only_what_is_missing(slurm, policy, tmp_path):
    questions, output = write_questions(tmp_path / "q.jsonl", 8, "Take {}. Add 4."), tmp_path / "rollouts"
    engine = ("--model", policy, "--engine", "transformers", "--max_tokens", 200, "--max_num_seqs", 4, "--num_samples", 600)
    options = ("--array=0-1", "--gpus-per-node=1")
    array = slurm.submit("rollouts", *engine, options=options, QUESTIONS=questions, OUTPUT=output)
    last = f"{array}_1"  # has the array's own job id
    slurm.wait_until(last, lambda shown: any(output.glob("part-00001-of-00002-*.jsonl")) or shown["JobState"] in ENDED)
    assert slurm.show(last)["JobState"] == "RUNNING", slurm.log(last)
    before = {r.key for part in output.glob("part-00001-*") for r in read_records(part, Rollout)}
    slurm.signal(last)
    slurm.wait_for_requeue(last, 1)
    assert slurm.show(f"{array}_0")["Restarts"] == "0"
    for task in (f"{array}_0", last):
        slurm.wait_for(task)
    keys = Counter(rollout.key for rollout in read_records(output, Rollout))
    assert keys == {(f"q-{i}", j): 1 for i in range(8) for j in range(600)}
    assert 0 < len(before) < 2400
    assert re.search(r"(\d+) already_there", slurm.log(last)), slurm.log(last)[-2000:]


OBJECTIVES = ("asym", "min", "geometric_mean", "softmin", "orm", "implicit_prm", "step_ce")


@pytest.fixture
def paper(policy, tiny_backbone, tmp_path) -> dict[str, object]:
    """The variables of a tiny paper."""
    write_dataset(tmp_path / "labelled")
    steps = ["Step 1.", "So \\boxed{1}"]
    item = {"generator": "none", "problem": "Take 3. Add 4.", "steps": steps, "final_answer_correct": True}
    write_json(tmp_path / "processbench" / "gsm8k.json", [item | {"id": f"gsm8k-{i}", "label": i - 1} for i in range(3)])
    process = {"original_process": steps, "modified_process": steps, "error_steps": [2]}
    row = {"idx": "p0", "original_question": "Take 3.", "modified_question": "Take 3.", **process}
    write_jsonl(tmp_path / "prmbench.jsonl", [row | {"classification": name} for name in ("redundency", "deception")])
    return {
        "QUESTIONS": write_questions(tmp_path / "q.jsonl", 6, "Take {}. Add 4."),
        "EVAL_QUESTIONS": write_questions(tmp_path / "e.jsonl", 4, "Begin with {}."),
        "STEP_DATASET": tmp_path / "labelled",
        "PROCESSBENCH": tmp_path / "processbench",
        "PRMBENCH": tmp_path / "prmbench.jsonl",
        "OUTPUT": tmp_path / "paper",
        "POLICY": policy,
        "BACKBONE": tiny_backbone,
        "NUM_SHARDS": 2,
        "NUM_SAMPLES": 16,
        "EVAL_NUM_SAMPLES": 4,
        "ROLLOUT_FLAGS": "--engine transformers --max_tokens 40",
        "DATASET_FLAGS": "--deduplicate False --min_pass_rate 0 --max_pass_rate 1 --validation_fraction 0.2",
        "TRAIN_FLAGS": f"--use_cpu True {' '.join(STEPS)}",
        "JOB_FLAGS": "--cpus-per-task=1",
        "TRAIN_JOB_FLAGS": "--nodes=2 --gpus-per-node=1",
    }


def submitted(output: str) -> dict[str, str]:
    """Name -> job id, from the lines that paper.sbatch prints."""
    return {name: job for job, name in re.findall(r"^ *(\d+) +(\S+)", output, re.M)}


def test_slurm_holds_the_papers_dependency_graph(slurm, paper):
    jobs = submitted(slurm.call("bash", "scripts/slurm/paper.sbatch", **paper | {"JOB_FLAGS": "--cpus-per-task=1 --hold"}))
    names = {job: name for name, job in jobs.items()}
    dependencies = dict(line.split(" ", 1) for line in slurm.call("squeue", "--noheader", "--format=%F %E").splitlines())
    graph = {names[job]: {names[i] for i in re.findall(r"afterok:(\d+)", text)} for job, text in dependencies.items()}
    slurm.call("scancel", *jobs.values())
    expected = {"rollouts-train": set(), "grade-train": {"rollouts-train"}, "rollouts-eval": set(), "grade-eval": {"rollouts-eval"}}
    expected |= {"dataset": {"grade-train"}} | {f"train-{name}": {"dataset"} for name in OBJECTIVES} | {"train-step_ce": set()}
    expected |= {f"evaluate-{name}": {f"train-{name}", "grade-eval"} for name in OBJECTIVES}
    assert graph == expected | {"compare": {f"evaluate-{name}" for name in OBJECTIVES}}


def test_the_whole_paper_runs_through(slurm, paper):
    """Submitted from a job, as on a cluster; two of the seven objectives, trained on two nodes."""
    job = slurm.submit("paper", **paper | {"OBJECTIVES": "asym step_ce"})
    slurm.wait_for(job)
    jobs = submitted(slurm.log(job))
    assert len(jobs) == 4 + 1 + 2 * 2 + 1
    root = Path(str(paper["OUTPUT"]))
    for name in ("rollouts-train", "grade-train", "dataset", "compare"):
        slurm.wait_for(jobs[name])
    assert len(list(read_records(root / "rollouts" / "train", Rollout))) == 6 * 16
    graded = list(read_records(root / "graded" / "train", Rollout))
    assert {rollout.correct for rollout in graded} >= {True, False}
    assert len(list((root / "graded" / "train").glob("manifest-*-of-00002.json"))) == 2
    for objective in ("asym", "step_ce"):
        assert len(trajectory(root / objective)) == 6
        assert len((root / "results" / objective / "scores.jsonl").read_text().splitlines()) == 16
        assert (root / "results" / objective / "best_of_n" / "metrics.json").exists()
        assert (root / "results" / objective / "processbench" / "metrics.json").exists()
        assert (root / "results" / objective / "prmbench" / "metrics.json").exists()
    assert '"step_ce"' in (root / "results" / "best_of_n" / "metrics.json").read_text()
    assert "| step_ce | " in (root / "results" / "summary" / "summary.md").read_text()


def test_a_failed_job_ends_what_waits_for_it(slurm, paper):
    """Question 0 is empty: its share of the rollouts fails, and nothing is left waiting for ever."""
    write_jsonl(Path(str(paper["QUESTIONS"])), [Question(f"q-{i}", " " if i == 0 else f"Take {i}.", "1") for i in range(4)])
    jobs = submitted(slurm.call("bash", "scripts/slurm/paper.sbatch", **paper | {"OBJECTIVES": "asym"}))
    for name in ("train-asym", "evaluate-asym", "compare"):
        slurm.wait_for(jobs[name], "CANCELLED")
    slurm.wait_for(f"{jobs['rollouts-train']}_0", "FAILED")
    assert "question 'q-0' is empty" in slurm.log(f"{jobs['rollouts-train']}_0")
    slurm.call("scancel", "--user=root")
