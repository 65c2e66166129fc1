"""The miniature's world: worked by hand, then the judge against independent enumeration, then each error."""

import random
from dataclasses import replace

import pytest

from prm.miniature import problems
from prm.miniature.problems import ProblemConfig, judge

CONFIG = ProblemConfig()
QUESTION = "Start with 4 and work modulo 7. Step 1: add 3. Step 2: multiply by 5. Step 3: subtract 2."
GOOD = ["Step 1: 4 + 3 = 0.", "Step 2: 0 * 5 = 0.", "Step 3: 0 - 2 = 5. Answer: \\boxed{5}"]


def test_hand_worked_solution() -> None:
    assert problems.solve(QUESTION) == GOOD
    assert judge(QUESTION, GOOD) == [1, 1, 1]
    assert problems.judge_response(QUESTION, "\n\n".join(GOOD)) == [1, 1, 1]
    assert problems.write_question(problems.parse_question(QUESTION)) == QUESTION


def test_a_wrong_value_is_one_bad_step_and_the_next_is_judged_on_what_was_written() -> None:
    steps = ["Step 1: 4 + 3 = 6.", "Step 2: 6 * 5 = 2.", "Step 3: 2 - 2 = 0. Answer: \\boxed{0}"]
    assert judge(QUESTION, steps) == [-1, 1, 1]
    assert problems.first_error(judge(QUESTION, steps)) == 0
    assert problems.first_error([1, 1]) == -1


@pytest.mark.parametrize(
    ("position", "text"),
    [
        (0, "Step 1: 5 + 3 = 1."),
        (0, "Step 1: 4 - 3 = 1."),
        (0, "Step 2: 4 + 3 = 0."),
        (0, "Step 1: 4 + 3 = 0. Answer: \\boxed{0}"),
        (1, "Step 2: 0 * 5 = 0"),
        (1, "nothing to see \u00e9 \U0001f600"),
        (2, "Step 3: 0 - 2 = 5."),
        (2, "Step 3: 0 - 2 = 5. Answer: \\boxed{4}"),
    ],
)
def test_each_way_to_be_bad(position: int, text: str) -> None:
    steps = [text if i == position else step for i, step in enumerate(GOOD)]
    assert judge(QUESTION, steps)[position] == -1


def test_a_step_after_an_unparsable_one_has_no_value_to_carry() -> None:
    assert judge(QUESTION, [GOOD[0], "?", GOOD[2]]) == [1, -1, -1]


def test_missing_and_superfluous_steps() -> None:
    assert judge(QUESTION, GOOD[:2]) == [1, 1]
    assert judge(QUESTION, [*GOOD, "Step 4: 5 + 1 = 6."]) == [1, 1, 1, -1]
    assert judge(QUESTION, []) == []


def test_one_wrong_step_always_ruins_the_answer() -> None:
    rng = random.Random(0)
    for _ in range(200):
        problem = problems.random_problem(rng, CONFIG, "train")
        truth = problems.true_values(problem)
        slipped = rng.randrange(len(truth))
        values, left = [], problem.start
        for i, (symbol, k) in enumerate(problem.operations):
            left = problems.evaluate(left, symbol, k, 7)
            left = problems.wrong_value(left, 7, rng) if i == slipped else left
            values.append(left)
        labels = judge(problems.write_question(problem), problems.write_steps(problem, values))
        assert [i for i, label in enumerate(labels) if label < 0] == [slipped]
        assert values[-1] != truth[-1]


def test_questions_are_seeded_distinct_and_the_splits_disjoint() -> None:
    train = problems.generate_questions(300, 0, CONFIG, "train")
    assert train == problems.generate_questions(300, 0, CONFIG, "train")
    assert len({q.question for q in train}) == len({q.id for q in train}) == 300
    others = problems.generate_questions(300, 0, CONFIG, "eval")
    assert not {q.question for q in train} & {q.question for q in others}
    assert {len(problems.parse_question(q.question).operations) for q in train} == set(range(3, 10))
    assert all(problems.solve(q.question)[-1].endswith(f"\\boxed{{{q.answer}}}") for q in train)


def test_slips_follow_the_misconceptions() -> None:
    config = replace(CONFIG, misconception_rate=1.0, noise_rate=0.0)
    slips = problems.misconceptions(config)
    assert slips == problems.misconceptions(config)
    assert len(slips) == round(CONFIG.misconception_share * 7 * len(problems.all_operations(7)))
    assert all(value != problems.evaluate(*fact, 7) for fact, value in slips.items())
    rng = random.Random(1)
    for _ in range(100):
        problem = problems.random_problem(rng, config, "train")
        steps = problems.solve_with_slips(problem, config, slips, rng)
        left = problem.start
        for (symbol, k), label, step in zip(problem.operations, judge(problems.write_question(problem), steps), steps, strict=True):
            assert (label < 0) == ((left, symbol, k) in slips)
            left = int(step.split(" = ")[1][0])


def test_errors() -> None:
    for wrong in (
        {"modulus": 11},
        {"modulus": 2},
        {"min_steps": 0},
        {"min_steps": 5, "max_steps": 4},
        {"max_steps": 10},
        {"noise_rate": 1.5},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ProblemConfig(**wrong)
    with pytest.raises(ValueError, match="not a question of the miniature: 'What"):
        judge("What is 1 + 1?", GOOD)
    with pytest.raises(ValueError, match="distinct eval questions"):
        problems.generate_questions(50, 0, ProblemConfig(modulus=3, min_steps=1, max_steps=1), "eval")
