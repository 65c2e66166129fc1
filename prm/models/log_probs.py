"""Hidden states and target tokens in, the targets' log-probs out, without a tensor of tokens x vocabulary, forward or backward.

The vocabulary is read in blocks and log-softmax accumulated block by block; the backward pass computes each block's logits again.
Blocks are of the vocabulary and not of the targets, so that every row of the lm_head is read once and its gradient written once.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

BLOCK_ELEMENTS = {"cpu": 2**23, "cuda": 2**27}
"""Logits held at a time: 32 MiB in float32; on a GPU, where every block costs the launch of some twenty kernels, 512 MiB."""
BLOCK_COLUMNS = (512, 16384)
"""Fewest and most tokens of the vocabulary in a block; fewer would leave the matrix products too thin."""
COLUMN_STEP = 128
"""The width of a block is a multiple of this: fast matrix kernels want rows that are aligned."""


class LogProbHead(nn.Module):
    """An lm_head that returns log-probs of given tokens. Its parameters, and their names, are those of the linear layer.

    A module of its own, so that ZeRO-3, which gathers a module's weights around its forward and backward, gathers these once.
    """

    def __init__(self, lm_head: nn.Linear):
        super().__init__()
        self.weight = lm_head.weight
        self.register_parameter("bias", lm_head.bias)

    def forward(self, hidden: Float[Tensor, "targets hidden"], targets: Int[Tensor, " targets"]) -> Float[Tensor, " targets"]:
        return token_logps(hidden, targets, self.weight, self.bias)


def token_logps(
    hidden: Float[Tensor, "targets hidden"],
    targets: Int[Tensor, " targets"],
    weight: Float[Tensor, "vocabulary hidden"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    columns: int | None = None,
) -> Float[Tensor, " targets"]:
    """log softmax(hidden @ weight.T + bias)[target] in float32 (float64 of float64), `columns` of the vocabulary at a time.

    Matrix products are in the precision of `hidden`, or of autocast; every sum over blocks is in float32.
    """
    if columns is None:
        columns = block_columns(len(hidden), hidden.device.type)
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return _TokenLogProbs.apply(hidden, targets, weight, bias, columns)


def block_columns(num_targets: int, device: str) -> int:
    """Tokens of the vocabulary in a block for so many targets."""
    fewest, most = BLOCK_COLUMNS
    columns = BLOCK_ELEMENTS.get(device, BLOCK_ELEMENTS["cpu"]) // max(num_targets, 1)
    return min(max(columns // COLUMN_STEP * COLUMN_STEP, fewest), most)


class _TokenLogProbs(torch.autograd.Function):
    """Gradient of log p(target) by the logits: one-hot(target) - softmax."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, columns: int
    ) -> Float[Tensor, " targets"]:
        precision = torch.promote_types(hidden.dtype, torch.float32)
        maximum = hidden.new_full((len(hidden),), -torch.inf, dtype=precision)
        total, target_logits = torch.zeros_like(maximum), torch.zeros_like(maximum)
        for block, index, is_inside in _blocks(targets, len(weight), columns):
            logits = _logits(hidden, weight, bias, block)
            target_logits += logits.gather(-1, index)[:, 0] * is_inside
            higher = torch.maximum(maximum, logits.amax(-1))
            total.mul_((maximum - higher).exp()).add_(logits.sub_(higher[:, None]).exp_().sum(-1))
            maximum = higher
            del logits  # before the next block's are made
        log_normalizer = maximum + total.log()
        ctx.save_for_backward(hidden, targets, weight, bias, log_normalizer)
        ctx.columns = columns
        return target_logits - log_normalizer

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Float[Tensor, " targets"]) -> tuple[Tensor | None, ...]:
        hidden, targets, weight, bias, log_normalizer = ctx.saved_tensors
        for_hidden, _, for_weight, for_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.zeros_like(hidden, dtype=grad.dtype) if for_hidden else None
        grad_weight = torch.empty_like(weight) if for_weight else None
        grad_bias = torch.empty_like(bias) if for_bias else None
        for block, index, is_inside in _blocks(targets, len(weight), ctx.columns):
            grad_logits = _logits(hidden, weight, bias, block).sub_(log_normalizer[:, None]).exp_().mul_(-grad[:, None])
            grad_logits.scatter_add_(-1, index, (grad * is_inside)[:, None])
            if for_bias:
                grad_bias[block] = grad_logits.sum(0)
            grad_logits = grad_logits.to(hidden.dtype)
            if for_hidden:
                _add_product(grad_hidden, grad_logits, weight[block].to(hidden.dtype))
            if for_weight:
                grad_weight[block] = grad_logits.T @ hidden
            del grad_logits
        return grad_hidden.to(hidden.dtype) if for_hidden else None, None, grad_weight, grad_bias, None


def _blocks(
    targets: Int[Tensor, " targets"], vocabulary: int, columns: int
) -> Iterator[tuple[slice, Int[Tensor, "targets 1"], Tensor]]:
    """Blocks of the vocabulary; for each target its column in the block, if it lies there, and whether it does."""
    for start in range(0, vocabulary, columns):
        end = min(start + columns, vocabulary)
        is_inside = (targets >= start) & (targets < end)
        yield slice(start, end), (targets - start).clamp(0, end - start - 1)[:, None], is_inside


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, block: slice) -> Float[Tensor, "targets columns"]:
    """Logits of a block, rounded to the precision of `hidden` as the whole lm_head's are, in float32 or float64."""
    part = None if bias is None else bias[block].to(hidden.dtype)
    logits = F.linear(hidden, weight[block].to(hidden.dtype), part)
    return logits.to(torch.promote_types(hidden.dtype, torch.float32))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, with `total` at least as precise as the product."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
