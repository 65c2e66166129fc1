"""Validation: a model and labelled items in; loss, accuracy and AUC of outcomes, and AUC of steps out."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from prm.aggregation import aggregate_lists
from prm.data.collate import PackedCollator
from prm.data.examples import Unit
from prm.metrics import accuracy, roc_auc
from prm.models.packing import Batch, batch_by_tokens, to_device
from prm.steps import StepEncoder


@dataclass(frozen=True)
class Scored:
    """What validation keeps of one micro-batch: sums for the loss, and the step scores beside their labels."""

    loss: float
    num_items: int
    step_scores: list[list[float]]
    step_labels: list[list[float]]
    correct: list[float]


@torch.no_grad()
def score_examples(
    items: Sequence[Unit],
    collate: PackedCollator,
    token_budget: int,
    device: torch.device,
    score: Callable[[Batch], tuple[Float[Tensor, " steps"], float, int]],
    rank: int = 0,
    world_size: int = 1,
) -> list[Scored]:
    """Run `score` (step scores, sum of the loss, number of its items) over all items, shared between ranks; all get the whole.

    Every rank runs the same number of micro-batches, since under ZeRO-3 all ranks take part in each forward pass.
    """
    batches = batch_by_tokens([item.num_tokens for item in items], token_budget)
    results = []
    for turn in range(math.ceil(len(batches) / world_size)):
        index = turn * world_size + rank
        batch = collate([example for i in batches[index % len(batches)] for example in items[i]])
        scores, loss, num_items = score(to_device(batch, device))
        if index < len(batches):
            parts = scores.float().cpu().split(batch["step_counts"].tolist())
            labels = batch["step_labels"].split(batch["step_counts"].tolist())
            results.append(
                Scored(loss, num_items, *([t.tolist() for t in part] for part in (parts, labels)), batch["correct"].tolist())
            )
    return gather_object(results)


def validation_metrics(scored: Sequence[Scored], encoder: StepEncoder) -> dict[str, float]:
    """`loss`, and where there are labels `outcome_accuracy`, `outcome_auc` and `step_auc`; a metric that is undefined is left out.

    A response's score is the encoder's aggregation of its step scores; the implicit PRM's is their sum, which it is trained on,
    right when positive. Other raw values (pqm's) rank responses but have no threshold, and no accuracy.
    """
    is_implicit = encoder.layout == "plain"
    threshold = 0.0 if is_implicit else None if encoder.activation == "identity" else 0.5
    step_scores = [scores for batch in scored for scores in batch.step_scores]
    correct = np.array([label for batch in scored for label in batch.correct])
    aggregation = "sum" if is_implicit else encoder.aggregation
    responses = aggregate_lists(step_scores, aggregation, encoder.tau, signed=encoder.is_signed)[~np.isnan(correct)]
    correct = correct[~np.isnan(correct)]
    metrics = {
        "loss": sum(batch.loss for batch in scored) / max(sum(batch.num_items for batch in scored), 1),
        "outcome_accuracy": accuracy(responses, correct, threshold) if threshold is not None else math.nan,
        "outcome_auc": roc_auc(responses, correct),
        "step_auc": roc_auc(*good_and_bad(step_scores, [labels for batch in scored for labels in batch.step_labels])),
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def good_and_bad(step_scores: Sequence[Sequence[float]], step_labels: Sequence[Sequence[float]]) -> Iterator[np.ndarray]:
    """Scores of the steps labelled good or bad, and whether they are good; neutral and unlabelled steps are left out.

    Without a negative label all are targets in [0, 1], and bad is below 0.5.
    """
    scores = np.array([score for steps in step_scores for score in steps])
    labels = np.array([label for steps in step_labels for label in steps])
    is_bad = labels < (0 if (labels < 0).any() else 0.5)
    is_good = labels >= 0.5
    yield scores[is_bad | is_good]
    yield is_good[is_bad | is_good]
