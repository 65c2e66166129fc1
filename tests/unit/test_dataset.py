"""What training reads of a dataset folder: pairs of steps to compare, the hash of its responses, and where tokens go."""

from types import SimpleNamespace

import pytest

from prm.data import tokens
from prm.files import write_jsonl
from prm.records import Response
from prm.steps import StepEncoder
from prm.training import dataset
from prm.training.arguments import TrainingConfig
from prm.training.dataset import encode, has_counterfactual_pair, hash_splits, load_dataset

GOOD = Response("q", 0, "How many?", ["a", "b"], True, [1.0, 1.0])
BAD = Response("q", 1, "How many?", ["a", "c"], False, [1.0, -1.0])


@pytest.mark.parametrize(
    ("labels", "question", "steps", "found"),
    [
        ([1.0, -1.0], "How many?", ["a", "c"], True),
        ([None, -1.0], "How many?", ["a", "c"], True),
        ([-1.0, -1.0], "How many?", ["z", "c"], True),
        ([1.0, 1.0], "How many?", ["a", "c"], False),
        ([1.0, -1.0], "Which?", ["a", "c"], False),
        ([1.0, -1.0], "How many?", ["z", "c"], False),
        ([1.0, None], "How many?", ["a", "c"], False),
        (None, "How many?", ["a", "c"], False),
    ],
)
def test_counterfactual_pairs_stand_behind_the_same_steps(labels, question, steps, found):
    other = Response("q", 1, question, steps, False, labels)
    assert has_counterfactual_pair([GOOD, other], "good") is found
    assert has_counterfactual_pair([other, GOOD], "good") is found


def test_neutral_steps_count_as_told():
    neutral = Response("q", 1, "How many?", ["a", "c"], False, [1.0, 0.0])
    assert [has_counterfactual_pair([GOOD, neutral], policy) for policy in ("good", "bad", "ignored")] == [False, True, False]


@pytest.fixture
def folder(tmp_path):
    write_jsonl(tmp_path / "data" / "train.jsonl", [GOOD, BAD])
    return tmp_path / "data"


def test_the_hash_is_that_of_the_responses_alone(folder):
    before = hash_splits(folder)
    (folder / "README.md").write_text("x")
    (folder / ".tokens-train-1.arrow").write_text("x")
    assert hash_splits(folder) == before
    write_jsonl(folder / "validation.jsonl", [BAD])
    assert hash_splits(folder) != before


def test_tokens_go_to_the_output_where_the_dataset_is_read_only(folder, tmp_path, tiny_tokenizer, monkeypatch):
    config = TrainingConfig(output_dir=str(tmp_path / "out"), dataset=str(folder), use_cpu=True)
    data, encoder = load_dataset(config), StepEncoder.for_loss("asym", tiny_tokenizer)
    monkeypatch.setattr(dataset, "os", SimpleNamespace(access=lambda *args: False, W_OK=2))
    examples = encode(data, "train", encoder, config)
    assert [example.key for example in examples] == [GOOD.key, BAD.key]
    assert [path.name for path in folder.iterdir()] == ["train.jsonl"]
    assert len(list((tmp_path / "out" / "tokens").glob(".tokens-train-*.arrow"))) == 1
    assert [data.counts[f"train_{name}"] for name in ("responses", "unlabelled", "too_long", "used")] == [2, 0, 0, 2]


def test_unlabelled_responses_keep_their_rows_apart(folder, tiny_tokenizer, monkeypatch):
    """The table holds all responses; those that the objective cannot learn from are not among the examples."""
    write_jsonl(folder / "train.jsonl", [Response("q", 9, "?", ["a"]), GOOD, Response("q", 8, "?", ["a"]), BAD])
    config = TrainingConfig(output_dir=str(folder / "out"), dataset=str(folder), use_cpu=True)
    data = load_dataset(config)
    assert list(data.labelled["train"]) == [1, 3]
    encoder = StepEncoder.for_loss("asym", tiny_tokenizer)
    assert [example.key for example in encode(data, "train", encoder, config)] == [GOOD.key, BAD.key]
    assert not encode(data, "validation", encoder, config)
    monkeypatch.setattr(tokens, "batches", lambda *args: pytest.fail("encoded again"))
    encode(data, "train", encoder, config)
