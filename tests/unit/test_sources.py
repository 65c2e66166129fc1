"""Readers of the field's shapes: each shape by hand, then ids and order, then what they refuse."""

import json
from collections import Counter

import pytest

from prm.data.sources import (
    iter_placed_responses,
    iter_responses,
    list_prms,
    load_question_texts,
    load_questions,
    load_responses,
    load_rollouts,
    load_sampled_texts,
    load_scores,
)
from prm.records import Response, Rollout, StepScores

SOLUTIONS = {
    "question": "1+1?",
    "ground_truth": "1+1=2\nA: 2",
    "6b_finetuning": {"is_correct": True, "solution": "Add them.\n1+1=<<1+1=2>>2\nA: 2"},
    "6b_verification": {"is_correct": False, "solution": "It is\n#### 1,000"},
    "175b_finetuning": {"is_correct": False, "solution": "33333"},
    "175b_verification": {"is_correct": False, "solution": ""},
}
EVALUATION = {
    "idx": 3,
    "question": "1+1?",
    "answer": "2",
    "response": ["So\n\n\\boxed{2}", "\\boxed{3}"],
    "pred": ["2", "3"],
    "score": [True, False],
    "pred_score": [[3.5], [-1.0]],
}
POOL = {
    "problem_id": "p0",
    "question": "1+1?",
    "answer": "2",
    "candidates": [
        {
            "index": 4,
            "text": "So\n\n\\boxed{2}",
            "steps": ["So", "two"],
            "mv_correct": True,
            "mv_answer": "2",
            "num_tokens": 7,
            "step_scores": {"a": [0.5, 0.25], "b": [1.0, 0.0]},
        }
    ],
}
STEPWISE = {"prompt": "1+1?", "completions": ["one", "two"], "labels": [True, False]}
PROCESSBENCH = {"id": "math-1", "problem": "1+1?", "steps": ["a", "b", "c"], "final_answer_correct": False, "label": 1}


@pytest.mark.parametrize(
    ("row", "question_id", "answer"),
    [
        ({"id": "7", "question": "1+1?", "answer": "2"}, "7", "2"),
        ({"question": "1+1?", "answer": "1+1=2\n#### 2,125"}, "file-0", "2,125"),
        ({"id": "g", "question": "1+1?", "answer": "1+1=2\n#### -10"}, "g", "-10"),
        ({"problem": "1+1?", "solution": "It is $\\boxed{\\frac{4}{2}}$.", "unique_id": "a/1.json"}, "a/1.json", "\\frac{4}{2}"),
        ({"problem": "1+1?", "solution": "\\boxed{x}", "answer": "2"}, "file-0", "2"),
        ({"id": 60, "problem": "1+1?", "question": "1+1?", "answer": "025"}, "file-60", "025"),
        ({"id": "0", "problem": "1+1?", "answer": 70}, "file-0", "70"),
        ({"id": 1, "problem": "1+1?", "answer": 27.0}, "file-1", "27"),
        ({"id": 1, "problem": "1+1?", "answer": 0.5}, "file-1", "0.5"),
        ({"id": 1, "question": "1+1?", "answer": 27.0}, "1", "27"),
    ],
)
def test_questions(write_rows, row, question_id, answer):
    (question,) = load_questions(write_rows(row))
    assert (question.id, question.question, question.answer) == (question_id, "1+1?", answer)


def test_gsm8k_solutions_end_in_a_box(write_rows):
    rollouts = load_rollouts(write_rows(SOLUTIONS))
    assert [rollout.response for rollout in rollouts] == [
        "Add them.\n\n1+1=<<1+1=2>>2\n\nThe answer is \\boxed{2}.",
        "It is\n\nThe answer is \\boxed{1,000}.",
        "33333",
        "",
    ]
    assert {(r.answer, r.correct, r.grade, r.question_id) for r in rollouts} == {("2", None, None, "file-0")}
    assert [rollout.sample_index for rollout in rollouts] == [0, 1, 2, 3]


def test_evaluation_output(write_rows):
    path = write_rows(EVALUATION)
    first, second = load_rollouts(path)
    assert first == Rollout(
        "file-3", 0, "1+1?", "2", "So\n\n\\boxed{2}", "unknown", 0, correct=True, extracted="2", grade="correct"
    )
    assert (second.correct, second.grade) == (False, "wrong")
    assert load_responses(path)[0].steps == ["So", "\\boxed{2}"]
    assert load_scores(path)[1] == StepScores("file-3", 1, [-1.0], correct=False, answer="2", extracted="3")


def test_candidate_pool(write_rows):
    path = write_rows(POOL)
    assert load_rollouts(path) == [
        Rollout("p0", 4, "1+1?", "2", "So\n\n\\boxed{2}", "unknown", 7, correct=True, extracted="2", grade="correct")
    ]
    assert load_responses(path) == [Response("p0", 4, "1+1?", ["So", "two"], True, None, "2", "2")]
    assert load_scores(path, prm="b") == [StepScores("p0", 4, [1.0, 0.0], True, "2", "2")]
    assert list_prms(path) == ["a", "b"]


def test_the_only_prm_needs_no_name(write_rows):
    candidate = POOL["candidates"][0] | {"step_scores": {"a": [0.5, 0.25]}}
    assert load_scores(write_rows(POOL | {"candidates": [candidate]}))[0].step_scores == [0.5, 0.25]


def test_stepwise_supervision_groups_by_prompt(write_rows):
    first, second, other = load_responses(write_rows(STEPWISE, STEPWISE, STEPWISE | {"prompt": "2+2?", "labels": [0, 0.5]}))
    assert first.step_labels == [1, -1]
    assert other.step_labels == [0, 0.5]
    assert first.question_id == second.question_id != other.question_id
    assert [r.sample_index for r in (first, second, other)] == [0, 1, 0]


@pytest.mark.parametrize(("label", "step_labels"), [(1, [1.0, -1.0, -1.0]), (0, [-1.0, -1.0, -1.0]), (-1, [1.0, 1.0, 1.0])])
def test_processbench(tmp_path, label, step_labels):
    path = tmp_path / "math.json"
    path.write_text(json.dumps([PROCESSBENCH | {"label": label}]))
    expected = Response("math-1", 0, "1+1?", ["a", "b", "c"], False, step_labels, label_source="human")
    assert load_responses(path) == [expected]


def test_plain_rollouts_are_split_into_steps(write_rows):
    row = {"question_id": "q", "sample_index": 0, "question": "1+1?", "answer": "2", "response": "a\n\n\n\nb"}
    (response,) = load_responses(write_rows(row | {"finish_reason": "stop", "num_tokens": 3, "correct": False}))
    assert (response.steps, response.correct) == (["a", "b"], False)
    (rollout,) = load_rollouts(write_rows(row, name="others.jsonl"))
    assert (rollout.finish_reason, rollout.num_tokens, rollout.correct) == ("unknown", 0, None)


@pytest.mark.parametrize("number", [int, float])
def test_numbers_as_ids_and_answers_are_texts(write_rows, number):
    row = {"question_id": number(7), "sample_index": 0, "question": "1+1?", "answer": number(2), "response": "a"}
    assert load_responses(write_rows(row)) == [Response("7", 0, "1+1?", ["a"], answer="2")]
    assert load_rollouts(write_rows(row)) == [Rollout("7", 0, "1+1?", "2", "a")]
    assert load_sampled_texts(write_rows(row)) == {("7", 0): "a"}
    assert (
        load_scores(write_rows({"question_id": 7, "sample_index": 0, "step_scores": [0.5]}, name="s.jsonl"))[0].question_id == "7"
    )
    with pytest.raises(ValueError, match="'question_id' is True"):
        load_responses(write_rows(row | {"question_id": True}, name="bool.jsonl"))


def test_a_table_of_text_holds_the_same_records(tmp_path):
    """As pandas, R and spreadsheets write it: outcomes as True or TRUE, what is missing as an empty cell, lists as JSON."""
    (tmp_path / "graded.csv").write_text(
        "question_id,sample_index,question,answer,response,num_tokens,correct,extracted,steps\n"
        '7,0,1+1?,2,"So\n\n2",3,True,2,a note\n7,1,1+1?,2,,,,,\n7,2,1+1?,2,3,3,FALSE,3,\n',
        encoding="utf-8",
    )
    told = {"question": "1+1?", "answer": "2"}
    assert load_rollouts(tmp_path / "graded.csv") == [
        Rollout("7", 0, **told, response="So\n\n2", num_tokens=3, correct=True, extracted="2"),
        Rollout("7", 1, **told, response=""),
        Rollout("7", 2, **told, response="3", num_tokens=3, correct=False, extracted="3"),
    ]
    (tmp_path / "scores.csv").write_text('question_id,sample_index,step_scores,correct\n7,0,"[0.5, 1]",\n', encoding="utf-8")
    assert load_scores(tmp_path / "scores.csv") == [StepScores("7", 0, [0.5, 1.0])]
    (tmp_path / "scores.csv").write_text("question_id,sample_index,step_scores\n7,0,[0.5 1]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"scores.csv:2: 'step_scores' is '\[0.5 1\]', expected a list"):
        load_scores(tmp_path / "scores.csv")


def test_a_pool_graded_by_others(write_rows):
    candidates = [{"text": "a", "correct": True, "extracted": "2"}, {"text": "b", "mv_correct": False, "mv_answer": "3"}]
    row = {"problem_id": "p", "question": "1+1?", "answer": "2", "candidates": candidates}
    assert [(r.correct, r.extracted) for r in load_responses(write_rows(row))] == [(True, "2"), (False, "3")]


@pytest.mark.parametrize("label", [2, -0.5, 1.5])
def test_a_step_label_that_means_nothing(write_rows, label):
    row = {"question_id": "q", "sample_index": 0, "question": "?", "steps": ["a", "b"], "step_labels": [1, label]}
    with pytest.raises(ValueError, match=rf"step label {label:g}; give -1 \(wrong\), 0, 1 \(right\), a share .*null for a step"):
        load_responses(write_rows(row))


def test_plain_scores(write_rows):
    row = {"question_id": "q", "sample_index": 0, "step_scores": [0.5, 1]}
    assert load_scores(write_rows(row)) == [StepScores("q", 0, [0.5, 1.0])]


def test_question_texts_of_any_file(write_rows):
    assert load_question_texts(write_rows(POOL, STEPWISE | {"prompt": "p"}, PROCESSBENCH | {"problem": "q"})) == ["1+1?", "p", "q"]


@pytest.mark.parametrize(
    ("load", "row", "message"),
    [
        (load_questions, {"quest": 1}, r"file.jsonl:1: no known shape of questions: found keys \['quest'\]; known are contest"),
        (load_rollouts, STEPWISE, "no known shape of rollouts"),
        (load_question_texts, {"text": "x"}, r"file.jsonl:1: no question under any of .*'text'"),
        (load_questions, {"problem": "x", "solution": "no box"}, "file.jsonl:1: no reference answer"),
        (load_questions, {"question": "x", "answer": " "}, "file.jsonl:1: no reference answer"),
        (load_questions, {"question": "x", "answer": [4]}, r"file.jsonl:1: 'answer' is \[4\], expected a text or a number"),
        (load_questions, {"question": "x", "answer": True}, "file.jsonl:1: 'answer' is True, expected a text or a number"),
        (load_questions, {"problem": "x", "answer": "4", "id": ["a"]}, r"file.jsonl:1: the question's id is \['a'\], expected a"),
        (load_responses, STEPWISE | {"labels": [True]}, r"file.jsonl:1: lists .* differ in length: .*'labels': 1"),
        (load_rollouts, EVALUATION | {"pred": []}, "file.jsonl:1: lists .* differ in length"),
        (load_scores, POOL, r"file.jsonl:1: candidate 4 has scores of a, b, name one with --prm"),
        (load_rollouts, POOL | {"candidates": [{}]}, r"file.jsonl:1: has the keys of candidate pool, .*KeyError\('text'\)"),
        (load_responses, PROCESSBENCH | {"steps": ["a", 3, "c"]}, "file.jsonl:1: 'steps'"),
    ],
)
def test_refusals_name_file_and_line(write_rows, load, row, message):
    with pytest.raises(ValueError, match=message):
        load(write_rows(row))


def test_a_wrong_prm_name_is_refused(write_rows):
    with pytest.raises(ValueError, match="candidate 4 has scores of a, b, and none of --prm c"):
        load_scores(write_rows(POOL), prm="c")


@pytest.mark.parametrize("candidates", [None, 5, ["a"], {"a": 1}])
def test_candidates_that_are_none_are_named(write_rows, candidates):
    with pytest.raises(ValueError, match=r"file\.jsonl:2: 'candidates' is .*, expected a list of objects"):
        list_prms(write_rows(POOL, POOL | {"candidates": candidates}))


def test_labels_that_are_not_one_a_step_are_named_and_left_to_the_linter(write_rows):
    row = {"question_id": "q", "sample_index": 0, "question": "?", "steps": ["a", "b"], "step_labels": [1]}
    with pytest.raises(ValueError, match=r"file\.jsonl:1: 1 step labels for 2 steps; label every step, with null"):
        load_responses(write_rows(row))
    dropped = Counter()
    assert not list(iter_responses(write_rows(row), dropped, skip_unreadable=True))
    assert dropped["unreadable"] == 1
    assert len(list(iter_placed_responses(write_rows(row)))) == 1


def test_a_key_that_stands_twice_names_both_places(write_rows):
    row = {"id": "q", "question": "x", "answer": "1"}
    with pytest.raises(ValueError, match=r"file.jsonl:2: duplicate key 'q', first seen at .*file.jsonl:1"):
        load_questions(write_rows(row, row))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        load_rollouts(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize(
    ("file", "load", "count"),
    [
        ("gsm8k_test.jsonl", load_questions, 1319),
        ("math500.jsonl", load_questions, 500),
        ("aime24.jsonl", load_questions, 30),
        ("aime25.jsonl", load_questions, 30),
        ("amc23.jsonl", load_questions, 40),
        ("gsm8k_example_model_solutions_200.jsonl", load_rollouts, 800),
        ("rollouts/qwen25math_rm_100x8.jsonl", load_scores, 800),
        ("bon/bon16_gsm8k_50.jsonl", load_responses, 800),
        ("bon/bon16_math500_50.jsonl", load_scores, 800),
        ("processbench/math.json", load_responses, 50),
        ("prm800k/phase1_train_120records.jsonl", load_question_texts, 120),
    ],
)
def test_public_files(real_data, file, load, count):
    assert len(load(real_data / file)) == count
