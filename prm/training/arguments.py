"""Training options: transformers.TrainingArguments with the objective, the data and the paper's main run as defaults."""

import os
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from prm.aggregation import TAU
from prm.losses import OPTIONS, check_options
from prm.models.adapt import check_peft
from prm.training.sampler import Division
from prm.training.zero import resolve_deepspeed

Loss = Literal[
    "asym",
    "reversed_asym",
    "min",
    "geometric_mean",
    "softmin",
    "robust_asym",
    "orm",
    "implicit_prm",
    "td_lambda",
    "step_ce",
    "mc_regression",
    "pqm",
    "margin_ranking",
]

PAPER_BATCH_SIZE = 32
TOKEN_BUDGETS = {"deepspeed": 16384, "cuda": 8192, "cpu": 4096}
DECIDED_BY_TOKENS = ("per_device_eval_batch_size", "auto_find_batch_size", "train_sampling_strategy", "dataloader_drop_last")


@dataclass
class TrainingConfig(TrainingArguments):
    """Every option of transformers.TrainingArguments, and these. Defaults: the paper's main run (section 2.2, App. B.1)."""

    loss: Loss = "asym"
    """Training objective. step_ce, pqm and margin_ranking learn from step labels, mc_regression from soft ones in [0, 1], all
    others from the outcome of the whole response."""

    reading: Literal["prob", "logit", "literal"] = "prob"
    """What the aggregating objectives (asym, min, geometric_mean, softmin) aggregate: probabilities, raw logits (min and softmin
    only), or the paper's equation taken literally (a sigmoid over the aggregated probability; for ablation)."""

    tau: float = TAU
    """Temperature of softmin, in units of the step score."""

    beta: float = 0.05
    """Weight of the log-ratio between policy and reference in implicit_prm."""

    num_labels: Literal[1, 2, 3] = 3
    """Classes that step_ce tells apart: bad, neutral, good (3); bad, good (2); or one soft target in [0, 1] (1)."""

    neutral: Literal["good", "bad", "ignored"] = "good"
    """What the step label 0 is to pqm, margin_ranking and step_ce with two classes; with three it is a class of its own."""

    flip_rate: float = 0.1
    """Chance that a response with a wrong step still gets a right answer, as robust_asym assumes it."""

    gamma: float = 1.0
    """Discount per step of td_lambda."""

    gae_lambda: float = 0.95
    """How far td_lambda's targets trust the outcome (1) rather than the value of the next step (0)."""

    zeta: float = 4.0
    """Margin of pqm between good and bad steps, in units of the output."""

    margin: float = 1.0
    """Margin of margin_ranking between a good and a bad step behind the same prefix, in units of the output."""

    dataset: str = "data/dataset"
    """Folder with train.jsonl and, if there is one, validation.jsonl, as scripts/build_dataset.py writes them."""

    model_name_or_path: str = "Qwen/Qwen2.5-Math-1.5B-Instruct"
    """Backbone: a folder or a name on the Hugging Face hub. The policy's starting point for implicit_prm."""

    reference_model: str | None = None
    """Reference policy of implicit_prm: a folder or a name on the hub. Default: the same as model_name_or_path."""

    freeze_backbone: bool = False
    """Train the new head alone, as a warm-up; --model_name_or_path OUTPUT_DIR then continues with all weights."""

    lora_rank: int = 0
    """Rank of the adapters (LoRA) that train instead of the decoder's weights; the new head trains in full. 0: no adapters."""

    lora_alpha: float = 32.0
    """Adapters are scaled by lora_alpha / lora_rank."""

    lora_dropout: float = 0.0
    """Share of an adapter's inputs set to zero while training."""

    lora_target_modules: list[str] | None = None
    """Linear layers of the decoder that get an adapter, for instance q_proj v_proj. Default: all."""

    max_length: int = 4096
    """Longest packed response, in tokens with its question. Longer ones are dropped, counted and named, never cut."""

    output_dir: str | None = None
    """Folder for checkpoints, metrics.jsonl, manifest.json and the trained model. Default: outputs/LOSS."""

    overwrite_output_dir: bool = False
    """Start again in an output_dir that holds a run, deleting its checkpoints. Without it the same command resumes."""

    resume_changed_run: bool = False
    """Continue from the checkpoints of a run whose options or dataset differ; a warning names the differences. Without it such
    checkpoints are refused."""

    global_batch_size: int | None = None
    """Responses (margin_ranking: questions) per optimizer step, over all ranks and forward passes. Default: 32, or the product of
    the ranks, per_device_train_batch_size and gradient_accumulation_steps when both are given."""

    token_budget: int | None = None
    """Tokens packed into one forward pass of one rank. Default: 16384, as much as 80 GB hold under DeepSpeed (ZeRO-2 reduces
    gradients after every pass), without it 8192; on a CPU 4096, where longer rows fall out of the caches."""

    per_device_train_batch_size: int | None = None
    """Most responses packed into one forward pass of one rank. Default: the token budget alone decides."""

    gradient_accumulation_steps: int | None = None
    """Fewest forward passes per rank and optimizer step. Default: as many as the token budget makes necessary."""

    learning_rate: float = 1e-5
    """Peak learning rate of AdamW."""

    lr_scheduler_type: str = "constant_with_warmup"
    """Schedule after the warm-up; constant, since the paper names a warm-up and no decay."""

    warmup_steps: float = 1000.0
    """Optimizer steps of linear warm-up; below 1 a fraction of the run."""

    num_train_epochs: float = 1.0
    """Passes over the training responses."""

    eval_strategy: str = "steps"
    """When to validate: no, steps, or epoch. Without validation.jsonl nothing is validated."""

    eval_steps: float | None = 500.0
    """Optimizer steps between validations."""

    save_steps: float = 500.0
    """Optimizer steps between checkpoints."""

    save_total_limit: int | None = 2
    """Checkpoints kept; the oldest go first."""

    metric_for_best_model: str | None = "eval_outcome_auc"
    """Validation metric by which a checkpoint is the best. The best one is saved at once and kept beside the newest."""

    greater_is_better: bool | None = True
    """Whether a larger metric_for_best_model is better."""

    load_best_model_at_end: bool = False
    """Let the finished model be the best checkpoint's and not the last step's."""

    logging_steps: float = 10.0
    """Optimizer steps between lines of metrics.jsonl."""

    report_to: list[str] = field(default_factory=lambda: ["none"])
    """Where figures go besides metrics.jsonl: wandb, tensorboard, both or none; wandb works offline too (WANDB_MODE)."""

    seed: int = 0
    """Seed of the new head and of the order of the data."""

    deepspeed: dict | str | None = None
    """DeepSpeed configuration file, or `none`. Default: ds_configs/zero2.json under a launcher (deepspeed, torchrun), else none."""

    def __post_init__(self) -> None:
        check_objective(self)
        check_trainable(self)
        check_unused(self)
        self.provenance: dict[str, str] = {}
        if self.output_dir is None:
            self.output_dir = os.path.join("outputs", self.loss)
        self.deepspeed = resolve_deepspeed(self.deepspeed)
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if not (self.use_cpu or self.bf16 or self.fp16):
            self.bf16 = torch.cuda.is_available()
        self.token_budget = self.token_budget or TOKEN_BUDGETS["cpu" if self.use_cpu else "deepspeed" if self.deepspeed else "cuda"]
        self.division = divide_global_batch(
            self.token_budget,
            int(os.environ.get("WORLD_SIZE", "1")),
            self.global_batch_size,
            self.per_device_train_batch_size,
            self.gradient_accumulation_steps,
        )
        self.global_batch_size = self.division.global_batch_size
        # To Trainer and DeepSpeed a whole optimizer step is one batch; `PRMTrainer.training_step` makes the passes.
        self.gradient_accumulation_steps = 1
        self.per_device_train_batch_size = max(self.global_batch_size // self.division.world_size, 1)
        # Trainer would compile the model as a whole, anew for every row; `build_model` compiles its layers.
        self.compile_layers = self.torch_compile or bool(self.torch_compile_backend or self.torch_compile_mode)
        self.compile_options = {"backend": self.torch_compile_backend or "inductor", "mode": self.torch_compile_mode}
        self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = False, None, None
        self.remove_unused_columns = False
        self.logging_nan_inf_filter = False  # the trainer stops on a non-finite loss; this would hide it
        super().__post_init__()
        # A packed row cannot be split by DataParallel, which Trainer would use for one process with several GPUs.
        self._n_gpu = min(self.n_gpu, 1)

    def to_dict(self) -> dict[str, Any]:
        """What wandb, tensorboard and the manifest show of the configuration; `provenance` holds the code's and data's versions."""
        return {**super().to_dict(), **self.provenance}


def check_objective(config: TrainingConfig) -> None:
    """Refuse combinations of objective options that have no meaning. Raises ValueError."""
    check_options(config.loss, **{name: getattr(config, name) for name in OPTIONS})
    for name in ("max_length", "token_budget", "global_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name} is {value}, expected a positive number")


def check_trainable(config: TrainingConfig) -> None:
    """Refuse what leaves nothing to train, or changes nothing. Raises ValueError."""
    if config.lora_rank < 0 or not 0 <= config.lora_dropout < 1 or config.lora_alpha <= 0:
        raise ValueError(
            f"--lora_rank {config.lora_rank}, --lora_alpha {config.lora_alpha}, --lora_dropout {config.lora_dropout}: expected a "
            "rank of 0 (off) or more, a positive alpha, a dropout from 0 to below 1"
        )
    if config.freeze_backbone and config.loss == "implicit_prm":
        raise ValueError("--freeze_backbone True leaves implicit_prm nothing to train: it has no head; use --lora_rank")
    if config.freeze_backbone and config.lora_rank:
        raise ValueError(
            f"--freeze_backbone True and --lora_rank {config.lora_rank}: adapters train the backbone; drop one of them"
        )
    if config.lora_rank:
        check_peft()


def check_unused(config: TrainingConfig) -> None:
    """Refuse options of transformers that would change nothing here. Raises ValueError."""
    for option in fields(TrainingArguments):
        if option.name in DECIDED_BY_TOKENS and getattr(config, option.name) != option.default:
            raise ValueError(f"--{option.name}: packed batches are made by --token_budget and --global_batch_size; leave it out")


def divide_global_batch(
    token_budget: int, world_size: int, size: int | None = None, per_device: int | None = None, accumulation: int | None = None
) -> Division:
    """How a global batch of `size` responses is divided over ranks and forward passes of at most `per_device` responses.

    Sizes that are None follow from the others. Raises ValueError for sizes that contradict each other.
    """
    product = per_device * accumulation * world_size if per_device and accumulation else None
    size = size or product or PAPER_BATCH_SIZE
    if product is not None and product != size:
        raise ValueError(
            f"--global_batch_size {size} is not {world_size} ranks x --per_device_train_batch_size {per_device} x "
            f"--gradient_accumulation_steps {accumulation}; give the global size and at most one of the others"
        )
    if size < world_size:
        raise ValueError(f"--global_batch_size {size} leaves some of {world_size} ranks without work; raise it or start fewer")
    return Division(size, token_budget, world_size, per_device, accumulation or 1)
