"""Training objectives: step logits in, one loss per response (and one scalar per batch) out.

Shapes: `logits [batch, steps]` (step_ce: `[batch, steps, classes]`), `mask [batch, steps]` true at real steps, `correct
[batch]` 1, 0 or NaN (no outcome label), `step_labels [batch, steps]` NaN where there is none. NaN labels cost nothing.

Everything is computed in float32 whatever the logits' dtype, and from log-probabilities: `log(1 - sigmoid(z))` is
infinite, or has no gradient, from z = 17 on.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor
from torch.nn.functional import logsigmoid

from prm.aggregation import AGGREGATIONS, last, log1mexp, log_mean_exp, log_softmin, log_softplus, mean, minimum, total

Logits = Float[Tensor, "batch steps"]
Mask = Bool[Tensor, "batch steps"]
PerResponse = Float[Tensor, "batch"]

IGNORED = -100
NEUTRAL_CLASS = {"good": 1, "bad": 0, "ignored": IGNORED}
READINGS = ("prob", "logit", "literal")


def neg_log_not_geometric_mean(z: Logits, mask: Mask, tau: float) -> PerResponse:
    """`-log(1 - exp(-u))` with u = -log A: log1mexp, and below 1e-3 its series around log u, which cannot underflow."""
    u = mean(-logsigmoid(z), mask)
    is_small = u < 1e-3
    series = -log_mean_exp(log_softplus(-z), mask) + u / 2 - u.square() / 24
    return torch.where(is_small, series, -log1mexp(u.masked_fill(is_small, 1)))


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
    tau: float = 0.1,
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


def bce_with_logits(z: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Cross-entropy against targets in [0, 1], 0 where the target is NaN.

    torch's own computes `(1-t) z - logsigmoid(z)`, which is exactly 0 for t = 0 and z < -17.
    """
    t = target.float().nan_to_num()
    return -(t * logsigmoid(z) + (1 - t) * logsigmoid(-z)).masked_fill(target.isnan(), 0)


def orm(logits: Logits, mask: Mask, correct: PerResponse) -> PerResponse:
    """Outcome reward model: the logit at the last step against the outcome (Cobbe et al. 2021)."""
    return bce_with_logits(last(logits.float(), mask), correct)


def implicit_loss(response_log_ratio: PerResponse, correct: PerResponse, beta: float = 0.05) -> PerResponse:
    """Implicit PRM: `beta * sum_i log(pi / pi_ref)(o_i)` over all response tokens, EOS included (Yuan et al. 2024)."""
    return bce_with_logits(beta * response_log_ratio.float(), correct)


def implicit_prm(step_log_ratios: Logits, mask: Mask, correct: PerResponse, beta: float = 0.05) -> PerResponse:
    """`implicit_loss` from each step's sum of token log-ratios (EOS counted in the last step)."""
    return implicit_loss(total(step_log_ratios.float(), mask), correct, beta)


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
        raise ValueError(f"step label {labels[~is_known][0]:g} is not -1, 0 or 1: soft targets need num_labels 1")
    bad_neutral_good = (0, 1, 2) if num_labels == 3 else (0, NEUTRAL_CLASS[neutral], 1)
    classes = torch.tensor(bad_neutral_good, device=labels.device)[labels.nan_to_num().long() + 1]
    return classes.masked_fill(labels.isnan(), IGNORED)


def soft_targets(step_labels: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Targets of a one-output step_ce: probabilities that the step is good, or booleans. Raises ValueError elsewhere."""
    targets = step_labels.float()
    is_outside = (targets < 0) | (targets > 1)
    if is_outside.any():
        raise ValueError(f"step label {targets[is_outside][0]:g} is outside [0, 1]: labels -1, 0, 1 need num_labels 2 or 3")
    return targets


class Objective(NamedTuple):
    """One `--loss`: what computes it, what it reads, how many outputs the head has, which options change it."""

    function: Callable[..., Tensor]
    needs: Literal["outcome", "step_labels"]
    num_labels: int
    options: tuple[str, ...] = ()


def pooled(for_correct: str, for_wrong: str) -> Objective:
    function = partial(outcome_loss, for_correct=for_correct, for_wrong=for_wrong)
    return Objective(function, "outcome", 1, ("reading", "tau"))


LOSSES: dict[str, Objective] = {
    "asym": pooled(for_correct="min", for_wrong="geometric_mean"),
    "min": pooled(for_correct="min", for_wrong="min"),
    "geometric_mean": pooled(for_correct="geometric_mean", for_wrong="geometric_mean"),
    "softmin": pooled(for_correct="softmin", for_wrong="softmin"),
    "orm": Objective(orm, "outcome", 1),
    "implicit_prm": Objective(implicit_prm, "outcome", 0, ("beta",)),
    "step_ce": Objective(step_ce, "step_labels", 3, ("neutral",)),
}


def compute_loss(
    name: str,
    logits: Float[Tensor, "batch steps *classes"],
    mask: Mask,
    correct: PerResponse | None,
    step_labels: Shaped[Tensor, "batch steps"] | None = None,
    *,
    num_items: int | Tensor,
    reading: str = "prob",
    tau: float = 0.1,
    beta: float = 0.05,
    neutral: str = "good",
) -> Float[Tensor, ""]:
    """The loss of one micro-batch: the sum over its responses divided by the *global* `num_items` (ranks, accumulation).

    For implicit_prm `logits` are each step's sum of token log-ratios. A batch without responses or labels gives a
    differentiable zero. Raises ValueError for what `check_options` refuses, missing labels, a response without steps,
    an outcome other than 0, 1 or NaN, and a head of the wrong width.
    """
    check_options(name, reading=reading, tau=tau, beta=beta, neutral=neutral)
    objective = LOSSES[name]
    labels = labels_for(name, correct, step_labels)
    has_steps = mask.any(-1)
    if not has_steps.all():
        raise ValueError(f"response {int(has_steps.int().argmin())} of the batch has no step: drop it before batching")
    if logits.ndim == 3 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    if objective.needs == "outcome" and logits.ndim == 3:
        raise ValueError(f"loss {name} needs a head with one output, not {logits.shape[-1]}")
    values = {"reading": reading, "tau": tau, "beta": beta, "neutral": neutral}
    losses = objective.function(logits, mask, labels, **{option: values[option] for option in objective.options})
    return losses.sum() / max(int(num_items), 1)


def num_items(
    name: str,
    correct: PerResponse | None,
    step_labels: Shaped[Tensor, "*steps"] | None,
    mask: Bool[Tensor, "*steps"] | None = None,
    *,
    num_labels: int = 3,
    neutral: str = "good",
) -> int:
    """What the loss is divided by: responses with an outcome; for step_ce labelled steps, padded (`mask`) or packed."""
    labels = labels_for(name, correct, step_labels)
    if name != "step_ce":
        return int((~labels.isnan()).sum())
    is_labelled = ~labels.isnan() if num_labels == 1 else step_classes(labels, num_labels, neutral) != IGNORED
    return int((is_labelled if mask is None else is_labelled & mask).sum())


def labels_for(name: str, correct: PerResponse | None, step_labels: Tensor | None) -> Tensor:
    """The labels that the objective reads. Raises ValueError if they are absent or no outcome label."""
    check_name(name)
    needs = LOSSES[name].needs
    labels = {"outcome": correct, "step_labels": step_labels}[needs]
    if labels is None:
        raise ValueError(f"loss {name} needs labels ({needs}), and the batch has none")
    if needs == "outcome":
        is_outcome = labels.isnan() | (labels == 0) | (labels == 1)
        if not is_outcome.all():
            raise ValueError(f"outcome label {labels[~is_outcome][0]:g} is not 0, 1 or NaN")
    return labels


def check_options(name: str, *, reading: str = "prob", tau: float = 0.1, beta: float = 0.05, neutral: str = "good") -> None:
    """Raises ValueError for an unknown loss or option, or a reading that the loss does not have."""
    check_name(name)
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r}: choose from {', '.join(READINGS)}")
    if reading != "prob" and "reading" not in LOSSES[name].options:
        raise ValueError(f"reading {reading!r} needs a loss that pools steps, and {name} does not: use 'prob'")
    if reading == "logit" and name not in ("min", "softmin"):
        raise ValueError(f"reading 'logit' exists for min and softmin, not for {name}: logits have no geometric mean")
    for option, value in {"tau": tau, "beta": beta}.items():
        if not value > 0:
            raise ValueError(f"{option} is {value}: it must be positive")
    check_neutral(neutral)


def check_name(name: str) -> None:
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose from {', '.join(LOSSES)}")


def check_neutral(neutral: str) -> None:
    if neutral not in NEUTRAL_CLASS:
        raise ValueError(f"unknown policy for neutral steps {neutral!r}: choose from {', '.join(NEUTRAL_CLASS)}")
