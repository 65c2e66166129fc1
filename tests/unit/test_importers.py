"""Published step labels: every format by hand, then what is left out and counted, what is refused, and the real files."""

import json
from collections import Counter
from pathlib import Path

import pytest

from prm.data.sources import iter_responses, load_question_texts, load_responses
from prm.records import Response


def rated(text: str, rating: int | None = 1, **extra) -> dict:
    return {"text": text, "rating": rating, "flagged": False, **extra}


def step(*completions: dict, chosen: int | None = 0, human: dict | None = None) -> dict:
    return {"completions": list(completions), "human_completion": human, "chosen_completion": chosen}


def record(*steps: dict, answer: str | None = "2") -> dict:
    """A line of PRM800K as OpenAI published it."""
    return {
        "labeler": "x",
        "question": {"problem": "1+1?", "ground_truth_answer": answer},
        "label": {"steps": list(steps), "finish_reason": "solution"},
    }


HUMAN = {"text": "It is two.", "rating": None, "source": "human", "flagged": False}
PRM800K = record(
    step(rated("Add."), rated("Multiply.", -1)),
    step(rated("It is three.", -1), rated("Hm.", 0), chosen=None, human=HUMAN),
    step(rated("Done.\n\n# Answer\n\n2"), chosen=0),
)
REBUILT = {
    "problem": "1+1?",
    "steps": [
        {"completions": [rated("Add.", answer=None), rated("Skip.", None, answer=None)], "chosen": 0},
        {"completions": [rated("It is two.", None, answer="2"), rated("It is 3.", -1, answer="3")], "chosen": 0},
    ],
}
SHEPHERD = {
    "input": "Step by step: 1+1? Step 1: One. ки\nStep 2: Two. The answer is: 2 ки",
    "label": "Step by step: 1+1? Step 1: One. +\nStep 2: Two. The answer is: 2 -",
    "task": "GSM8K",
}
PRMBENCH = {
    "idx": "p_7",
    "classification": "redundency",
    "original_question": "1+1?",
    "original_process": ["a", "b"],
    "modified_question": "1+1 = ?",
    "modified_process": ["a", "a", "b"],
    "error_steps": [2, 9, 0],
    "question": "raw",
}
ASSEMBLED = {"idx": "circular_p_7", "question": "1+1?", "steps": ["a", "b"], "error_steps": [1], "classification": "circular"}


def read(path: Path) -> tuple[list[Response], dict[str, int]]:
    dropped = Counter()
    return list(iter_responses(path, dropped)), dict(+dropped)


def test_prm800k_gives_a_response_per_rated_alternative(write_rows):
    responses, dropped = read(write_rows(PRM800K))
    assert [(r.steps, r.step_labels) for r in responses] == [
        (["Add."], [1.0]),
        (["Multiply."], [-1.0]),
        (["Add.", "It is three."], [1.0, -1.0]),
        (["Add.", "Hm."], [1.0, 0.0]),
        (["Add.", "It is two.", "Done.\n\n# Answer\n\n2"], [1.0, None, 1.0]),
    ]
    assert [r.sample_index for r in responses] == [0, 1, 2, 3, 4]
    assert [r.extracted for r in responses] == [None, None, None, None, "2"]
    assert {(r.question, r.answer, r.correct, r.label_source) for r in responses} == {("1+1?", "2", None, "human")}
    assert dropped == {"unrated": 1}


def test_prm800k_rebuilt(write_rows):
    responses, dropped = read(write_rows(REBUILT))
    assert [(r.steps, r.step_labels, r.extracted) for r in responses] == [
        (["Add."], [1.0], None),
        (["Add.", "It is 3."], [1.0, -1.0], "3"),
    ]
    assert dropped == {"unrated": 2}


def test_sessions_on_one_problem_share_its_question_id(write_rows):
    responses, _ = read(write_rows(PRM800K, record(step(rated("Two.")), answer=None)))
    assert len({r.question_id for r in responses}) == 1
    assert [r.sample_index for r in responses] == [0, 1, 2, 3, 4, 5]
    assert responses[-1].answer is None


def test_prm800k_ends_where_nobody_chose(write_rows):
    ended = record(step(rated("Add.")), step(rated("No.", -1), chosen=None), step(rated("Lost."), rated("Lost too.")))
    nothing = {"completions": None, "human_completion": None, "chosen_completion": None}
    given_up = record(step(rated("Add.")), step(rated("No."), chosen=None), nothing)
    for row, expected in ((ended, {"behind_no_choice": 2}), (given_up, {})):
        responses, dropped = read(write_rows(row))
        assert [len(r.steps) for r in responses] == [1, 2]
        assert dropped == expected


def test_blank_completions_are_left_out_of_the_path(write_rows):
    responses, dropped = read(write_rows(record(step(rated(" "), rated("One.")), step(rated("Two.")))))
    assert [r.steps for r in responses] == [["One."], ["Two."]]
    assert dropped == {"blank_step": 1}


def test_math_shepherd(write_rows):
    (response,), dropped = read(write_rows(SHEPHERD))
    assert response.question == "Step by step: 1+1?"
    assert (response.steps, response.step_labels) == (["One.", "Two. The answer is: 2"], [1.0, -1.0])
    assert (response.correct, response.extracted, response.label_source) == (False, "2", "monte_carlo")
    assert dropped == {}


@pytest.mark.parametrize(
    ("text", "steps", "labels", "correct", "dropped"),
    [
        ("Why? Step 1: Because. The answer is: x #", ["Because. The answer is: x"], "+", True, {}),
        ("Why? Step 1: Because. #", ["Because."], "-", None, {}),
        ("Why, # Bob? Step 1: So. #", ["So."], "+-", None, {"label_inside_question": 1}),
        ("Step 1: or not? Step 1: Yes. #", ["Yes."], "+", None, {}),
        ("Why? Step 1: So. #\nStep 2: #", ["So."], "+-", None, {"blank_step": 1}),
        ("Why? Step 1: A. #\nStep 2: B. The answer is: 3", ["A.", "B. The answer is: 3"], "+", None, {}),
        ("Why? Step 1: #", [], "-", None, {"blank_step": 1, "no_steps": 1}),
    ],
)
def test_math_shepherd_at_its_edges(write_rows, text, steps, labels, correct, dropped):
    marks = iter(labels)
    label = "".join(next(marks) if character == "#" else character for character in text)
    responses, found = read(write_rows({"input": text.replace("#", "ки"), "label": label}))
    assert [r.steps for r in responses] == ([steps] if steps else [])
    assert [r.correct for r in responses] == ([correct] if steps else [])
    assert found == dropped
    if steps:
        values = [{"+": 1.0, "-": -1.0}[mark] for mark in labels[dropped.get("label_inside_question", 0) :]][: len(steps)]
        assert responses[0].step_labels == values + [None] * (len(steps) - len(values))


def test_prmbench(write_rows):
    responses, dropped = read(write_rows(PRMBENCH, PRMBENCH))
    assert responses == [
        Response("redundency_p_7", 0, "1+1 = ?", ["a", "a", "b"], step_labels=[1.0, -1.0, 1.0], label_source="synthetic"),
        Response("correct_p_7", 0, "1+1?", ["a", "b"], step_labels=[1.0, 1.0], label_source="synthetic"),
    ]
    assert dropped == {"error_step_out_of_range": 2, "duplicate_id": 2}


def test_prmbench_assembled(write_rows):
    (response,), dropped = read(write_rows(ASSEMBLED))
    assert (response.question_id, response.step_labels, dropped) == ("circular_p_7", [-1.0, 1.0], {})
    (response,), _ = read(write_rows(ASSEMBLED | {"idx": "correct_p_7", "error_steps": None}))
    assert response.step_labels == [1.0, 1.0]


def test_stepwise_rows_may_bring_their_outcome(write_rows):
    row = {"prompt": "1+1?", "completions": ["2"], "labels": [True]}
    rows = [row | {"correct": True}, row | {"correct": None, "completions": ["3"]}, row | {"completions": ["4"]}]
    assert [response.correct for response in load_responses(write_rows(*rows))] == [True, None, None]
    with pytest.raises(ValueError, match=r"file.jsonl:1: 'correct' is 'yes'"):
        load_responses(write_rows(row | {"correct": "yes"}))


def test_stepwise_labels_may_be_null_or_soft(write_rows):
    row = {"prompt": "1+1?", "completions": ["a", "b", "c", "d"], "labels": [True, None, 0.25, False]}
    (response,), _ = read(write_rows(row))
    assert response.step_labels == [1.0, None, 0.25, -1.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (record(step(rated("A", 2))), "file.jsonl:1: step 1: rating 2, expected -1, 0, 1 or null; repair or remove the row"),
        (record(step(rated("A", True))), "file.jsonl:1: step 1: rating True"),
        (record(step(rated("A"), chosen=1)), r"file.jsonl:1: step 1: completion 1 is chosen of 1 \(counted from 0\)"),
        (record(step(rated("A"), chosen=-1)), "completion -1 is chosen of 1"),
        (record({"completions": []}), "file.jsonl:1: has the keys of PRM800K, but does not read as such"),
        (record(step(rated(3))), "file.jsonl:1: has the keys of PRM800K, but does not read as such"),
        (PRM800K | {"question": "1+1?"}, "file.jsonl:1: has the keys of PRM800K, but does not read as such"),
        (REBUILT | {"steps": "one"}, "file.jsonl:1: has the keys of PRM800K, rebuilt, but does not read as such"),
        (SHEPHERD | {"label": SHEPHERD["label"].replace("One", "Won")}, "file.jsonl:1: `label` reads .*step mark 1 of 2"),
        (SHEPHERD | {"label": SHEPHERD["input"]}, "file.jsonl:1: `label` reads .*One. ки.* step mark 1 of 2"),
        (SHEPHERD | {"label": SHEPHERD["label"] + " more"}, "file.jsonl:1: `label` reads ' more' where `input` has '' and its end"),
        (SHEPHERD | {"label": SHEPHERD["label"][:-1]}, "step mark 2 of 2"),
        (SHEPHERD | {"input": "1+1? Step 1: One."}, "file.jsonl:1: `input` holds no step mark 'ки'"),
        ({"input": "1+1? One. ки", "label": "1+1? One. +"}, "file.jsonl:1: no 'Step 1:' behind the question"),
        (SHEPHERD | {"input": None}, "file.jsonl:1: has the keys of Math-Shepherd, but does not read as such"),
        (PRMBENCH | {"error_steps": ["two"]}, r"file.jsonl:1: error_steps of 'redundency_p_7' are \['two'\]; give step numbers"),
        (ASSEMBLED | {"error_steps": None}, "file.jsonl:1: error_steps of 'circular_p_7' are None"),
        (PRMBENCH | {"modified_process": ["a", None]}, "file.jsonl:1: ('steps' is|has the keys of PRMBench)"),
        (ASSEMBLED | {"steps": 3}, "file.jsonl:1: has the keys of PRMBench, assembled, but does not read as such"),
        ({"prompt": "1+1?", "completions": ["a"], "labels": ["+"]}, "file.jsonl:1: 'step_labels' is"),
        (
            {"prompt": ["1+1?"], "completions": ["a"], "labels": [1]},
            "file.jsonl:1: expected a prompt as text and completions as a list of texts",
        ),
    ],
)
def test_refusals_name_file_and_line(write_rows, row, message):
    with pytest.raises(ValueError, match=message):
        load_responses(write_rows(row))


def test_unreadable_rows_can_be_counted_instead(write_rows, caplog):
    path, dropped = write_rows(SHEPHERD, SHEPHERD | {"label": "?"}, SHEPHERD, {"what": 1}), Counter()
    assert len(list(iter_responses(path, dropped, skip_unreadable=True))) == 2
    assert dropped["unreadable"] == 2
    assert "file.jsonl:2: `label` reads" in caplog.text
    assert "file.jsonl:4: no known shape" in caplog.text


def test_what_is_left_out_is_logged_where_nobody_counts(write_rows, caplog):
    load_responses(write_rows(PRM800K))
    assert "file.jsonl: left out of its responses: 1 unrated" in caplog.text


def test_question_texts_of_published_step_labels(write_rows):
    path = write_rows(PRM800K, REBUILT, SHEPHERD, ASSEMBLED)
    assert load_question_texts(path) == ["1+1?", "1+1?", "Step by step: 1+1?", "1+1?"]


def test_a_row_without_a_question_has_no_question_text(write_rows):
    with pytest.raises(ValueError, match=r"file.jsonl:1: no question under any of"):
        load_question_texts(write_rows({"input": "Why? Step 1: ки", "label": "Why? Step 1: +"}))
    with pytest.raises(ValueError, match=r"file.jsonl:1: has the keys of Math-Shepherd"):
        load_question_texts(write_rows({"input": None, "label": 0}))


@pytest.mark.parametrize(
    ("file", "count", "labels", "dropped"),
    [
        ("prm800k/raw_records_6.jsonl", 73, {1: 55, 0: 3, -1: 15}, {"unrated": 2}),
        ("math_shepherd/samples.jsonl", 7, {-1: 7}, {}),
        ("prmbench/prmtest_classified_raw_sample.jsonl", 60, None, {}),
        ("prmbench/prmbench_meta_30idx.jsonl", 276, None, {"error_step_out_of_range": 9}),
        ("processbench/gsm8k.json", 50, None, {}),
    ],
)
def test_real_files(real_data, file, count, labels, dropped):
    """`labels` counts the last steps: in PRM800K every rating once."""
    responses, found = read(real_data / file)
    assert len(responses) == count
    assert found == dropped
    assert labels is None or Counter(r.step_labels[-1] for r in responses) == labels
    assert all(len(r.steps) == len(r.step_labels) and all(step.strip() for step in r.steps) for r in responses)


def test_math_shepherd_rebuilds_the_published_text(real_data):
    path = real_data / "math_shepherd" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, response in zip(rows, load_responses(path), strict=True):
        marks = ["+" if label > 0 else "-" for label in response.step_labels]
        steps = [f"Step {i}: {text} {mark}" for i, (text, mark) in enumerate(zip(response.steps, marks, strict=True), start=1)]
        assert f"{response.question} " + "\n".join(steps) == row["label"]


def test_prmbench_raw_and_assembled_agree(real_data):
    raw = {r.key: r for r in load_responses(real_data / "prmbench" / "prmtest_classified_raw_sample.jsonl")}
    assembled = {r.key: r for r in load_responses(real_data / "prmbench" / "prmbench_meta_30idx.jsonl")}
    shared = raw.keys() & assembled.keys()
    assert len(shared) == 5
    assert all(raw[key] == assembled[key] for key in shared)
