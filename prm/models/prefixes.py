"""Shared prefixes: encoded responses in; rows out in which what neighboring responses begin with is computed once.

Responses to one question share its prompt, and often the first steps word for word. What is shared is found on token ids alone, so
that it works for every encoding. Any token may be shared, as its state depends on the tokens up to it only.
"""

from collections.abc import Sequence
from typing import NamedTuple

from prm.steps import EncodedResponse

SHORTEST_PREFIX = 16
"""A common beginning of fewer tokens is not shared but computed again."""
KEYS_PER_TOKEN = 4
"""The responses of a row may see this many times its budget in all: on a GPU each gets a copy of the keys and values it sees."""


class Layout(NamedTuple):
    """One document per response: the tokens that are computed for it, and the position in the response at which they start.

    The tokens before that position are the first ones of the previous response too.
    """

    documents: list[list[int]]
    first_positions: list[int]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.documents))


def lay_out(encoded: Sequence[EncodedResponse], with_targets: bool, share_prefixes: bool) -> Layout:
    """Each response whole, or with `share_prefixes` without what it shares with the one before (`prefix_length`)."""
    layout, previous = Layout([], []), list[int]()
    for response in encoded:
        first = prefix_length(previous, response.input_ids, with_targets) if share_prefixes else 0
        layout.documents.append(response.input_ids[first:])
        layout.first_positions.append(first)
        previous = response.input_ids
    return layout


def prefix_length(previous: Sequence[int], ids: Sequence[int], with_targets: bool) -> int:
    """How many tokens `ids` may leave out after `previous`: what both begin with, but never all of it.

    `with_targets`, for models of log-probs, keeps one more: the token from which the first new one is predicted.
    """
    length = min(common_length(previous, ids) - with_targets, len(ids) - 1)
    return length if length >= SHORTEST_PREFIX else 0


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with, by halves: slices are compared far quicker than tokens one by one."""
    common, differ = 0, min(len(one), len(other)) + 1
    while differ - common > 1:
        middle = (common + differ) // 2
        if one[common:middle] == other[common:middle]:
            common = middle
        else:
            differ = middle
    return common


def batch_by_prefix(encoded: Sequence[EncodedResponse], token_budget: int, with_targets: bool = False) -> list[list[int]]:
    """Indices in rows of at most `token_budget` computed tokens, in the order of their tokens, in which neighbors share most.

    A longer response gets a row of its own. The first of a row is computed whole, so that little is shared where the budget hardly
    holds more than one response. The rows with the longest responses come first: a budget beyond the memory fails at once.
    """
    rows: list[list[int]] = []
    room = keys = 0
    previous: list[int] = []
    for index in sorted(range(len(encoded)), key=lambda i: encoded[i].input_ids):
        ids = encoded[index].input_ids
        computed = len(ids) - prefix_length(previous, ids, with_targets)
        if not rows or computed > room or len(ids) > keys:
            rows.append([])
            room, keys, computed = token_budget, KEYS_PER_TOKEN * token_budget, len(ids)
        rows[-1].append(index)
        room, keys, previous = room - computed, keys - len(ids), ids
    return sorted(rows, key=lambda row: -max(len(encoded[index].input_ids) for index in row))
