"""Inference on a CPU: a model in, the same model out with faster linear layers, in a process that keeps freed memory."""

import ctypes
from functools import cache
from typing import no_type_check

import torch
from torch import Tensor, nn

HAS_ONEDNN = torch.backends.mkldnn.is_available()
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`."""
KEPT_BYTES = 2**31 - 1
"""Freed memory that the process keeps, and the size up to which it does."""


class OneDNNLinear(nn.Linear):
    """`nn.Linear`, computed by oneDNN without gradients in float32 on a CPU.

    torch multiplies float32 by MKL, whose kernels are slower than oneDNN's on processors that are not Intel's; half precision goes
    to oneDNN by itself. The weight is read as it lies: no second copy is packed.
    """

    @no_type_check  # a compiler traces it, and would take a checker's memory of shapes for a part of it
    def forward(self, input: Tensor) -> Tensor:
        if not HAS_ONEDNN or torch.is_grad_enabled() or input.dtype != torch.float32 or input.device.type != "cpu":
            return super().forward(input)
        return onednn_linear(input, self.weight, self.bias)


@torch.library.custom_op("prm::onednn_linear", mutates_args=())
def onednn_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[*rows, ins], [outs, ins] and [outs] in, [*rows, outs] out: torch's operator as one of ours.

    torch.compile takes torch's only with constant weights.
    """
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


@onednn_linear.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return input.new_empty(*input.shape[:-1], weight.shape[0])


def prepare_for_inference(model: nn.Module) -> None:
    """Make a model on a CPU faster where no gradients are asked for: linear layers by oneDNN, and `keep_freed_memory`."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear
    keep_freed_memory()


@cache
def keep_freed_memory() -> bool:
    """Let malloc keep what this process frees, up to 2 GiB; False where the C library is not glibc.

    Otherwise it gives the activations of every packed row back to the system, which clears every page of the next row's anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(option, KEPT_BYTES) for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD)])
