"""The text of a response in, its steps out, and back."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STEP_DELIMITER = "\n\n"
NUMBERED = re.compile(r"\s*step \d+\s*[:.]", re.IGNORECASE)


def split_steps(text: str, max_step_length: int | None = None, count_tokens: Callable[[str], int] | None = None) -> list[str]:
    """Split at blank lines and drop blank parts; with `max_step_length` (tokens), merge neighbours from the start while they fit.

    No part is ever cut: one that is longer than `max_step_length` stays a step of its own.
    """
    parts = [part for part in text.split(STEP_DELIMITER) if part.strip()]
    if max_step_length is None:
        return parts
    if count_tokens is None:
        raise ValueError("max_step_length counts tokens: give count_tokens, or a tokenizer on the command line")
    steps: list[str] = []
    for part in parts:
        if steps and count_tokens(merged := steps[-1] + STEP_DELIMITER + part) <= max_step_length:
            steps[-1] = merged
        else:
            steps.append(part)
    return steps


def token_counts(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[int]:
    """Tokens of each text by itself, without special ones such as BOS."""
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


def join_steps(steps: Sequence[str]) -> str:
    """The text of a response, blank parts aside the inverse of `split_steps`."""
    return STEP_DELIMITER.join(steps)


def number_steps(steps: Sequence[str], prefix: str) -> list[str]:
    """Put `prefix`, with its {number} from 1, before every step that does not begin with a `Step 1:` of its own."""
    return [step if NUMBERED.match(step) else prefix.format(number=n) + step for n, step in enumerate(steps, start=1)]
