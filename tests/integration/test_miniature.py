"""The whole pipeline end to end, small: vLLM, Math-Verify, DeepSpeed on two ranks, curves; and going on after a kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import bon_eval
import calibration_report
import processbench_eval
import pytest
import readme
import report as report_script

from prm.config import parse_args
from prm.files import read_records
from prm.miniature.experiment import Miniature, run_miniature
from prm.miniature.settings import MAIN_LOSSES, MiniatureConfig
from prm.records import Response, Rollout, StepScores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

COMMAND = [sys.executable, "scripts/miniature.py", "--config", "configs/miniature/quick.yaml"]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run that was killed while its rollouts were sampled, and then finished by the same command."""
    from conftest import ROOT

    folder = tmp_path_factory.mktemp("miniature")
    command = [*COMMAND, "--output_dir", str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        while not (folder / "stages" / "policy.json").exists():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        time.sleep(3)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "metrics.json").exists()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


def test_every_objective_is_measured(finished_run):
    folder, report = finished_run
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["steps"]) == MAIN_LOSSES
    assert metrics["best_of_n"]["n"] == [1, 2, 4, 8]
    random = metrics["best_of_n"]["baselines"]["random"]["accuracy"]["1"]
    for loss in MAIN_LOSSES:
        # One candidate leaves nothing to choose.
        assert metrics["best_of_n"]["prms"][loss]["own"]["best_of_n"]["accuracy"]["1"] == pytest.approx(random, abs=1e-12)
        assert 0 <= metrics["steps"][loss]["auc"] <= 1
        assert loss in report
    assert "pass@N" in report
    assert report.count("At N = 8, ") == 8


def test_nothing_was_lost_or_doubled_by_the_kill(finished_run):
    folder, _ = finished_run
    for split, num_questions in (("train", 40), ("eval", 12)):
        keys = [r.key for r in read_records(folder / "rollouts" / split, Rollout)]
        assert len(keys) == len(set(keys)) == 8 * num_questions
        assert {r.key for r in read_records(folder / "graded" / f"{split}.jsonl", Rollout)} == set(keys)
    judged = {r.key: len(r.steps) for r in read_records(folder / "labels" / "eval.jsonl", Response)}
    for loss in MAIN_LOSSES:
        scored = {r.key: len(r.step_scores) for r in read_records(folder / "scores" / f"{loss}.jsonl", StepScores)}
        assert scored.items() <= judged.items()
        assert len(scored) >= 0.9 * len(judged)


def test_a_finished_run_only_reports_and_a_changed_one_is_refused(finished_run, monkeypatch):
    folder, report = finished_run
    from conftest import ROOT

    result = subprocess.run([*COMMAND, "--output_dir", str(folder)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("12 held-out questions")
    assert report.endswith(result.stdout)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=r"holds a run with --num_eval_samples 8, not 9: give another --output_dir"):
        run_miniature(parse_args(MiniatureConfig, [*COMMAND[2:], "--output_dir", str(folder), "--num_eval_samples", "9"]))


def test_the_readme_s_evaluations_run_on_it(finished_run, tmp_path):
    folder, _ = finished_run
    sentence = re.search(r"On the miniature, (.*?) for the calibration", readme.SENTENCES)[1]
    model, first_errors, labels = (
        flags.replace("outputs/miniature", str(folder)).split() for flags in re.findall("`(.*?)`", sentence)
    )

    def evaluate(script, name, *flags):
        script.main([*map(str, flags), "--output_dir", str(tmp_path / name)])
        report_script.main(["--input", str(tmp_path / name)])
        assert (tmp_path / name / "report.html").exists()
        return json.loads((tmp_path / name / "metrics.json").read_text())

    measured = json.loads((folder / "first_error" / "asym" / "metrics.json").read_text())["results"]
    found = evaluate(processbench_eval, "first_error", *model, *first_errors)["results"]
    for rule in ("fixed", "oracle"):
        assert found[rule]["average"]["f1"] == pytest.approx(measured[rule]["average"]["f1"])
    calibration = evaluate(calibration_report, "calibration", *model, *labels)
    assert calibration["prms"]["asym"]["num_responses"] == 12 * 8
    assert set(calibration["perturbations"]["perturbations"]) == {"merge", "split", "filler"}
    rollouts = ["--rollouts", folder / "graded" / "eval.jsonl"]
    scored = evaluate(bon_eval, "scored", "--scores", f"asym={folder / 'scores' / 'asym.jsonl'}", *rollouts)
    by_model = evaluate(bon_eval, "model", *model, *rollouts, "--aggregation", "min", "mean")
    for aggregation in ("min", "mean"):
        curves = [result["prms"]["asym"][aggregation]["best_of_n"]["accuracy"] for result in (scored, by_model)]
        assert curves[0] == pytest.approx(curves[1])


def test_false_positives_go_on_from_a_finished_run(finished_run):
    from conftest import ROOT

    folder, _ = finished_run
    before = {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}
    flags = ["--losses", "asym", "robust_asym", "--false_positive_rates", "0", "0.25", "--output_dir", str(folder)]
    result = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    metrics = json.loads((folder / "false_positives" / "metrics.json").read_text())
    assert list(metrics["steps"]) == ["asym", "robust_asym", "asym-0.25", "robust_asym-0.25"]
    assert metrics["labels"]["0.25"]["right_with_wrong_step"] == pytest.approx(0.25, abs=0.03)
    assert metrics["labels"]["0.25"]["num_responses"] == metrics["labels"]["0"]["num_responses"]
    assert (folder / "false_positives" / "report.txt").read_text() in result.stdout + "\n"
    assert (folder / "metrics.json").exists()


def test_training_runs_go_on_from_a_finished_run(finished_run):
    from conftest import ROOT

    folder, _ = finished_run
    before = {path: path.stat().st_mtime_ns for path in (folder / "stages").iterdir()}
    flags = ["--losses", "asym", "--training_runs", "2", "--output_dir", str(folder)]
    result = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    metrics = json.loads((folder / "training_runs" / "metrics.json").read_text())
    first, second = (metrics["prms"][name] for name in ("asym", "asym-seed1"))
    (auc,) = (row for row in metrics["runs"]["methods"] if row["metric"] == "step AUC")
    assert (auc["method"], auc["num_runs"]) == ("asym", 2)
    assert auc["mean"] == pytest.approx((first["step AUC"] + second["step AUC"]) / 2)
    assert first["step AUC"] != second["step AUC"], "another seed, another head and order of the data"
    assert (folder / "training_runs" / "report.txt").read_text() in result.stdout + "\n"
    assert (folder / "training_runs" / "runs.png").exists()


def test_ways_of_labelling_go_on_from_a_finished_run(finished_run):
    from conftest import ROOT

    folder, _ = finished_run
    flags = ["--labelling", "True", "--judge_steps", "0", "--output_dir", str(folder)]
    result = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    metrics = json.loads((folder / "labelling" / "metrics.json").read_text())
    assert metrics["num_responses"] == 40 * 8
    assert all(row["coverage"] == 1 and row["auc"] > 0.5 for row in metrics["rows"].values())
    assert metrics["rows"]["K = 4, k/K"]["tokens_per_response"] < metrics["rows"]["K = 16, k/K"]["tokens_per_response"]
    assert (folder / "labelling" / "report.txt").read_text() in result.stdout + "\n"


def test_a_failing_script_stops_the_run(tmp_path):
    run = Miniature(MiniatureConfig(output_dir=str(tmp_path)))
    with pytest.raises(RuntimeError, match=r"scripts/grade_rollouts.py ended with status 1"):
        run.grade("eval")
