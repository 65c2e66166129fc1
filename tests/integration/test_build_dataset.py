"""build_dataset.py end to end: what it writes loads as a dataset, survives kill -9, lacks real overlaps; memory is bounded."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import build_dataset
import datasets
import pytest

from prm.benchmarks.data.memory import peak_bytes, script, synthetic_rollouts
from prm.data.buckets import Buckets, by_question, merge
from prm.data.decontaminate import EvaluationIndex, question_texts
from prm.files import read_records, read_rows, write_jsonl
from prm.records import Response, Rollout


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def graded_rollouts(num_rollouts: int) -> Iterator[Rollout]:
    """32 samples to a question in their order, every second one right."""
    for rollout in synthetic_rollouts(num_rollouts):
        correct = rollout.sample_index % 2 == 0
        yield replace(rollout, correct=correct, grade="correct" if correct else "wrong")


@pytest.fixture
def graded(tmp_path) -> Path:
    write_jsonl(tmp_path / "graded.jsonl", graded_rollouts(320))
    return tmp_path / "graded.jsonl"


def flags_of(graded: Path, output: Path) -> list[str]:
    return ["--rollouts", str(graded), "--output", str(output), "--validation_fraction", "0.1"]


def test_folder_loads_as_a_dataset_with_two_splits(graded, tmp_path, capsys, tiny_backbone):
    """The first rows lack step labels and their source, which later rows have."""
    rows = list(read_rows(graded))
    labels = [{"step_labels": [0.5] * 7, "label_source": "judge", "completions": [[1, 2]] * 7} for _ in range(100)]
    steps = [{"steps": row["response"].split("\n\n"), "question": "?"} for row, _ in rows[-100:]]
    keys = [{name: row[name] for name in ("question_id", "sample_index")} for row, _ in rows[-100:]]
    write_jsonl(tmp_path / "labels.jsonl", [a | b | c for a, b, c in zip(labels, steps, keys, strict=True)])
    options = ["--step_labels", str(tmp_path / "labels.jsonl"), "--tokenizer", str(tiny_backbone)]
    build_dataset.main([*flags_of(graded, tmp_path / "dataset"), *options])
    loaded = datasets.load_dataset(str(tmp_path / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 288, "validation": 32}
    for split in ("train", "validation"):
        assert [Response(**row) for row in loaded[split]] == list(read_records(tmp_path / "dataset" / f"{split}.jsonl", Response))
    assert loaded["train"].features["step_labels"] == datasets.List(datasets.Value("float64"))
    assert (tmp_path / "dataset" / "report" / "statistics.png").stat().st_size > 10_000
    table = capsys.readouterr().out
    assert "validation" in table
    assert "tokens, median" in table
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "| responses | 320 | 288 | 32 |" in card


def test_a_split_without_validation_loads(graded, tmp_path):
    build_dataset.main([*flags_of(graded, tmp_path / "dataset"), "--validation_fraction", "0"])
    loaded = datasets.load_dataset(str(tmp_path / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 320}


def test_training_finds_tokens_that_were_made_ahead(graded, tmp_path, tiny_backbone, train, monkeypatch):
    build_dataset.main([*flags_of(graded, tmp_path / "ahead"), "--tokenize", str(tiny_backbone), "--loss", "orm"])
    build_dataset.main(flags_of(graded, tmp_path / "later"))
    tokens = sorted(path.name for path in (tmp_path / "ahead").glob(".tokens-*"))
    assert [name.split("-")[1] for name in tokens] == ["train", "validation"]
    assert datasets.load_dataset(str(tmp_path / "ahead"), cache_dir=str(tmp_path / "cache"))["train"].num_rows == 288
    steps = ["--max_steps", "2"]
    later = train("--dataset", str(tmp_path / "later"), *steps, name="later-model")
    assert sorted(path.name for path in (tmp_path / "later").glob(".tokens-*")) == tokens
    monkeypatch.setattr("prm.data.tokens.batches", lambda *args: pytest.fail("encoded again"))
    ahead = train("--dataset", str(tmp_path / "ahead"), *steps, name="ahead-model")
    assert (ahead / "model.safetensors").read_bytes() == (later / "model.safetensors").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
import prm.data.build, prm.data.buckets, build_dataset
def kill(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
prm.data.buckets.BUCKET_BYTES = 20_000
if sys.argv[1] == "partition":
    prm.data.buckets.Buckets.responses = kill
if sys.argv[1] == "split":
    prm.data.build.write_card = kill
if sys.argv[1] == "rename":
    rename, done = Path.rename, []
    Path.rename = lambda *args: kill() if done else done.append(rename(*args))
build_dataset.main(sys.argv[2:])
"""


@pytest.mark.parametrize("point", ["partition", "split", "rename"])
def test_kill_and_rerun_give_the_same_bytes(graded, tmp_path, monkeypatch, point):
    """`rename` kills between taking the older dataset away and putting the new one in its place."""
    build_dataset.main(flags_of(graded, tmp_path / "dataset"))
    before = files_of(tmp_path / "dataset")
    environment = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", KILLED, point, *flags_of(graded, tmp_path / "dataset"), "--max_pass_rate", "0.9"]
    killed = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    if point == "rename":
        assert not (tmp_path / "dataset").exists()
    with pytest.raises(ValueError, match="pass_rate_too_high"):  # a build that fails leaves the older dataset
        build_dataset.main([*flags_of(graded, tmp_path / "dataset"), "--max_pass_rate", "0.3"])
    assert files_of(tmp_path / "dataset") == before
    monkeypatch.setattr("prm.data.buckets.BUCKET_BYTES", 30_000)  # more buckets than before
    build_dataset.main(flags_of(graded, tmp_path / "dataset"))
    assert files_of(tmp_path / "dataset") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "graded.jsonl"]


def test_more_files_than_may_be_open_are_merged_in_turns(tmp_path, monkeypatch):
    monkeypatch.setattr("prm.data.buckets.MAX_OPEN", 3)
    responses = [Response(f"q{i}", j, "?", ["s"]) for j in range(2) for i in range(40)]
    buckets = Buckets(tmp_path / "buckets", 17)
    assert buckets.fill(responses) == 80
    held = [list(by_question(buckets.responses(index))) for index in range(17)]
    assert sum(map(len, held)) == 40
    files = [tmp_path / f"{index}.jsonl" for index in range(17)]
    for index, file in enumerate(files):
        write_jsonl(file, buckets.responses(index))
    assert list(merge(files)) == sorted(responses, key=lambda response: response.key)


def test_memory_does_not_grow_with_the_number_of_rollouts(tmp_path):
    """benchmark_data.py compares 10,000 with 200,000; here samples of a question lie far apart, and more stages run."""
    peaks = []
    for count in (2_000, 20_000):
        write_jsonl(tmp_path / f"{count}.jsonl", sorted(graded_rollouts(count), key=lambda rollout: rollout.sample_index))
        options = {"rollouts": tmp_path / f"{count}.jsonl", "output": tmp_path / "dataset", "near_duplicates": 0.8, "balance": True}
        peaks.append(peak_bytes(script("build_dataset", **options)))
    assert peaks[1] < 1.2 * peaks[0]


OVERLAPS_WITH_MATH500 = {
    "processbench/math.json": (50, {"question": 10, "13-gram": 2}),
    "prmbench/prmtest_classified_raw_sample.jsonl": (45, {"question": 45}),
    "prmbench/prmbench_meta_30idx.jsonl": (276, {"question": 82, "13-gram": 12}),
    "bon/bon16_math500_50.jsonl": (50, {"question": 50}),
    "processbench/gsm8k.json": (50, {}),
    "gsm8k_test.jsonl": (1319, {}),
}


@pytest.mark.parametrize("file", OVERLAPS_WITH_MATH500)
def test_real_overlaps_with_math500_are_found(real_data, file):
    """Among them every question with the same letters and digits."""
    index = EvaluationIndex.from_files([real_data / "math500.jsonl"])
    plain = {letters(row["problem"]) for row, _ in read_rows(real_data / "math500.jsonl")}
    found: dict[str, int] = {}
    rows = [question_texts(row, place) for row, place in read_rows(real_data / file)]
    for texts in rows:
        matches = {overlap.match for text in texts for overlap in index.find("q", text)}
        if matches:
            first = "question" if "question" in matches else next(iter(matches))
            found[first] = found.get(first, 0) + 1
        assert matches or not any(letters(text) in plain for text in texts), texts
    assert (len(rows), found) == OVERLAPS_WITH_MATH500[file]


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.replace("\\left", "").replace("\\right", ""))).lower()


def test_overlaps_of_a_real_pool_are_reported(real_data, tmp_path):
    """The pool asks GSM8K's test questions, and none of MATH-500's."""
    flags = ["--responses", str(real_data / "bon" / "bon16_gsm8k_50.jsonl"), "--output", str(tmp_path / "dataset")]
    evaluation = [str(real_data / name) for name in ("math500.jsonl", "gsm8k_test.jsonl")]
    with pytest.raises(ValueError, match=r"no response is left to train on .*overlaps_evaluation"):
        build_dataset.main([*flags, "--decontaminate", *evaluation])
    build_dataset.main([*flags, "--decontaminate", evaluation[0]])
    manifest = json.loads((tmp_path / "dataset" / "manifest.json").read_text())
    assert manifest["counts"]["overlaps"] == {evaluation[0]: {}}
    assert (tmp_path / "dataset" / "report" / "decontamination.jsonl").read_text() == ""


def test_what_an_importer_leaves_out_is_counted(real_data, tmp_path):
    flags = ["--responses", str(real_data / "prmbench" / "prmbench_meta_30idx.jsonl"), "--output", str(tmp_path / "dataset")]
    build_dataset.main(flags)
    counts = json.loads((tmp_path / "dataset" / "manifest.json").read_text())["counts"]
    assert counts["left_out_of_rows"]["error_step_out_of_range"] > 0
