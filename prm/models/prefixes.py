"""Shared prompts: encoded responses in; how to lay them so that a prompt that several share is computed once a row.

Prompts are found on token ids alone, so any encoding gains. What is shared ends before anything that is read from a response: its
first step end, and for models of log-probs the token before the response, from which its first token is predicted.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from prm.steps import EncodedResponse

SHORTEST_PROMPT = 16
"""Tokens below which a prompt is not worth a document of its own."""
KEYS_PER_TOKEN = 4
"""Most keys a row may hold for a token of its budget: on a GPU every response gets a copy of its prompt's keys and values."""


class Layout(NamedTuple):
    """Documents of a packed row; `origins` is the place in the row of each response's first token, were it not shared."""

    documents: list[list[int]]
    first_positions: list[int]
    origins: list[int]


def lay_out(encoded: Sequence[EncodedResponse], with_targets: bool, share_prompts: bool) -> Layout:
    """A document per response, or for neighbors with one prompt a document of that and one of the rest of each."""
    layout, place = Layout([], [], []), 0
    for prompt, group in groupby(encoded, lambda response: sharable(response, with_targets)):
        responses = list(group)
        length = len(prompt) if share_prompts and len(responses) > 1 and len(prompt) >= SHORTEST_PROMPT else 0
        if length:
            layout.documents.append(prompt)
            layout.first_positions.append(0)
            place += length
        for response in responses:
            layout.documents.append(response.input_ids[length:])
            layout.first_positions.append(length)
            layout.origins.append(place - length)
            place += len(response.input_ids) - length
    return layout


def sharable(response: EncodedResponse, with_targets: bool) -> list[int]:
    """The tokens before anything that is read."""
    return response.input_ids[: max(0, min(response.response_start - with_targets, response.step_ends[0]))]


def batch_by_prompt(encoded: Sequence[EncodedResponse], token_budget: int, with_targets: bool = False) -> list[list[int]]:
    """Indices in rows of at most `token_budget` computed tokens, responses of one prompt side by side, the longest first.

    As `batch_by_tokens`, which it equals where nothing is shared; a prompt whose responses fill several rows stands in each.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index in sorted(range(len(encoded)), key=lambda i: -len(encoded[i].input_ids)):
        groups.setdefault(tuple(sharable(encoded[index], with_targets)), []).append(index)
    rows: list[list[int]] = []
    room = keys = 0
    for prompt, members in groups.items():
        shared = len(prompt) if len(members) > 1 and len(prompt) >= SHORTEST_PROMPT else 0
        is_open = False
        for index in members:
            length = len(encoded[index].input_ids)
            if not rows or length - shared * is_open > room or length > keys:
                rows.append([])
                room, keys, is_open = token_budget, KEYS_PER_TOKEN * token_budget, False
            rows[-1].append(index)
            room, keys, is_open = room - length + shared * is_open, keys - length, True
    return rows
