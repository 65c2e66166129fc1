"""Training examples in, one packed micro-batch without padding out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from prm.models.packing import Batch, pack_responses
from prm.records import Key, Response
from prm.steps import EncodedResponse, StepEncoder


@dataclass(frozen=True)
class Example:
    """A response as training reads it: its tokens and its labels."""

    key: Key
    encoded: EncodedResponse
    correct: bool | None = None
    step_labels: list[float] | None = None
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


BLANK = Example(("", 0), EncodedResponse(input_ids=[0, 0], step_ends=[1], response_start=1), ref_logps=torch.zeros(1))
"""Two tokens without a label: what a rank computes while others have one micro-batch more."""


class PackedCollator:
    """Packs examples into one row, `BLANK` where there are none. The batch holds what `pack_responses` makes, and

    `correct` [responses] and `step_labels` [steps], float with NaN where there is no label, and `keys`; for layout `plain` also
    `ref_logps` [targets] when the examples carry them.
    """

    def __init__(self, encoder: StepEncoder):
        self.with_targets = encoder.layout == "plain"

    def __call__(self, examples: Sequence[Example]) -> Batch:
        keys = [example.key for example in examples]
        examples = examples or [BLANK]
        batch = pack_responses([example.encoded for example in examples], self.with_targets)
        batch["correct"] = torch.tensor([math.nan if e.correct is None else float(e.correct) for e in examples])
        batch["step_labels"] = torch.tensor([label for e in examples for label in _labels(e)], dtype=torch.float32)
        batch["keys"] = keys
        if self.with_targets and all(example.ref_logps is not None for example in examples):
            batch["ref_logps"] = torch.cat([example.ref_logps for example in examples])
        return batch


def _labels(example: Example) -> list[float]:
    return [math.nan] * len(example.encoded.step_ends) if example.step_labels is None else example.step_labels


class MicroBatches(Dataset):
    """Examples addressed by the indices of a micro-batch, as packed rows; collation so happens in the loader's workers."""

    def __init__(self, examples: Sequence[Example], collate: PackedCollator):
        self.examples, self.collate = examples, collate

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        return self.collate([self.examples[index] for index in indices])
