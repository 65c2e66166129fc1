"""A world of chained modular arithmetic: seeded questions and solutions with slips out, exact step labels for any response in.

Every operation is a bijection of the running value, so one wrong step ruins the answer unless a second one happens to undo it.
"""

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import Literal

from prm.records import Question
from prm.steps import STEP_DELIMITER

Split = Literal["train", "eval"]
Fact = tuple[int, str, int]
"""(left operand, one of + - *, right operand)."""

VERBS = {"+": "add", "-": "subtract", "*": "multiply by"}
SYMBOLS = {verb: symbol for symbol, verb in VERBS.items()}
EVAL_SHARE = 4
"""One question in this many belongs to the evaluation split."""

CLAUSE = re.compile(r" Step (\d+): (add|subtract|multiply by) (\d)\.")
QUESTION = re.compile(rf"Start with (\d) and work modulo (\d+)\.((?:{CLAUSE.pattern})+)")
STEP = re.compile(r"Step (\d+): (\d) ([+*-]) (\d) = (\d)\.(?: Answer: \\boxed\{(\d)\})?")


@dataclass(frozen=True)
class ProblemConfig:
    """The world and how its policy errs."""

    modulus: int = 7
    """Values run from 0 to modulus - 1; 3 to 10, so that each is one digit."""
    min_steps: int = 3
    """Fewest steps of a question."""
    max_steps: int = 9
    """Most steps of a question, at most 9."""
    misconception_share: float = 0.12
    """Share of all facts about which the policy is systematically mistaken."""
    misconception_rate: float = 0.5
    """Probability that the policy writes the mistaken value of such a fact."""
    noise_rate: float = 0.04
    """Probability of a random wrong value at any other step."""
    world_seed: int = 0
    """Chooses the misconceptions."""

    def __post_init__(self) -> None:
        if not 3 <= self.modulus <= 10:
            raise ValueError(f"modulus {self.modulus} is outside 3 to 10: every value must be a single digit")
        if not 1 <= self.min_steps <= self.max_steps <= 9:
            raise ValueError(f"min_steps {self.min_steps} and max_steps {self.max_steps} must satisfy 1 <= min <= max <= 9")
        for name in ("misconception_share", "misconception_rate", "noise_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is not a probability: choose it from [0, 1]")


@dataclass(frozen=True)
class Problem:
    """A chain of operations on a running value."""

    start: int
    operations: tuple[tuple[str, int], ...]
    """(symbol, operand) of every step."""
    modulus: int


def evaluate(left: int, symbol: str, right: int, modulus: int) -> int:
    """The true value of one fact."""
    return {"+": left + right, "-": left - right, "*": left * right}[symbol] % modulus


@cache
def all_operations(modulus: int) -> tuple[tuple[str, int], ...]:
    """Every operation that changes the running value and can be undone."""
    shifts = [(symbol, k) for symbol in "+-" for k in range(1, modulus)]
    return (*shifts, *(("*", k) for k in range(2, modulus) if gcd(k, modulus) == 1))


def true_values(problem: Problem) -> list[int]:
    """The running value after each step."""
    values, left = [], problem.start
    for symbol, operand in problem.operations:
        left = evaluate(left, symbol, operand, problem.modulus)
        values.append(left)
    return values


def wrong_value(value: int, modulus: int, rng: random.Random) -> int:
    """A uniformly chosen other value."""
    return (value + rng.randrange(1, modulus)) % modulus


def write_question(problem: Problem) -> str:
    """`Start with 4 and work modulo 7. Step 1: add 3. Step 2: multiply by 5. ...`"""
    clauses = [f" Step {i}: {VERBS[symbol]} {k}." for i, (symbol, k) in enumerate(problem.operations, 1)]
    return f"Start with {problem.start} and work modulo {problem.modulus}." + "".join(clauses)


def write_steps(problem: Problem, values: Sequence[int], lefts: Sequence[int] | None = None) -> list[str]:
    """The steps that claim `values`; each works on the value claimed before it, unless `lefts` says otherwise."""
    lefts = [problem.start, *values[:-1]] if lefts is None else lefts
    steps = [
        f"Step {i}: {left} {symbol} {k} = {value}."
        for i, (left, (symbol, k), value) in enumerate(zip(lefts, problem.operations, values, strict=True), 1)
    ]
    return [*steps[:-1], f"{steps[-1]} Answer: \\boxed{{{values[-1]}}}"]


def parse_question(text: str) -> Problem:
    """The problem behind a question's text. Raises ValueError for text this world did not write."""
    match = QUESTION.fullmatch(text)
    if match is None:
        raise ValueError(f"not a question of the miniature: {text!r}")
    operations = tuple((SYMBOLS[verb], int(k)) for _, verb, k in CLAUSE.findall(match[3]))
    return Problem(int(match[1]), operations, int(match[2]))


def random_problem(rng: random.Random, config: ProblemConfig, split: Split) -> Problem:
    """A problem of one split. The text's checksum decides the split, so that train and evaluation can never overlap."""
    while True:
        num_steps = rng.randint(config.min_steps, config.max_steps)
        operations = tuple(rng.choice(all_operations(config.modulus)) for _ in range(num_steps))
        problem = Problem(rng.randrange(config.modulus), operations, config.modulus)
        is_eval = zlib.crc32(write_question(problem).encode()) % EVAL_SHARE == 0
        if is_eval == (split == "eval"):
            return problem


def generate_questions(num: int, seed: int, config: ProblemConfig, split: Split) -> list[Question]:
    """Distinct questions with their answers; ids name split and seed. Raises ValueError if the world is too small for `num`."""
    rng = random.Random(f"{split}-{seed}")
    answers: dict[str, str] = {}
    for _ in range(20 * num + 100):
        if len(answers) == num:
            break
        problem = random_problem(rng, config, split)
        answers[write_question(problem)] = str(true_values(problem)[-1])
    if len(answers) < num:
        raise ValueError(f"only {len(answers)} distinct {split} questions found, {num} asked; allow more steps or a larger modulus")
    return [Question(f"{split}-{seed}-{i}", text, answer, "miniature") for i, (text, answer) in enumerate(answers.items())]


def solve(question: str) -> list[str]:
    """The steps of the right solution."""
    problem = parse_question(question)
    return write_steps(problem, true_values(problem))


def misconceptions(config: ProblemConfig) -> dict[Fact, int]:
    """The seeded set of facts that the policy gets wrong, each with its wrong value."""
    rng = random.Random(config.world_seed)
    facts = [(left, symbol, k) for left in range(config.modulus) for symbol, k in all_operations(config.modulus)]
    chosen = rng.sample(facts, round(config.misconception_share * len(facts)))
    return {fact: wrong_value(evaluate(*fact, config.modulus), config.modulus, rng) for fact in chosen}


def solve_with_slips(problem: Problem, config: ProblemConfig, slips: dict[Fact, int], rng: random.Random) -> list[str]:
    """A solution as the policy should write it: misconceptions at their rate, and a little noise."""
    values, left = [], problem.start
    for symbol, operand in problem.operations:
        truth = evaluate(left, symbol, operand, problem.modulus)
        if (left, symbol, operand) in slips and rng.random() < config.misconception_rate:
            left = slips[left, symbol, operand]
        else:
            left = wrong_value(truth, problem.modulus, rng) if rng.random() < config.noise_rate else truth
        values.append(left)
    return write_steps(problem, values)


def judge(question: str, steps: Sequence[str]) -> list[int]:
    """Exact labels of any response: 1 good, -1 bad.

    A step is good if it does what the question demands at its place, on the value written before it, with the right result, and
    the last one (and no other) boxes that result. Text that does not parse is bad, and so is every step beyond the last.
    """
    problem = parse_question(question)
    labels, left = [], problem.start
    for index, step in enumerate(steps):
        match = STEP.fullmatch(step)
        labels.append(1 if match and _is_good(match, index, left, problem) else -1)
        left = int(match[5]) if match else -1
    return labels


def judge_response(question: str, response: str) -> list[int]:
    """`judge` for unsplit text."""
    return judge(question, [part for part in response.split(STEP_DELIMITER) if part.strip()])


def _is_good(match: re.Match[str], index: int, left: int, problem: Problem) -> bool:
    if index >= len(problem.operations):
        return False
    symbol, operand = problem.operations[index]
    value = evaluate(left, symbol, operand, problem.modulus)
    box = str(value) if index + 1 == len(problem.operations) else None
    return match.groups() == (str(index + 1), str(left), symbol, str(operand), str(value), box)


def first_error(labels: Sequence[float]) -> int:
    """0-based index of the first bad step, -1 if there is none."""
    return next((i for i, label in enumerate(labels) if label < 0), -1)
