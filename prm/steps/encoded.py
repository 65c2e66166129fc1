"""What encoding a response gives, and how it fails."""

from typing import NamedTuple


class SequenceTooLongError(ValueError):
    """An encoded response is longer than the contract's `max_length`."""


class EncodedResponse(NamedTuple):
    """Token ids of prompt and response; `step_ends[m]` is the position at which step m is scored.

    `response_start` is the position of the first token behind the prompt.
    """

    input_ids: list[int]
    step_ends: list[int]
    response_start: int
