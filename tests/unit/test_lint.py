"""Every check of the linter: what it finds, what it leaves alone; agreement by hand; thresholds and the exit status."""

import json
from dataclasses import replace

import lint_dataset
import pytest

from prm.data.decontaminate import EvaluationIndex
from prm.data.lint import LintConfig, check_question, encode, lint, questions_of
from prm.data.lint_checks import Context, Item
from prm.files import write_jsonl
from prm.records import Response, to_row
from prm.steps import StepEncoder

GOOD = Response("q", 0, "What is 3 + 4?", ["Add 3 and 4.", r"So \boxed{7}."], True, [1.0, 1.0], answer="7")
BAD = replace(GOOD, sample_index=1, steps=["Add 3 and 4.", r"So \boxed{8}."], correct=False, step_labels=[1.0, -1.0])
SOFT = Context(bad_below=0.5)

CASES = {
    "label_count": ([replace(GOOD, step_labels=[1.0])], "1 labels for 2 steps"),
    "label_value": ([replace(GOOD, step_labels=[1.0, 0.5])], "label 0.5 beside hard ones"),
    "empty_step": ([replace(GOOD, steps=["a", " \n"])], "step 2 is blank"),
    "separator_in_text": ([replace(GOOD, steps=["a", "b <extra_0>"])], "step 2 holds <extra_0>"),
    "duplicate_key": ([GOOD, replace(BAD, sample_index=0)], "same key as f:1"),
    "question_text": ([GOOD, replace(BAD, question="Another?")], "another question than f:1"),
    "repeated_step": ([replace(GOOD, steps=["a", "b", "a "])], "step 3 repeats step 1"),
    "duplicate_response": ([GOOD, replace(GOOD, sample_index=1)], "same steps as f:1"),
    "contradicting_prefix": ([GOOD, replace(BAD, step_labels=[-1.0, -1.0])], "step 1 is bad here, the opposite at f:1"),
    "right_with_bad_step": ([replace(GOOD, step_labels=[-1.0, 1.0])], "right, but step 1 is bad"),
    "wrong_without_bad_step": ([replace(BAD, step_labels=[1.0, 0.0])], "wrong, but no step is bad"),
    "answer_boxed_early": ([replace(GOOD, steps=[r"It is \boxed{ 7 }", "Check."])], "step 1 of 2 boxes the answer"),
    "answer_in_question": ([replace(GOOD, question="Is it 7 or 8?")], "the question holds the answer '7'"),
}


def run(responses: list[Response], context: Context | None = None) -> dict[str, list[str]]:
    """What each check finds among the responses to one question, whose places are f:1, f:2, ..."""
    items = [Item(index, f"f:{index + 1}", response) for index, response in enumerate(responses)]
    found = {name: [what for _, what in findings] for name, _, findings in check_question(items, context or Context())}
    return {name: what for name, what in found.items() if what}


@pytest.mark.parametrize("check", CASES)
def test_each_check_finds_its_own_defect(check):
    responses, message = CASES[check]
    assert run(responses)[check] == [message]


def test_sound_responses_pass_every_check():
    assert run([GOOD, BAD, replace(GOOD, sample_index=2, question_id="q", steps=["Count.", r"\boxed{7}"])]) == {}


def test_what_is_unknown_is_no_finding():
    assert run([replace(BAD, step_labels=[1.0, None])]) == {}
    assert run([replace(GOOD, step_labels=None, correct=None), replace(BAD, step_labels=None)]) == {}
    assert run([GOOD, replace(BAD, step_labels=[0.0, -1.0])]) == {}  # neutral contradicts nobody
    assert run([replace(GOOD, question="Is it 17, 7.5 or x7?")]) == {}


def test_soft_labels_are_bad_below_one_half():
    assert "label_value" not in run([replace(GOOD, step_labels=[0.5, 0.9])], SOFT)
    assert run([replace(GOOD, step_labels=[0.4, 0.9])], SOFT) == {"right_with_bad_step": ["right, but step 1 is bad"]}
    assert run([replace(GOOD, step_labels=[1.5, 0.9])], SOFT)["label_value"] == ["label 1.5 beside soft ones"]


def test_contamination_names_the_evaluation_row(tmp_path):
    write_jsonl(tmp_path / "e.jsonl", [{"problem": "other"}, {"problem": "what is $3+4$"}])
    context = Context(evaluation=EvaluationIndex.from_files([tmp_path / "e.jsonl"]))
    assert run([GOOD, BAD], context) == {"contamination": [f"question of {tmp_path}/e.jsonl row 2"] * 2}


def test_lengths_are_those_of_the_encoder(tiny_tokenizer):
    encoder = StepEncoder.for_loss("asym", tiny_tokenizer)
    refused = replace(BAD, steps=["<|im_end|>", "b"])
    encoded = encode([GOOD, refused], encoder)
    length = len(encoded[GOOD.key].input_ids)
    assert encoded[GOOD.key] == encoder.encode(GOOD.question, GOOD.steps, "q")
    assert run([GOOD], Context(encoded=encoded, max_length=length)) == {}
    expected = f"{length} tokens; 1 of 2 steps end past {length - 1}"
    assert run([GOOD], Context(encoded=encoded, max_length=length - 1)) == {"too_long": [expected]}
    (found,) = run([GOOD, refused], Context(encoded=encoded))["not_encodable"]
    assert found == "q #1: step 0 contains the special token '<|im_end|>'; remove it from the text"


def test_disagreement_of_two_sources():
    context = Context(compared={GOOD.key: replace(GOOD, step_labels=[1.0, -1.0]), BAD.key: replace(BAD, step_labels=[0.0, -1.0])})
    assert run([GOOD, BAD], context) == {"label_disagreement": ["step 2: 1 here, -1 there"]}


def test_rows_of_a_question_meet_wherever_they_stand():
    rows = [{**to_row(replace(GOOD, question_id=name, sample_index=i)), "place": "f", "number": i} for i, name in enumerate("aba")]
    assert [[item.index for item in items] for items in questions_of(iter(rows))] == [[0, 2], [1]]


@pytest.fixture
def write(tmp_path):
    def write(*responses: Response, name: str = "in.jsonl") -> str:
        write_jsonl(tmp_path / name, responses)
        return str(tmp_path / name)

    return write


def test_script_reports_and_fails(write, tmp_path, capsys):
    path = write(GOOD, BAD, replace(GOOD, question_id="p", steps=["a", ""]))
    assert lint_dataset.main(["--input", path, "--output_dir", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert f"empty_step: {path}:3: p #0: step 2 is blank" in out
    assert "3 responses: FAILED" in out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["checks"]["empty_step"]["share"] == 1 / 3
    assert metrics["labels"] == {"-1": 1, "1": 5}
    assert lint_dataset.main(["--input", write(GOOD, BAD)]) == 0
    assert "2 responses: passed" in capsys.readouterr().out


def test_shares_decide_where_a_limit_is_set(write):
    path = write(*(replace(GOOD, question_id=f"q{i}", step_labels=[1.0, -1.0 if i < 2 else 1.0]) for i in range(10)))
    for setting, passed in (([], True), (["right_with_bad_step=0.2"], True), (["right_with_bad_step=0.19"], False)):
        result = lint(LintConfig(input=path, max_share=setting))
        assert result["passed"] is passed
        assert result["checks"]["right_with_bad_step"]["share"] == 0.2
    path = write(GOOD, *(replace(GOOD, question_id=f"q{i}", steps=[""]) for i in range(9)))
    assert lint(LintConfig(input=path, max_share=["empty_step=0.9", "label_count=1"]))["passed"]


def test_examples_are_the_first_of_the_input(write):
    path = write(*(replace(GOOD, question_id=f"q{i}", steps=[""]) for i in range(50)))
    examples = lint(LintConfig(input=path))["checks"]["empty_step"]["examples"]
    assert [example["place"] for example in examples] == [f"{path}:{line}" for line in (1, 2, 3)]


def test_compared_labels_and_the_limit_of_kappa(write, capsys):
    other = write(replace(GOOD, step_labels=[1.0, -1.0]), BAD, name="other.jsonl")
    flags = ["--input", write(GOOD, BAD, replace(GOOD, question_id="p")), "--compare", other]
    assert lint_dataset.main(flags) == 0
    assert "Cohen's kappa 0.500 on 4 steps" in capsys.readouterr().out
    assert lint_dataset.main([*flags, "--min_kappa", "0.5"]) == 0
    assert lint_dataset.main([*flags, "--min_kappa", "0.51"]) == 1
    matrix = lint(LintConfig(input=flags[1], compare=other))["agreement"]["matrix"]
    assert matrix["good"] == {"bad": 1, "neutral": 0, "good": 2}


def test_a_question_in_both_splits_is_a_leak(write, tmp_path):
    write(GOOD, name="train.jsonl")
    write(BAD, name="validation.jsonl")
    assert lint(LintConfig(input=str(tmp_path)))["checks"]["split_leak"]["count"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 5}, "--max_length 5 counts tokens: give --tokenizer too"),
        ({"min_kappa": 0.5}, "--min_kappa 0.5 measures agreement: give --compare too"),
        ({"max_share": ["empty=0.1"]}, "no check 'empty'; write CHECK=SHARE, checks are label_count"),
        ({"max_share": ["empty_step"]}, "'' is no number"),
        ({"max_share": ["empty_step=2"]}, r"a share lies in \[0, 1\]"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        LintConfig(**options)


def test_an_input_without_responses_is_refused(write):
    with pytest.raises(ValueError, match=r"in\.jsonl: holds no responses"):
        lint(LintConfig(input=write()))
