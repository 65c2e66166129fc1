"""The base model's reading: every verdict in the generated corpus is true, and no evaluation question is in it."""

import random
import re

import pytest

from prm.miniature import corpus, problems
from prm.miniature.problems import ProblemConfig

CONFIG = ProblemConfig()
FACT = re.compile(r" (\d) ([+*-]) (\d) = (\d)")


def is_true(fact: tuple[str, ...]) -> bool:
    left, symbol, right, value = fact
    return problems.evaluate(int(left), symbol, int(right), 7) == int(value)


def test_notes_tell_the_truth() -> None:
    rng = random.Random(0)
    notes = [corpus.full_text(corpus.fact_list(rng, CONFIG, 1)) for _ in range(400)]
    for note in notes:
        claim, *corrections = FACT.findall(note)
        assert is_true(claim) == bool(re.search("Right|Yes", note)) == (not corrections)
        assert all(map(is_true, corrections))
    assert sum(bool(re.search("Wrong|No", note)) for note in notes) / 400 == pytest.approx(corpus.FACT_ERROR_RATE, abs=0.08)


@pytest.mark.parametrize("has_marks", [False, True])
def test_reviews_of_solutions_tell_the_truth(has_marks) -> None:
    rng = random.Random(1)
    between = "|".join(re.escape(mark) + " " for mark in corpus.MARKS)
    review = rf"Step \d+: (\d) ([+*-]) (\d) = (\d)\.(?: Answer: \S+}})?(?: |\n\nCheck: |{between})(Right|right|Wrong|wrong)"
    for _ in range(100):
        text = corpus.full_text(corpus.reviewed_solution(rng, CONFIG, has_marks))
        assert bool(re.search(r"\.( .|[?:;\n]| ->) (Right|Wrong)", text)) <= has_marks
        claims = re.findall(review, text)
        assert len(claims) == len(re.findall("right|wrong", text.lower()))
        assert [verdict.lower() == "right" for *_, verdict in claims] == [is_true(tuple(claim)) for *claim, _ in claims]
        assert all(is_true(fact) for fact in re.findall(r"[Ww]rong, (\d) ([+*-]) (\d) = (\d)", text))


def test_no_evaluation_question_is_read() -> None:
    rng = random.Random(2)
    texts = [corpus.full_text(corpus.document(rng, CONFIG)) for _ in range(300)]
    questions = {match[0] for text in texts if (match := problems.QUESTION.search(text))}
    evaluation = {question.question for question in problems.generate_questions(300, 0, CONFIG, "eval")}
    assert len(questions) > 200
    assert not questions & evaluation
    assert "<extra_0>" not in "".join(texts)
