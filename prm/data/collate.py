"""Training examples in, one packed micro-batch without padding out."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from prm.data.examples import Example, Unit
from prm.losses import prefix_ids
from prm.models.packing import Batch, pack_responses
from prm.steps import EncodedResponse, StepEncoder

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
