"""Inference: a model in, the same weights out in layers that are faster where no gradients are asked for.

On a CPU, linear layers run in oneDNN and the process keeps freed memory; on CUDA, a norm is one kernel. The last layer's MLP is
computed only at the positions where the model is read, and on a CPU so are its queries.
"""

import ctypes
from functools import cache
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralDecoderLayer, MistralRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, rotate_half

from prm.attention import PACKED

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


class FusedRMSNorm(nn.Module):
    """The norm of Qwen2, Llama and Mistral as torch's operator: on CUDA one kernel, not six that each read and write everything.

    It rounds once, at the end; theirs rounds half precision before the product with the weight as well.
    """

    weight: Tensor
    variance_epsilon: float

    @no_type_check
    def forward(self, hidden_states: Tensor) -> Tensor:
        return rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


class LastLayer(nn.Module):
    """The last decoder layer of Qwen2, Llama and Mistral: all tokens in, the states at the `reads` out.

    Attention runs over all tokens; the MLP, which is most of the work, and the model's last norm only over the `reads`.
    """

    input_layernorm: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: nn.Module
    mlp: nn.Module

    @no_type_check
    def forward(self, hidden_states: Tensor, reads: Tensor | None = None, **kwargs: Any) -> Tensor:
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        if reads is not None:
            hidden_states = hidden_states[:, reads]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class LastLayerAtReads(LastLayer):
    """The same with queries at the `reads` alone, which attention by document supports and the varlen kernel does not."""

    @no_type_check
    def forward(self, hidden_states: Tensor, reads: Tensor | None = None, **kwargs: Any) -> Tensor:
        if reads is None:
            return super().forward(hidden_states, **kwargs)
        attended = self.attend(self.input_layernorm(hidden_states), reads, **kwargs)
        hidden_states = hidden_states[:, reads] + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))

    @no_type_check
    def attend(
        self, normed: Tensor, reads: Tensor, position_embeddings: tuple[Tensor, Tensor], attention_mask: None = None, **kwargs: Any
    ) -> Tensor:
        """What `self_attn` gives at the `reads`; of the others only keys and values are computed."""
        attention = self.self_attn
        cos, sin = (angles[:, None] for angles in position_embeddings)
        linear = attention.q_proj(normed[:, reads]), attention.k_proj(normed), attention.v_proj(normed)
        query, key, value = (states.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for states in linear)
        query = query * cos[:, :, reads] + rotate_half(query) * sin[:, :, reads]
        key = key * cos + rotate_half(key) * sin
        # Qwen2 has a window per layer, Mistral one for all; Llama has none, whatever its config was converted from.
        config = attention.config if isinstance(attention, MistralAttention) else None
        window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
        kwargs |= {"scaling": attention.scaling, "sliding_window": window, "query_index": reads}
        attended, _ = ALL_ATTENTION_FUNCTIONS[PACKED](attention, query, key, value, attention_mask, **kwargs)
        return attention.o_proj(attended.flatten(2))


LAST_LAYERS = (Qwen2DecoderLayer, LlamaDecoderLayer, MistralDecoderLayer)
"""Decoder layers that a `LastLayer` can replace."""
FASTER: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "cpu": {nn.Linear: OneDNNLinear},
    "cuda": dict.fromkeys((Qwen2RMSNorm, LlamaRMSNorm, MistralRMSNorm), FusedRMSNorm),
}
"""By device: class of a layer -> the class that replaces it. The layer keeps its weights and options."""


def prepare_for_inference(model: nn.Module, device: str) -> None:
    """Turn layers, in place, into those that are `FASTER` on `device` (cpu, cuda), and the last one into a `LastLayer`.

    On a CPU the process keeps freed memory from then on (`keep_freed_memory`).
    """
    for module in model.modules():
        if faster := FASTER.get(device, {}).get(type(module)):
            module.__class__ = faster
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList) and type(layers[-1]) in LAST_LAYERS:
            layers[-1].__class__ = LastLayerAtReads if device == "cpu" else LastLayer
    if device == "cpu":
        keep_freed_memory()


@cache
def keep_freed_memory() -> bool:
    """Let malloc keep what this process frees, up to 2 GiB; False where the C library is not glibc.

    Otherwise it gives the memory of every row's activations back to the system, which has to clear each page for the next row.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(option, KEPT_BYTES) for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD)])
