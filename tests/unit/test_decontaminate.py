"""Overlaps by hand, LaTeX spellings that do not count, files of every shape, and the overlaps of real evaluation sets."""

import pytest

from prm.data.decontaminate import EvaluationIndex, Overlap, normalize_question, normalize_words
from prm.files import write_jsonl

WORDS = [f"w{i}" for i in range(30)]


@pytest.fixture
def index(tmp_path):
    def index(*texts: str, ngram: int = 13) -> EvaluationIndex:
        write_jsonl(tmp_path / "evaluation.jsonl", [{"problem": text} for text in texts])
        return EvaluationIndex.from_files([tmp_path / "evaluation.jsonl"], ngram)

    return index


def test_thirteen_shared_words_are_an_overlap_and_twelve_are_not(index):
    found = index("unrelated", " ".join(WORDS[:13]))
    assert found.find("q", " ".join([*WORDS[:12], "x", *WORDS[13:]])) == []
    (overlap,) = found.find("q", "x " + ", ".join(WORDS[:20]).upper())
    assert overlap == Overlap("q", found.paths[0], 2, "13-gram", " ".join(WORDS[:13]))


def test_the_length_of_a_run_is_an_option(index):
    question = " ".join(["x", *WORDS[:5], "y"])
    assert index(" ".join(WORDS), ngram=6).find("q", question) == []
    assert [o.match for o in index(" ".join(WORDS), ngram=5).find("q", question)] == ["5-gram"]


def test_every_file_with_a_match_is_named_once(tmp_path):
    for name, texts in (("a", ["what is 1"]), ("b", ["nothing"]), ("c", ["What is 1?", "what is 1"])):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"question": text} for text in texts])
    index = EvaluationIndex.from_files(tmp_path / f"{name}.jsonl" for name in "abc")
    assert [(o.file[-7:], o.row, o.match) for o in index.find("q", "What is 1")] == [
        ("a.jsonl", 1, "question"),
        ("c.jsonl", 1, "question"),
    ]


def test_words_are_compared_without_typography():
    assert normalize_words("Janet’s  ½—duck,  $x^2$") == normalize_words("JANET's 1⁄2 duck x 2")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"Find $\left( x_{1} \right)$.", r"find \((x_1)\)"),
        (r"$\dfrac{1}{2} \leq x \, y$", r"\frac12 \le xy"),
        ("$2x + 3$", "2 x+3"),
        (r"$3 \cdot 4$ \text{ apples}", "3*4 apples"),
        ("a well-known $x - y$", "a well known $x−y$"),
    ],
)
def test_spellings_of_one_question(index, first, second):
    assert normalize_question(first) == normalize_question(second)
    assert [o.match for o in index(second).find("q", first)] == ["question"]


@pytest.mark.parametrize(("first", "second"), [("What is 3 + 4?", "What is 3 - 4?"), ("$x < 2$", "$x > 2$"), ("?", "!"), ("", "")])
def test_other_questions_stay_apart(index, first, second):
    assert index(second).find("q", first) == []


SHAPES = {
    "PRM800K": {"question": {"problem": "Q"}, "label": {}},
    "PRMBench": {"original_question": "x", "modified_question": "Q"},
    "stepwise": {"prompt": "Q", "completions": []},
    "Math-Shepherd": {"input": "Q Step 1: a ки", "label": "Q Step 1: a +"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_questions_of_every_shape_are_found(tmp_path, shape):
    write_jsonl(tmp_path / "e.jsonl", [SHAPES[shape]])
    assert EvaluationIndex.from_files([tmp_path / "e.jsonl"]).find("q", "q?")


def test_a_file_without_questions_is_refused(tmp_path):
    write_jsonl(tmp_path / "e.jsonl", [{"question": "?"}, {"answer": "4"}])
    with pytest.raises(ValueError, match=r"e.jsonl:2: no question under any of .*found keys \['answer'\]"):
        EvaluationIndex.from_files([tmp_path / "e.jsonl"])
