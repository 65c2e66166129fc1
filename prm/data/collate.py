"""Training examples in, one packed micro-batch without padding out."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from prm.losses import prefix_ids
from prm.models.packing import Batch, pack_responses
from prm.records import Key, Response
from prm.steps import EncodedResponse, StepEncoder


@dataclass(frozen=True)
class Example:
    """A response as training reads it: its tokens and its labels."""

    key: Key
    encoded: EncodedResponse
    correct: bool | None = None
    step_labels: list[float | None] | None = None
    ref_logps: Float[Tensor, " targets"] | None = None
    """The reference's log-probs of the response tokens (implicit PRM only); `dataclasses.replace` adds them."""

    @classmethod
    def from_response(cls, response: Response, encoded: EncodedResponse) -> "Example":
        """Raises ValueError for labels that do not match the steps."""
        if response.step_labels is not None and len(response.step_labels) != len(encoded.step_ends):
            raise ValueError(
                f"{response.question_id} #{response.sample_index}: {len(response.step_labels)} step labels for "
                f"{len(encoded.step_ends)} steps; every step needs one label"
            )
        return cls(response.key, encoded, response.correct, response.step_labels)

    @property
    def num_tokens(self) -> int:
        return len(self.encoded.input_ids)


class Unit(list[Example]):
    """Examples that a micro-batch may not divide."""

    @property
    def num_tokens(self) -> int:
        return sum(example.num_tokens for example in self)


def units(examples: Sequence[Example], unit: Literal["response", "question"]) -> list[Unit]:
    """Every example alone, or those of each question together, in the order in which questions first appear."""
    if unit == "response":
        return [Unit([example]) for example in examples]
    questions: dict[str, Unit] = {}
    for example in examples:
        questions.setdefault(example.key[0], Unit()).append(example)
    return list(questions.values())


BLANK = Example(("", 0), EncodedResponse(input_ids=[0, 0], step_ends=[1], response_start=1), ref_logps=torch.zeros(1))
"""Two tokens without a label: what a rank computes while others have one micro-batch more."""


class PackedCollator:
    """Packs examples into one row, `BLANK` where there are none. The batch holds what `pack_responses` makes, and

    `correct` [responses] and `step_labels` [steps], float with NaN where there is no label, and `keys`; for layout `plain` also
    `ref_logps` [targets] when the examples carry them. `with_prefixes` adds `prefixes` [steps], equal for steps that follow the
    same question and steps.
    """

    def __init__(self, encoder: StepEncoder, with_prefixes: bool = False):
        self.with_targets = encoder.layout == "plain"
        self.with_prefixes = with_prefixes

    def __call__(self, examples: Sequence[Example]) -> Batch:
        keys = [example.key for example in examples]
        examples = examples or [BLANK]
        batch = pack_responses([example.encoded for example in examples], self.with_targets)
        batch["correct"] = torch.tensor([math.nan if e.correct is None else float(e.correct) for e in examples])
        batch["step_labels"] = torch.tensor([label for e in examples for label in _labels(e)], dtype=torch.float32)
        batch["keys"] = keys
        if self.with_prefixes:
            batch["prefixes"] = prefixes_of([example.encoded for example in examples])
        if self.with_targets and all(example.ref_logps is not None for example in examples):
            batch["ref_logps"] = torch.cat([example.ref_logps for example in examples])
        return batch


def _labels(example: Example) -> list[float]:
    labels = example.step_labels or [None] * len(example.encoded.step_ends)
    return [math.nan if label is None else label for label in labels]


def prefixes_of(encoded: Sequence[EncodedResponse]) -> Int[Tensor, " steps"]:
    """`prefix_ids` of packed steps, from their tokens."""
    questions = [tuple(response.input_ids[: response.response_start]) for response in encoded]
    starts = [[response.response_start, *(end + 1 for end in response.step_ends)] for response in encoded]
    steps = [
        [tuple(response.input_ids[start:end]) for start, end in itertools.pairwise(bounds)]
        for response, bounds in zip(encoded, starts, strict=True)
    ]
    padded = prefix_ids(questions, steps)
    return padded[padded >= 0]


class MicroBatches(Dataset):
    """Units addressed by the indices of a micro-batch, as packed rows; collation so happens in the loader's workers."""

    def __init__(self, items: Sequence[Unit], collate: PackedCollator):
        self.items, self.collate = items, collate

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        return self.collate([example for index in indices for example in self.items[index]])
