"""Checkpoints that are complete or absent: a folder written aside in, `checkpoint-N` with a manifest of hashes out.

A checkpoint is written under `.partial`, every file is hashed into `checkpoint_manifest.json`, and a rename publishes it. Only a
checkpoint whose files still have their hashes is ever loaded.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from prm.files import write_json
from prm.models.adapt import TRAINABLE
from prm.steps import CONFIG_NAME
from prm.tracking import hash_path

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint_manifest.json"
PARTIAL = ".partial"
PREFIX = "checkpoint-"
FINISHED = "training_complete.json"
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")


@contextmanager
def as_saved(model: nn.Module) -> Iterator[None]:
    """The model with the forward of its class inside, and not the one under autocast that accelerate hung before it to train."""
    wrapped = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped


def publish(partial: Path, target: Path, run: dict[str, Any]) -> None:
    """Hash every file of `partial` into its manifest, sync, and rename it to `target`, replacing what was there."""
    files = sorted(str(f.relative_to(partial)) for f in partial.rglob("*") if f.is_file() and f.name != MANIFEST)
    write_json(partial / MANIFEST, {"run": run, "files": _hashes(partial, files)})
    for file in files:
        _sync(partial / file)
    if target.exists():
        discarded = partial.parent / f"{target.name}.discarded"
        shutil.rmtree(discarded, ignore_errors=True)
        os.rename(target, discarded)
        shutil.rmtree(discarded)
    os.rename(partial, target)
    _sync(target.parent)


def verify(checkpoint: Path) -> dict[str, Any]:
    """The run that wrote a checkpoint, after its files were compared with their hashes. Raises ValueError if it is damaged."""
    manifest = read_manifest(checkpoint)
    missing = [name for name in manifest["files"] if not (checkpoint / name).is_file()]
    if missing:
        raise ValueError(f"{checkpoint}: {missing[0]} is missing")
    for name, digest in _hashes(checkpoint, list(manifest["files"])).items():
        if digest != manifest["files"][name]:
            raise ValueError(f"{checkpoint}: {name} is not the file that was saved (its hash differs)")
    return manifest["run"]


def newest_complete(output_dir: str | Path) -> Path | None:
    """The newest checkpoint to resume from; damaged ones and those without the optimizer's state are skipped with a warning."""
    for checkpoint in _newest_first(Path(output_dir)):
        try:
            verify(checkpoint)
            check_optimizer_state(checkpoint)
        except ValueError as damage:
            logger.warning("skipping a checkpoint: %s", damage)
            continue
        return checkpoint
    return None


def check_optimizer_state(checkpoint: Path) -> None:
    """Raise ValueError for a checkpoint that `--save_only_model True` wrote: it is a model, and nothing to resume from."""
    if not (checkpoint / "optimizer.pt").exists() and not any(checkpoint.glob("global_step*")):
        raise ValueError(f"{checkpoint}: it holds no optimizer state; give it as --model_name_or_path to train on from its weights")


def copy_model(checkpoint: Path, target: Path) -> None:
    """Copy what makes a checkpoint a model, without the state of its run."""
    target.mkdir(parents=True, exist_ok=True)
    for file in (f for f in checkpoint.iterdir() if f.is_file()):
        if file.suffix in MODEL_SUFFIXES and file.name not in (MANIFEST, TRAINABLE, "trainer_state.json"):
            shutil.copy2(file, target / file.name)


def clear(output_dir: str | Path) -> None:
    """Delete the checkpoints of an earlier run, and what makes its folder a finished model; nothing else."""
    output_dir = Path(output_dir)
    for name in (FINISHED, CONFIG_NAME, "metrics.jsonl"):
        (output_dir / name).unlink(missing_ok=True)
    for folder in [*_newest_first(output_dir), output_dir / PARTIAL]:
        shutil.rmtree(folder, ignore_errors=True)


def _newest_first(output_dir: Path) -> Iterator[Path]:
    folders = [f for f in output_dir.glob(f"{PREFIX}*") if f.is_dir() and f.name.removeprefix(PREFIX).isdigit()]
    return iter(sorted(folders, key=lambda folder: -int(folder.name.removeprefix(PREFIX))))


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    try:
        return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{checkpoint}: {MANIFEST} is missing or unreadable") from error


def _hashes(folder: Path, files: list[str]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return dict(zip(files, pool.map(lambda name: hash_path(folder / name), files), strict=True))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
