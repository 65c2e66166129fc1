"""What a run will need: model, options and ranks in, the bytes of each kind of memory per rank out, before the first step.

The states follow ZeRO (Rajbhandari et al. 2020, table 1), the activations what autograd saves in one gated decoder layer.
"""

import logging
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from prm.training.arguments import TrainingConfig
from prm.training.flops import head_size, query_width, weights_per_layer

logger = logging.getLogger(__name__)

FIRST_STAGE = {"optimizer": 1, "gradients": 2, "weights": 3}
"""ZeRO stage from which each kind of state is divided over ranks."""

DEFAULT_BUCKET = 500_000_000
"""Elements of DeepSpeed's reduce bucket where the configuration says nothing."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per rank."""

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    activations: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in asdict(self).items())
        return f"{self.total / 1e9:.2f} GB per rank ({parts})"


def estimate_memory(
    num_weights: int,
    num_trained: int,
    backbone: PreTrainedConfig,
    token_budget: int,
    world_size: int = 1,
    is_bf16: bool = False,
    is_checkpointing: bool = False,
    deepspeed: dict[str, Any] | None = None,
) -> MemoryEstimate:
    """Memory of a training step whose micro-batch fills the token budget; `deepspeed` is the DeepSpeed configuration, if any.

    Without it bfloat16 is autocast's: weights in float32, and a copy of the linear maps' in bfloat16 among the activations.
    Not in it: what the CUDA context and the allocator's fragments take (1 to 2 GB).
    """
    zero = (deepspeed or {}).get("zero_optimization", {})
    stage = zero.get("stage", 0)
    ranks = {kind: world_size if stage >= first else 1 for kind, first in FIRST_STAGE.items()}
    width = 2 if is_bf16 and deepspeed else 4
    is_autocast = is_bf16 and not deepspeed
    gradient_width = 4 if (deepspeed or {}).get("data_types", {}).get("grad_accum_dtype") == "fp32" else width
    is_offloaded = zero.get("offload_optimizer", {}).get("device", "none") != "none"
    # Adam's two moments, and under DeepSpeed the float32 weights that it updates.
    optimizer_width = 0 if is_offloaded else 12 if deepspeed else 8
    return MemoryEstimate(
        weights=num_weights * width // ranks["weights"],
        gradients=num_trained * gradient_width // ranks["gradients"],
        optimizer=num_trained * optimizer_width // ranks["optimizer"],
        buckets=bucket_bytes(zero, num_trained, width) if deepspeed and world_size > 1 else 0,
        activations=token_budget * activation_bytes(backbone, 2 if is_bf16 else 4, is_checkpointing, is_autocast)
        + 2 * is_autocast * backbone.num_hidden_layers * weights_per_layer(backbone),
    )


def estimate_of_run(model: PreTrainedModel, config: TrainingConfig) -> MemoryEstimate:
    """`estimate_memory` of a model under the options of its run."""
    parameters = list(model.parameters())
    return estimate_memory(
        sum(numel(p) for p in parameters),
        sum(numel(p) for p in parameters if p.requires_grad),
        model.config,
        config.token_budget,
        config.division.world_size,
        config.bf16,
        config.gradient_checkpointing,
        config.hf_deepspeed_config.config if config.deepspeed else None,
    )


def numel(parameter: nn.Parameter) -> int:
    """Elements of a parameter, also of one that ZeRO-3 holds in parts."""
    return getattr(parameter, "ds_numel", parameter.numel())


def bucket_bytes(zero: dict[str, Any], num_trained: int, width: int) -> int:
    """Gradients on their way to other ranks: a bucket, and a second one while communication overlaps."""
    size = zero.get("reduce_bucket_size", DEFAULT_BUCKET)
    elements = min(DEFAULT_BUCKET if size == "auto" else int(size), num_trained)
    return elements * width * (2 if zero.get("overlap_comm") else 1)


def activation_bytes(config: PreTrainedConfig, width: int, checkpointing: bool = False, is_autocast: bool = False) -> int:
    """Bytes that a token's backward pass needs, over all layers: 106.5 KB a layer for Qwen2.5-Math-1.5B in bfloat16.

    Per layer nine times the hidden size (two norms with a float32 copy each, their outputs, the residual), queries, keys, values
    and their result, and four times the MLP's size. Checkpointed layers keep their input, and one of them everything at a time.
    Under autocast, 118.8 KB: the residual and the norms are float32, and each of five linear maps keeps its own copy of its input.
    """
    hidden, residual = (26, 4) if is_autocast else (9 * width, width)
    keys_and_values = 2 * config.num_key_value_heads * head_size(config)
    per_layer = hidden * config.hidden_size + width * (2 * query_width(config) + keys_and_values + 4 * config.intermediate_size)
    final_norm = (8 if is_autocast else 3 * width) * config.hidden_size
    if checkpointing:
        return config.num_hidden_layers * residual * config.hidden_size + per_layer + final_norm
    return config.num_hidden_layers * per_layer + final_norm


def report(estimate: MemoryEstimate, device: torch.device) -> None:
    """Log the estimate, and a warning with remedies when the device has less."""
    logger.info("memory, estimated: %s", estimate)
    if device.type == "cuda" and estimate.total > (capacity := torch.cuda.get_device_properties(device).total_memory):
        logger.warning(
            "that is more than the device's %.0f GB: lower --token_budget, set --gradient_checkpointing True, or train under "
            "ds_configs/zero2_offload.json or zero3.json",
            capacity / 1e9,
        )
