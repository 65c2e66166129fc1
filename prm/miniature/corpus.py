"""What the base model reads before the experiment: generated documents with facts, solutions and reviews of (also wrong) solutions.

This stands in for web-scale pre-training. It uses no rollout, no label and no evaluation question of the experiment; its errors are
uniformly random and know nothing of the policy's misconceptions. A document is a list of pieces, each with the flag whether the
model is to learn to write it: random operands and wrong values are only to be read.
"""

import random
from collections.abc import Iterator
from functools import partial

from prm.miniature import problems
from prm.miniature.problems import Fact, ProblemConfig
from prm.miniature.tokenizer import END_OF_TEXT, TURN_END, chat
from prm.steps import STEP_DELIMITER

Document = list[tuple[str, bool]]
"""(text, carries loss), in order."""

FACT_ERROR_RATE = 0.4
"""Share of reviewed single facts that are wrong."""
STEP_ERROR_RATE = 0.3
"""Share of reviewed steps that are wrong."""
DELIMITERS = [".", ".", "?", ":", ";", " ->", ".\n\n", "\n", " |"]
"""What may stand between a claim and its verdict in a list of facts."""
MARKS = ["?", ":", ";", "\n", " ->", *(f" {sign}" for sign in "!#$%&'()*,/:;<>?@[]^_`{|}~")]
"""What may stand between a step and its review in the last stage: whatever comes next, the reader is to know by then."""


def fact_list(rng: random.Random, config: ProblemConfig, num_facts: int, is_varied: bool = True) -> Document:
    """Claims and verdicts: ` 4 + 3 = 6. Wrong, 4 + 3 = 0. 2 * 5 = 3. Right.`; if varied, with other delimiters and words too."""
    good, bad = rng.choice([("Right", "Wrong"), ("Yes", "No")]) if is_varied else ("Right", "Wrong")
    delimiter = rng.choice(DELIMITERS) if is_varied else "."
    facts = [_reviewed_fact(rng, config, delimiter, good, bad) for _ in range(num_facts)]
    return [*(piece for fact in facts for piece in fact), (END_OF_TEXT, True)]


def fact_lists(rng: random.Random, config: ProblemConfig, num_facts: int, max_facts: int, is_varied: bool) -> list[Document]:
    """About `num_facts` claims in lists of one length, which is drawn from 1 to `max_facts`."""
    length = rng.randint(1, max_facts)
    return [fact_list(rng, config, length, is_varied) for _ in range(-(-num_facts // length))]


def solution(rng: random.Random, config: ProblemConfig) -> Document:
    """A question of the training split with its right solution."""
    problem = problems.random_problem(rng, config, "train")
    steps = problems.write_steps(problem, problems.true_values(problem))
    return [(chat(problems.write_question(problem)), False), (STEP_DELIMITER.join(steps) + TURN_END + END_OF_TEXT, True)]


def reviewed_solution(rng: random.Random, config: ProblemConfig, has_marks: bool = False) -> Document:
    """A solution with random errors and reviews of some of its steps: in the same line, behind a mark, or in a line of their own.

    After a review the solution goes on from the true value, otherwise from the written one.
    """
    problem = problems.random_problem(rng, config, "train")
    review_rate = rng.choice([0.3, 0.7, 1.0])
    lefts, values, reviews, left = [], [], [], problem.start
    for symbol, operand in problem.operations:
        truth = problems.evaluate(left, symbol, operand, problem.modulus)
        value = problems.wrong_value(truth, problem.modulus, rng) if rng.random() < STEP_ERROR_RATE else truth
        is_reviewed = rng.random() < review_rate
        reviews.append(_review(rng, f"{left} {symbol} {operand} = {truth}", value == truth, has_marks) if is_reviewed else "")
        lefts.append(left)
        values.append(value)
        left = truth if is_reviewed else value
    pieces: Document = [(chat(problems.write_question(problem)), False)]
    for step, value, review in zip(problems.write_steps(problem, values, lefts), values, reviews, strict=True):
        cut = step.index(" = ") + 2
        is_true = problems.evaluate(*_operands(step), problem.modulus) == value
        pieces += [
            (step[:cut], True),
            (step[cut : cut + 2], is_true),
            (step[cut + 2 :], True),
            (review, True),
            (STEP_DELIMITER, True),
        ]
    return [*(piece for piece in pieces[:-1] if piece[0]), (TURN_END + END_OF_TEXT, True)]


def document(rng: random.Random, config: ProblemConfig, has_marks: bool = False) -> Document:
    """A chat: seven in ten with a review."""
    return reviewed_solution(rng, config, has_marks) if rng.random() < 0.7 else solution(rng, config)


def full_text(pieces: Document) -> str:
    """A document as it reads."""
    return "".join(text for text, _ in pieces)


def tokenizer_texts(config: ProblemConfig, seed: int, num: int = 1000) -> Iterator[str]:
    """Documents from which the tokenizer takes its words."""
    rng = random.Random(f"tokenizer-{seed}")
    kinds = [document, partial(fact_list, num_facts=8)]
    return (full_text(kinds[i % 2](rng, config)) for i in range(num))


def _reviewed_fact(rng: random.Random, config: ProblemConfig, delimiter: str, good: str, bad: str) -> Document:
    left = rng.randrange(config.modulus)
    symbol, right = rng.choice(problems.all_operations(config.modulus))
    truth = problems.evaluate(left, symbol, right, config.modulus)
    operands = f" {left} {symbol} {right} ="
    if rng.random() >= FACT_ERROR_RATE:
        return [(operands, False), (f" {truth}", True), (delimiter, False), (f" {good}.", True)]
    claim = problems.wrong_value(truth, config.modulus, rng)
    return [(f"{operands} {claim}{delimiter}", False), (f" {bad},{operands} {truth}.", True)]


def _review(rng: random.Random, truth: str, is_right: bool, has_marks: bool) -> str:
    verdict = "Right." if is_right else f"Wrong, {truth}."
    if has_marks and rng.random() < 0.65:
        return f"{rng.choice(MARKS)} {verdict}"
    return rng.choice([f" {verdict}", f"{STEP_DELIMITER}Check: {verdict.lower()}"])


def _operands(step: str) -> Fact:
    left, symbol, right = step.split(": ")[1].split(" = ")[0].split(" ")
    return int(left), symbol, int(right)
