"""How a decoder computes, not what: compiled layers, Liger kernels. Weights and their names stay as they are."""

import torch
from transformers import AttentionInterface, PreTrainedConfig
from transformers.utils import is_liger_kernel_available

from prm.attention import PACKED, packed_attention
from prm.models.backbone import PackedModel

LIGER_OPTIONS = {"rms_norm": True, "swiglu": True, "rope": True, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""What transformers' Trainer is to ask Liger for. The fused loss would replace our forward by that of a causal LM."""


def compile_layers(model: PackedModel, backend: str = "inductor", mode: str | None = None) -> None:
    """Compile every decoder layer in place, for rows of any length; the graph is built at the first row.

    One layer at a time, since all share one graph. Packed attention stays outside of it: its loop over documents would be unrolled
    and built anew for every row. Gradient checkpointing wraps the compiled layer.
    """
    AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))
    for layer in model.model.layers:
        layer.compile(dynamic=True, backend=backend, mode=mode)


def check_liger(config: PreTrainedConfig, device: torch.device) -> None:
    """Raise ValueError where Liger's kernels cannot run: not installed, no accelerator, or a model family without any."""
    if device.type == "cpu":
        raise ValueError("--use_liger_kernel True needs an accelerator: its kernels do not run on CPU; leave it out")
    if not is_liger_kernel_available():
        raise ValueError("--use_liger_kernel True needs liger-kernel: install it with `pip install 'prm[liger]'`, or leave it out")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"--use_liger_kernel True: there are no Liger kernels for {config.model_type}; leave it out")
