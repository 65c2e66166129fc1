"""The study of ways to label steps: which responses, which commands, verdicts, and every number of the table by hand."""

import json
import random
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice

import numpy as np
import pytest

from prm.annotation.verdicts import parse_verdict
from prm.config import parse_args
from prm.files import read_records, write_json, write_jsonl
from prm.miniature import labelling, problems
from prm.miniature.corpus import full_text
from prm.miniature.experiment import Miniature
from prm.miniature.labelling import LABELLINGS, choose_responses, gather_verdicts, label_flags, review, reviews, slipped_steps
from prm.miniature.labelling_report import ROWS, Row, measure, reliability, step_accuracy, write_labelling
from prm.miniature.problems import ProblemConfig
from prm.miniature.settings import MiniatureConfig
from prm.records import Response


def test_stages_end_with_the_labels_and_train_no_prm():
    names = [stage.name for stage in Miniature(MiniatureConfig(labelling=True)).stages()]
    assert names[:6] == ["questions", "base", "policy", "rollouts-train", "grade-train", "judge-train"]
    assert names[6:8] == ["labelling-responses", "labelling-judge"]
    assert names[8:] == [f"label-{name}" for name in LABELLINGS]
    without = [stage.name for stage in Miniature(MiniatureConfig(labelling=True, judge_steps=0)).stages()]
    assert set(names) - set(without) == {"labelling-judge", "label-judge", "label-consensus"}
    with pytest.raises(ValueError, match="--labelling trains no PRM"):
        MiniatureConfig(labelling=True, false_positive_rates=[0.1])


def test_whole_questions_are_chosen_and_their_labels_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "NUM_QUESTIONS", 3)
    rows = [Response(f"q{q}", i, "?", ["a", "b"], True, [1.0, 1.0]) for q in range(9) for i in range(12)]
    write_jsonl(tmp_path / "labels" / "train.jsonl", rows)
    choose_responses(tmp_path, seed=0)
    exact = list(read_records(tmp_path / "labelling" / "exact.jsonl", Response))
    bare = list(read_records(tmp_path / "labelling" / "responses.jsonl", Response))
    assert [r.key for r in exact] == [r.key for r in bare]
    assert (len({r.question_id for r in bare}), {r.sample_index for r in bare}) == (3, set(range(8)))
    assert {r.step_labels[0] for r in exact} == {1.0}
    assert {r.step_labels for r in bare} == {None}
    steps = list(read_records(tmp_path / "labelling" / "steps.jsonl", Response))
    first = bare[0].question_id
    assert [(r.key, r.steps) for r in steps[:3]] == [
        ((f"{first}#0", 0), ["a"]),
        ((f"{first}#0", 1), ["b"]),
        ((f"{first}#1", 0), ["a"]),
    ]


@pytest.mark.parametrize("name", list(LABELLINGS))
def test_every_command_parses(tmp_path, name):
    from label_steps import METHODS

    flags = label_flags(tmp_path, name, seed=3)
    config_type, _ = METHODS[flags.pop("method")]
    config = parse_args(config_type, [f"--{key}={value}" for key, value in flags.items()])
    if find_spec("vllm") is None:
        pytest.skip("its engine, vLLM, is not installed")
    config.check()
    assert config.output == str(tmp_path / "labelling" / ("judge_steps.jsonl" if name == "judge" else f"{name}.jsonl"))


class TestJudge:
    def test_its_grade_is_the_exact_label(self):
        for (prompt, is_learnt), (answer, _) in islice(reviews(random.Random(0), ProblemConfig(), set()), 60):
            assert not is_learnt
            question, step = problems.QUESTION.search(prompt)[0], problems.STEP.search(prompt)[0]
            left, symbol, right, value = problems.STEP.fullmatch(step).group(2, 3, 4, 5)
            is_right = problems.evaluate(int(left), symbol, int(right), 7) == int(value)
            assert parse_verdict(answer.removesuffix("<|im_end|>"), False, 1) == [1 if is_right else -1]
            assert question in prompt

    def test_reviews_by_hand(self):
        assert review("Step 1: 6 + 3 = 2.", 1, 7) == "Step 1: 6 + 3 = 2. Right. \\boxed{[1]}"
        step = "Step 2: 2 * 3 = 5. Answer: \\boxed{5}"
        assert review(step, -1, 7) == f"{step} Wrong, 2 * 3 = 6. \\boxed{{[-1]}}"
        problem = problems.Problem(1, (("+", 3), ("*", 2), ("-", 1)), 7)
        assert slipped_steps(problem, [None, 5, None]) == problems.write_steps(problem, [4, 5, 4])

    def test_many_steps_are_wrong_and_no_labelled_question_is_learnt(self):
        documents = list(islice(reviews(random.Random(0), ProblemConfig(), set()), 60))
        questions = {problems.QUESTION.search(full_text(document))[0] for document in documents}
        others = [full_text(d) for d in islice(reviews(random.Random(0), ProblemConfig(), questions), 60)]
        assert not any(question in text for question in questions for text in others)
        assert 0.25 < np.mean(["[-1]" in document[1][0] for document in documents]) < 0.6

    def test_verdicts_on_steps_become_labels_of_responses(self, tmp_path):
        folder = tmp_path / "labelling"
        write_jsonl(folder / "responses.jsonl", [Response("q", i, "?", ["a", "b"], True) for i in range(2)])
        found = [("q#0", 0, 1.0), ("q#0", 1, -1.0), ("q#1", 1, 0.0)]
        write_jsonl(folder / "judge_steps.jsonl", [Response(q, i, "?", ["a"], step_labels=[label]) for q, i, label in found])
        gather_verdicts(tmp_path)
        rows = list(read_records(folder / "judge.jsonl", Response))
        assert [(r.key, r.step_labels) for r in rows] == [(("q", 0), [1.0, -1.0]), (("q", 1), [None, 0.0])]


EXACT = [[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0]]
ERRORS = np.array([-1, 1, 0])


def test_steps_behind_the_first_error_do_not_count():
    assert step_accuracy([[0.9, 0.8, 0.1], [0.6, 0.5, 0.4], [0.3, 0.2]], ERRORS, 0.4) == pytest.approx(4 / 6)


def test_reliability_by_hand():
    values, is_good = np.array([0.0, 0.25, 0.25, 1.0]), np.array([False, True, False, True])
    found = reliability(values, is_good)
    assert [(b["value"], b["good"], b["steps"]) for b in found["bins"]] == [(0.0, 0.0, 1), (0.25, 0.5, 2), (1.0, 1.0, 1)]
    assert found["ece"] == pytest.approx(0.25 * 2 / 4)


def write_labels(folder, name, completions, labels, tokens=60):
    rows = [Response("q", i, "?", ["s"] * len(exact), True, exact) for i, exact in enumerate(EXACT)]
    write_jsonl(folder / "exact.jsonl", rows)
    pairs = zip(rows, labels, completions, strict=True)
    labelled = [replace(r, step_labels=found, completions=counts) for r, found, counts in pairs]
    write_jsonl(folder / f"{name}.jsonl", labelled)
    write_json(folder / f"{name}.manifest.json", {"counts": {"num_label_tokens": tokens}})


COMPLETIONS = [[[4, 4], [3, 4], [1, 1]], [[1, 4], [0, 4], [0, 1]], [[1, 4], [0, 1]]]
SHARES = [[k / n for k, n in steps] for steps in COMPLETIONS]


class TestMeasure:
    def run(self, tmp_path, row, labels, **more):
        write_labels(tmp_path, row.labelling, COMPLETIONS, labels, **more)
        exact = {r.key: r for r in read_records(tmp_path / "exact.jsonl", Response)}
        return measure(row, tmp_path, exact, {f"label-{name}": 2.0 for name in (*LABELLINGS, "x")})

    def test_hard_reading(self, tmp_path):
        found = self.run(tmp_path, Row("", "x", "any"), SHARES)
        # Found are the responses 0 (no error) and 1 (step 1); in response 2 step 0 has a right completion.
        assert (found["acc_error"], found["acc_correct"]) == (0.5, 1.0)
        assert found["f1"] == pytest.approx(2 / 3)
        assert found["step_accuracy"] == pytest.approx(5 / 6)
        assert (found["coverage"], found["tokens_per_response"], found["seconds"]) == (1.0, 20.0, 2.0)

    def test_soft_reading_takes_the_best_threshold(self, tmp_path):
        found = self.run(tmp_path, Row("", "x", "share"), SHARES)
        # Good: 1, 3/4, 1, 1/4. Bad: 0, 1/4. Of eight pairs seven are in order, one a tie.
        assert found["auc"] == pytest.approx(7.5 / 8)
        assert found["threshold"] == 0.25

    def test_labels_of_a_part(self, tmp_path):
        found = self.run(tmp_path, Row("", "x", "label"), [[1.0, 0.0, 1.0], [None, 1.0, 1.0], [-1.0, -1.0]])
        assert found["coverage"] == pytest.approx(2 / 3)
        assert found["step_accuracy"] == found["f1"] == 1.0

    def test_a_consensus_costs_what_its_parts_cost(self, tmp_path):
        for name in ("judge_steps", "monte_carlo_16"):
            write_labels(tmp_path, name, COMPLETIONS, SHARES, tokens=30)
        found = self.run(tmp_path, Row("", "consensus", "label"), SHARES, tokens=0)
        assert (found["tokens_per_response"], found["seconds"]) == (20.0, 4.0)


def test_report_table_and_figure(tmp_path):
    folder = tmp_path / "labelling"
    folder.mkdir()
    for name in (*LABELLINGS, "judge_steps"):
        write_labels(folder, name, COMPLETIONS, [[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, -1.0]])
    text = write_labelling(tmp_path, list(LABELLINGS), {f"label-{name}": 2.0 for name in LABELLINGS})
    lines = text.splitlines()
    assert lines[0].startswith("3 responses, 66.7% with a wrong step")
    assert [line.split("  ")[0] for line in lines[3 : 3 + len(ROWS)]] == [row.title for row in ROWS]
    result = json.loads((folder / "metrics.json").read_text())
    assert list(result["reliability"]) == ["monte_carlo_4", "monte_carlo_16"]
    # Sampled steps up to the first wrong one: 4/4 and 3/4 good, 1/4 good, 0/4 bad, 1/4 bad.
    assert result["reliability"]["monte_carlo_4"]["ece"] == pytest.approx((0.25 + 2 * 0.25) / 5)
    assert (folder / "labelling.png").stat().st_size > 10_000
    assert "Reliability" in (folder / "labelling.svg").read_text()
    shorter = write_labelling(tmp_path, ["monte_carlo_4", "binary"], {f"label-{name}": 2.0 for name in LABELLINGS})
    assert len(text.splitlines()) - len(shorter.splitlines()) == len(ROWS) - 3
