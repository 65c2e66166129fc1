"""Checkpoints: complete or absent, the newest whole one is found, a damaged one never."""

import json
import shutil
from pathlib import Path

import pytest

from prm.training import checkpoints
from prm.training.checkpoints import clear, newest_complete, publish, verify

RUN = {"loss": "asym", "seed": 0, "dataset_hash": "abc", "zero_stage": 0, "world_size": 2}


def save(output_dir: Path, step: int, weights: str = "weights") -> Path:
    partial = output_dir / checkpoints.PARTIAL / f"checkpoint-{step}"
    (partial / "global_step").mkdir(parents=True)
    (partial / "model.safetensors").write_text(weights)
    (partial / "global_step" / "optimizer.pt").write_text(f"optimizer {step}")
    publish(partial, output_dir / f"checkpoint-{step}", RUN)
    return output_dir / f"checkpoint-{step}"


def test_published_checkpoint_is_whole_and_names_its_run(tmp_path):
    checkpoint = save(tmp_path, 10)
    assert verify(checkpoint) == RUN
    assert sorted(json.loads((checkpoint / checkpoints.MANIFEST).read_text())["files"]) == [
        "global_step/optimizer.pt",
        "model.safetensors",
    ]


def test_publish_replaces_what_was_there(tmp_path):
    save(tmp_path, 10, "old")
    assert (save(tmp_path, 10, "new") / "model.safetensors").read_text() == "new"
    assert [p.name for p in (tmp_path / checkpoints.PARTIAL).iterdir()] == []


def test_newest_is_by_number_not_by_name(tmp_path):
    for step in (2, 10, 9):
        save(tmp_path, step)
    (tmp_path / "checkpoint-final").mkdir()
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-10"
    assert newest_complete(tmp_path / "nothing") is None


def flip_a_bit(checkpoint: Path) -> None:
    data = bytearray((checkpoint / "model.safetensors").read_bytes())
    data[3] ^= 1
    (checkpoint / "model.safetensors").write_bytes(data)


DAMAGE = {
    "flipped bit": flip_a_bit,
    "missing file": lambda c: (c / "global_step" / "optimizer.pt").unlink(),
    "truncated file": lambda c: (c / "model.safetensors").write_text("wei"),
    "missing manifest": lambda c: (c / checkpoints.MANIFEST).unlink(),
    "truncated manifest": lambda c: (c / checkpoints.MANIFEST).write_text('{"run": {'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, caplog, damage):
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    DAMAGE[damage](newer)
    assert newest_complete(tmp_path) == older
    assert "skipping a checkpoint" in caplog.text
    assert "checkpoint-20" in caplog.text
    with pytest.raises(ValueError, match="checkpoint-20"):
        verify(newer)


def test_unpublished_checkpoint_is_absent(tmp_path):
    save(tmp_path, 10)
    partial = tmp_path / checkpoints.PARTIAL / "checkpoint-20"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_text("half")
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-10"


def test_checkpoint_without_optimizer_state_is_nothing_to_resume_from(tmp_path, caplog):
    older, newer = save(tmp_path, 10), save(tmp_path, 20)
    shutil.rmtree(newer / "global_step")
    (newer / checkpoints.MANIFEST).unlink()
    publish(newer, tmp_path / "checkpoint-30", RUN)
    assert newest_complete(tmp_path) == older
    assert "checkpoint-30: it holds no optimizer state; give it as --model_name_or_path" in caplog.text


def test_clear_deletes_the_run_and_nothing_else(tmp_path):
    save(tmp_path, 10)
    for name in (checkpoints.FINISHED, "notes.txt"):
        (tmp_path / name).write_text("{}")
    clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
