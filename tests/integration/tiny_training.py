"""A tiny dataset and the flags of a tiny run, for the training tests."""

import json
import random
from pathlib import Path

from prm.records import Response, write_jsonl

STEPS = ["--max_steps", "6", "--logging_steps", "1", "--warmup_steps", "2", "--learning_rate", "1e-3", "--global_batch_size", "4"]


def responses(num: int, seed: int) -> list[Response]:
    """Sums of two digits; a wrong response gets its last one wrong."""
    rng = random.Random(seed)
    made = []
    for index in range(num):
        wrong, count = rng.random() < 0.5, rng.randint(1, 5)
        sums = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(count)]
        steps = [f"{a} + {b} = {a + b + (wrong and i == count - 1)}." for i, (a, b) in enumerate(sums)]
        labels = [1.0] * (count - 1) + [-1.0 if wrong else 1.0]
        made.append(Response(f"q{seed}-{index // 4}", index % 4, f"Question {index // 4}?", steps, not wrong, labels))
    return made


def soften(response: Response, targets: dict[float, float]) -> dict:
    return vars_of(response) | {"step_labels": [targets[label] for label in response.step_labels]}


def vars_of(response: Response) -> dict:
    return {
        name: getattr(response, name) for name in ("question_id", "sample_index", "question", "steps", "correct", "step_labels")
    }


def write_dataset(folder: Path) -> Path:
    write_jsonl(folder / "train.jsonl", responses(64, seed=0))
    write_jsonl(folder / "validation.jsonl", responses(24, seed=1))
    return folder


def trajectory(output_dir: Path, name: str = "loss") -> list[float]:
    rows = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]
