"""Responses that say the same: one question's responses in, those that differ out."""

import itertools
import re
from collections.abc import Sequence

from prm.records import Response

SHINGLE = 5
"""Words in a row that are compared."""
_WORD = re.compile(r"\w+|[^\w\s]")


def drop_duplicates(responses: Sequence[Response]) -> list[Response]:
    """Of responses with equal steps, the first."""
    first = {tuple(response.steps): response for response in reversed(responses)}
    return [response for response in responses if first[tuple(response.steps)] is response]


def drop_near_duplicates(responses: Sequence[Response], threshold: float) -> list[Response]:
    """Drop every response whose shingles have a Jaccard similarity above `threshold` with an earlier one that stays.

    Only responses of the same verdict are compared: a right one and a wrong one that part in the last step teach the most.
    """
    kept: list[tuple[Response, set[int]]] = []
    numbers: dict[tuple[str, ...], int] = {}
    for response in responses:
        # Numbers in place of word tuples: sets of them are compared several times faster.
        shingles = {numbers.setdefault(shingle, len(numbers)) for shingle in shingles_of(response)}
        others = (other for earlier, other in kept if verdict(earlier) == verdict(response))
        if not any(is_similar(shingles, other, threshold) for other in others):
            kept.append((response, shingles))
    return [response for response, _ in kept]


def verdict(response: Response) -> tuple[bool | None, float | None]:
    """Outcome and last step label: what two responses differ in when their last steps do."""
    return response.correct, response.step_labels[-1] if response.step_labels else None


def shingles_of(response: Response) -> set[tuple[str, ...]]:
    """All runs of `SHINGLE` words and signs; of a shorter response, the whole."""
    words = _WORD.findall("\n".join(response.steps).lower())
    if len(words) <= SHINGLE:
        return {tuple(words)}
    return set(zip(*(itertools.islice(words, start, None) for start in range(SHINGLE)), strict=False))


def is_similar(first: set[int], second: set[int], threshold: float) -> bool:
    """Whether the sets' Jaccard similarity is above `threshold`; sizes that rule it out spare the intersection."""
    if min(len(first), len(second)) <= threshold * max(len(first), len(second)):
        return False
    common = len(first & second)
    return common > threshold * (len(first) + len(second) - common)
