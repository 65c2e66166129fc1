"""Logarithms of pooled step scores in float32: logits in; log A and log (1 - A), finite with finite gradients everywhere, out."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from prm.aggregation import Mask, Pooled, Scores, maximum, softmin


def log_mean_exp(x: Scores, mask: Mask) -> Pooled:
    """`log mean exp(x)` over steps."""
    return x.masked_fill(~mask, -torch.inf).logsumexp(-1) - mask.sum(-1).log()


def log_softplus(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`log log(1 + exp(x))`, which is x to float32 precision below -15."""
    return torch.where(x < -15, x, (-logsigmoid(-x.clamp(min=-15))).log())


def log1mexp(u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`log(1 - exp(-u))` for u > 0; each branch sees only inputs at which its gradient is finite."""
    split = 0.6931
    near_zero = (-torch.expm1(-u.clamp(max=split))).log()
    return torch.where(u < split, near_zero, torch.log1p(-torch.exp(-u.clamp(min=split))))


def log_softmin(z: Scores, mask: Mask, tau: float, sign: int = 1) -> Pooled:
    """`log A` with A = softmin(sigmoid(z)); with sign -1 `log(1 - A)`, where 1 - A is the soft maximum of sigmoid(-z)."""
    log_scores = logsigmoid(sign * z)
    pooled = sign * softmin(sign * log_scores.exp(), mask, tau)
    complement = -sign * softmin(-sign * logsigmoid(-sign * z).exp(), mask, tau)
    near_one = torch.log1p(-complement.clamp(max=0.5))
    # Far below tau the pool is the plain mean, whose logarithm exists where exp underflows.
    is_mean = maximum(log_scores, mask) < math.log(1e-7 * tau)
    elsewhere = torch.where(is_mean, log_mean_exp(log_scores, mask), pooled.clamp(min=1e-37).log())
    return torch.where(complement < 0.5, near_one, elsewhere)
