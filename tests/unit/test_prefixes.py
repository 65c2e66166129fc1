"""Shared beginnings: what is computed once, where everything stands and is read then, and rows within their budgets."""

import itertools
import random

import pytest

import prm.models.prefixes
from prm.models.packing import pack_responses
from prm.models.prefixes import KEYS_PER_TOKEN, batch_by_prefix, common_length, lay_out, prefix_length
from prm.steps import EncodedResponse

PROMPT = [1, 2, 3]
FIRST = EncodedResponse([*PROMPT, 10, 11], [3, 4], 3)
SECOND = EncodedResponse([*PROMPT, 10, 21, 22], [3, 5], 3)
THIRD = EncodedResponse([*PROMPT, 30, 22], [4], 3)
OTHER = EncodedResponse([1, 9, 9, 30], [3], 3)
ALL = [FIRST, SECOND, THIRD, OTHER]


@pytest.fixture(autouse=True)
def short_prefixes(monkeypatch):
    monkeypatch.setattr(prm.models.prefixes, "SHORTEST_PREFIX", 2)


def test_neighbors_by_hand():
    batch = pack_responses(ALL, share_prefixes=True)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 10, 11, 21, 22, 30, 22, 1, 9, 9, 30]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 4, 5, 3, 4, 0, 1, 2, 3]]
    assert batch["cu_seqlens"].tolist() == [0, 5, 7, 9, 13]
    assert batch["max_seqlen"] == 5
    # The first step of the second response is read where it stands in the first.
    assert batch["step_ends"].tolist() == [3, 4, 3, 6, 8, 12]
    assert batch["step_counts"].tolist() == [2, 2, 1, 1]
    index, bounds = batch["shared"].index.tolist(), batch["shared"].cu_seqlens.tolist()
    assert [index[start:end] for start, end in itertools.pairwise(bounds)] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 5, 6],
        [0, 1, 2, 7, 8],
        [9, 10, 11, 12],
    ]


def test_log_probs_need_the_token_before_the_first_new_one():
    batch = pack_responses(ALL, with_targets=True, share_prefixes=True)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 10, 11, 10, 21, 22, 3, 30, 22, 1, 9, 9, 30]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 2, 3, 4, 0, 1, 2, 3]]
    assert batch["target_positions"].tolist() == [3, 4, 6, 7, 9, 10, 14]
    tokens = batch["input_ids"][0, batch["target_positions"]]
    assert tokens[batch["target_index"]].tolist() == [10, 11, 10, 21, 22, 30, 22, 30]
    before = batch["input_ids"][0, batch["target_positions"] - 1]
    assert before[batch["target_index"]].tolist() == [3, 10, 3, 10, 21, 3, 30, 9]
    assert batch["target_steps"].tolist() == [0, 1, 2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize("with_targets", [False, True])
@pytest.mark.parametrize("share_prefixes", [False, True])
def test_every_response_sees_and_reads_its_own_tokens(with_targets, share_prefixes):
    generator = random.Random(0)
    for _ in range(50):
        encoded = random_responses(generator)
        batch = pack_responses(encoded, with_targets, share_prefixes)
        tokens = batch["input_ids"][0]
        if "shared" in batch:
            seen = tokens[batch["shared"].index].split(batch["shared"].cu_seqlens.diff().tolist())
            assert [ids.tolist() for ids in seen] == [response.input_ids for response in encoded]
            positions = batch["position_ids"][0, batch["shared"].index].tolist()
            assert positions == [place for response in encoded for place in range(len(response.input_ids))]
        ends = [response.input_ids[end] for response in encoded for end in response.step_ends]
        assert tokens[batch["step_ends"]].tolist() == ends
        if with_targets:
            places = batch["target_positions"]
            places = places[batch["target_index"]] if "shared" in batch else places
            targets = [(r.input_ids[i - 1], r.input_ids[i]) for r in encoded for i in range(r.response_start, len(r.input_ids))]
            assert list(zip(tokens[places - 1].tolist(), tokens[places].tolist(), strict=True)) == targets


def test_a_first_token_has_none_to_be_predicted_from():
    at_once = FIRST._replace(response_start=0)
    assert pack_responses([at_once])["step_ends"].tolist() == [3, 4]
    with pytest.raises(ValueError, match="a response starts at token 0"):
        pack_responses([SECOND, at_once], with_targets=True)


def test_common_lengths():
    generator = random.Random(0)
    for _ in range(300):
        one, other = (generator.choices((1, 2), k=generator.randint(0, 9)) for _ in range(2))
        differ = [a != b for a, b in zip(one, other, strict=False)]
        assert common_length(one, other) == (differ.index(True) if True in differ else len(differ))


def test_how_much_is_shared(monkeypatch):
    assert prefix_length([1, 2, 3, 4], [1, 2, 3, 5], False) == 3
    assert prefix_length([1, 2, 3, 4], [1, 2, 3, 5], True) == 2
    assert prefix_length([1, 2, 3, 4], [1, 2, 3], False) == 2, "one token of its own at least"
    assert prefix_length([1, 2, 3, 4], [1, 2, 3], True) == 2
    assert prefix_length([], [1, 2, 3], True) == prefix_length([2, 2, 3], [1, 2, 3], False) == 0
    monkeypatch.setattr(prm.models.prefixes, "SHORTEST_PREFIX", 4)
    assert prefix_length([1, 2, 3, 4], [1, 2, 3, 5], False) == 0
    assert lay_out([FIRST, SECOND], False, False).documents == [FIRST.input_ids, SECOND.input_ids]


def response(*tokens: int, start: int = 1) -> EncodedResponse:
    return EncodedResponse(list(tokens), sorted({start, len(tokens) - 1}), start)


def random_responses(generator: random.Random) -> list[EncodedResponse]:
    """Of two kinds of tokens, so that they have beginnings of every length in common."""
    lengths = [generator.randint(2, 9) for _ in range(generator.randint(1, 40))]
    return [response(*generator.choices((1, 2), k=length)) for length in lengths]


def test_rows_by_hand():
    # In the order of their tokens 1, 4, 3, 0, 2; computed 6 + 4 + 1 + 5 + 7 tokens.
    encoded = [
        response(2, 2, 2, 2, 2),
        response(1, 1, 1, 1, 1, 1),
        response(3, 3, 3, 3, 3, 3, 3),
        response(1, 1, 1, 2, 2),
        response(1, 1, 1, 2, 1, 1, 1),
    ]
    assert batch_by_prefix(encoded, 23) == [[1, 4, 3, 0, 2]]
    assert batch_by_prefix(encoded, 22) == [[1, 4, 3, 0], [2]]
    assert batch_by_prefix(encoded, 15) == [[1, 4, 3], [0, 2]]
    assert batch_by_prefix(encoded, 10) == [[1, 4], [2], [3, 0]], "3 begins a row: it is computed whole; the longest come first"
    # One token more for each that continues another: 6 + 5 + 2 + 5 = 18.
    assert batch_by_prefix(encoded, 17, with_targets=True) == [[1, 4, 3], [0, 2]]
    assert batch_by_prefix([], 9) == []


def test_rows_hold_every_response_once_within_both_budgets():
    generator = random.Random(0)
    for _ in range(50):
        encoded, budget = random_responses(generator), generator.randint(5, 30)
        for with_targets in (False, True):
            rows = batch_by_prefix(encoded, budget, with_targets)
            assert sorted(index for row in rows for index in row) == list(range(len(encoded)))
            for row in rows:
                documents = lay_out([encoded[index] for index in row], with_targets, True).documents
                assert len(row) == 1 or sum(map(len, documents)) <= budget
                assert len(row) == 1 or sum(len(encoded[index].input_ids) for index in row) <= KEYS_PER_TOKEN * budget
            longest = [max(len(encoded[index].input_ids) for index in row) for row in rows]
            assert longest == sorted(longest, reverse=True)


def test_keys_are_bounded_where_beginnings_are_long():
    # 30 responses with all but a token in common with another: computed they would fit into one row.
    rows = batch_by_prefix([response(*[1] * 100, 2 + i) for i in range(30)], 200)
    assert sorted(map(len, rows)) == [2, 7, 7, 7, 7]
