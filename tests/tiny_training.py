"""A tiny dataset and the flags of a tiny run, for the training tests."""

import json
import random
from pathlib import Path

from prm.files import write_jsonl
from prm.losses import LOSSES
from prm.records import Response

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
    """Hard labels in `folder`, and the same responses with soft ones in the folder `soft` beside it."""
    for name, made in (("train", responses(64, seed=0)), ("validation", responses(24, seed=1))):
        write_jsonl(folder / f"{name}.jsonl", made)
        write_jsonl(folder.parent / "soft" / f"{name}.jsonl", [soften(response, {1.0: 0.875, -1.0: 0.25}) for response in made])
    return folder


def for_loss(loss: str, flags: list[str]) -> list[str]:
    """The flags of a run with the objective, on the dataset that has its labels; a later flag wins over an earlier one."""
    dataset = Path(flags[flags.index("--dataset") + 1])
    return [*flags, "--loss", loss, "--dataset", str(dataset.parent / "soft" if LOSSES[loss].needs == "soft_labels" else dataset)]


def trajectory(output_dir: Path, name: str = "loss") -> list[float]:
    rows = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]
