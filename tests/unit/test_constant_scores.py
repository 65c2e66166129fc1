"""Scores from files that are a constant: which they are, and that the note of every evaluation and the log say so."""

import json
import logging
import random
from dataclasses import replace

import bon_eval
import calibration_report
import pytest

from prm.benchmarks.constant_scores import constant_notes
from prm.benchmarks.prmbench.evaluate import PRMBenchConfig, evaluate_prmbench
from prm.benchmarks.prmbench.items import PRMBenchItem
from prm.benchmarks.prmbench.report import prmbench_tables
from prm.benchmarks.processbench.evaluate import ProcessBenchConfig, evaluate_processbench
from prm.benchmarks.processbench.items import FirstErrorItem
from prm.benchmarks.processbench.report import processbench_tables
from prm.files import write_jsonl
from prm.metrics.degenerate import MIN_STEPS
from prm.records import Response, StepScores

NOTE = f"all {MIN_STEPS} scores lie between 0.5 and 0.5: a constant, which judges nothing"


def noise(center, width, count=MIN_STEPS):
    draw = random.Random(0)
    return [center + draw.uniform(-width, width) for _ in range(count)]


def in_pairs(scores):
    return [scores[i : i + 2] for i in range(0, len(scores), 2)]


@pytest.mark.parametrize(
    ("scores", "ends"),
    [
        (in_pairs([0.5] * MIN_STEPS), "0.5 and 0.5"),
        ([[], *in_pairs([0.5] * MIN_STEPS), []], "0.5 and 0.5"),  # two responses without scores
        (in_pairs(noise(0.7, 0.002)), "0.698005 and 0.701985"),
        ([[0.5]] * MIN_STEPS, "0.5 and 0.5"),  # an outcome model
        (in_pairs([1.0] * MIN_STEPS), "1 and 1"),  # every step right, a baseline
        (in_pairs([0.0] * MIN_STEPS), "0 and 0"),
        (in_pairs(noise(-3.0, 0.003)), "-3.00299 and -2.99702"),  # signed
    ],
)
def test_what_is_a_constant(scores, ends, caplog):
    (note,) = constant_notes({"prm": scores})
    assert note.startswith(f"prm: all {MIN_STEPS} scores lie between {ends}: a constant, which judges nothing")
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.WARNING, note)]


@pytest.mark.parametrize(
    "scores",
    [
        in_pairs([0.5] * (MIN_STEPS - 1)),  # too few
        [[0.5]] * (MIN_STEPS - 1),
        in_pairs(noise(0.5, 0.05)),
        [*in_pairs([1.0] * 500), [0.9999]],  # certainty
        in_pairs([1e-3 * value for value in noise(0.0, 1.0)]),  # signed and small, as with beta 0.001
        [[score] * 3 for score in noise(0.5, 0.3)],  # an outcome model's score, once for every step
        [[], []],
    ],
)
def test_what_is_none(scores, caplog):
    assert constant_notes({"prm": scores}) == []
    assert not caplog.records


def test_each_prm_by_its_name():
    same, other = in_pairs([0.5] * MIN_STEPS), in_pairs(noise(0.5, 0.3))
    assert [note.split(":")[0] for note in constant_notes({"a": same, "b": other, "c": same})] == ["a", "c"]


@pytest.mark.parametrize("score", [0.5, None])
def test_benchmarks_say_so(score, caplog):
    given = in_pairs([0.5] * MIN_STEPS if score else noise(0.5, 0.3))
    rows = [FirstErrorItem(f"i{i}", "gsm8k", "p", ["a", "b"], i % 2 - 1) for i in range(len(given))]
    result = evaluate_processbench(rows, given, ProcessBenchConfig(num_bootstrap=2, num_random_draws=1))
    assert (NOTE in processbench_tables(result)[0].note) == bool(score)
    rows = [PRMBenchItem(f"deception_p{i}", "deception", "q", ["a", "b"], [True, False], 1) for i in range(len(given))]
    result = evaluate_prmbench(rows, given, PRMBenchConfig(num_bootstrap=2, num_random_draws=1))
    assert (NOTE in prmbench_tables(result)[0].note) == bool(score)
    assert caplog.text.count(f"the PRM: {NOTE}") == (2 if score else 0)


def test_predictions_without_scores_are_no_scores():
    rows = [FirstErrorItem(f"i{i}", "gsm8k", "p", ["a"], i % 2 - 1) for i in range(MIN_STEPS)]
    config = ProcessBenchConfig(num_bootstrap=2, num_random_draws=1)
    assert evaluate_processbench(rows, [0] * len(rows), config)["constant_scores"] == []
    rows = [PRMBenchItem(f"deception_p{i}", "deception", "q", ["a"], [False], 0) for i in range(MIN_STEPS)]
    config = PRMBenchConfig(num_bootstrap=2, num_random_draws=1)
    assert evaluate_prmbench(rows, [[True]] * len(rows), config)["constant_scores"] == []


@pytest.fixture
def files(tmp_path):
    """Graded responses, one of them without scores; `flat` scores their steps, `outcome` each as a whole."""
    responses = [
        Response(f"q{q}", i, f"{q}?", ["a", "b"], i % 2 == 1, [1.0, 1.0 if i % 2 else -1.0]) for q in range(25) for i in range(4)
    ]
    write_jsonl(tmp_path / "responses.jsonl", [*responses, replace(responses[0], sample_index=4)])
    for name, scores in {"flat": [0.5, 0.5], "outcome": [0.5]}.items():
        rows = [StepScores(r.question_id, r.sample_index, scores, r.correct) for r in responses]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize(("script", "source"), [(bon_eval, "--rollouts"), (calibration_report, "--responses")])
def test_scripts_say_so_of_the_file(script, source, files, monkeypatch, caplog, capsys):
    monkeypatch.setattr(script, "setup_logging", lambda: None)  # it would take pytest's log handler away
    scores = [str(files / f"{name}.jsonl") for name in ("flat", "outcome")]
    flags = ["--aggregation", "min", "--num_bootstrap", "20", "--output_dir", str(files / "out")]
    script.main(["--scores", *scores, source, str(files / "responses.jsonl"), *flags])
    notes = json.loads((files / "out" / "metrics.json").read_text())["constant_scores"]
    assert [note.split(";")[0] for note in notes] == [f"flat: {NOTE.replace('100', '200')}", f"outcome: {NOTE}"]
    assert all(note in json.loads((files / "out" / "tables.json").read_text())[0]["note"] for note in notes)
    printed = capsys.readouterr().out
    assert all(note in printed and note in caplog.text for note in notes)
