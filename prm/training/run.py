"""One training run: options in, a trained model folder out; or the same run continued where it stopped."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerState

from prm.data.examples import StoredEncodings, StoredExamples
from prm.models import ImplicitPRM
from prm.models.adapt import add_lora, check_start, freeze_backbone, start_reward_model
from prm.models.backbone import PackedModel, load_config
from prm.models.kernels import LIGER_OPTIONS, check_liger, compile_layers
from prm.steps import CONFIG_NAME, StepEncoder, load_tokenizer
from prm.tracking import code_version, is_main_process, write_manifest
from prm.training import checkpoints, resume
from prm.training.arguments import TrainingConfig
from prm.training.dataset import SPLITS, TrainingData, encode, load_dataset
from prm.training.estimate import estimate_of_run
from prm.training.estimate import report as report_memory
from prm.training.preemption import EXIT_CODE
from prm.training.ref_logps import cached_ref_logps
from prm.training.trainer import PRMTrainer
from prm.training.zero import prepare_deepspeed_on_cpu

logger = logging.getLogger(__name__)


def train(config: TrainingConfig) -> int:
    """Train as `config` says and return the exit status: 0 when done, 85 when the run was asked to stop and has saved.

    The dataset, its tokens and an earlier run in `output_dir` are checked before a model loads.
    """
    data = load_dataset(config)
    check_validation(config, data)
    encoder = build_encoder(config)
    splits = [encode(data, split, encoder, config) for split in SPLITS]
    run = resume.fingerprint(config, data.dataset_hash, zero_stage(config))
    checkpoint = start_or_resume(config, run)
    if checkpoint == checkpoints.FINISHED:
        logger.info("%s holds this run, finished; --overwrite_output_dir True starts it again", config.output_dir)
        return 0
    config.provenance = {"code_version": code_version(), "dataset_hash": data.dataset_hash}
    if is_main_process():
        write_manifest(config.output_dir, config.to_dict(), [config.dataset], data.counts, {"run": run})
    if config.deepspeed and config.use_cpu:
        prepare_deepspeed_on_cpu()
    model = build_model(config, encoder)
    report_memory(estimate_of_run(model, config), config.device)
    splits = [with_reference(config, encoder, examples) for examples in splits]
    trainer = PRMTrainer(config, model, encoder, *splits, run)
    trainer.stop.install()
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.state.global_step < trainer.state.max_steps:
        return EXIT_CODE
    finish(trainer, data)
    return 0


def part_from_ranks() -> None:
    """Let all ranks end together: one that is gone while another still listens makes the other abort, and its status is lost."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def check_validation(config: TrainingConfig, data: TrainingData) -> None:
    """Without validation responses nothing is validated. Raises ValueError if the best checkpoint is asked for all the same."""
    if data.labelled["validation"]:
        return
    config.eval_strategy = "no"
    if config.load_best_model_at_end:
        raise ValueError(
            f"--load_best_model_at_end True needs {config.dataset}/validation.jsonl; scripts/build_dataset.py "
            "--validation_fraction 0.02 makes one"
        )


def zero_stage(config: TrainingConfig) -> int:
    """ZeRO stage of the DeepSpeed configuration, 0 without one."""
    return config.hf_deepspeed_config.get_value("zero_optimization.stage", 0) if config.deepspeed else 0


def start_or_resume(config: TrainingConfig, run: dict[str, Any]) -> str | None:
    """The checkpoint to continue from, `FINISHED` if nothing is left to do, or None to start; rank 0 decides for all."""
    decision: list[str | None] = [None]
    if is_main_process():
        if config.overwrite_output_dir:
            checkpoints.clear(config.output_dir)
        shutil.rmtree(Path(config.output_dir) / checkpoints.PARTIAL, ignore_errors=True)  # what a killed run was writing
        may_differ = config.resume_changed_run
        if resume.is_finished(config.output_dir, run, may_differ):
            decision = [checkpoints.FINISHED]
        elif checkpoint := resume.resume_point(config.output_dir, config.resume_from_checkpoint, run, may_differ):
            logger.info("continuing from %s", checkpoint)
            decision = [str(checkpoint)]
    (checkpoint,) = broadcast_object_list(decision)
    if checkpoint and (Path(checkpoint) / resume.LATEST_UNIVERSAL).exists():
        config.hf_deepspeed_config.config["checkpoint"] = {"load_universal": True}
    return checkpoint


def build_encoder(config: TrainingConfig) -> StepEncoder:
    """The objective's step contract on the backbone's tokenizer. Raises FileNotFoundError for a folder that is no model."""
    load_config(config.model_name_or_path)
    tokenizer = load_tokenizer(config.model_name_or_path)
    options: dict[str, Any] = {"max_length": config.max_length, "tau": config.tau, "beta": config.beta}
    if config.loss == "step_ce":
        options |= {"num_labels": config.num_labels, "activation": "sigmoid" if config.num_labels == 1 else "softmax"}
    if config.loss == "implicit_prm":
        options["reference_model"] = config.reference_model or config.model_name_or_path
    return StepEncoder.for_loss(config.loss, tokenizer, **options)


def build_model(config: TrainingConfig, encoder: StepEncoder) -> PackedModel:
    """The model that trains, with adapters or a frozen backbone where options say so; its checks come before it loads."""
    name, dtype = config.model_name_or_path, weights_dtype(config)
    if config.use_liger_kernel:
        check_liger(load_config(name), config.device)
        config.liger_kernel_config = (config.liger_kernel_config or {}) | LIGER_OPTIONS
    if config.loss == "implicit_prm":
        check_start(name, num_labels=0)
        model = ImplicitPRM.from_backbone(name, dtype=dtype)
    else:
        model = start_reward_model(name, encoder.num_labels, config.seed, dtype, vocab_size=len(encoder.tokenizer))
    if config.freeze_backbone:
        freeze_backbone(model)
    if config.lora_rank:
        add_lora(model, config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_target_modules, seed=config.seed)
    if config.compile_layers:
        compile_layers(model, **config.compile_options)
    return model


def weights_dtype(config: TrainingConfig) -> torch.dtype:
    """bfloat16 under DeepSpeed, which keeps a float32 copy for the optimizer; else float32, under autocast where bf16 is on."""
    return torch.bfloat16 if config.bf16 and config.deepspeed else torch.float32


def with_reference(config: TrainingConfig, encoder: StepEncoder, examples: StoredExamples) -> StoredExamples:
    """The examples with the reference's token log-probs, computed once and kept in `output_dir` (implicit_prm only)."""
    if config.loss != "implicit_prm" or not examples:
        return examples
    logps = cached_ref_logps(
        encoder.reference_model,
        StoredEncodings(examples),
        Path(config.output_dir) / "reference",
        dtype=torch.bfloat16 if config.bf16 else torch.float32,  # a float16 policy's reference has more digits
        device=config.device,
    )
    return StoredExamples(examples.table, examples.rows, logps)


def finish(trainer: PRMTrainer, data: TrainingData) -> None:
    """Put the model into `output_dir` with its contract last, and leave the marker of a finished run."""
    config, state = trainer.args, trainer.state
    output_dir = Path(config.output_dir)
    aside = output_dir / checkpoints.PARTIAL / "model"
    best = Path(state.best_model_checkpoint) if state.best_model_checkpoint else None
    takes_best = config.load_best_model_at_end and best is not None
    metrics = validation_of(state, state.best_global_step if takes_best else state.global_step)
    if not metrics and trainer.eval_dataset:
        metrics = trainer.evaluate()
    if not takes_best:
        trainer.save_model(str(aside))
    trainer.accelerator.wait_for_everyone()
    if is_main_process():
        if takes_best:
            checkpoints.copy_model(best, aside)
        for file in sorted(aside.iterdir(), key=lambda file: file.name == CONFIG_NAME):
            os.replace(file, output_dir / file.name)
        shutil.rmtree(output_dir / checkpoints.PARTIAL)
        result = {"steps": state.global_step, "metrics": metrics, "counts": data.counts}
        result |= {"best_checkpoint": best and best.name, "best_metric": state.best_metric}
        resume.mark_finished(output_dir, trainer.run, result)
        logger.info("finished after %d steps: %s", state.global_step, output_dir)
    trainer.accelerator.wait_for_everyone()


def validation_of(state: TrainerState, step: int | None) -> dict[str, float]:
    """The metrics of the validation at a step, empty if there was none."""
    entries = [entry for entry in state.log_history if entry["step"] == step and "eval_loss" in entry]
    return {name: value for name, value in entries[-1].items() if name.startswith("eval_")} if entries else {}
