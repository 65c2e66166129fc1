"""Ways of labelling steps, side by side: graded rollouts of the miniature in, their labels by every method out.

The LLM judge is the base model after a short tuning on verdicts about solutions with random errors, to questions that are not
labelled here. It runs through `prm.annotation.judge` as any other, but sees one step at a time: a model of a million parameters
does not learn as fast to write a list of verdicts in the order of the steps.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from prm.annotation.verdicts import render_prompt
from prm.files import read_records, write_jsonl, write_text
from prm.miniature import problems
from prm.miniature.corpus import Document
from prm.miniature.policy import PolicyConfig, tune
from prm.miniature.problems import Problem, ProblemConfig
from prm.miniature.tokenizer import TURN_END, chat
from prm.records import Response

NUM_QUESTIONS = 50
NUM_SAMPLES = 8
JUDGE_LEARNING_RATE = 2e-3
ERROR_RATE = 0.5
"""Share of steps the judge learns on whose value is random, right by chance included."""
JUDGE_PROMPT = "{question}\n\n{steps}"
"""The miniature's models know one task; criteria would be noise to them."""

COMPLETIONS = {"method": "monte_carlo", "max_tokens": 160, "top_p": 0.99, "max_model_len": 320}
LABELLINGS: dict[str, dict[str, object]] = {
    "monte_carlo_4": {**COMPLETIONS, "num_completions": 4},
    "monte_carlo_16": {**COMPLETIONS, "num_completions": 16},
    "adaptive": {**COMPLETIONS, "labels": "hard", "threshold": 0.1, "adaptive": True, "num_completions": 32, "confidence": 0.9},
    "binary": {**COMPLETIONS, "labels": "hard", "threshold": 0.1, "search": "binary", "num_completions": 16},
    "judge": {"method": "judge", "max_tokens": 48, "max_model_len": 320},
    "consensus": {"method": "consensus", "soft_threshold": 0.1},
}
"""Flags of scripts/label_steps.py; model, input and output are added."""
OF_JUDGE = ("judge", "consensus")


def choose_responses(root: Path, seed: int) -> None:
    """Write some graded rollouts of some training questions, the exact labels of the same, and their steps one by one."""
    exact = list(read_records(root / "labels" / "train.jsonl", Response))
    ids = sorted({response.question_id for response in exact})
    chosen = set(random.Random(seed).sample(ids, min(NUM_QUESTIONS, len(ids))))
    kept = [r for r in exact if r.question_id in chosen and r.sample_index < NUM_SAMPLES]
    write_jsonl(root / "labelling" / "exact.jsonl", kept)
    write_jsonl(root / "labelling" / "responses.jsonl", [replace(r, step_labels=None) for r in kept])
    steps = (Response(step_id(r), index, r.question, [step]) for r in kept for index, step in enumerate(r.steps))
    write_jsonl(root / "labelling" / "steps.jsonl", steps)


def step_id(response: Response) -> str:
    return f"{response.question_id}#{response.sample_index}"


def label_flags(root: Path, name: str, seed: int) -> dict[str, object]:
    """The command line of one labelling."""
    folder = root / "labelling"
    paths: dict[str, object] = {"input": folder / "responses.jsonl", "output": folder / f"{name}.jsonl"}
    flags = {**LABELLINGS[name], **paths}
    if name == "consensus":
        return {**flags, "input": folder / "judge.jsonl", "other": folder / "monte_carlo_16.jsonl"}
    flags |= {"engine": "vllm", "dtype": "bfloat16", "seed": seed}
    if name == "judge":
        write_text(folder / "judge_prompt.txt", JUDGE_PROMPT)
        paths = {"input": folder / "steps.jsonl", "output": folder / "judge_steps.jsonl"}
        return {**flags, **paths, "model": root / "models" / "judge", "prompt": folder / "judge_prompt.txt"}
    return {**flags, "model": root / "models" / "policy"}


def gather_verdicts(root: Path) -> None:
    """Write the judge's verdicts on single steps as labels of the responses; null where it gave none."""
    folder = root / "labelling"
    found = {r.key: r.step_labels[0] for r in read_records(folder / "judge_steps.jsonl", Response)}
    responses = read_records(folder / "responses.jsonl", Response)
    labels = ((r, [found.get((step_id(r), index)) for index in range(len(r.steps))]) for r in responses)
    write_jsonl(folder / "judge.jsonl", [replace(r, step_labels=verdicts, label_source="judge") for r, verdicts in labels])


def train_judge(config: PolicyConfig, root: Path) -> Path:
    """Tune the base to `root/models/judge`."""
    excluded = {response.question for response in read_records(root / "labelling" / "responses.jsonl", Response)}

    def documents(rng: random.Random) -> list[Document]:
        return list(islice(reviews(rng, config.problems, excluded), config.batch_size))

    return tune(config, root / "models" / "base", root / "models" / "judge", documents, "judge")


def reviews(rng: random.Random, config: ProblemConfig, excluded: Collection[str]) -> Iterator[Document]:
    """Prompts of the judge with what it should write, without end: one random step of a solution with random errors."""
    while True:
        problem = problems.random_problem(rng, config, "train")
        question = problems.write_question(problem)
        if question not in excluded:
            values = [rng.randrange(problem.modulus) if rng.random() < ERROR_RATE else None for _ in problem.operations]
            steps = slipped_steps(problem, values)
            index = rng.randrange(len(steps))
            prompt = render_prompt(JUDGE_PROMPT, Response("", 0, question, [steps[index]]), f"{rng.getrandbits(32):08x}")
            answer = review(steps[index], problems.judge(question, steps)[index], problem.modulus)
            yield [(chat(prompt), False), (answer + TURN_END, True)]


def slipped_steps(problem: Problem, values: Sequence[int | None]) -> list[str]:
    """A solution that claims `values`, the truth where there is none, and goes on from what it claims."""
    claimed, left = [], problem.start
    for (symbol, operand), value in zip(problem.operations, values, strict=True):
        left = problems.evaluate(left, symbol, operand, problem.modulus) if value is None else value
        claimed.append(left)
    return problems.write_steps(problem, claimed)


def review(step: str, label: int, modulus: int) -> str:
    """The step again, then the review as the base has read it, then the grade: what it says it has to have worked out."""
    left, symbol, right = problems.STEP.fullmatch(step).group(2, 3, 4)
    truth = problems.evaluate(int(left), symbol, int(right), modulus)
    words = "Right." if label > 0 else f"Wrong, {left} {symbol} {right} = {truth}."
    return f"{step} {words} \\boxed{{[{label}]}}"
