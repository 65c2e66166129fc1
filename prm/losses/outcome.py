"""Objectives that learn from outcomes: the logits of a response's steps and `correct` 1, 0 or NaN in, one loss per response out."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from prm.aggregation import AGGREGATIONS, TAU, last, mean, minimum, total
from prm.losses.common import Logits, Mask, PerResponse, bce_with_logits, probability, squared_error
from prm.losses.log_pooling import log1mexp, log_mean_exp, log_softmin, log_softplus


def neg_log_not_geometric_mean(z: Logits, mask: Mask, tau: float) -> PerResponse:
    return -log_complement(mean(-logsigmoid(z), mask), log_mean_exp(log_softplus(-z), mask))


def log_complement(u: PerResponse, log_u: PerResponse) -> PerResponse:
    """`log(1 - A)` from u = -log A: log1mexp, and below 1e-3 its series around log u, which cannot underflow."""
    is_small = u < 1e-3
    return torch.where(is_small, log_u - u / 2 + u.square() / 24, log1mexp(u.masked_fill(is_small, 1)))


# (-log A, -log(1 - A)) from the logits, for the aggregate A of the step scores sigmoid(z).
NEG_LOG: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "min": (
        lambda z, mask, tau: -logsigmoid(minimum(z, mask)),
        lambda z, mask, tau: -logsigmoid(-minimum(z, mask)),
    ),
    "geometric_mean": (
        lambda z, mask, tau: mean(-logsigmoid(z), mask),
        neg_log_not_geometric_mean,
    ),
    "softmin": (
        lambda z, mask, tau: -log_softmin(z, mask, tau),
        lambda z, mask, tau: -log_softmin(z, mask, tau, sign=-1),
    ),
}


def outcome_loss(
    logits: Logits,
    mask: Mask,
    correct: PerResponse,
    *,
    for_correct: str,
    for_wrong: str,
    reading: str = "prob",
    tau: float = TAU,
) -> PerResponse:
    """Cross-entropy of the pooled step scores against the outcome, one aggregation for each outcome (paper, sec. 2.2).

    With min for right answers every step must be good; with the geometric mean for wrong ones the blame is shared in
    proportion to 1 - r. `-[c log p + (1-c) log(1-p)]`: Eqs. 2 and 3 lack the minus sign. The readings of p:
    `prob` A(sigmoid(z)); `logit` sigmoid(A(z)), not for the geometric mean; `literal` sigmoid(A(sigmoid(z))), which is
    Eq. 3 to the letter, cannot fall below 0.313 (c = 1) or 0.693 (c = 0), and hardly learns from confident mistakes.
    """
    z = logits.float().masked_fill(~mask, 0)
    if reading == "prob":
        if_correct, _ = NEG_LOG[for_correct]
        _, if_wrong = NEG_LOG[for_wrong]
        return select_by_outcome(correct, if_correct(z, mask, tau), if_wrong(z, mask, tau))
    pool = {"logit": pool_logits, "literal": pool_probabilities}[reading]
    a_correct, a_wrong = pool(for_correct, z, mask, tau), pool(for_wrong, z, mask, tau)
    return select_by_outcome(correct, -logsigmoid(a_correct), -logsigmoid(-a_wrong))


def pool_logits(aggregation: str, z: Logits, mask: Mask, tau: float) -> PerResponse:
    return AGGREGATIONS[aggregation](z, mask, tau)


def pool_probabilities(aggregation: str, z: Logits, mask: Mask, tau: float) -> PerResponse:
    neg_log, _ = NEG_LOG[aggregation]
    return torch.exp(-neg_log(z, mask, tau))


def select_by_outcome(correct: PerResponse, if_correct: PerResponse, if_wrong: PerResponse) -> PerResponse:
    return torch.where(correct > 0.5, if_correct, if_wrong).masked_fill(correct.isnan(), 0)


def robust_asym(logits: Logits, mask: Mask, correct: PerResponse, flip_rate: float = 0.1) -> PerResponse:
    """For right answers that may contain a wrong step: P(c=1) = A + (1 - A) e, A the product of the step scores, e = `flip_rate`.

    A noisy-or: an answer is right when all steps are, else by luck with probability e. -log(A + (1-A) e) for right answers;
    -log(1-A) for wrong ones, where the constant -log(1-e) is left out. The pull on the steps of a right answer with a step that is
    surely wrong, (1-e) A (1-r) / (A + (1-A) e), fades with A, where asym's grows to 1 and undoes what the wrong ones taught.
    One A for both outcomes: its fit is P(c=1), which flips shift but do not reorder; and a wrong answer that has its wrong step
    asks nothing more of the others, however many they are.
    """
    z = logits.float().masked_fill(~mask, 0)
    u = total(-logsigmoid(z), mask)
    log_wrong = log_complement(u, log_mean_exp(log_softplus(-z), mask) + mask.sum(-1).log())
    log_flip = math.log(flip_rate) if flip_rate else -math.inf
    return select_by_outcome(correct, -torch.logaddexp(-u, log_wrong + log_flip), -log_wrong)


def orm(logits: Logits, mask: Mask, correct: PerResponse) -> PerResponse:
    """Outcome reward model: the logit at the last step against the outcome (Cobbe et al. 2021)."""
    return bce_with_logits(last(logits.float(), mask), correct)


def implicit_loss(response_log_ratio: PerResponse, correct: PerResponse, beta: float = 0.05) -> PerResponse:
    """Implicit PRM: `beta * sum_i log(pi / pi_ref)(o_i)` over all response tokens, EOS included (Yuan et al. 2024)."""
    return bce_with_logits(beta * response_log_ratio.float(), correct)


def implicit_prm(step_log_ratios: Logits, mask: Mask, correct: PerResponse, beta: float = 0.05) -> PerResponse:
    """`implicit_loss` from each step's sum of token log-ratios (EOS counted in the last step)."""
    return implicit_loss(total(step_log_ratios.float(), mask), correct, beta)


def td_lambda(logits: Logits, mask: Mask, correct: PerResponse, gamma: float = 1.0, gae_lambda: float = 0.95) -> PerResponse:
    """Values by TD(lambda): the mean over steps of (V_m - target_m)^2, V = sigmoid(z), as AgentPRM's targets with GAE.

    The only reward is c, at the last step. target_m = V_m + GAE advantage is the lambda-return
    G_m = gamma ((1 - lambda) V_{m+1} + lambda G_{m+1}), G_M = c, and carries no gradient.
    """
    z, c = logits.float().masked_fill(~mask, 0), correct.nan_to_num()
    with torch.no_grad():
        bootstrap = gamma * (1 - gae_lambda)
        target = lambda_return(bootstrap * probability(z), c, mask, gamma * gae_lambda)
        complement = lambda_return(1 - gamma + bootstrap * probability(-z), 1 - c, mask, gamma * gae_lambda)
    return mean(squared_error(z, target, complement), mask).masked_fill(correct.isnan(), 0)


def lambda_return(rewards: Logits, final: PerResponse, mask: Mask, decay: float) -> Float[Tensor, "batch steps"]:
    """G_m = rewards_{m+1} + decay G_{m+1}, and `final` at the last step of each response."""
    index = torch.arange(mask.shape[-1], device=mask.device)
    ahead = (index - 1).unsqueeze(0) - index.unsqueeze(1)
    weights = (decay ** ahead.clamp(min=0).float()).masked_fill(ahead < 0, 0)
    to_go = (mask.sum(-1, keepdim=True) - 1 - index).clamp(min=0)
    return rewards.masked_fill(~mask, 0) @ weights.T + final.unsqueeze(-1) * decay ** to_go.float()
