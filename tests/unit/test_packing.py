"""Packing: every token in its place, no padding, batches within their budget."""

import pytest
import torch

import prm.models.prefixes
from prm.models.packing import batch_by_tokens, pack, pack_responses
from prm.steps import EncodedResponse


def test_two_sequences_by_hand():
    batch = pack([[5, 6, 7], [8, 9]])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["cu_seqlens"].tolist() == [0, 3, 5]
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["max_seqlen"] == 3


def test_steps_and_targets_by_hand():
    # Prompt of 2, steps of 2 and 1 tokens; prompt of 1, one step of 3 tokens.
    encoded = [EncodedResponse([1, 2, 10, 11, 12], [3, 4], 2), EncodedResponse([3, 20, 21, 22], [3], 1)]
    batch = pack_responses(encoded, with_targets=True)
    assert batch["step_counts"].tolist() == [2, 1]
    assert batch["step_ends"].tolist() == [3, 4, 8]
    assert batch["target_positions"].tolist() == [2, 3, 4, 6, 7, 8]
    assert batch["input_ids"][0, batch["target_positions"]].tolist() == [10, 11, 12, 20, 21, 22]
    assert "target_index" not in batch
    assert batch["target_steps"].tolist() == [0, 0, 1, 2, 2, 2]
    assert "target_steps" not in pack_responses(encoded)


def test_the_example_of_the_module(monkeypatch):
    monkeypatch.setattr(prm.models.prefixes, "SHORTEST_PREFIX", 1)
    p, q, a, b, c, d, e = range(10, 17)
    encoded = [EncodedResponse([p, q, a, b, c], [3, 4], 2), EncodedResponse([p, q, a, b, d, e], [3, 5], 2)]
    row = pack_responses(encoded, share_prefixes=True)
    assert row["input_ids"].tolist() == [[p, q, a, b, c, d, e]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 3, 4, 4, 5]]
    assert row["shared"].index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 5, 6]
    assert row["step_ends"].tolist() == [3, 4, 3, 6]
    row = pack_responses(encoded, with_targets=True, share_prefixes=True)
    assert row["input_ids"].tolist() == [[p, q, a, b, c, b, d, e]]
    assert row["target_positions"].tolist() == [2, 3, 4, 6, 7]
    assert row["target_index"].tolist() == [0, 1, 2, 0, 1, 3, 4]
    assert row["target_steps"].tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_batches_are_longest_first_within_the_budget_and_complete():
    lengths = [3, 9, 1, 4, 4, 20]
    batches = batch_by_tokens(lengths, 9)
    assert batches == [[5], [1], [3, 4], [0, 2]]
    assert batch_by_tokens([], 9) == []


def test_nothing_to_pack():
    for sequences in ([], [[1], []]):
        with pytest.raises(ValueError, match="at least one token"):
            pack(sequences)
