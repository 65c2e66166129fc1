"""Sources of the hub, with `datasets` streaming a local folder in its place: names, splits, revisions, columns, refusals."""

import json

import datasets
import httpx2
import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from prm.data import hub
from prm.data.hub import PRESETS, HubDataset, hash_source, hash_sources, parse_source, read_source
from prm.data.sources import iter_questions, iter_responses, load_question_texts, load_questions
from prm.files import read_rows
from prm.tracking import hash_path

GSM8K = [{"question": "1+1?", "answer": "It is\n#### 2"}, {"question": "2+2?", "answer": "#### 4"}]
THOUGHTS = [
    {"problem": "1+1?", "ground_truth_solution": "So $\\boxed{2}$.", "deepseek_solution": "", "domain": "math"},
    {"problem": "Sort a list.", "ground_truth_solution": None, "deepseek_solution": "", "domain": "code"},
]
load_dataset = datasets.load_dataset


@pytest.fixture
def the_hub(tmp_path, monkeypatch):
    """Files {name/split.jsonl: rows} stand for the hub; returns the calls of load_dataset."""
    monkeypatch.chdir(tmp_path)
    hub.commit_of.cache_clear()
    calls = []

    def put(**rows_of_split):
        for split, rows in rows_of_split.items():
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = {split: str(tmp_path / f"{split}.jsonl") for split in rows_of_split}

        def load(dataset, config, *, split, revision, streaming):
            calls.append((dataset, config, split, revision))
            return load_dataset("json", data_files=files, split=split, streaming=streaming)

        def info(dataset, revision=None):
            return huggingface_hub.DatasetInfo(id=dataset, sha=f"commit-of-{revision or 'main'}", private=False, disabled=False)

        monkeypatch.setattr(datasets, "load_dataset", load)
        monkeypatch.setattr(huggingface_hub, "dataset_info", info)
        return calls

    yield put
    hub.commit_of.cache_clear()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("gsm8k", HubDataset("openai/gsm8k", "main", "train")),
        ("gsm8k:test", HubDataset("openai/gsm8k", "main", "test")),
        ("gsm8k@v1:test", HubDataset("openai/gsm8k", "main", "test", "v1")),
        ("hub:a/b", HubDataset("a/b")),
        ("hub:a/b:test", HubDataset("a/b", None, "test")),
        ("hub:a/b-c.d@v1:main:test", HubDataset("a/b-c.d", "main", "test", "v1")),
        ("hub:a/b@refs/pr/1", HubDataset("a/b", revision="refs/pr/1")),
    ],
)
def test_names(source, expected):
    assert parse_source(source) == expected


def test_every_preset_names_a_dataset_and_its_splits():
    for name, preset in PRESETS.items():
        assert parse_source(name) == HubDataset(preset.dataset, preset.config, preset.splits[0], None, preset.columns or {})
        for split in preset.splits:
            assert parse_source(f"{name}:{split}").split == split


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("gms8k", FileNotFoundError, r"gms8k: no such file or folder, and no preset: presets are gsm8k, .*hub:OWNER/NAME"),
        ("data/questions.jsonl", FileNotFoundError, r"data/questions\.jsonl: no such file$"),
        ("hub:gsm8k", FileNotFoundError, "hub:OWNER/NAME"),
        ("gsm8k:valid", ValueError, "gsm8k:valid: openai/gsm8k has no split 'valid'; its splits are train, test"),
    ],
)
def test_names_that_are_none(source, error, message):
    with pytest.raises(error, match=message):
        parse_source(source)


def test_a_path_wins_over_a_preset(the_hub, tmp_path):
    calls = the_hub(test=GSM8K)
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"question": "3+3?", "answer": "6"}))
    assert parse_source("gsm8k") is None
    assert [question.question for question in load_questions("gsm8k")] == ["3+3?"]
    assert hash_source("gsm8k") == hash_path(folder)
    assert calls == []


def test_questions_stream_at_the_commit_that_the_hash_names(the_hub):
    calls = the_hub(train=GSM8K * 500, test=GSM8K)
    stream = iter_questions("gsm8k:test")
    first = next(stream)
    assert (first.id, first.question, first.answer, first.source) == ("gsm8k-main-test-0", "1+1?", "2", "gsm8k-main-test")
    assert next(stream).id == "gsm8k-main-test-1"
    assert calls == [("openai/gsm8k", "main", "test", "commit-of-main")]
    assert hash_sources(["gsm8k:test"]) == {"gsm8k:test": "hub:openai/gsm8k:main:test@commit-of-main"}
    assert hash_source("gsm8k@v1") == "hub:openai/gsm8k:main:train@commit-of-v1"
    assert load_question_texts("gsm8k:test") == ["1+1?", "2+2?"]


def test_columns_of_a_preset_get_the_names_that_shapes_know(the_hub):
    the_hub(train=THOUGHTS)
    stream = iter_questions("openthoughts")
    assert next(stream).answer == "2"
    with pytest.raises(ValueError, match=r"OpenThoughts-114k:metadata:train\[1\]: no reference answer.*skip_unreadable"):
        next(stream)


def test_the_only_split_needs_no_name(the_hub):
    the_hub(validation=[{"prompt": "1+1?", "completions": ["2"], "labels": [True]}])
    (response,) = iter_responses("hub:owner/name")
    assert response.question_id.startswith("name-")
    assert response.step_labels == [1.0]


def test_nul_bytes_are_cleaned(the_hub):
    the_hub(test=[{"question": "a\x00b", "answer": "1"}])
    assert next(read_source("hub:a/b"))[0]["question"] == "a\ufffdb"


def test_one_of_several_splits_must_be_named(the_hub):
    the_hub(a=GSM8K, b=GSM8K)
    with pytest.raises(ValueError, match="hub:owner/name: has the splits a, b; name one, hub:owner/name:a"):
        next(read_source("hub:owner/name"))
    with pytest.raises(ValueError, match=r"hub:owner/name:c: .*c.*Give hub:owner/name:CONFIG:SPLIT"):
        next(read_source("hub:owner/name:c"))


def test_a_dataset_that_is_a_script_is_refused(the_hub, monkeypatch):
    the_hub(train=GSM8K)

    def refuse(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found name.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"found name\.py\. Give hub:.*or a file downloaded from it"):
        next(read_source("hub:owner/name"))


def test_a_dataset_that_the_hub_does_not_have(the_hub, monkeypatch):
    the_hub(train=GSM8K)
    response = httpx2.Response(404, request=httpx2.Request("GET", "https://hub"))

    def missing(*args, **kwargs):
        raise RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(huggingface_hub, "dataset_info", missing)
    with pytest.raises(FileNotFoundError, match="hub:owner/name@v1: the hub has no such dataset or revision, or it is not open"):
        next(read_source("hub:owner/name@v1"))


@pytest.mark.parametrize(
    "error", [huggingface_hub.errors.HTTPError("refused"), huggingface_hub.errors.OfflineModeIsEnabled("offline")]
)
def test_without_network_the_remedy_is_a_download(the_hub, monkeypatch, error):
    the_hub(train=GSM8K)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "dataset_info", fail)
    with pytest.raises(ConnectionError, match="hf download owner/name --repo-type dataset"):
        next(read_source("hub:owner/name"))


@pytest.mark.parametrize(
    ("preset", "file"),
    [
        ("prm800k_phase1", "prm800k/raw_records_6.jsonl"),
        ("math_shepherd", "math_shepherd/samples.jsonl"),
        ("prmbench", "prmbench/prmtest_classified_raw_sample.jsonl"),
        ("processbench", "processbench/math.json"),
    ],
)
def test_published_step_labels_read_from_the_hub_as_from_a_file(the_hub, real_data, preset, file):
    rows = [row for row, _ in read_rows(real_data / file)]
    the_hub(**{PRESETS[preset].splits[0]: rows})

    def contents(source):
        return [(r.sample_index, r.question, r.steps, r.step_labels, r.correct) for r in iter_responses(source)]

    assert contents(preset) == contents(real_data / file)
    assert len(contents(preset)) >= len(rows)
