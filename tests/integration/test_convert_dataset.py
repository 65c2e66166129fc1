"""convert_dataset.py end to end: published step labels become responses, a training set, and stepwise supervision."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import convert_dataset
import datasets
import pytest

from prm.data.sources import load_responses
from prm.files import write_jsonl

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_dataset.py"


@pytest.fixture
def convert(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_dataset, "setup_logging", lambda: None)  # it would take pytest's log handler away

    def run(source: Path, name: str, *flags: str) -> dict:
        convert_dataset.main(["--input", str(source), "--output", str(tmp_path / name), *flags])
        return json.loads((tmp_path / name).with_suffix(".manifest.json").read_text())["counts"]

    return run


def test_prm800k_is_imported_and_trained_on(real_data, tmp_path, convert, train):
    source = real_data / "prm800k" / "phase1_train_120records.jsonl"
    # 6,435 completions, of which 353 have no rating.
    assert convert(source, "responses.jsonl") == {"written": 6082, "dropped": {"unrated": 353}}
    responses = load_responses(tmp_path / "responses.jsonl")
    assert Counter(r.step_labels[-1] for r in responses) == {1: 2234, 0: 1267, -1: 2581}
    short = [response for response in responses if sum(map(len, response.steps)) < 300]
    assert any(None in response.step_labels for response in short[:200])
    write_jsonl(tmp_path / "prm800k" / "train.jsonl", short[:200])
    for loss in ("step_ce", "margin_ranking"):
        output_dir = train("--loss", loss, "--dataset", str(tmp_path / "prm800k"), "--max_steps", "2", name=loss)
        counts = json.loads((output_dir / "manifest.json").read_text())["counts"]
        assert counts["train_responses"] == counts["train_used"] == 200
        assert (output_dir / "prm_config.json").exists()


def test_math_shepherd_is_imported_and_trained_on(real_data, tmp_path, convert, train):
    source = real_data / "math_shepherd" / "samples.jsonl"
    (tmp_path / "shepherd").mkdir()
    assert convert(source, "shepherd/train.jsonl") == {"written": 7, "dropped": {}}
    flags = ["--loss", "step_ce", "--num_labels", "2", "--max_steps", "2"]
    output_dir = train(*flags, "--dataset", str(tmp_path / "shepherd"))
    assert json.loads((output_dir / "manifest.json").read_text())["counts"]["train_used"] == 7


def test_stepwise_supervision_loads_elsewhere(real_data, tmp_path, convert):
    source = real_data / "prm800k" / "raw_records_6.jsonl"
    counts = convert(source, "stepwise.jsonl", "--format", "stepwise", "--neutral", "good", "--labels", "last")
    data = datasets.load_dataset("json", data_files=str(tmp_path / "stepwise.jsonl"), split="train", streaming=True)
    rows = list(data)
    assert len(rows) == counts["written"] == 73
    assert sum(row["labels"][-1] for row in rows) == 58
    assert all(label is None for row in rows for label in row["labels"][:-1])
    assert all(row.keys() == {"prompt", "completions", "labels"} for row in rows)


def test_three_kills_change_no_byte(real_data, tmp_path):
    source = real_data / "prm800k" / "phase1_train_120records.jsonl"
    command = [sys.executable, SCRIPT, "--input", source, "--shard_size", "250", "--output"]
    for num_shards in (1, 9, 17):
        process = subprocess.Popen([*command, tmp_path / "killed"], stderr=subprocess.DEVNULL)
        while len(list(tmp_path.glob("killed/*.jsonl"))) < num_shards:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list(tmp_path.glob("killed/*.jsonl"))) < 25
    for name in ("killed", "whole"):
        subprocess.run([*command, tmp_path / name], check=True, capture_output=True)
    shards = {name: {f.name: f.read_bytes() for f in tmp_path.glob(f"{name}/*.jsonl")} for name in ("killed", "whole")}
    assert shards["killed"] == shards["whole"]
    assert len(shards["whole"]) == 25
