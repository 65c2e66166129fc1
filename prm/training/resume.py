"""Resuming: an output folder and the present options in, the checkpoint to continue from out.

On the same number of ranks a resumed run repeats the uninterrupted one bit for bit. On another number DeepSpeed's shards of the
optimizer are divided anew (its universal checkpoint); the global batches and their order stay.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from prm.files import write_json
from prm.training.checkpoints import FINISHED, PARTIAL, check_optimizer_state, newest_complete, read_manifest, verify

logger = logging.getLogger(__name__)

LATEST_UNIVERSAL = "latest_universal"
"""DeepSpeed's pointer to a checkpoint that any number of ranks can load."""

FINGERPRINT = (
    "loss",
    "reading",
    "tau",
    "beta",
    "num_labels",
    "neutral",
    "flip_rate",
    "gamma",
    "gae_lambda",
    "zeta",
    "margin",
    "max_length",
    "model_name_or_path",
    "reference_model",
    "freeze_backbone",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "use_liger_kernel",
    "seed",
    "global_batch_size",
    "token_budget",
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


def fingerprint(config: Any, dataset_hash: str, zero_stage: int) -> dict[str, Any]:
    """What has to be equal for a continued run to be the same run, as JSON holds it."""
    values = {name: getattr(config, name) for name in FINGERPRINT}
    values |= {"dataset_hash": dataset_hash, "zero_stage": zero_stage, "world_size": config.division.world_size}
    values |= {"per_device_train_batch_size": config.division.max_items}
    values |= {"gradient_accumulation_steps": config.division.min_micro_batches}
    return json.loads(json.dumps(values, default=str))


def changes(saved: dict[str, Any], current: dict[str, Any]) -> str:
    """The options in which a saved run differs from the present one, but for the number of ranks; empty if there are none."""
    names = sorted((saved.keys() | current.keys()) - {"world_size"})
    return "; ".join(f"{n}: {saved.get(n)!r} -> {current.get(n)!r}" for n in names if saved.get(n) != current.get(n))


def check_same_run(saved: dict[str, Any], current: dict[str, Any], place: str | Path, may_differ: bool = False) -> None:
    """Raise ValueError naming every option in which a saved run differs from the present one; a warning if it `may_differ`."""
    if not (difference := changes(saved, current)):
        return
    if not may_differ:
        raise ValueError(
            f"{place} was written by another configuration ({difference}). Use the former values to continue it, another "
            "--output_dir, --overwrite_output_dir True to start again, or --resume_changed_run True to continue with the new ones"
        )
    logger.warning("%s was written by another configuration (%s); continuing with the new one", place, difference)


def resume_point(output_dir: str | Path, requested: str | None, run: dict[str, Any], may_differ: bool = False) -> Path | None:
    """The checkpoint to continue from: `requested`, or the newest complete one of `output_dir`; None to start from nothing.

    Raises FileNotFoundError for a missing one, ValueError for a damaged one or, unless it `may_differ`, another configuration.
    """
    checkpoint = requested_checkpoint(output_dir, requested)
    if checkpoint is None:
        return None
    saved = read_manifest(checkpoint)["run"]
    check_same_run(saved, run, checkpoint, may_differ)
    if saved["world_size"] != run["world_size"]:
        logger.warning("%s was written by %d ranks, this run has %d", checkpoint, saved["world_size"], run["world_size"])
        if run["zero_stage"]:
            return divide_anew(checkpoint, Path(output_dir) / PARTIAL / f"universal-{checkpoint.name}")
    return checkpoint


def requested_checkpoint(output_dir: str | Path, requested: str | None) -> Path | None:
    if requested and requested.lower() not in ("true", "false"):
        checkpoint = Path(requested)
        if not checkpoint.is_dir():
            raise FileNotFoundError(f"--resume_from_checkpoint {requested}: no such folder")
        verify(checkpoint)
        check_optimizer_state(checkpoint)
        return checkpoint
    checkpoint = newest_complete(output_dir)
    if checkpoint is None and (requested or "").lower() == "true":
        raise FileNotFoundError(f"--resume_from_checkpoint True: no complete checkpoint in {output_dir}")
    return checkpoint


def divide_anew(checkpoint: Path, target: Path) -> Path:
    """Copy a DeepSpeed checkpoint to `target` so that any number of ranks can load it. Raises RuntimeError if DeepSpeed fails."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in (f for f in checkpoint.iterdir() if f.is_file()):
        os.link(file, target / file.name)
    (shards,) = checkpoint.glob("global_step*")
    converter = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    folders = ["--input_folder", str(shards), "--output_folder", str(target / f"{shards.name}_universal")]
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    result = subprocess.run([*converter, *folders], env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(
            f"{checkpoint}: DeepSpeed could not divide it over another number of ranks; resume on the former number\n"
            f"{result.stdout[-1000:]}{result.stderr[-2000:]}"
        )
    (target / LATEST_UNIVERSAL).write_text(f"{shards.name}_universal")
    return target


def mark_finished(output_dir: str | Path, run: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the marker by which the same command, run again, knows that nothing is left to do."""
    write_json(Path(output_dir) / FINISHED, {"run": run, **result})


def is_finished(output_dir: str | Path, run: dict[str, Any], may_differ: bool = False) -> bool:
    """Whether this very run has ended in `output_dir`. Raises ValueError if another one has; if it `may_differ`, False."""
    marker = Path(output_dir) / FINISHED
    if not marker.exists():
        return False
    saved = json.loads(marker.read_text(encoding="utf-8"))["run"]
    check_same_run(saved, run, output_dir, may_differ)
    return not changes(saved, run)
