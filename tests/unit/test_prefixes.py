"""Shared prompts: who may share what, where everything stands then, and rows within their budgets."""

import random

import pytest

import prm.models.prefixes
from prm.models.packing import batch_by_tokens, pack_responses
from prm.models.prefixes import KEYS_PER_TOKEN, batch_by_prompt, lay_out, sharable
from prm.steps import EncodedResponse

PROMPT = [1, 2, 3]
FIRST = EncodedResponse([*PROMPT, 10, 11], [3, 4], 3)
SECOND = EncodedResponse([*PROMPT, 20, 21, 22], [5], 3)
OTHER = EncodedResponse([1, 2, 9, 30], [3], 3)


@pytest.fixture(autouse=True)
def short_prompts(monkeypatch):
    monkeypatch.setattr(prm.models.prefixes, "SHORTEST_PROMPT", 2)


def test_neighbors_with_one_prompt_by_hand():
    batch = pack_responses([FIRST, SECOND, OTHER], share_prompts=True)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 10, 11, 20, 21, 22, 1, 2, 9, 30]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 3]]
    assert batch["cu_seqlens"].tolist() == [0, 3, 5, 8, 12]
    assert batch["max_seqlen"] == 4
    assert batch["step_ends"].tolist() == [3, 4, 7, 11]
    assert batch["step_counts"].tolist() == [2, 1, 1]


def test_log_probs_need_the_token_before_the_response():
    batch = pack_responses([FIRST, SECOND], with_targets=True, share_prompts=True)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 10, 11, 3, 20, 21, 22]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4, 5]]
    assert batch["input_ids"][0, batch["target_positions"]].tolist() == [10, 11, 20, 21, 22]
    assert batch["input_ids"][0, batch["target_positions"] - 1].tolist() == [3, 10, 3, 20, 21]
    assert batch["target_steps"].tolist() == [0, 1, 2, 2, 2]


def test_nothing_that_is_read_is_shared():
    assert sharable(FIRST, False) == [1, 2, 3]
    assert sharable(FIRST, True) == [1, 2]
    assert sharable(FIRST._replace(step_ends=[1, 4]), False) == [1]
    assert sharable(FIRST._replace(response_start=0), True) == []


def test_alone_apart_or_short_shares_nothing(monkeypatch):
    whole = [response.input_ids for response in (FIRST, OTHER, SECOND)]
    assert lay_out([FIRST, OTHER, SECOND], False, True).documents == whole
    assert lay_out([FIRST, SECOND], False, False).documents == [FIRST.input_ids, SECOND.input_ids]
    monkeypatch.setattr(prm.models.prefixes, "SHORTEST_PROMPT", 4)
    assert lay_out([FIRST, SECOND], False, True).documents == [FIRST.input_ids, SECOND.input_ids]


def response(prompt: int, prompt_length: int, length: int) -> EncodedResponse:
    return EncodedResponse([prompt] * prompt_length + [0] * (length - prompt_length), [length - 1], prompt_length)


def test_rows_by_hand():
    # Three of prompt 1 (computed 4 + 6, then 4 and 2 more), two of prompt 2.
    encoded = [response(2, 3, 6), response(1, 4, 6), response(1, 4, 10), response(2, 3, 5), response(1, 4, 8)]
    assert batch_by_prompt(encoded, 16) == [[2, 4, 1], [0, 3]]
    assert batch_by_prompt(encoded, 15) == [[2, 4], [1, 0, 3]]
    assert batch_by_prompt(encoded, 13) == [[2], [4, 1], [0, 3]]
    assert batch_by_prompt([], 9) == []


def test_rows_hold_every_response_once_within_both_budgets():
    generator = random.Random(0)
    for _ in range(50):
        prompts = [(prompt, generator.randint(0, 8)) for prompt in range(generator.randint(1, 5))]
        chosen = generator.choices(prompts, k=generator.randint(1, 40))
        encoded = [response(prompt, length, length + generator.randint(1, 20)) for prompt, length in chosen]
        budget = generator.randint(5, 60)
        rows = batch_by_prompt(encoded, budget)
        assert sorted(index for row in rows for index in row) == list(range(len(encoded)))
        for row in rows:
            documents = lay_out([encoded[index] for index in row], False, True).documents
            assert len(row) == 1 or sum(map(len, documents)) <= budget
            assert len(row) == 1 or sum(len(encoded[index].input_ids) for index in row) <= KEYS_PER_TOKEN * budget


def test_keys_are_bounded_where_prompts_are_long():
    # 30 responses of one token each to a prompt of 100: computed they would fit into one row.
    rows = batch_by_prompt([response(1, 100, 101 + i % 2) for i in range(30)], 200)
    assert [len(row) for row in rows] == [7, 7, 7, 7, 2]


def test_without_equal_prompts_rows_are_those_of_the_lengths():
    encoded = [response(prompt, 3, length) for prompt, length in enumerate([4, 9, 5, 7, 4, 20])]
    assert batch_by_prompt(encoded, 9) == batch_by_tokens([len(r.input_ids) for r in encoded], 9)
