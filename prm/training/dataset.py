"""Training data: a dataset folder in, checked and encoded examples out, with counts of everything dropped and why."""

import dataclasses
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from prm.aggregation import pad_steps
from prm.data.collate import Example
from prm.files import read_records
from prm.losses import LOSSES, good_and_bad, prefix_ids
from prm.records import Key, Response
from prm.steps import StepEncoder
from prm.tracking import hash_path
from prm.training.arguments import TrainingConfig

logger = logging.getLogger(__name__)

MAX_NAMED = 10
"""How many dropped responses a warning names."""


@dataclass
class TrainingData:
    """Responses that the objective can learn from."""

    train: list[Response]
    validation: list[Response]
    dataset_hash: str
    counts: dict[str, int] = field(default_factory=dict)


def load_dataset(config: TrainingConfig) -> TrainingData:
    """Read and check `config.dataset` without a tokenizer or a model.

    Responses that lack the objective's label are dropped and counted. Raises FileNotFoundError for a missing dataset; ValueError
    for an empty one, labels that do not match the steps, and labels that are all equal: nothing can be learnt from them.
    """
    folder = Path(config.dataset)
    if not (folder / "train.jsonl").is_file():
        raise FileNotFoundError(
            f"--dataset {folder}: no train.jsonl there. Make one from graded rollouts with "
            f"`python scripts/build_dataset.py --rollouts data/graded --output {folder}`"
        )
    data = TrainingData([], [], hash_path(folder))
    for split in ("train", "validation"):
        path = folder / f"{split}.jsonl"
        responses = list(read_records(path, Response)) if path.is_file() else []
        labelled = [response for response in responses if has_label(response, config, path)]
        data.counts |= {f"{split}_responses": len(responses), f"{split}_unlabelled": len(responses) - len(labelled)}
        setattr(data, split, labelled)
    check_learnable(data.train, config, folder / "train.jsonl", data.counts["train_responses"])
    return data


def has_label(response: Response, config: TrainingConfig, path: Path) -> bool:
    """Whether the objective can learn from this response; null step labels do not count.

    Raises ValueError, naming the response, for labels that cannot be right.
    """
    labels, place = response.step_labels, f"{path}: {key_name(response.key)}"
    if labels is not None and len(labels) != len(response.steps):
        raise ValueError(f"{place} has {len(response.steps)} steps but {len(labels)} step labels; label every step, or with null")
    needs = LOSSES[config.loss].needs
    if needs == "outcome":
        return response.correct is not None
    is_soft = needs == "soft_labels" or (config.loss == "step_ce" and config.num_labels == 1)
    known = [label for label in labels or () if label is not None]
    for label in known:
        if is_soft and not 0 <= label <= 1:
            option, remedy = ("--num_labels 1", "--num_labels 2 or 3")
            if needs == "soft_labels":
                option, remedy = (f"--loss {config.loss}", "step_ce, pqm or margin_ranking")
            raise ValueError(f"{place}: step label {label}; {option} learns from targets in [0, 1], use {remedy}")
        if not is_soft and label not in (-1, 0, 1):
            remedy = "--loss mc_regression, or step_ce with --num_labels 1"
            raise ValueError(f"{place}: step label {label}, expected -1, 0 or 1; soft targets need {remedy}")
    return bool(known)


def check_learnable(train: list[Response], config: TrainingConfig, path: Path, num_read: int) -> None:
    """Raise ValueError when no response, or only one kind of label, is left to learn from."""
    if num_read == 0:
        raise ValueError(f"{path} is empty; build the dataset again, with a wider --min_pass_rate to --max_pass_rate")
    label = "correct" if LOSSES[config.loss].needs == "outcome" else "step_labels"
    if not train:
        script = "build_dataset.py --step_labels FILE" if label == "step_labels" else "grade_rollouts.py"
        remedy = f"add them with scripts/{script}"
        raise ValueError(
            f"{path}: none of the {num_read} responses has {label!r}, which --loss {config.loss} learns from; {remedy}"
        )
    values = {v for r in train for v in r.step_labels if v is not None} if label == "step_labels" else {r.correct for r in train}
    if len(values) == 1:
        raise ValueError(
            f"{path}: {label!r} is {values.pop()} for all {len(train)} responses, so there is nothing to tell apart; "
            "build the dataset from questions that are sometimes solved and sometimes not"
        )
    if LOSSES[config.loss].unit == "question" and not has_counterfactual_pair(train, config.neutral):
        raise ValueError(
            f"{path}: no two responses part at a step that is good in one and bad in the other, which --loss {config.loss} learns "
            "from; sample more responses to every question"
        )


def has_counterfactual_pair(responses: list[Response], neutral: str) -> bool:
    """Whether a good and a bad step stand behind the same question and the same steps."""
    counts = torch.tensor([len(r.steps) for r in responses])
    labels, mask = pad_steps(torch.tensor([math.nan if v is None else float(v) for r in responses for v in r.step_labels]), counts)
    ids = prefix_ids([r.question for r in responses], [r.steps for r in responses])
    is_good, is_bad = good_and_bad(labels, mask, neutral)
    return bool(torch.isin(ids[is_good], ids[is_bad]).any())


def encode(responses: list[Response], encoder: StepEncoder, split: str, counts: dict[str, int]) -> list[Example]:
    """Token ids of every response that fits `max_length`; the others are counted and named in a warning, never cut.

    Raises ValueError, naming the response, for steps that the contract cannot hold, and if nothing fits.
    """
    limit = encoder.max_length
    encoded = dataclasses.replace(encoder, max_length=sys.maxsize).encode_batch(responses) if responses else []
    examples = list(map(Example.from_response, responses, encoded))
    fitting = [example for example in examples if example.num_tokens <= limit]
    too_long = [key_name(example.key) for example in examples if example.num_tokens > limit]
    counts |= {f"{split}_too_long": len(too_long), f"{split}_used": len(fitting)}
    if too_long:
        logger.warning("%s: dropped %d responses longer than %d tokens: %s", split, len(too_long), limit, shorten(too_long))
    if responses and not fitting:
        raise ValueError(f"{split}: all {len(responses)} responses are longer than {limit} tokens; raise --max_length")
    return fitting


def key_name(key: Key) -> str:
    return f"{key[0]} #{key[1]}"


def shorten(names: Sequence[str]) -> str:
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
