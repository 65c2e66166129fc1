"""Encoded responses in, their step scores out: the one place where outputs of a model become scores."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prm.models.backbone import PackedModel
from prm.models.implicit import ImplicitPRM, sum_by_step
from prm.models.packing import Batch, pack_responses, to_device
from prm.steps import EncodedResponse, StepEncoder

ACTIVATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sigmoid": lambda logits, _: logits[:, 0].sigmoid(),
    "softmax": lambda logits, good_class: logits.softmax(-1)[:, good_class],
    "difference": lambda logits, good_class: logits.softmax(-1)[:, good_class] - logits.softmax(-1)[:, 0],
    "identity": lambda logits, _: logits[:, 0],
}
"""Step logits [steps, labels] and the index of the good class -> step scores [steps]."""


def score_batch(
    model: PackedModel,
    encoder: StepEncoder,
    encoded: Sequence[EncodedResponse],
    reference: ImplicitPRM | None = None,
) -> list[list[float]]:
    """Step scores of responses that fit into one packed row, each computed whole, see `score_rows`."""
    return score_rows(model, encoder, [encoded], reference, share_prefixes=False)[0]


@torch.no_grad()  # not inference mode, for which compiled layers would be compiled once more
def score_rows(
    model: PackedModel,
    encoder: StepEncoder,
    rows: Sequence[Sequence[EncodedResponse]],
    reference: ImplicitPRM | None,
    share_prefixes: bool,
) -> list[list[list[float]]]:
    """Step scores by row and response; with `share_prefixes`, what neighbors in a row begin with is computed once.

    No score is read before all rows have been launched, so that a GPU computes one row while the next is laid out.

    An implicit PRM's scores are beta * log(pi / pi_ref), without a `reference` beta * log pi; summed up to each step where the
    contract is cumulative.
    """
    scores = [_row_scores(model, encoder, row, reference, share_prefixes) for row in rows]
    result = []
    for row, values in zip(rows, scores, strict=True):
        by_response = values.cpu().split([len(response.step_ends) for response in row])
        result.append([(part.cumsum(0) if encoder.is_cumulative else part).tolist() for part in by_response])
    return result


def largest_difference(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Largest difference of two scores of one step, absolute below 1 and relative above; nan if any score is nan."""
    pairs = [pair for one, other in zip(ours, theirs, strict=True) for pair in zip(one, other, strict=True)]
    one, other = torch.tensor(pairs, dtype=torch.float64).unbind(-1)
    return ((one - other).abs() / one.abs().clamp(min=1)).max().item()


def _row_scores(
    model: PackedModel, encoder: StepEncoder, row: Sequence[EncodedResponse], reference: ImplicitPRM | None, share_prefixes: bool
) -> Float[Tensor, " steps"]:
    """Step scores of a row, still on the device of the model."""
    is_implicit = isinstance(model, ImplicitPRM)
    batch = pack_responses(row, is_implicit, share_prefixes)
    del batch["step_counts"]  # known without the device
    batch = to_device(batch, model.device)
    if is_implicit:
        return _step_rewards(model, batch, encoder.beta, reference)
    return ACTIVATIONS[encoder.activation](model(**model.inputs(batch)).float(), encoder.good_class)


def _step_rewards(model: ImplicitPRM, batch: Batch, beta: float, reference: ImplicitPRM | None) -> Float[Tensor, " steps"]:
    """beta * log(pi / pi_ref), summed over the tokens of each step (Yuan et al. 2024)."""
    log_ratios = model(**model.inputs(batch))
    if reference is not None:
        log_ratios = log_ratios - reference(**reference.inputs(batch))
    if "target_index" in batch:
        log_ratios = log_ratios[batch["target_index"]]
    return beta * sum_by_step(log_ratios, batch["target_steps"], len(batch["step_ends"]))
