"""Ways of training on a workload: options in; one builder per way out, each making a trainer that is ready to start."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from prm.benchmarks.speed.padded import PADDED, padded_implicit, token_classification
from prm.benchmarks.speed.workload import NUM_LABELS, SpeedConfig, Workload, make_workload, stub_encoder
from prm.models.packing import Batch
from prm.training.arguments import TrainingConfig
from prm.training.run import build_model
from prm.training.trainer import PRMTrainer


@dataclass
class TrainingSpeedConfig(SpeedConfig):
    """What is trained, and how it is measured."""

    trl_path: str | None = None
    """Folder that holds TRL 1.13 for the padded token classification; without it, transformers.Trainer with TRL's options."""
    num_optimizer_steps: int = 4
    """Optimizer steps that are timed; equally many warm up before them, on the same responses."""
    global_batch_size: int = 32
    """Responses per optimizer step."""
    bf16: bool | None = None
    """Compute in bfloat16, all variants alike. Default: on CUDA."""
    gradient_checkpointing: bool = False
    """Recompute activations in packed training, where memory does not hold them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.choose_variants(VARIANTS)
        if self.global_batch_size % self.padded_batch_size:
            raise ValueError(
                f"--global_batch_size {self.global_batch_size} is no multiple of --padded_batch_size {self.padded_batch_size}"
            )
        self.bf16 = not self.use_cpu if self.bf16 is None else self.bf16
        if not (self.use_cpu or self.bf16):
            raise ValueError("--bf16 False: on CUDA packed training is in bfloat16; leave it out, or add --use_cpu True")

    def workload(self) -> Workload:
        num_responses = self.num_optimizer_steps * self.global_batch_size
        return make_workload(self.shape, num_responses, self.mean_length, self.max_length, self.spread, self.seed)

    def arguments(self, folder: Path) -> dict[str, Any]:
        """Options of transformers.TrainingArguments that all variants share: two epochs, of which the second is timed."""
        return {
            "output_dir": str(folder / "run"),
            "num_train_epochs": 2,
            "bf16": self.bf16,
            "use_cpu": self.use_cpu,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": self.seed,
        }

    def padded_arguments(self, folder: Path, name: str) -> dict[str, Any]:
        sizes = {
            "per_device_train_batch_size": self.padded_batch_size,
            "gradient_accumulation_steps": self.global_batch_size // self.padded_batch_size,
        }
        return self.arguments(folder) | sizes | PADDED[name]


Build = Callable[[TrainingSpeedConfig, Workload, Path], Trainer]
"""What makes a trainer that is ready to start; the folder holds the random backbone and takes what the run writes."""

BACKBONE = "backbone"


def packed(loss: str, trainer_class: type[PRMTrainer] = PRMTrainer, torch_compile: bool = False) -> Build:
    """The project's own trainer, as scripts/train.py builds it, on the backbone in the folder."""

    def build(config: TrainingSpeedConfig, workload: Workload, folder: Path) -> PRMTrainer:
        arguments = TrainingConfig(
            **config.arguments(folder),
            loss=loss,
            num_labels=NUM_LABELS,
            model_name_or_path=str(folder / BACKBONE),
            eval_strategy="no",
            global_batch_size=config.global_batch_size,
            token_budget=config.token_budget,
            max_length=config.max_length,
            gradient_checkpointing=config.gradient_checkpointing,
            torch_compile=torch_compile,
        )
        encoder = stub_encoder(loss)
        return trainer_class(arguments, build_model(arguments, encoder), encoder, workload.examples, [], run={})

    return build


class UncachedTrainer(PRMTrainer):
    """Runs the reference beside the policy in every step instead of reading its log-probs."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.reference = copy.deepcopy(self.model).eval()

    def step_outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            ref_logps = self.reference(**self.reference.inputs(batch))
        return super().step_outputs(model, batch | {"ref_logps": ref_logps})


def padded_labels(name: str) -> Build:
    return lambda config, workload, folder: token_classification(
        workload, config.padded_arguments(folder, name), config.device, config.trl_path
    )


def padded_logps(name: str) -> Build:
    return lambda config, workload, folder: padded_implicit(workload, config.padded_arguments(folder, name), config.device)


VARIANTS: dict[str, Build] = {
    "packed": packed("step_ce"),
    "packed_compiled": packed("step_ce", torch_compile=True),
    "padded_rebalanced": padded_labels("padded_rebalanced"),
    "padded_sorted": padded_labels("padded_sorted"),
    "padded": padded_labels("padded"),
    "trl_defaults": padded_labels("trl_defaults"),
    "implicit_packed": packed("implicit_prm"),
    "implicit_packed_compiled": packed("implicit_prm", torch_compile=True),
    "implicit_packed_uncached": packed("implicit_prm", trainer_class=UncachedTrainer),
    "implicit_padded_sorted": padded_logps("padded_sorted"),
    "implicit_padded": padded_logps("padded"),
}
"""Name -> what builds its trainer. `padded_rebalanced` and `trl_defaults` are what packing is judged against."""
