"""Training examples: encoded responses in, on disk or in memory, and the units that a micro-batch may not divide out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from prm.records import Key, Response
from prm.steps import EncodedResponse

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Example:
    """A response as training reads it: its tokens and its labels."""

    key: Key
    encoded: EncodedResponse
    correct: bool | None = None
    step_labels: list[float | None] | None = None
    ref_logps: Float[Tensor, " targets"] | None = None
    """The reference's log-probs of the response tokens (implicit PRM only)."""

    @classmethod
    def from_response(cls, response: Response, encoded: EncodedResponse) -> "Example":
        """Raises ValueError for labels that do not match the steps."""
        if response.step_labels is not None and len(response.step_labels) != len(encoded.step_ends):
            raise ValueError(
                f"{response.name}: {len(response.step_labels)} step labels for "
                f"{len(encoded.step_ends)} steps; every step needs one label"
            )
        return cls(response.key, encoded, response.correct, response.step_labels)

    @property
    def num_tokens(self) -> int:
        return len(self.encoded.input_ids)


class StoredExamples(Sequence[Example]):
    """Rows of a table of `prm.data.tokens`: they stay on disk until they are asked for, one at a time.

    Without rows there need not be a table.
    """

    def __init__(self, table: "datasets.Dataset | None", rows: Int[np.ndarray, " rows"], ref_logps: Sequence[Tensor] | None = None):
        self.table, self.rows, self.ref_logps = table, rows, ref_logps

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.table[int(self.rows[index])]
        encoded = EncodedResponse(row["input_ids"], row["step_ends"], row["response_start"])
        ref_logps = None if self.ref_logps is None else self.ref_logps[index]
        return Example((row["question_id"], row["sample_index"]), encoded, row["correct"], row["step_labels"], ref_logps)

    @property
    def lengths(self) -> list[int]:
        return [] if self.table is None else token_counts(self.table)[self.rows].tolist()

    @property
    def question_ids(self) -> list[str]:
        return [] if self.table is None else self.table.data.column("question_id").take(self.rows).to_pylist()


class StoredEncodings(Sequence[EncodedResponse]):
    """The tokens of stored examples."""

    def __init__(self, examples: StoredExamples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int | slice) -> "EncodedResponse | StoredEncodings":
        if isinstance(index, slice):
            return StoredEncodings(StoredExamples(self.examples.table, self.examples.rows[index]))
        return self.examples[index].encoded


def token_counts(table: "datasets.Dataset") -> Int[np.ndarray, " rows"]:
    """Tokens of every row of a table, without reading them."""
    import pyarrow.compute

    return pyarrow.compute.list_value_length(table.data.column("input_ids")).to_numpy()


class Unit(list[Example]):
    """Examples that a micro-batch may not divide."""

    @property
    def num_tokens(self) -> int:
        return sum(example.num_tokens for example in self)


class Units(Sequence[Unit]):
    """Units by their examples' indices; `lengths` are their tokens."""

    def __init__(self, examples: Sequence[Example], groups: list[list[int]], lengths: list[int]):
        self.examples, self.groups = examples, groups
        self.lengths = [sum(lengths[index] for index in group) for group in groups]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Unit:
        return Unit(self.examples[i] for i in self.groups[index])


def units(examples: Sequence[Example], unit: Literal["response", "question"]) -> Units:
    """Every example alone, or those of each question together, in the order in which questions first appear."""
    is_stored = isinstance(examples, StoredExamples)
    lengths = examples.lengths if is_stored else [example.num_tokens for example in examples]
    if unit == "response":
        return Units(examples, [[index] for index in range(len(examples))], lengths)
    questions: dict[str, list[int]] = {}
    for index, question_id in enumerate(examples.question_ids if is_stored else [example.key[0] for example in examples]):
        questions.setdefault(question_id, []).append(index)
    return Units(examples, list(questions.values()), lengths)
