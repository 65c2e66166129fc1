"""The Slurm jobs without Slurm: bash reads them, every command they run parses, and they answer its exit status as they should."""

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_configs import ROOT, parse

from prm.training.preemption import EXIT_CODE

SLURM = ROOT / "scripts" / "slurm"
JOBS = sorted(SLURM.glob("*.sbatch"))
STUB = '''#!{python}
"""Stands for srun, scontrol, sbatch, deepspeed and python: notes how it was called."""
import json, os, subprocess, sys, time
name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["CALLS"], "a") as log:
    log.write(json.dumps(dict(name=name, argv=argv, env=dict(os.environ))) + "\\n")
if name == "srun":
    while argv[0].startswith("--"):
        argv.pop(0)
    nodes = range(int(os.environ["SLURM_NNODES"]))
    sys.exit(max(subprocess.run(argv, env=os.environ | dict(SLURM_NODEID=str(node))).returncode for node in nodes))
elif name == "scontrol" and argv[0] == "show":
    print(*argv[-1].split(","), sep="\\n")
elif name == "sbatch":
    print(len(open(os.environ["CALLS"]).readlines()))
elif name == "python" and argv[0] == "-c":
    print(29999)
elif name == "python":
    time.sleep(float(os.environ.get("SECONDS_TO_RUN", "0")))
elif name == "deepspeed" and "UNTIL" in os.environ:
    while not os.path.exists(os.environ["UNTIL"]):
        time.sleep(0.05)
sys.exit(int(os.environ.get("STATUS", "0")) if name == "deepspeed" else 0)
'''
JOB = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1", "CUDA_VISIBLE_DEVICES": "4,5"}
VARIABLES = {
    "rollouts": {"QUESTIONS": "q.jsonl", "OUTPUT": "out"},
    "grade": {"INPUT": "in", "OUTPUT": "out"},
    "label": {"METHOD": "judge", "INPUT": "in", "OUTPUT": "out"},
    "train": {"OUTPUT": "out"},
    "evaluate": {"MODEL": "outputs/asym", "ROLLOUTS": "in", "OUTPUT": "out"},
    "paper": {"QUESTIONS": "q.jsonl", "EVAL_QUESTIONS": "e.jsonl", "STEP_DATASET": "labelled"},
}


class Machine:
    """A folder with stubs on the path; `run` executes a job as Slurm would, and `calls` holds what it called."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "calls.jsonl"
        (folder / "bin").mkdir()
        for name in ("srun", "scontrol", "sbatch", "deepspeed", "python"):
            stub = folder / "bin" / name
            stub.write_text(STUB.format(python=sys.executable))
            stub.chmod(0o755)
        (folder / "bin" / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.02\n")  # polls faster
        (folder / "bin" / "sleep").chmod(0o755)

    def variables(self, job: str) -> dict[str, str]:
        """The variables that the job demands, all but METHOD as paths in the folder; every input exists."""
        (self.folder / "labelled").mkdir(exist_ok=True)
        for name in ("q.jsonl", "e.jsonl", "labelled/train.jsonl"):
            (self.folder / name).touch()
        paths = {name: str(self.folder / value) for name, value in VARIABLES[job].items()}
        return paths | {name: value for name, value in VARIABLES[job].items() if name == "METHOD"}

    def start(self, job: str, *flags: str, **variables: str) -> subprocess.Popen:
        path = f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        env = {"PATH": path, "CALLS": str(self.log), "PROCESSBENCH": "none", "PRMBENCH": "none", **JOB, **variables}
        command = ["bash", str(SLURM / f"{job}.sbatch"), *flags]
        return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, job: str, *flags: str, status: int = 0, **variables: str) -> str:
        process = self.start(job, *flags, **variables)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == status, output + errors
        return output + errors

    def calls(self, *names: str) -> list[dict]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if call["name"] in names]

    def commands(self) -> list[list[str]]:
        """[script, flag, ...] of every command of this repository that was run or submitted."""
        words = [call["argv"] for call in self.calls("python", "deepspeed")]
        wrapped = [argv[argv.index("--wrap") + 1] for call in self.calls("sbatch") if "--wrap" in (argv := call["argv"])]
        words += [shlex.split(command) for text in wrapped for command in text.split(" && ")]
        starts = [(argv, next((i for i, word in enumerate(argv) if word.startswith("scripts/")), None)) for argv in words]
        return [argv[i:] for argv, i in starts if i is not None]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("path", sorted(SLURM.iterdir()), ids=lambda path: path.name)
def test_bash_accepts_the_file(path):
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert not re.search(r"/(home|scratch|work|mnt)/|--(partition|account|qos|mail)", text), "nothing of a single site"
    assert path.name == "common.sh" or "set -euo pipefail" in text


def test_the_known_jobs():
    assert {path.stem for path in JOBS} == VARIABLES.keys()


SCRIPTS_OF_JOB = {
    "rollouts": ["generate_rollouts"],
    "grade": ["grade_rollouts"],
    "label": ["label_steps"],
    "train": ["train"],
    "evaluate": ["score", "bon_eval", "processbench_eval", "prmbench_eval"],
    "paper": ["build_dataset", "bon_eval", "summarize"],
}


@pytest.mark.parametrize("job", SCRIPTS_OF_JOB)
def test_every_command_parses(machine, monkeypatch, job):
    benchmarks = dict.fromkeys(("PROCESSBENCH", "PRMBENCH"), str(machine.folder))
    machine.folder.joinpath("out").mkdir()
    machine.folder.joinpath("out", "training_complete.json").touch()
    machine.run(job, **{"OUTPUT": str(machine.folder / "out")} | machine.variables(job) | benchmarks)
    commands = machine.commands()
    assert [Path(script).stem for script, *_ in commands] == SCRIPTS_OF_JOB[job]
    for script, *flags in commands:
        with monkeypatch.context() as patch:
            parse(patch, Path(script).stem, flags)


@pytest.mark.parametrize(("job", "name"), [(job, name) for job, names in VARIABLES.items() for name in names])
def test_what_is_missing_is_named(machine, job, name):
    given = {k: v for k, v in machine.variables(job).items() if k != name}
    process = machine.start(job, **given)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert name in errors.splitlines()[-1]
    assert not machine.calls("srun", "deepspeed", "sbatch", "python")


def test_mistakes_are_refused_before_anything_is_submitted(machine):
    given = machine.variables("paper")
    assert "e.jsonl: nothing there" in machine.run("paper", status=2, **given | {"EVAL_QUESTIONS": "nowhere/e.jsonl"})
    assert "SEEDS: one is no seed" in machine.run("paper", status=2, **given | {"SEEDS": "0 one"})
    assert "SEEDS: 00 is no seed" in machine.run("paper", status=2, **given | {"SEEDS": "0 00"})
    assert "SEEDS: 1 stands twice" in machine.run("paper", status=2, **given | {"SEEDS": "1 11 1"})
    assert "OBJECTIVES: asym stands twice" in machine.run("paper", status=2, **given | {"OBJECTIVES": "asym orm asym"})
    for flag in ("--seed 3", "--seed=3"):
        flags = {"SEEDS": "0 1", "TRAIN_FLAGS": f"--learning_rate 1e-5 {flag}"}
        assert "--seed would be that of every run" in machine.run("paper", status=2, **given | flags)
    assert "no configs/train/assym.yaml" in machine.run("paper", status=2, **given | {"OBJECTIVES": "asym assym"})
    for job in ("paper", "evaluate"):
        for name in ("PROCESSBENCH", "PRMBENCH"):
            assert f"{name}=nowhere: nothing there" in machine.run(job, status=2, **machine.variables(job), **{name: "nowhere"})
    output = machine.run("train", "--overwrite_output_dir", "True", status=2, **machine.variables("train"))
    assert "would start a requeued job from nothing" in output
    assert not machine.calls("srun", "sbatch")
    (machine.folder / "bin" / "deepspeed").unlink()
    assert "deepspeed is not on the path" in machine.run("train", status=2, **machine.variables("train"))


def test_tasks_and_nodes_take_distinct_shares(machine):
    array = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_NNODES": "2"}
    machine.run("rollouts", **machine.variables("rollouts"), **array)
    machine.run("grade", **machine.variables("grade"), **array, NUM_SHARDS="8")
    shares = [call["argv"][-3::2] for call in machine.calls("python")]
    assert shares == [["2", "6"], ["3", "6"], ["2", "16"], ["3", "16"]]


def test_deepspeed_starts_on_every_node_with_the_devices_of_the_job(machine):
    (machine.folder / "out").mkdir()
    (machine.folder / "out" / "training_complete.json").touch()
    nodes = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n1,n2"}
    machine.run("train", **machine.variables("train"), **nodes, MASTER_ADDR="first")
    machine.run("train", **machine.variables("train"), GPUS_PER_NODE="3")
    calls = [dict(zip(argv[1::2], argv[2::2], strict=False)) for argv in (call["argv"] for call in machine.calls("deepspeed"))]
    assert [call["--include"] for call in calls] == ["n1:4,5@n2:4,5"] * 2 + ["n1:0,1,2"]
    assert [call["--node_rank"] for call in calls] == ["0", "1", "0"]
    assert [call["--master_addr"] for call in calls] == ["first", "first", os.uname().nodename]
    assert {call["--master_port"] for call in calls} == {"29999"}


def test_deepspeed_reads_our_hostfile_and_devices():
    """The launcher's own reading of what launch.sh hands it: ranks in the order of the nodes, on the devices given."""
    runner = importlib.import_module("deepspeed.launcher.runner")
    hosts = runner._parse_hostfile(["n1 slots=6\n", "n2 slots=6\n"])
    assert runner.parse_inclusion_exclusion(hosts, "n1:4,5@n2:4,5", "") == {"n1": [4, 5], "n2": [4, 5]}


def test_status_85_is_queued_again_and_an_end_without_a_model_is_an_error(machine):
    given = machine.variables("train")
    machine.run("train", **given, STATUS=str(EXIT_CODE))
    assert [call["argv"] for call in machine.calls("scontrol")][-1] == ["requeue", "7"]
    assert "training ended early" in machine.run("train", status=2, **given)  # the launcher was killed: status 0, no model
    machine.run("train", status=1, **given, STATUS="1")
    assert len([call for call in machine.calls("scontrol") if call["argv"][0] == "requeue"]) == 1


def signal_when_running(machine: Machine, process: subprocess.Popen, name: str) -> None:
    deadline = time.monotonic() + 30
    while not machine.calls(name):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)


def test_signal_leaves_a_stop_file_which_training_answers(machine):
    given = machine.variables("train")
    stop = machine.folder / "out" / "STOP"
    process = machine.start("train", **given, STATUS=str(EXIT_CODE), UNTIL=str(stop))
    signal_when_running(machine, process, "deepspeed")
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert stop.exists()
    assert "job 7 stopped as asked" in output


def test_signal_ends_a_resumable_command_and_queues_only_this_task(machine):
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_JOB_ID": "7"}
    process = machine.start("evaluate", **machine.variables("evaluate"), **array, SECONDS_TO_RUN="50")
    signal_when_running(machine, process, "python")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert [call["argv"] for call in machine.calls("scontrol")] == [["requeue", "7_3"]]
    assert len(machine.calls("python")) == 1


@pytest.mark.parametrize("seeds", ["0", "0 3"])
def test_the_papers_chain(machine, monkeypatch, seeds):
    """Every job of the chain waits for what it reads, and its commands, run with its own variables, parse."""
    machine.run(
        "paper",
        **machine.variables("paper"),
        OUTPUT=str(machine.folder / "paper"),
        NUM_SHARDS="2",
        SEEDS=seeds,
        SLURM_CPUS_ON_NODE="1",
        TRAIN_JOB_FLAGS="--nodes=2",
    )
    submitted = machine.calls("sbatch")
    flags = [dict(a.lstrip("-").split("=", 1) for a in call["argv"] if a.startswith("--") and "=" in a) for call in submitted]
    names = {str(i): flag["job-name"].removeprefix("prm-") for i, flag in enumerate(flags, start=1)}
    after = {names[str(i)]: flag.get("dependency", "afterok").split(":")[1:] for i, flag in enumerate(flags, start=1)}
    graph = {name: [names[i] for i in ids] for name, ids in after.items()}
    objectives = ["asym", "min", "geometric_mean", "softmin", "orm", "implicit_prm", "step_ce"]
    expected = {"rollouts-train": [], "grade-train": ["rollouts-train"], "rollouts-eval": [], "grade-eval": ["rollouts-eval"]}
    models = objectives + ([f"{o}-seed3" for o in objectives] if seeds == "0 3" else [])
    expected |= {"dataset": ["grade-train"]} | {f"train-{m}": [] if m.startswith("step_ce") else ["dataset"] for m in models}
    expected |= {f"evaluate-{m}": [f"train-{m}", "grade-eval"] for m in models}
    assert graph == expected | {"compare": [f"evaluate-{m}" for m in models]}
    assert [flag["array"] for flag in flags if "array" in flag] == ["0-1"] * 4
    assert [flag["nodes"] for flag in flags if "nodes" in flag] == ["2"] * len(models)
    assert not any("SLURM_JOB_ID" in call["env"] for call in submitted)

    for call in submitted:
        job = next((i for i, word in enumerate(call["argv"]) if word.endswith(".sbatch")), None)
        if job is not None:
            env = {name: value for name, value in call["env"].items() if name not in ("PATH", "CALLS")}
            (Path(env["OUTPUT"])).mkdir(parents=True, exist_ok=True)
            (Path(env["OUTPUT"]) / "training_complete.json").touch()
            machine.run(Path(call["argv"][job]).stem, *call["argv"][job + 1 :], **env)
    commands = machine.commands()
    assert len(commands) == 2 + 2 + len(models) + 2 * len(models) + 3
    trained = {
        Path(words[words.index("--output_dir") + 1]).name: words[words.index("--seed") + 1]
        for words in commands
        if "--seed" in words
    }
    assert trained == {m: "3" if m.endswith("-seed3") else "0" for m in models}
    for script, *arguments in commands:
        with monkeypatch.context() as patch:
            parse(patch, Path(script).stem, arguments)
