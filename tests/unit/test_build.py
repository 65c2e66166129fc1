"""Dataset builder: filters by hand, order does not matter, then each refusal."""

import json

import pytest

from prm.data.build import BuildConfig, build_dataset
from prm.data.duplicates import drop_near_duplicates
from prm.data.filters import balance, join_step_labels, last_held_out, seeded_hash
from prm.data.statistics import pass_rate
from prm.files import read_records, read_rows, write_jsonl
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
def build(tmp_path, monkeypatch):
    monkeypatch.setattr("prm.data.build.draw_histograms", lambda *args: None)  # test_statistics.py draws them

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
    assert pass_rate(responses) == 1 / 3
    assert pass_rate(responses[3:]) is None


def test_a_fraction_of_the_questions_is_held_out():
    hashes = [seeded_hash(0, f"q{i}") for i in range(50)]
    assert sum(value <= last_held_out(hashes, 0.1) for value in hashes) == 5
    assert last_held_out(hashes[::-1], 0.1) == last_held_out(hashes, 0.1)
    assert last_held_out(hashes[:3], 0.01) == min(hashes[:3])
    assert last_held_out(hashes, 0.0) == -1
    assert last_held_out([], 0.1) == -1


def test_the_seed_chooses_the_questions_that_are_held_out(build, tmp_path):
    rollouts = [r for question in range(20) for r in samples(question, 1, 1)]
    held_out = []
    for seed in (0, 1):
        build(rollouts, validation_fraction=0.2, seed=seed)
        held_out.append({r.question_id for r in read_split(tmp_path, "validation")})
        assert held_out[-1].isdisjoint(r.question_id for r in read_split(tmp_path))
    assert [len(questions) for questions in held_out] == [4, 4]
    assert held_out[0] != held_out[1]


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
    assert counts["overlaps"] == {str(tmp_path / "evaluation.jsonl"): {"question": 1, "13-gram": 1}}
    assert [row for row, _ in read_rows(tmp_path / "dataset" / "report" / "decontamination.jsonl")] == manifest["overlaps"]
    assert manifest["overlaps"][1]["text"] == " ".join(f"word{i}" for i in range(4, 17))


def test_balance_by_hand(build, tmp_path):
    counts = build(samples(0, 2, 3) + samples(1, 3, 2), balance=True)
    assert [counts["train"]["responses"], counts["train"]["share_correct"]] == [8, 0.5]
    assert counts["responses_dropped"]["imbalance"] == 2
    before = read_split(tmp_path)
    build((samples(0, 2, 3) + samples(1, 3, 2))[::-1], balance=True)
    assert read_split(tmp_path) == before


def test_balance_is_seeded_and_spares_responses_without_an_outcome():
    responses = [Response("a", i, "?", ["s"], i < 2) for i in range(12)] + [Response("a", 12, "?", ["s"])]
    chosen = {tuple(r.sample_index for r in balance(responses, seed)) for seed in range(8)}
    assert len(chosen) > 1
    assert all(keys[:2] == (0, 1) and len(keys) == 5 and keys[-1] == 12 for keys in chosen)
    assert balance(responses[:2], seed=0) == []


def test_near_duplicates_are_dropped_above_the_threshold(build, tmp_path):
    words = [f"w{i}" for i in range(24)]
    texts = {0: words, 1: [*words[:23], "x"], 2: [*words[:23], "y"], 3: words[::-1]}  # 19 of 21 runs of five words are shared
    rollouts = [rollout(0, i, i != 2, response=" ".join(text)) for i, text in texts.items()]
    options = {"min_pass_rate": 0.0, "max_pass_rate": 1.0}
    counts = build(rollouts, near_duplicates=0.9, **options)
    assert [response.sample_index for response in read_split(tmp_path)] == [0, 2, 3]
    assert counts["responses_dropped"]["near_duplicate"] == 1
    counts = build(rollouts, near_duplicates=19 / 21, **options)
    assert counts["responses_dropped"]["near_duplicate"] == 0


def test_near_duplicates_with_another_verdict_stay():
    """Alternatives to one step, as PRM800K has them: equal but for the last step and its label."""
    words = " ".join(f"w{i}" for i in range(24))
    labels = [1.0, 1.0, -1.0, None]
    responses = [Response("a", i, "?", [words, f"{i}"], step_labels=[1.0, label]) for i, label in enumerate(labels)]
    assert [r.sample_index for r in drop_near_duplicates(responses, 0.8)] == [0, 2, 3]


def test_steps_are_merged_within_the_token_limit(build, tmp_path, tiny_backbone):
    rollouts = [rollout(0, i, bool(i), response=f"a{i}\n\nb\n\n" + "long words " * 20 + "\\boxed{2}") for i in range(2)]
    build(rollouts, max_step_length=12, tokenizer=str(tiny_backbone))
    assert [len(response.steps) for response in read_split(tmp_path)] == [2, 2]
    assert read_split(tmp_path)[0].steps[0] == "a0\n\nb"


def test_step_labels_are_joined_by_key(build, tmp_path):
    labels = {"step_labels": [1.0, -1.0], "label_source": "monte_carlo", "completions": [[4, 8], [0, 8]]}
    labelled = Response("q0", 1, "?", ["Sample 1.", "It is \\boxed{3}."], **labels)
    write_jsonl(tmp_path / "labels.jsonl", [labelled, Response("q9", 0, "?", ["s"], step_labels=[1.0])])
    counts = build(samples(0, 1, 1), step_labels=str(tmp_path / "labels.jsonl"))
    assert [response.step_labels for response in read_split(tmp_path)] == [None, [1, -1]]
    assert {name: getattr(read_split(tmp_path)[1], name) for name in labels} == labels
    assert counts["train"]["with_step_labels"] == 1
    assert counts["step_labels"] == {"read": 2, "joined": 1}


def test_responses_with_step_labels_need_no_outcome(build, tmp_path):
    labelled = [Response("a", i, "?", [f"s{i}"], step_labels=[1.0]) for i in range(2)]
    counts = build([*labelled, Response("a", 2, "?", ["s"])])
    assert counts["responses_dropped"]["unlabelled"] == 1
    assert read_split(tmp_path) == labelled


def test_an_older_dataset_is_replaced_and_nothing_is_left_beside_it(build, tmp_path):
    build([r for q in range(3) for r in samples(q, 1, 1)], validation_fraction=0.4)
    build(samples(0, 1, 1))
    assert sorted(path.name for path in (tmp_path / "dataset").iterdir()) == ["README.md", "manifest.json", "train.jsonl"]
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
    "labels": ([Response("a", 0, "?", ["s"], step_labels=[1.0, 1.0])], r"in\.jsonl:1: 2 step labels for 1 steps"),
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


def test_step_labels_of_no_response_are_refused(build, tmp_path):
    write_jsonl(tmp_path / "labels.jsonl", [Response("q9", 0, "?", ["s"], step_labels=[1.0])])
    with pytest.raises(ValueError, match=r"--step_labels .*labels.jsonl: none of its 1 keys is among the responses kept"):
        build(samples(0, 1, 1), step_labels=str(tmp_path / "labels.jsonl"))


@pytest.mark.parametrize(
    "options",
    [
        {"min_pass_rate": 0.9},
        {"max_pass_rate": 1.5},
        {"validation_fraction": 1.0},
        {"max_step_length": 10},
        {"near_duplicates": 1.0},
        {"ngram": 0},
        {"loss": "asym"},
        {"loss": "asymm", "tokenize": "x"},
        {"max_step_length": 0, "tokenizer": "x"},
        {"max_step_length": 9, "tokenizer": "x", "responses": "y"},
    ],
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match=r"pass rates|must be|give --tokenize|in steps already"):
        BuildConfig(**options)


def test_missing_rollouts_name_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing there; run scripts/generate_rollouts\.py"):
        build_dataset(BuildConfig(rollouts=str(tmp_path / "graded"), output=str(tmp_path / "dataset")))


def test_a_folder_that_is_no_dataset_is_never_replaced(build, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(ValueError, match="is not a dataset; name another folder"):
        build(samples(0, 1, 1), output=str(tmp_path / "thesis"))


def test_a_disk_that_fills_leaves_the_older_dataset(build, tmp_path, monkeypatch):
    build(samples(0, 1, 1))
    before = (tmp_path / "dataset" / "train.jsonl").read_bytes()

    def write(*args):
        raise OSError(28, "No space left on device")

    for place in ("prm.data.buckets.Buckets._flush", "prm.data.build.write_card"):
        with monkeypatch.context() as patch:
            patch.setattr(place, write)
            with pytest.raises(OSError, match="No space left"):
                build(samples(1, 1, 1))
        assert (tmp_path / "dataset" / "train.jsonl").read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "in.jsonl"]
