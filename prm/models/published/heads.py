"""Files of a published PRM in, the head that reads its hidden states out, in this project's shapes and class order (bad, good)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prm.models.files import ModelFiles
from prm.models.reward_model import build_head
from prm.steps import StepEncoder
from prm.steps.layouts import marker_id

Head = Callable[[ModelFiles, StepEncoder], nn.Module]

WRAPPER = "pretrained_model."
"""What stands before the decoder's weights where a value-head wrapper of TRL was saved whole."""
LM_HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


def two_layers(files: ModelFiles, encoder: StepEncoder) -> nn.Module:
    """Linear, ReLU, Linear: `score.0.*` and `score.2.*`."""
    names = [f"score.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
    weights = {name.removeprefix("score."): value for name, value in files.tensors(names).items()}
    num_labels, hidden_size = weights["2.weight"].shape
    return filled(build_head(hidden_size, num_labels), weights)


def one_layer(prefix: str) -> Head:
    """One linear layer under `prefix`: token classification (`score`) or a value head (`v_head.summary`)."""

    def build(files: ModelFiles, encoder: StepEncoder) -> nn.Module:
        weights = files.tensors([f"{prefix}.weight", f"{prefix}.bias"])
        return linear(weights[f"{prefix}.weight"], weights[f"{prefix}.bias"])

    return build


def token_pair(bad: str, good: str) -> Head:
    """The rows of two tokens of the lm_head: a softmax over the pair needs the logits of no other token."""

    def build(files: ModelFiles, encoder: StepEncoder) -> nn.Module:
        if not files.architecture.endswith("ForCausalLM"):
            raise ValueError(f"{files.name}: {files.architecture} has no lm_head, whose {good!r} and {bad!r} the recipe reads")
        rows = [marker_id(encoder.tokenizer, token, "answer") for token in (bad, good)]
        name = LM_HEAD if LM_HEAD in files.weights else EMBEDDINGS  # tied
        return linear(files.tensors([name])[name][rows])

    return build


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    num_labels, hidden_size = weight.shape
    bias = weight.new_zeros(num_labels) if bias is None else bias
    return filled(build_head(hidden_size, num_labels, linear=True), {"weight": weight, "bias": bias})


def filled(head: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    with torch.no_grad():
        head = head.to(next(iter(weights.values())).dtype)
        head.load_state_dict(weights)
    return head
