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

from prm.aggregation import TAU, pad_steps
from prm.losses.common import Mask, PerResponse
from prm.losses.counterfactual import counterfactual_pairs, margin_ranking, prefix_ids
from prm.losses.outcome import implicit_loss, implicit_prm, orm, outcome_loss, robust_asym, td_lambda
from prm.losses.step_labels import IGNORED, check_neutral, good_and_bad, mc_regression, pqm, step_ce, step_classes

__all__ = [
    "IGNORED",
    "LOSSES",
    "OPTIONS",
    "READINGS",
    "Objective",
    "check_options",
    "compute_loss",
    "counterfactual_pairs",
    "global_mean",
    "good_and_bad",
    "implicit_loss",
    "num_items",
    "prefix_ids",
    "response_losses",
    "step_classes",
]

READINGS = ("prob", "logit", "literal")


class Objective(NamedTuple):
    """One `--loss`: what computes it, what it reads, how many outputs the head has, which options change it."""

    function: Callable[..., Tensor]
    needs: Literal["outcome", "step_labels", "soft_labels"]
    num_labels: int
    options: tuple[str, ...] = ()
    items: Literal["outcomes", "labelled steps", "ranked responses", "pairs"] = "outcomes"
    """What the loss is divided by, see `num_items`."""
    unit: Literal["response", "question"] = "response"
    """What a micro-batch may not divide: pairs are found only among the responses to one question that it holds."""


def pooled(for_correct: str, for_wrong: str) -> Objective:
    function = partial(outcome_loss, for_correct=for_correct, for_wrong=for_wrong)
    return Objective(function, "outcome", 1, ("reading", "tau"))


LOSSES: dict[str, Objective] = {
    "asym": pooled(for_correct="min", for_wrong="geometric_mean"),
    "reversed_asym": pooled(for_correct="geometric_mean", for_wrong="min"),  # a control, not for use
    "min": pooled(for_correct="min", for_wrong="min"),
    "geometric_mean": pooled(for_correct="geometric_mean", for_wrong="geometric_mean"),
    "softmin": pooled(for_correct="softmin", for_wrong="softmin"),
    "robust_asym": Objective(robust_asym, "outcome", 1, ("flip_rate",)),
    "orm": Objective(orm, "outcome", 1),
    "implicit_prm": Objective(implicit_prm, "outcome", 0, ("beta",)),
    "td_lambda": Objective(td_lambda, "outcome", 1, ("gamma", "gae_lambda")),
    "step_ce": Objective(step_ce, "step_labels", 3, ("neutral",), "labelled steps"),
    "mc_regression": Objective(mc_regression, "soft_labels", 1, (), "labelled steps"),
    "pqm": Objective(pqm, "step_labels", 1, ("neutral", "zeta"), "ranked responses"),
    "margin_ranking": Objective(margin_ranking, "step_labels", 1, ("neutral", "margin"), "pairs", "question"),
}
OPTIONS = ("reading", "tau", "beta", "neutral", "zeta", "gamma", "gae_lambda", "margin", "flip_rate")
"""The keywords of `check_options`: every objective takes them all, and reads those that its entry names."""


def compute_loss(
    name: str,
    logits: Float[Tensor, "batch steps *classes"],
    mask: Mask,
    correct: PerResponse | None,
    step_labels: Shaped[Tensor, "batch steps"] | None = None,
    prefixes: Integer[Tensor, "batch steps"] | None = None,
    *,
    num_items: int | Tensor,
    **options: float | str,
) -> Float[Tensor, ""]:
    """The loss of one micro-batch: the sum over its responses divided by the *global* `num_items` (ranks, accumulation).

    A batch without responses or labels gives a differentiable zero. Arguments, options and errors as `response_losses`.
    """
    losses = response_losses(name, logits, mask, correct, step_labels, prefixes, **options)
    return global_mean(losses, num_items)


def global_mean(losses: PerResponse, num_items: int | Tensor) -> Float[Tensor, ""]:
    """This micro-batch's share of the mean over `num_items`, those of all ranks and passes; 0 where there are none."""
    return losses.sum() / max(int(num_items), 1)


def response_losses(
    name: str,
    logits: Float[Tensor, "batch steps *classes"],
    mask: Mask,
    correct: PerResponse | None,
    step_labels: Shaped[Tensor, "batch steps"] | None = None,
    prefixes: Integer[Tensor, "batch steps"] | None = None,
    **options: float | str,
) -> PerResponse:
    """Each response's part of the loss, before the division by `num_items`; `options` as in `check_options`.

    For implicit_prm `logits` are each step's sum of token log-ratios. `prefixes`, as `prefix_ids` makes them, are for
    margin_ranking. Raises ValueError for what `check_options` refuses, missing labels or prefixes, a response without steps,
    an outcome other than 0, 1 or NaN, and a head of the wrong width.
    """
    check_options(name, **options)
    objective = LOSSES[name]
    labels = labels_for(name, correct, step_labels)
    has_steps = mask.any(-1)
    if not has_steps.all():
        raise ValueError(f"response {int(has_steps.int().argmin())} of the batch has no step: drop it before batching")
    if logits.ndim == 3 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    if name != "step_ce" and logits.ndim == 3:
        raise ValueError(f"loss {name} needs a head with one output, not {logits.shape[-1]}")
    chosen = {option: value for option, value in options.items() if option in objective.options}
    if objective.unit == "question":
        chosen["prefixes"] = prefixes_for(name, prefixes)
    return objective.function(logits, mask, labels, **chosen)


def num_items(
    name: str,
    correct: PerResponse | None,
    step_labels: Shaped[Tensor, "*steps"] | None,
    mask: Bool[Tensor, "*steps"] | None = None,
    prefixes: Integer[Tensor, "*steps"] | None = None,
    *,
    step_counts: Integer[Tensor, "batch"] | None = None,
    num_labels: int = 3,
    neutral: str = "good",
) -> int:
    """What the loss is divided by: responses with an outcome; labelled steps (step_ce, mc_regression); responses with a good
    step (pqm); counterfactual pairs (margin_ranking).

    Labels and prefixes are padded (`mask`) or packed (`step_counts`, which only the last two need). Raises ValueError for
    missing labels or prefixes, and where responses cannot be told apart.
    """
    objective, labels = LOSSES[check_name(name)], labels_for(name, correct, step_labels)
    if objective.items == "outcomes":
        return int((~labels.isnan()).sum())
    if step_counts is not None:
        prefixes = None if prefixes is None else pad_steps(prefixes, step_counts)[0]
        labels, mask = pad_steps(labels, step_counts)
    if mask is None:
        mask = torch.ones_like(labels, dtype=torch.bool)
    labels = labels.masked_fill(~mask, 0)
    if objective.items == "labelled steps":
        is_soft = objective.needs == "soft_labels" or num_labels == 1
        is_labelled = ~labels.isnan() if is_soft else step_classes(labels, num_labels, neutral) != IGNORED
        return int((is_labelled & mask).sum())
    if labels.ndim == 1:
        raise ValueError(f"loss {name} counts {objective.items}: give the step_counts of the packed labels")
    if objective.items == "pairs":
        return len(counterfactual_pairs(prefixes_for(name, prefixes), mask, labels, neutral)[0])
    is_good, _ = good_and_bad(labels, mask, neutral)
    return int(is_good.any(-1).sum())


def labels_for(name: str, correct: PerResponse | None, step_labels: Tensor | None) -> Tensor:
    """The labels that the objective reads. Raises ValueError if they are absent or no outcome label."""
    needs = LOSSES[check_name(name)].needs
    labels = correct if needs == "outcome" else step_labels
    if labels is None:
        raise ValueError(f"loss {name} needs labels ({needs}), and the batch has none")
    if needs == "outcome":
        is_outcome = labels.isnan() | (labels == 0) | (labels == 1)
        if not is_outcome.all():
            raise ValueError(f"outcome label {labels[~is_outcome][0]:g} is not 0, 1 or NaN")
    return labels


def prefixes_for(name: str, prefixes: Tensor | None) -> Tensor:
    if prefixes is None:
        raise ValueError(f"loss {name} needs the prefixes of the steps, and the batch has none: make them with prefix_ids")
    return prefixes


def check_options(
    name: str,
    *,
    reading: str = "prob",
    tau: float = TAU,
    beta: float = 0.05,
    neutral: str = "good",
    zeta: float = 4.0,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    margin: float = 1.0,
    flip_rate: float = 0.1,
) -> None:
    """Raises ValueError for an unknown loss or option, or a reading that the loss does not have."""
    check_name(name)
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r}: choose from {', '.join(READINGS)}")
    if reading != "prob" and "reading" not in LOSSES[name].options:
        raise ValueError(f"reading {reading!r} needs a loss that pools steps, and {name} does not: use 'prob'")
    if reading == "logit" and name not in ("min", "softmin"):
        raise ValueError(f"reading 'logit' exists for min and softmin, not for {name}: logits have no geometric mean")
    for option, value in {"tau": tau, "beta": beta, "gamma": gamma, "margin": margin}.items():
        if not value > 0:
            raise ValueError(f"{option} is {value}: it must be positive")
    for option, value in {"gamma": gamma, "gae_lambda": gae_lambda}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{option} is {value}: it must lie between 0 and 1")
    if not 0 <= flip_rate < 1:
        raise ValueError(f"flip_rate is {flip_rate}: it must be at least 0 and below 1")
    if not zeta >= 0:
        raise ValueError(f"zeta is {zeta}: it must not be negative")
    check_neutral(neutral)


def check_name(name: str) -> str:
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose from {', '.join(LOSSES)}")
    return name
