"""Checkpoints that are complete or absent: a folder written aside in, `checkpoint-N` with a manifest of hashes out.

A checkpoint is written under `.partial`, every file is hashed into `checkpoint_manifest.json`, and a rename publishes it. A run
resumes from the newest checkpoint whose files still have their hashes, and only with the configuration that wrote it.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prm.records import write_json
from prm.steps import CONFIG_NAME
from prm.tracking import hash_path

logger = logging.getLogger(__name__)

MANIFEST = "checkpoint_manifest.json"
PARTIAL = ".partial"
PREFIX = "checkpoint-"
FINISHED = "training_complete.json"

FINGERPRINT = (
    "loss",
    "reading",
    "tau",
    "beta",
    "num_labels",
    "neutral",
    "max_length",
    "model_name_or_path",
    "reference_model",
    "seed",
    "global_batch_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "optim_args",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
)
"""Options that change the trajectory; logging, validation and saving may change between a run and its continuation."""


def fingerprint(config: Any, dataset_hash: str, deepspeed_stage: int) -> dict[str, Any]:
    """What has to be equal for a continued run to be the same run, as JSON holds it."""
    values = {name: getattr(config, name) for name in FINGERPRINT}
    values |= {"dataset_hash": dataset_hash, "zero_stage": deepspeed_stage}
    return json.loads(json.dumps(values, default=str))


def check_same_run(saved: dict[str, Any], current: dict[str, Any], place: str | Path) -> None:
    """Raise ValueError naming every option in which a saved run differs from the present one."""
    names = sorted(saved.keys() | current.keys())
    changes = [f"{n}: {saved.get(n)!r} -> {current.get(n)!r}" for n in names if saved.get(n) != current.get(n)]
    if changes:
        raise ValueError(
            f"{place} was written by another configuration ({'; '.join(changes)}). "
            "Use the former values to continue it, another --output_dir, or --overwrite_output_dir True to start again"
        )


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
    manifest = _read_manifest(checkpoint)
    missing = [name for name in manifest["files"] if not (checkpoint / name).is_file()]
    if missing:
        raise ValueError(f"{checkpoint}: {missing[0]} is missing")
    for name, digest in _hashes(checkpoint, list(manifest["files"])).items():
        if digest != manifest["files"][name]:
            raise ValueError(f"{checkpoint}: {name} is not the file that was saved (its hash differs)")
    return manifest["run"]


def newest_complete(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are skipped with a warning."""
    for checkpoint in _newest_first(Path(output_dir)):
        try:
            verify(checkpoint)
        except ValueError as damage:
            logger.warning("skipping a damaged checkpoint: %s", damage)
            continue
        return checkpoint
    return None


def resume_point(output_dir: str | Path, requested: str | None, run: dict[str, Any]) -> Path | None:
    """The checkpoint to continue from: `requested`, or the newest complete one of `output_dir`; None to start from nothing.

    Raises FileNotFoundError for a missing one, ValueError for a damaged one or another configuration.
    """
    if requested and requested.lower() not in ("true", "false"):
        checkpoint = Path(requested)
        if not checkpoint.is_dir():
            raise FileNotFoundError(f"--resume_from_checkpoint {requested}: no such folder")
        check_same_run(verify(checkpoint), run, checkpoint)
        return checkpoint
    checkpoint = newest_complete(output_dir)
    if checkpoint is None and (requested or "").lower() == "true":
        raise FileNotFoundError(f"--resume_from_checkpoint True: no complete checkpoint in {output_dir}")
    if checkpoint is not None:
        check_same_run(_read_manifest(checkpoint)["run"], run, checkpoint)
    return checkpoint


def mark_finished(output_dir: str | Path, run: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the marker by which the same command, run again, knows that nothing is left to do."""
    write_json(Path(output_dir) / FINISHED, {"run": run, **result})


def is_finished(output_dir: str | Path, run: dict[str, Any]) -> bool:
    """Whether this very run has ended in `output_dir`. Raises ValueError if another one has."""
    marker = Path(output_dir) / FINISHED
    if not marker.exists():
        return False
    check_same_run(json.loads(marker.read_text(encoding="utf-8"))["run"], run, output_dir)
    return True


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


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
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
