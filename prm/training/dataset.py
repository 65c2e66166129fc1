"""Training data: a dataset folder in, checked and encoded examples out, with counts of everything dropped and why."""

import hashlib
import logging
import math
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from prm.data.examples import StoredExamples, token_counts
from prm.files import read_records
from prm.losses import LOSSES, good_and_bad
from prm.records import Key, Response
from prm.steps import StepEncoder
from prm.tracking import hash_path
from prm.training.arguments import TrainingConfig

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation")
MAX_NAMED = 10
"""How many dropped responses a warning names."""


@dataclass
class TrainingData:
    """A dataset folder, and which responses of each split the objective can learn from."""

    folder: Path
    dataset_hash: str
    labelled: dict[str, array] = field(default_factory=dict)
    """Of each split, the numbers of those rows."""
    counts: dict[str, int] = field(default_factory=dict)

    def file(self, split: str) -> Path:
        return self.folder / f"{split}.jsonl"


def load_dataset(config: TrainingConfig) -> TrainingData:
    """Read and check `config.dataset` without a tokenizer or a model, one response at a time.

    Responses that lack the objective's label are dropped and counted. Raises FileNotFoundError for a missing dataset; ValueError
    for an empty one, labels that do not match the steps, and labels that are all equal: nothing can be learnt from them.
    """
    folder = Path(config.dataset)
    if not (folder / "train.jsonl").is_file():
        raise FileNotFoundError(
            f"--dataset {folder}: no train.jsonl there. Make one from graded rollouts with "
            f"`python scripts/build_dataset.py --rollouts data/graded --output {folder}`"
        )
    data = TrainingData(folder, hash_splits(folder))
    for split in SPLITS:
        path, count, labelled, values = data.file(split), 0, array("q"), set[float | bool]()
        for response in read_split(path):
            if has_label(response, config, path):
                labelled.append(count)
                if len(values) < 2:
                    values.update(label_values(response, config))
            count += 1
        data.labelled[split] = labelled
        data.counts |= {f"{split}_responses": count, f"{split}_unlabelled": count - len(labelled)}
        if split == "train":
            check_learnable(values, config, path, count, len(labelled))
    return data


def read_split(path: Path) -> Iterator[Response]:
    return read_records(path, Response) if path.is_file() else iter(())


def hash_splits(folder: Path) -> str:
    """SHA-256 of the responses; reports, the card and stored tokens beside them do not count."""
    files = [folder / f"{split}.jsonl" for split in SPLITS]
    return hashlib.sha256("".join(hash_path(file) for file in files if file.is_file()).encode()).hexdigest()


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


def label_values(response: Response, config: TrainingConfig) -> set[float | bool]:
    """The labels that the objective reads."""
    if LOSSES[config.loss].needs == "outcome":
        return {response.correct}
    return {label for label in response.step_labels if label is not None}


def check_learnable(values: set[float | bool], config: TrainingConfig, path: Path, num_read: int, num_labelled: int) -> None:
    """Raise ValueError when no response, or only one kind of label, is left to learn from."""
    if num_read == 0:
        raise ValueError(f"{path} is empty; build the dataset again, with a wider --min_pass_rate to --max_pass_rate")
    label = "correct" if LOSSES[config.loss].needs == "outcome" else "step_labels"
    if not num_labelled:
        remedy = "add them with scripts/build_dataset.py --step_labels FILE"
        if label == "correct":
            remedy = (
                "grade rollouts with scripts/grade_rollouts.py, or give rows that come with step labels a `correct` of their own"
            )
        raise ValueError(
            f"{path}: none of the {num_read} responses has {label!r}, which --loss {config.loss} learns from; {remedy}"
        )
    if len(values) == 1:
        raise ValueError(
            f"{path}: {label!r} is {values.pop()} for all {num_labelled} responses, so there is nothing to tell apart; "
            "build the dataset from questions that are sometimes solved and sometimes not"
        )
    if LOSSES[config.loss].unit == "question" and not has_counterfactual_pair(read_split(path), config.neutral):
        raise ValueError(
            f"{path}: no two responses part at a step that is good in one and bad in the other, which --loss {config.loss} learns "
            "from; sample more responses to every question"
        )


def has_counterfactual_pair(responses: Iterable[Response], neutral: str) -> bool:
    """Whether a good and a bad step stand behind the same question and the same steps; reads no further than the first pair."""
    good, bad = set[int](), set[int]()
    for response in responses:
        labels = torch.tensor([math.nan if label is None else float(label) for label in response.step_labels or ()])
        is_good, is_bad = good_and_bad(labels, torch.ones_like(labels, dtype=torch.bool), neutral)
        # A hash in place of the texts: 64 bits are enough to tell some millions of prefixes apart.
        prefix = hash(response.question)
        for step, step_is_good, step_is_bad in zip(response.steps, is_good.tolist(), is_bad.tolist(), strict=False):
            if (step_is_good and prefix in bad) or (step_is_bad and prefix in good):
                return True
            (good if step_is_good else bad if step_is_bad else set()).add(prefix)
            prefix = hash((prefix, step))
    return False


def encode(data: TrainingData, split: str, encoder: StepEncoder, config: TrainingConfig) -> StoredExamples:
    """Tokens of every labelled response that fits `max_length`; the others are counted and named in a warning, never cut.

    The tokens lie in the dataset's folder, or in `output_dir` if that cannot be written to. One rank encodes, the others wait.
    Raises ValueError, naming the response, for steps that the contract cannot hold, and if nothing fits.
    """
    from prm.data.tokens import encode_file  # here: a trainer of examples in memory needs neither datasets nor pyarrow

    limit, labelled = encoder.max_length, np.array(data.labelled[split], dtype=np.int64)
    if not len(labelled):
        return StoredExamples(None, labelled)
    folder = data.folder if os.access(data.folder, os.W_OK) else Path(config.output_dir) / "tokens"
    with config.main_process_first(local=False, desc=f"encoding {split}"):
        table = encode_file(data.file(split), encoder, folder)
    fits = token_counts(table)[labelled] <= limit
    fitting, too_long = StoredExamples(table, labelled[fits]), StoredExamples(table, labelled[~fits])
    data.counts |= {f"{split}_too_long": len(too_long), f"{split}_used": len(fitting)}
    if too_long:
        logger.warning("%s: dropped %d responses longer than %d tokens: %s", split, len(too_long), limit, shorten(too_long))
    if not fitting:
        raise ValueError(f"{split}: all {len(labelled)} responses are longer than {limit} tokens; raise --max_length")
    return fitting


def key_name(key: Key) -> str:
    return f"{key[0]} #{key[1]}"


def shorten(examples: StoredExamples) -> str:
    names = [key_name(examples[index].key) for index in range(min(MAX_NAMED, len(examples)))]
    rest = len(examples) - len(names)
    return ", ".join(names) + (f" and {rest} more" if rest else "")
