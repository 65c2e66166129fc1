"""Ways of labelling steps, side by side: graded rollouts of the miniature in, their labels by every method out.

The LLM judge is the base model after a short tuning on verdicts about solutions with random errors, to questions that are not
labelled here; it reads its prompt, and writes its verdict, as any judge of `prm.annotation.judge` does.
"""

import random
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from prm.annotation.verdicts import render_prompt
from prm.files import read_records, write_jsonl, write_text
from prm.miniature import problems
from prm.miniature.corpus import STEP_ERROR_RATE, Document
from prm.miniature.policy import PolicyConfig, tune
from prm.miniature.problems import ProblemConfig
from prm.miniature.tokenizer import TURN_END, chat
from prm.records import Response, to_row

NUM_QUESTIONS = 50
NUM_SAMPLES = 8
JUDGE_PROMPT = "{question}\n\n{steps}"
"""The miniature's models know one task; criteria would be noise to them."""

COMPLETIONS = {"method": "monte_carlo", "max_tokens": 160, "top_p": 0.99, "max_model_len": 320}
LABELLINGS: dict[str, dict[str, object]] = {
    "monte_carlo_4": {**COMPLETIONS, "num_completions": 4},
    "monte_carlo_16": {**COMPLETIONS, "num_completions": 16},
    "adaptive": {**COMPLETIONS, "labels": "hard", "threshold": 0.1, "adaptive": True, "num_completions": 32, "confidence": 0.9},
    "binary": {**COMPLETIONS, "labels": "hard", "threshold": 0.1, "search": "binary", "num_completions": 16},
    "judge": {"method": "judge", "max_tokens": 256, "max_model_len": 768},
    "consensus": {"method": "consensus", "soft_threshold": 0.1},
}
"""Flags of scripts/label_steps.py; model, input and output are added."""
OF_JUDGE = ("judge", "consensus")


def choose_responses(root: Path, seed: int) -> None:
    """Write some graded rollouts of some training questions, and the exact labels of the same."""
    exact = list(read_records(root / "labels" / "train.jsonl", Response))
    ids = sorted({response.question_id for response in exact})
    chosen = set(random.Random(seed).sample(ids, min(NUM_QUESTIONS, len(ids))))
    kept = [r for r in exact if r.question_id in chosen and r.sample_index < NUM_SAMPLES]
    write_jsonl(root / "labelling" / "exact.jsonl", kept)
    bare = ({name: value for name, value in to_row(r).items() if name != "step_labels"} for r in kept)
    write_jsonl(root / "labelling" / "responses.jsonl", bare)


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
        return {**flags, "model": root / "models" / "judge", "prompt": folder / "judge_prompt.txt"}
    return {**flags, "model": root / "models" / "policy"}


def train_judge(config: PolicyConfig, root: Path) -> Path:
    """Tune the base to `root/models/judge`."""
    excluded = {response.question for response in read_records(root / "labelling" / "responses.jsonl", Response)}

    def documents(rng: random.Random) -> list[Document]:
        return list(islice(verdicts(rng, config.problems, excluded), config.batch_size))

    return tune(config, root / "models" / "base", root / "models" / "judge", documents, "judge")


def verdicts(rng: random.Random, config: ProblemConfig, excluded: Collection[str]) -> Iterator[Document]:
    """Prompts of the judge with the verdicts it should write, without end."""
    while True:
        problem = problems.random_problem(rng, config, "train")
        question = problems.write_question(problem)
        if question in excluded:
            continue
        values, left = [], problem.start
        for symbol, operand in problem.operations:
            truth = problems.evaluate(left, symbol, operand, problem.modulus)
            left = problems.wrong_value(truth, problem.modulus, rng) if rng.random() < STEP_ERROR_RATE else truth
            values.append(left)
        steps = problems.write_steps(problem, values)
        labels = problems.judge(question, steps)
        prompt = render_prompt(JUDGE_PROMPT, Response("", 0, question, steps), f"{rng.getrandbits(32):08x}")
        yield [(chat(prompt), False), (verdict(steps, labels) + TURN_END, True)]


def verdict(steps: list[str], labels: list[int]) -> str:
    return f"\\boxed{{[{', '.join(map(str, labels))}]}}"
