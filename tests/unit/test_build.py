"""Dataset builder: filters by hand, order does not matter, then each refusal."""

import json
import random

import pytest

from prm.data.build import BuildConfig, build_dataset
from prm.data.decontaminate import EvaluationIndex, normalize_words
from prm.data.filters import join_step_labels, pass_rates, split_by_question
from prm.files import read_records, write_jsonl
from prm.records import Response, Rollout


def rollout(question: int, index: int, correct: bool | None, **changes) -> Rollout:
    answer = {True: "2", False: "3", None: None}[correct]
    values = {
        "question_id": f"q{question}",
        "sample_index": index,
        "question": f"What is {question}?",
        "answer": "2",
        "response": f"Sample {index}.\n\nIt is \\boxed{{{answer}}}.",
        "finish_reason": "stop",
        "num_tokens": 5,
        "correct": correct,
        "extracted": answer,
        "grade": {True: "correct", False: "wrong", None: "no_answer"}[correct],
    }
    return Rollout(**(values | changes))


def samples(question: int, num_right: int, num_wrong: int) -> list[Rollout]:
    outcomes = [True] * num_right + [False] * num_wrong
    return [rollout(question, index, correct) for index, correct in enumerate(outcomes)]


@pytest.fixture
def build(tmp_path):
    def build(records, **options):
        option = "rollouts" if isinstance(records[0], Rollout) else "responses"
        write_jsonl(tmp_path / "in.jsonl", records)
        config = {option: str(tmp_path / "in.jsonl"), "output": str(tmp_path / "dataset"), "validation_fraction": 0.0}
        return build_dataset(BuildConfig(**(config | options)))

    return build


def read_split(tmp_path, split="train") -> list[Response]:
    return list(read_records(tmp_path / "dataset" / f"{split}.jsonl", Response))


def test_pass_rate_bounds_are_inclusive(build, tmp_path):
    """Of five samples each, 0 to 5 right: 1/5 and 4/5 stay, 0/5 and 5/5 go."""
    counts = build([r for num_right in range(6) for r in samples(num_right, num_right, 5 - num_right)])
    assert {response.question_id for response in read_split(tmp_path)} == {"q1", "q2", "q3", "q4"}
    assert counts["responses_dropped"] == {
        "overlaps_evaluation": 0,
        "pass_rate_too_low": 5,
        "pass_rate_too_high": 5,
        "duplicate": 0,
    }
    assert counts["train"]["responses"] == 20
    assert counts["train"]["share_correct"] == 0.5
    assert counts["train"]["steps_mean"] == 2


def test_the_responses_are_complete(build, tmp_path):
    build(samples(0, 1, 1))
    assert read_split(tmp_path)[1] == Response(
        "q0", 1, "What is 0?", ["Sample 1.", "It is \\boxed{3}."], False, None, answer="2", extracted="3"
    )


def test_unlabelled_responses_are_counted_by_grade(build):
    extra = [
        rollout(0, 10, None),
        rollout(0, 11, None, finish_reason="length"),
        rollout(0, 12, None, grade="timeout"),
        rollout(0, 13, None, grade="unparsable"),
        rollout(0, 14, None, grade=None),
    ]
    dropped = build(samples(0, 2, 2) + extra)["responses_dropped"]
    assert {reason: count for reason, count in dropped.items() if count} == {
        "no_answer": 1,
        "no_answer_truncated": 1,
        "timeout": 1,
        "unparsable": 1,
        "ungraded": 1,
    }


def test_repeats_count_for_the_pass_rate_and_stand_once(build, tmp_path):
    repeats = [rollout(0, index, True, response="Same.\n\n\\boxed{2}") for index in range(3)]
    counts = build([*repeats, rollout(0, 3, False)], min_pass_rate=0.75, max_pass_rate=0.75)
    assert [response.sample_index for response in read_split(tmp_path)] == [0, 3]
    assert counts["responses_dropped"]["duplicate"] == 2
    counts = build([*repeats, rollout(0, 3, False)], min_pass_rate=0.75, max_pass_rate=0.75, deduplicate=False)
    assert [response.sample_index for response in read_split(tmp_path)] == [0, 1, 2, 3]
    assert counts["responses_dropped"]["duplicate"] == 0


def test_pass_rates_by_hand():
    responses = [Response("a", i, "?", ["s"], correct) for i, correct in enumerate([True, False, False, None])]
    assert pass_rates([*responses, Response("b", 0, "?", ["s"])]) == {"a": 1 / 3}


def test_split_is_by_question_and_does_not_see_the_order():
    responses = [Response(f"q{i}", j, "?", ["s"]) for i in range(50) for j in range(3)]
    train, validation = split_by_question(responses, 0.1, seed=0)
    held_out = {r.question_id for r in validation}
    assert len(held_out) == 5
    assert len(validation) == 15
    assert held_out.isdisjoint(r.question_id for r in train)
    shuffled = random.Random(0).sample(responses, len(responses))
    assert {r.question_id for r in split_by_question(shuffled, 0.1, seed=0)[1]} == held_out
    assert {r.question_id for r in split_by_question(responses, 0.1, seed=1)[1]} != held_out


def test_the_smallest_split_holds_out_one_question():
    responses = [Response(f"q{i}", 0, "?", ["s"]) for i in range(3)]
    assert len(split_by_question(responses, 0.01, seed=0)[1]) == 1
    assert split_by_question(responses, 0.0, seed=0) == (responses, [])


def test_the_order_of_the_input_does_not_matter(build, tmp_path):
    rollouts = [r for question in range(5) for r in samples(question, 2, 2)]
    build(rollouts, validation_fraction=0.2)
    before = [read_split(tmp_path, split) for split in ("train", "validation")]
    build(rollouts[::-1], validation_fraction=0.2)
    assert [read_split(tmp_path, split) for split in ("train", "validation")] == before
    assert {r.question_id for r in before[0]}.isdisjoint(r.question_id for r in before[1])


def test_overlap_with_evaluation_files_is_dropped_and_reported(build, tmp_path):
    long_question = " ".join(f"word{i}" for i in range(20))
    evaluation = [{"problem": "what IS  1"}, {"prompt": "Then: " + " ".join(f"word{i}" for i in range(4, 17))}]
    write_jsonl(tmp_path / "evaluation.jsonl", evaluation)
    shared = [Rollout(**{**{f: getattr(r, f) for f in r.__slots__}, "question": long_question}) for r in samples(2, 1, 1)]
    counts = build(samples(0, 1, 1) + samples(1, 1, 1) + shared, decontaminate=[str(tmp_path / "evaluation.jsonl")])
    assert {response.question_id for response in read_split(tmp_path)} == {"q0"}
    assert counts["questions_dropped"]["overlaps_evaluation"] == 2
    manifest = json.loads((tmp_path / "dataset" / "manifest.json").read_text())
    assert [(o["question_id"], o["match"]) for o in manifest["overlaps"]] == [("q1", "question"), ("q2", "13-gram")]
    assert manifest["overlaps"][1]["text"] == " ".join(f"word{i}" for i in range(4, 17))


def test_twelve_shared_words_are_no_overlap():
    index = EvaluationIndex()
    index.ngrams[" ".join(f"w{i}" for i in range(13))] = "file"
    assert index.find("q", " ".join(f"w{i}" for i in range(12))) is None
    assert index.find("q", "x " + " ".join(f"W{i}," for i in range(13))).file == "file"


def test_words_are_compared_without_typography():
    assert normalize_words("Janet’s  ½—duck,  $x^2$") == normalize_words("JANET's 1⁄2 duck x 2")


def test_steps_are_merged_within_the_token_limit(build, tmp_path, tiny_backbone):
    rollouts = [rollout(0, i, bool(i), response=f"a{i}\n\nb\n\n" + "long words " * 20 + "\\boxed{2}") for i in range(2)]
    build(rollouts, max_step_length=12, tokenizer=str(tiny_backbone))
    assert [len(response.steps) for response in read_split(tmp_path)] == [2, 2]
    assert read_split(tmp_path)[0].steps[0] == "a0\n\nb"


def test_step_labels_are_joined_by_key(build, tmp_path):
    labelled = Response("q0", 1, "?", ["Sample 1.", "It is \\boxed{3}."], step_labels=[1.0, -1.0])
    write_jsonl(tmp_path / "labels.jsonl", [labelled])
    counts = build(samples(0, 1, 1), step_labels=str(tmp_path / "labels.jsonl"))
    assert [response.step_labels for response in read_split(tmp_path)] == [None, [1, -1]]
    assert counts["train"]["with_step_labels"] == 1


def test_responses_with_step_labels_need_no_outcome(build, tmp_path):
    labelled = [Response("a", i, "?", [f"s{i}"], step_labels=[1.0]) for i in range(2)]
    counts = build([*labelled, Response("a", 2, "?", ["s"])])
    assert counts["responses_dropped"]["unlabelled"] == 1
    assert read_split(tmp_path) == labelled


def test_an_older_dataset_is_replaced_and_nothing_is_left_beside_it(build, tmp_path):
    build([r for q in range(3) for r in samples(q, 1, 1)], validation_fraction=0.4)
    build(samples(0, 1, 1))
    assert sorted(path.name for path in (tmp_path / "dataset").iterdir()) == ["manifest.json", "train.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "in.jsonl"]


REFUSALS = {
    "ungraded": ([rollout(0, 0, None, grade=None)], "not graded yet; run scripts/grade_rollouts.py"),
    "too easy": (samples(0, 9, 1), r"no response is left to train on \(10 pass_rate_too_high\)"),
    "one outcome": (
        [Response("a", i, "?", [f"s{i}"], True) for i in range(2)],
        "all 2 training responses have the outcome correct=True",
    ),
    "separator": (
        [*samples(0, 1, 1), rollout(0, 2, True, response="a\n\nb <extra_0> \\boxed{2}")],
        r"response \('q0', 2\): step 2 holds the separator",
    ),
    "no steps": ([Response("a", 0, "?", [], True)], r"response \('a', 0\): it has no steps"),
    "blank step": ([Response("a", 0, "?", ["s", " "], True)], r"response \('a', 0\): step 2 is blank"),
    "labels": ([Response("a", 0, "?", ["s"], step_labels=[1.0, 1.0])], r"response \('a', 0\): 2 step labels for 1 steps"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_leave_nothing_behind(build, tmp_path, case):
    records, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        build(records, **({} if isinstance(records[0], Rollout) else {"max_pass_rate": 1.0}))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_step_labels_of_other_steps_are_refused():
    responses = [Response("a", 0, "?", ["s", "t"], True)]
    with pytest.raises(ValueError, match=r"response \('a', 0\): its step labels belong to other steps \(1 there, 2 here\)"):
        join_step_labels(responses, [Response("a", 0, "?", ["s"], step_labels=[1.0])])
    with pytest.raises(ValueError, match="none of its 1 keys"):
        join_step_labels(responses, [Response("b", 0, "?", ["s"], step_labels=[1.0])])


@pytest.mark.parametrize(
    "options",
    [
        {"min_pass_rate": 0.9},
        {"max_pass_rate": 1.5},
        {"validation_fraction": 1.0},
        {"max_step_length": 10},
        {"tokenizer": "x"},
        {"max_step_length": 0, "tokenizer": "x"},
        {"max_step_length": 9, "tokenizer": "x", "responses": "y"},
    ],
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match=r"pass rates|must be|give both or neither|in steps already"):
        BuildConfig(**options)


def test_missing_rollouts_name_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing there; run scripts/generate_rollouts\.py"):
        build_dataset(BuildConfig(rollouts=str(tmp_path / "graded"), output=str(tmp_path / "dataset")))


def test_a_folder_that_is_no_dataset_is_never_replaced(build, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(ValueError, match="is not a dataset; name another folder"):
        build(samples(0, 1, 1), output=str(tmp_path / "thesis"))
