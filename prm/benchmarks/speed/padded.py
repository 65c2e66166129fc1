"""What people trained PRMs with until now: a workload in, a transformers.Trainer on padded batches out.

Discriminative: token classification, with TRL's own PRMTrainer where a folder of it is given. Implicit: a causal LM whose logits
are held in full.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    Trainer,
    TrainingArguments,
)

from prm.benchmarks.speed.workload import Workload, stub_tokenizer, token_rows
from prm.data.examples import Example
from prm.steps import StepEncoder

TRL_MODULE = "trl.experimental.prm"
TRL_REMEDY = "pip install --no-deps --target {folder} trl==1.13.0 (the last release that has its PRMTrainer)"

PADDED: dict[str, dict[str, Any]] = {
    "trl_defaults": {"gradient_checkpointing": True},
    "padded": {"gradient_checkpointing": False},
    "padded_sorted": {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"},
    "padded_rebalanced": {"gradient_checkpointing": False, "train_sampling_strategy": "batch_rebalance"},
}
"""Options of transformers.TrainingArguments. TRL checkpoints by default; `padded_rebalanced` is the fastest without packing."""


def token_classification(workload: Workload, arguments: dict[str, Any], device: torch.device, trl_path: str | None) -> Trainer:
    """A padded token-classification PRM: `transformers.Trainer`, or TRL's PRMTrainer from `trl_path`, which is one."""
    from datasets import Dataset  # here: the other ways of training do without

    trainer_class, config_class = trainer_classes(trl_path)
    torch.manual_seed(workload.seed)
    with device:  # as in `save_backbone`
        model = AutoModelForTokenClassification.from_config(workload.model_config, attn_implementation="sdpa")
    return trainer_class(
        model=model,
        args=on_one_gpu(config_class(**arguments)),
        train_dataset=Dataset.from_list(token_rows(workload.examples)),
        data_collator=DataCollatorForTokenClassification(stub_tokenizer()),
        processing_class=stub_tokenizer(),
    )


def on_one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """As packed training is: Trainer would use all GPUs that there are (DataParallel), each for a batch of its own."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def trainer_classes(trl_path: str | None) -> tuple[type[Trainer], type[TrainingArguments]]:
    """TRL's PRMTrainer and PRMConfig from a folder that `check_trl` accepts, else the classes they derive from."""
    if trl_path is None:
        return Trainer, TrainingArguments
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if trl_path not in sys.path:
        sys.path.insert(0, trl_path)
    module = importlib.import_module(TRL_MODULE)
    return module.PRMTrainer, module.PRMConfig


def check_trl(trl_path: str) -> None:
    """Raise FileNotFoundError for a folder without TRL's PRMTrainer."""
    if not Path(trl_path, *TRL_MODULE.split(".")).is_dir():
        raise FileNotFoundError(f"--trl_path {trl_path}: no {TRL_MODULE} there; {TRL_REMEDY.format(folder=trl_path)}")


class PaddedImplicitPRM(nn.Module):
    """The implicit PRM as a causal LM trainer would have it: logits of every position, padding included, and their softmax."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.policy = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        self.config = config

    def forward(
        self,
        input_ids: Int[Tensor, "responses tokens"],
        attention_mask: Int[Tensor, "responses tokens"],
        is_target: Bool[Tensor, "responses tokens"],
        ref_logps: Float[Tensor, "responses tokens"],
        correct: Float[Tensor, " responses"],
    ) -> dict[str, Tensor]:
        logits = self.policy(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1].float()
        logps = logits.log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
        log_ratios = (logps - ref_logps[:, 1:]).masked_fill(~is_target[:, 1:], 0)
        return {"loss": F.binary_cross_entropy_with_logits(StepEncoder.beta * log_ratios.sum(-1), correct)}


def padded_implicit(workload: Workload, arguments: dict[str, Any], device: torch.device) -> Trainer:
    """The implicit PRM on padded batches, with the reference's log-probs at hand."""
    torch.manual_seed(workload.seed)
    with device:
        model = PaddedImplicitPRM(workload.model_config)
    return Trainer(
        model=model,
        args=on_one_gpu(TrainingArguments(**arguments, remove_unused_columns=False)),
        train_dataset=[{"input_ids": example.encoded.input_ids, "example": example} for example in workload.examples],
        data_collator=pad_implicit,
    )


def pad_implicit(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Examples padded on the right to the longest of them."""
    examples: list[Example] = [row["example"] for row in rows]
    shape = (len(examples), max(example.num_tokens for example in examples))
    batch = {name: torch.zeros(shape, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch |= {"is_target": torch.zeros(shape, dtype=torch.bool), "ref_logps": torch.zeros(shape)}
    for row, example in enumerate(examples):
        start, length = example.encoded.response_start, example.num_tokens
        batch["input_ids"][row, :length] = torch.tensor(example.encoded.input_ids)
        batch["attention_mask"][row, :length] = 1
        batch["is_target"][row, start:length] = True
        batch["ref_logps"][row, start:length] = example.ref_logps
    return batch | {"correct": torch.tensor([float(example.correct or False) for example in examples])}
