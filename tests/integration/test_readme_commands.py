"""The README's commands that need no weights, run as they stand there, and what it says of their results."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

import pytest
import readme
import torch

from prm.benchmarks.page import PageConfig, build_page
from prm.benchmarks.results import read_items, read_tables
from prm.benchmarks.tables import interval, percent
from prm.files import read_records
from prm.records import Rollout, StepScores
from prm.training.zero import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMANDS = [
    readme.split_command(command)
    for place in ("### Without weights at hand", "On the public samples (`$PRM_TEST_DATA`), with the tiny PRM")
    for command in readme.commands_behind(place)
]
EVALUATIONS = {words[words.index("--output_dir") + 1]: words for words in COMMANDS if re.search(r"_eval\.py|_report\.py", words[1])}


@pytest.fixture(scope="module")
def folder(real_data, tmp_path_factory) -> Path:
    """The working directory of all commands, once they have run; those that need no trained model do so while it is trained."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for one another where cores are busy
    with pytest.MonkeyPatch.context() as patch, (folder / "training.log").open("w") as log:
        patch.chdir(folder)
        patch.setenv("PRM_TEST_DATA", str(real_data.resolve()))
        for words in COMMANDS:
            if words[0] == "deepspeed":
                training = start(words, log)
            elif "--model" not in words:
                run(words, patch)
        assert training.wait(timeout=600) == 0, (folder / "training.log").read_text()[-4000:]
        for words in COMMANDS:
            if "--model" in words:
                run(words, patch)
    torch.set_num_threads(num_threads)
    return folder


def run(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """`python scripts/x.py ...` in this process."""
    arguments = [os.path.expandvars(word) for word in words[1:]]
    patch.setattr(sys, "argv", arguments)
    assert not importlib.import_module(Path(arguments[0]).stem).main()


def start(words: list[str], log: TextIO) -> subprocess.Popen:
    """`deepspeed scripts/train.py ...`, on a free port."""
    command = [str(Path(sys.executable).with_name("deepspeed")), "--master_port", free_port(), *words[1:]]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.Popen(command, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)


def metrics_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name / "metrics.json").read_text())


def claimed(sentence: str) -> bool:
    """Whether the README says so, wherever its lines break."""
    return sentence in readme.SENTENCES


def slashed(values) -> str:
    """Percent as the README lists them: 90 / 93.5 / 100."""
    return " / ".join(f"{100 * value:.3g}" for value in values)


def correlation(found: dict[str, float], key: str = "value", digits: int = 2) -> str:
    value, low, high = (f"{found[name]:+.{digits}f}" for name in (key, "low", "high"))
    return f"{value} [{low}, {high}]"


def curve_at(curve: dict[str, Any], n: str) -> str:
    return f"{percent(curve['accuracy'][n])} {interval(curve['low'][n], curve['high'][n])}"


def test_the_blocks_are_those_that_are_meant():
    scripts = [next(Path(word).stem for word in words if word.startswith("scripts/")) for words in COMMANDS]
    assert scripts == [
        *("grade_rollouts", "build_dataset", "random_backbone", "train", "score", "bon_eval"),
        *("bon_eval", "bon_eval", "bon_eval", "processbench_eval", "prmbench_eval", "calibration_report", "report", "summarize"),
    ]
    assert len(EVALUATIONS) == 7


def test_a_summary_of_them(folder):
    tables = read_tables(folder / "results/summary")
    assert [table.title for table in tables] == [
        *(f"Best-of-N: 50 questions, 800 candidates as in results/best_of_n/{name} (%)" for name in ("gsm8k", "math500")),
        "Best-of-N: 100 questions, 800 candidates (%)",
    ]
    assert all([row[0] for row in table.rows[-3:]] == ["random", "majority vote", "any right (pass@N)"] for table in tables)


def test_solutions_are_graded_trained_on_and_scored(folder):
    graded = {rollout.key: rollout for rollout in read_records(folder / "outputs/gsm8k/graded.jsonl", Rollout)}
    assert claimed("(800 real solutions with published labels)")
    assert len(graded) == 800
    assert claimed("five of them, without an answer, are published as wrong and unlabelled here")
    assert [rollout.grade for rollout in graded.values()].count("no_answer") == 5
    assert sum(rollout.correct is None for rollout in graded.values()) == 5
    assert json.loads((folder / "outputs/gsm8k/asym/manifest.json").read_text())["run"]["world_size"] == 2
    scores = list(read_records(folder / "outputs/gsm8k/scores.jsonl", StepScores))
    assert {row.key for row in scores} == graded.keys()


def test_python_code_scores_as_it_stands_there(folder, monkeypatch, capsys):
    _, code, _ = readme.PYTHON_BLOCKS
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    assert [len(scores) for scores in names["step_scores"]] == [2, 2]
    assert names["response_scores"].tolist() == [min(scores) for scores in names["step_scores"]]
    assert capsys.readouterr().out == f"{names['step_scores']} {names['samples'][names['response_scores'].argmax()]}\n"


def test_python_code_reads_the_metrics_as_it_stands_there(folder, monkeypatch, capsys):
    code, _, _ = readme.PYTHON_BLOCKS
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["1", "2", "4", "8", "16"]
    assert [row.split()[0] for row in rows] == list(names["curves"])


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_writes_what_the_readme_names_and_becomes_a_page(folder, name):
    assert claimed("Every evaluation writes `metrics.json`, `tables.json`, figures as PNG and SVG, a manifest, and `items.jsonl`")
    for file in ("metrics.json", "tables.json", "items.jsonl", "manifest.json"):
        assert (folder / name / file).stat().st_size > 0, file
    figures = {path.stem for path in (folder / name).glob("*.svg")}
    assert figures
    assert figures == {path.stem for path in (folder / name).glob("*.png")}
    command = json.loads((folder / name / "manifest.json").read_text())["command"]
    assert command[0] == EVALUATIONS[name][1]
    assert command[command.index("--output_dir") + 1] == name
    page = build_page(folder / name, PageConfig(max_items=20))
    assert page.count("<svg") == len(figures)
    tables = page.count("<figcaption>") - len(figures) + page.count('<details class="table">')
    assert tables == len(read_tables(folder / name))
    assert '"items":[{"id":' in page


def test_the_page_of_the_last_command(folder):
    page = (folder / "results/best_of_n/gsm8k/report.html").read_text()
    assert "<h1>Best-of-N on GSM8K, seven PRMs</h1>" in page
    items = list(read_items(folder / "results/best_of_n/gsm8k"))
    assert len(items) == 7 * 50 * 16
    assert sum(item.is_selected for item in items) == 7 * 50
    assert '"num_items":5600' in page


def test_the_orm_s_published_numbers(folder):
    metrics = metrics_of(folder, "results/best_of_n/orm")
    first = metrics["prms"]["qwen25math_rm_100x8"]["last"]["first_n"]["accuracy"]
    votes = metrics["first_n"]["majority_vote"]["accuracy"]
    assert list(first) == list(votes) == ["1", "2", "4", "8"]
    published = f"{slashed(first.values())} for N = 1, 2, 4, 8 and the majority vote {slashed(votes.values())}"
    assert claimed(f"`first N` gives the published {published}")


def test_best_of_n_on_math500(folder):
    metrics = metrics_of(folder, "results/best_of_n/math500")
    length = metrics["length"]
    by_length, always = length["prms"]["qwen_prm"]["min"], length["baselines"]
    assert claimed(
        f"Qwen2.5-Math-PRM-7B on MATH-500 (min): Best-of-16 {curve_at(metrics['prms']['qwen_prm']['min']['best_of_n'], '16')}, "
        f"length-controlled {percent(by_length['length_controlled']['accuracy']['16'])}, "
        f"preference {correlation(by_length['preference'], 'slope', 3)}; "
        f"always the shortest {percent(always['shortest']['accuracy']['16'])}, "
        f"always the longest {percent(always['longest']['accuracy']['16'])}: it does not win by length."
    )
    wrong, right = length["mean_length_of_wrong"], length["mean_length_of_right"]
    assert claimed(f"Wrong answers are longer in truth ({wrong:.0f} against {right:.0f} tokens on these MATH-500 candidates)")
    levels = metrics["breakdown"]["level"]
    accuracies = [levels[level]["prms"]["qwen_prm"]["min"]["accuracy"]["16"] for level in sorted(levels)]
    assert claimed(f"By level {slashed(accuracies)}.")


def test_best_of_n_on_gsm8k(folder):
    metrics = metrics_of(folder, "results/best_of_n/gsm8k")
    assert len(metrics["prms"]) == 7
    by_aggregation = metrics["length"]["prms"]["rlhflow_prm"]
    minimum, mean = (correlation(by_aggregation[name]["preference"], "slope", 3) for name in ("min", "mean"))
    assert claimed(f"On GSM8K, rlhflow_prm prefers short answers by its minimum, {minimum}, one of 21 such intervals;")
    assert len(metrics["prms"]) * len(by_aggregation) == 21
    assert claimed(f"by its mean, which its authors use, that is not resolved: {mean}.")
    without_weights = metrics_of(folder, "outputs/gsm8k/best_of_n")
    assert without_weights == metrics, "--aggregation min mean last is the default"


def test_calibration_on_math500(folder):
    found = metrics_of(folder, "results/calibration/math500")["prms"]["qwen_prm"]
    lowest, last = (found["responses"][aggregation] for aggregation in ("min", "last"))
    assert claimed(
        f"Qwen2.5-Math-PRM-7B on the {found['num_responses']} MATH-500 candidates: the minimum of its step scores is nearly a "
        f"probability that the answer is right (ECE {lowest['before']['ece']:.3f}), the last score is not "
        f"({last['before']['ece']:.3f}, temperature {last['temperature']:.1f})."
    )
    position, length = (found["bias"]["steps"][form]["good"]["rho_within"] for form in ("position", "step_length"))
    assert claimed(f"rise with the step's position (rank correlation within one response {correlation(position)})")
    assert claimed(f"and fall with its length ({correlation(length)}).")


def test_a_random_prm_has_learnt_nothing(folder):
    """Baselines to the digit; the PRM itself only up to what its training rounds on another machine."""
    processbench, prmbench = (metrics_of(folder, f"outputs/gsm8k/{name}") for name in ("processbench", "prmbench"))
    baselines = {
        "random scores": ("random_oracle", "random_oracle"),
        "position alone": ("step_number_oracle", "position_oracle"),
        "every step right": ("all_correct", "all_correct"),
    }
    for name, (f1, score) in baselines.items():
        values = percent(processbench["baselines"][f1]["average"]["f1"]), percent(prmbench["baselines"][score]["prm_score"])
        columns = [f"{value}, {shape}" for value, shape in zip(values, ("`-(i+1)`", "`1-(i+1)/n`"), strict=True)]
        assert f"| {name} | {' | '.join(columns if name == 'position alone' else values)} |" in readme.TEXT
    (row,) = re.findall(r"\| tiny random PRM \| (.*) \| (.*) at 0\.5, (.*) oracle \|", readme.TEXT)
    own = [
        (processbench["results"]["oracle"]["average"], "f1", processbench["baselines"]["random_oracle"]["average"]["f1"]),
        (prmbench["results"]["fixed"], "prm_score", prmbench["baselines"]["random_oracle"]["prm_score"]),
        (prmbench["results"]["oracle"], "prm_score", prmbench["baselines"]["random_oracle"]["prm_score"]),
    ]
    for said, (found, key, of_random_scores) in zip(row, own, strict=True):
        _, low, high = map(float, re.findall(r"[\d.]+", said))
        assert low <= 100 * found[key] <= high
        assert found["low"] <= of_random_scores
