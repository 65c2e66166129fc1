"""Stored tokens equal those encoded one by one, are found again, and are made anew when anything that they depend on changes."""

from dataclasses import replace

import numpy as np
import pytest

from prm.data import tokens
from prm.data.examples import Example, StoredEncodings, StoredExamples, token_counts, units
from prm.data.tokens import encode_file
from prm.files import write_jsonl
from prm.records import Response
from prm.steps import StepEncoder

RESPONSES = [
    Response(f"q{i % 3}", i, "How many?", ["3 + 4 = 7.", "So 7."][: 1 + i % 2], [True, False, None][i % 3], labels)
    for i, labels in enumerate([None, [1.0, None], [0.25], [-1.0, 1.0], None, [0.5, 0.5], [1.0]])
]


@pytest.fixture
def file(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", RESPONSES)
    return tmp_path / "train.jsonl"


@pytest.fixture
def encoder(tiny_tokenizer):
    return StepEncoder.for_loss("asym", tiny_tokenizer)


def examples_of(encoder: StepEncoder) -> list[Example]:
    return [Example.from_response(r, encoder.encode(r.question, r.steps, "q")) for r in RESPONSES]


@pytest.mark.parametrize("loss", ["asym", "implicit_prm"])
@pytest.mark.parametrize("batch", [2, 512])
def test_stored_examples_equal_those_encoded_one_by_one(file, tiny_tokenizer, monkeypatch, loss, batch):
    monkeypatch.setattr(tokens, "BATCH", batch)
    encoder = StepEncoder.for_loss(loss, tiny_tokenizer)
    stored = StoredExamples(encode_file(file, encoder, file.parent), np.arange(len(RESPONSES)))
    assert list(stored) == examples_of(encoder)
    assert stored.lengths == [example.num_tokens for example in examples_of(encoder)]


def test_rows_can_be_chosen(file, encoder):
    table, expected = encode_file(file, encoder, file.parent), examples_of(encoder)
    stored = StoredExamples(table, np.array([5, 0, 3]))
    assert list(stored) == [expected[5], expected[0], expected[3]]
    assert stored.question_ids == ["q2", "q0", "q0"]
    assert list(StoredEncodings(stored)[1:]) == [expected[0].encoded, expected[3].encoded]
    assert token_counts(table).tolist() == [example.num_tokens for example in expected]
    assert list(StoredExamples(None, np.array([], dtype=np.int64))) == []


@pytest.mark.parametrize("unit", ["response", "question"])
def test_units_of_stored_examples_are_those_of_lists(file, encoder, unit):
    stored = StoredExamples(encode_file(file, encoder, file.parent), np.array([6, 1, 2, 3]))
    from_disk, from_memory = units(stored, unit), units(list(stored), unit)
    assert list(from_disk) == list(from_memory)
    assert from_disk.lengths == [item.num_tokens for item in from_memory]
    assert len(from_disk) == {"response": 4, "question": 3}[unit]
    assert not units(StoredExamples(None, np.array([], dtype=np.int64)), unit)


def test_tokens_are_found_again_and_shared_by_objectives_of_one_layout(file, encoder, monkeypatch):
    encode_file(file, encoder, file.parent)
    assert [path.suffix for path in file.parent.iterdir() if path != file] == [".arrow"]
    monkeypatch.setattr(tokens, "batches", lambda *args: pytest.fail("encoded again"))
    shorter = replace(encoder, loss="step_ce", num_labels=3, activation="softmax", max_length=10)
    assert encode_file(file, shorter, file.parent).num_rows == len(RESPONSES)


def test_everything_that_tokens_depend_on_makes_others(file, encoder, tiny_tokenizer):
    seen = {tokens.fingerprint(file, encoder), tokens.fingerprint(file, StepEncoder.for_loss("implicit_prm", tiny_tokenizer))}
    seen |= {tokens.fingerprint(file, replace(encoder, system_prompt="Think."))}
    tiny_tokenizer.chat_template += " "
    seen |= {tokens.fingerprint(file, encoder)}
    tiny_tokenizer.add_tokens(["seven"])
    seen |= {tokens.fingerprint(file, encoder)}
    write_jsonl(file, RESPONSES[1:])
    assert len({*seen, tokens.fingerprint(file, encoder)}) == 6


def test_what_cannot_be_encoded_leaves_nothing_behind(file, encoder):
    write_jsonl(file, [*RESPONSES, Response("q9", 1, "?", ["a <extra_0> b"])])
    with pytest.raises(ValueError, match="q9 #1: step 0 contains the separator"):
        encode_file(file, encoder, file.parent)
    assert list(file.parent.iterdir()) == [file]
