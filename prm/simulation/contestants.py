"""Contestants of the study of outcomes: labelled traces in, the table of step logits [S, T, V] that an objective makes of them out.

The objectives are those of `prm.losses`, the very functions that train a PRM; a table of logits stands in for the model.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prm.losses import response_losses
from prm.simulation.environment import Table
from prm.simulation.queries import Examples


class Contestant(NamedTuple):
    """A training signal (a key of `SIGNALS`) and the objective that learns from it."""

    signal: str
    loss: Callable[..., Tensor]
    is_policy: bool = False
    """Whether the logits are log-ratios of a policy to the uniform one, as an implicit PRM's."""


def objective(name: str, **options: float | str) -> Callable[..., Tensor]:
    return partial(response_losses, name, **options)


CONTESTANTS: dict[str, Contestant] = {
    "asym": Contestant("traces", objective("asym")),
    "asym_literal": Contestant("traces", objective("asym", reading="literal")),
    "reversed_asym": Contestant("traces", objective("reversed_asym")),
    "min": Contestant("traces", objective("min")),
    "softmin": Contestant("traces", objective("softmin")),
    "geometric_mean": Contestant("traces", objective("geometric_mean")),
    # The noisy-or without a flip rate is cross-entropy on the product of the step scores.
    "product": Contestant("traces", objective("robust_asym", flip_rate=0.0)),
    "robust_asym": Contestant("traces", objective("robust_asym")),
    # The implicit PRM's loss at beta = 1 is cross-entropy on the sum of free step logits.
    "orm_sum": Contestant("traces", objective("implicit_prm", beta=1.0)),
    "implicit_prm": Contestant("traces", objective("implicit_prm"), is_policy=True),
    # Semi-gradient: targets are made anew at every step of the fit. They and Monte-Carlo's are values of prefixes, not of steps.
    "td": Contestant("traces", objective("td_lambda")),
    "monte_carlo": Contestant("completions", objective("mc_regression")),
    "contrastive": Contestant("exchanges at every step", objective("margin_ranking")),
    "intervention": Contestant("exchanges at one step", objective("margin_ranking")),
}


def fit(contestant: Contestant, examples: Examples, num_tokens: int, num_iterations: int, learning_rate: float) -> Table:
    """Step logits after full-batch Adam from zero; every seed's table is fitted by itself, its examples' losses averaged."""
    num_seeds, num_traces, num_steps = examples.traces.shape
    place = torch.arange(num_seeds)[:, None, None], torch.arange(num_steps), torch.tensor(examples.traces)
    mask = torch.ones(num_seeds * num_traces, num_steps, dtype=torch.bool)
    labels = [_rows(part) for part in (examples.correct, examples.step_labels, _by_seed(examples.prefixes))]
    parameters = torch.zeros(num_seeds, num_steps, num_tokens, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=learning_rate)

    def logits() -> Tensor:
        return torch.log_softmax(parameters, -1) + math.log(num_tokens) if contestant.is_policy else parameters

    for _ in range(num_iterations):
        loss = contestant.loss(logits()[place].flatten(0, 1), mask, *labels).sum() / num_traces
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits().detach().double().numpy()


def _rows(part: np.ndarray | None) -> Tensor | None:
    """The examples of all seeds as one batch."""
    return None if part is None else torch.tensor(part).flatten(0, 1)


def _by_seed(prefixes: np.ndarray | None) -> np.ndarray | None:
    """Prefix ids that no two seeds share."""
    return None if prefixes is None else prefixes + np.arange(len(prefixes))[:, None, None] * (prefixes.max() + 1)
