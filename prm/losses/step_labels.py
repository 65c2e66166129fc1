"""Objectives that learn from step labels: step logits and labels (NaN where there is none) in, one loss per response out."""

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

from prm.aggregation import total
from prm.losses.common import Logits, Mask, PerResponse, bce_with_logits, squared_error

IGNORED = -100
NEUTRAL_CLASS = {"good": 1, "bad": 0, "ignored": IGNORED}


def step_ce(
    logits: Float[Tensor, "batch steps *classes"],
    mask: Mask,
    step_labels: Shaped[Tensor, "batch steps"],
    neutral: str = "good",
) -> PerResponse:
    """Cross-entropy at every labelled step, summed over the response (Lightman et al. 2023).

    Three or two classes take labels -1, 0, 1 or booleans (see `step_classes`); one output takes targets in [0, 1].
    """
    if logits.ndim == 2:
        z = logits.float().masked_fill(~mask, 0)
        return total(bce_with_logits(z, soft_targets(step_labels.masked_fill(~mask, 0))), mask)
    classes = step_classes(step_labels.masked_fill(~mask, 0), logits.shape[-1], neutral)
    is_labelled = mask & (classes != IGNORED)
    z = logits.float().masked_fill(~is_labelled.unsqueeze(-1), 0)
    index = classes.clamp(min=0).unsqueeze(-1)
    # softplus(logsumexp of the other classes - z_y): log_softmax rounds a confident step's loss to 0 beyond z = 17.
    others = z.scatter(-1, index, -torch.inf).logsumexp(-1)
    return total(-logsigmoid(z.gather(-1, index).squeeze(-1) - others), is_labelled)


def mc_regression(logits: Logits, mask: Mask, step_labels: Shaped[Tensor, "batch steps"]) -> PerResponse:
    """Squared error of sigmoid(z) against the share of completions that got it right, summed over the labelled steps.

    Targets are Monte-Carlo values in [0, 1] (Wang et al. 2024, Math-Shepherd's soft estimation, as a regression).
    """
    targets = soft_targets(step_labels.masked_fill(~mask, 0))
    t = targets.nan_to_num()
    errors = squared_error(logits.float().masked_fill(~mask, 0), t, 1 - t)
    return total(errors.masked_fill(targets.isnan(), 0), mask)


def pqm(
    logits: Logits, mask: Mask, step_labels: Shaped[Tensor, "batch steps"], neutral: str = "good", zeta: float = 4.0
) -> PerResponse:
    """Q-value ranking: every good step above the good ones before it, and above all bad ones by a margin (Li & Li 2024).

    The mean over the good steps c of `-log e^{Q_c} / (sum_{good q <= c} e^{Q_q} + sum_{bad w} e^{Q_w + zeta})`, Q the raw
    output; 0 without a good step. Only differences of Q matter, so that no threshold on Q means anything.
    """
    is_good, is_bad = good_and_bad(step_labels, mask, neutral)
    q = logits.float().masked_fill(~mask, 0)
    is_before = torch.ones(q.shape[-1], q.shape[-1], dtype=torch.bool, device=q.device).tril(-1)
    is_rival = is_bad.unsqueeze(-2) | (is_good.unsqueeze(-2) & is_before)
    is_ranked = is_good & is_rival.any(-1)
    # A row without a rival keeps finite entries, since the gradient of an empty logsumexp is NaN.
    rivals = (q + zeta * is_bad).unsqueeze(-2).masked_fill(~is_rival & is_ranked.unsqueeze(-1), -torch.inf)
    losses = -logsigmoid(q - rivals.logsumexp(-1))
    return total(losses, is_ranked) / is_good.sum(-1).clamp(min=1)


def good_and_bad(
    step_labels: Shaped[Tensor, "*steps"], mask: Bool[Tensor, "*steps"], neutral: str
) -> tuple[Bool[Tensor, "*steps"], Bool[Tensor, "*steps"]]:
    """Which real steps are labelled good and which bad; raises ValueError as `step_classes` does."""
    classes = step_classes(step_labels.masked_fill(~mask, 0), 2, neutral)
    return mask & (classes == 1), mask & (classes == 0)


def step_classes(step_labels: Shaped[Tensor, "*shape"], num_labels: int, neutral: str = "good") -> Integer[Tensor, "*shape"]:
    """Class of each label, IGNORED for NaN. Three outputs: bad 0, neutral 1, good 2. Two: bad 0, good 1.

    With two, `neutral` says whether label 0 is good, bad or ignored. Booleans are bad and good. As numbers, 0 and 1 are
    neutral and good. Raises ValueError for another label, another number of outputs or another policy.
    """
    if num_labels not in (2, 3):
        raise ValueError(f"step_ce has {num_labels} outputs: use 3, 2, or 1 for soft targets")
    check_neutral(neutral)
    labels = 2.0 * step_labels - 1 if step_labels.dtype == torch.bool else step_labels.float()
    is_known = labels.isnan() | (labels == -1) | (labels == 0) | (labels == 1)
    if not is_known.all():
        value = labels[~is_known][0]
        raise ValueError(f"step label {value:g} is not -1, 0 or 1: soft targets need mc_regression, or step_ce with num_labels 1")
    bad_neutral_good = (0, 1, 2) if num_labels == 3 else (0, NEUTRAL_CLASS[neutral], 1)
    classes = torch.tensor(bad_neutral_good, device=labels.device)[labels.nan_to_num().long() + 1]
    return classes.masked_fill(labels.isnan(), IGNORED)


def soft_targets(step_labels: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Probabilities that the step is good, or booleans, as floats. Raises ValueError for values outside [0, 1]."""
    targets = step_labels.float()
    is_outside = (targets < 0) | (targets > 1)
    if is_outside.any():
        value = targets[is_outside][0]
        raise ValueError(f"step label {value:g} is outside [0, 1]: labels -1, 0, 1 need step_ce with num_labels 2 or 3")
    return targets


def check_neutral(neutral: str) -> None:
    if neutral not in NEUTRAL_CLASS:
        raise ValueError(f"unknown policy for neutral steps {neutral!r}: choose from {', '.join(NEUTRAL_CLASS)}")
