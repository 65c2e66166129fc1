"""Records: types and keys checked, numbers finite, keys complete."""

import pytest

from prm.records import Response, Rollout, StepScores, to_line, to_record


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({"step_labels": [1, -1, 0.5]}, True),
        ({"step_labels": None}, True),
        ({"correct": 1}, False),
        ({"sample_index": True}, False),
        ({"sample_index": 1.0}, False),
        ({"sample_index": 10**31}, False),
        ({"steps": "a"}, False),
        ({"steps": ["a", None]}, False),
        ({"unknown": 1}, True),
    ],
)
def test_types_are_checked(change, is_valid):
    row = {"question_id": "q", "sample_index": 0, "question": "?", "steps": ["a"], "correct": None, **change}
    if is_valid:
        assert to_record(row, Response, "x:1").steps == ["a"]
    else:
        with pytest.raises(ValueError, match="x:1: "):
            to_record(row, Response, "x:1")


def test_not_finite_is_not_written():
    with pytest.raises(ValueError, match="not finite"):
        to_line(StepScores("q", 0, [float("nan")]))


def test_rollout_key():
    assert Rollout("q", 3, "?", "1", "text", "stop", 5).key == ("q", 3)


def test_sample_index_counts_from_0():
    with pytest.raises(ValueError, match="x:1: 'sample_index' is -1"):
        to_record({"question_id": "q", "sample_index": -1, "step_scores": []}, StepScores, "x:1")


def test_steps_may_be_unlabelled():
    row = {"question_id": "q", "sample_index": 0, "question": "?", "steps": ["a", "b"], "step_labels": [1, None]}
    assert to_record(row, Response, "x:1").step_labels == [1.0, None]


@pytest.mark.parametrize(("num_tokens", "message"), [(-1, "it counts from 0"), (10**31, "expected a whole number up to")])
def test_a_number_of_tokens_that_cannot_be_is_named(num_tokens, message):
    row = {"question_id": "q", "sample_index": 0, "question": "?", "answer": "4", "response": "4", "num_tokens": num_tokens}
    with pytest.raises(ValueError, match=f"x:1: 'num_tokens' is {num_tokens}, {message}"):
        to_record(row, Rollout, "x:1")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([float("inf")], r"'step_scores' is \[inf\], expected a list, each item a finite number up to 1e\+30"),
        ([10**400], "expected .* finite"),
        ([0.5, -1e308], "expected .* finite"),
        ([], "'step_scores' are empty; leave the row out"),
    ],
)
def test_a_score_that_no_metric_can_take_is_named(scores, message):
    with pytest.raises(ValueError, match=f"x:1: .*{message}"):
        to_record({"question_id": "q", "sample_index": 0, "step_scores": scores}, StepScores, "x:1")
