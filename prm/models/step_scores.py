"""A few encoded responses in, their step scores out: the one place where outputs of a model become scores."""

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


@torch.no_grad()  # not inference mode, for which compiled layers would be compiled once more
def score_batch(
    model: PackedModel,
    encoder: StepEncoder,
    encoded: Sequence[EncodedResponse],
    reference: ImplicitPRM | None = None,
    share_prompts: bool = False,
) -> list[list[float]]:
    """Step scores of responses that fit into one packed row; with `share_prompts`, neighbors' common prompt is computed once.

    An implicit PRM's scores are beta * log(pi / pi_ref), without a `reference` beta * log pi; summed up to each step where the
    contract is cumulative.
    """
    is_implicit = isinstance(model, ImplicitPRM)
    batch = to_device(pack_responses(encoded, is_implicit, share_prompts), model.device)
    if is_implicit:
        scores = _step_rewards(model, batch, encoder.beta, reference)
    else:
        scores = ACTIVATIONS[encoder.activation](model(**model.inputs(batch)).float(), encoder.good_class)
    by_response = scores.cpu().split(batch["step_counts"].tolist())
    return [(part.cumsum(0) if encoder.is_cumulative else part).tolist() for part in by_response]


def _step_rewards(model: ImplicitPRM, batch: Batch, beta: float, reference: ImplicitPRM | None) -> Float[Tensor, " steps"]:
    log_ratios = model(**model.inputs(batch))
    if reference is not None:
        log_ratios = log_ratios - reference(**reference.inputs(batch))
    return beta * sum_by_step(log_ratios, batch["target_steps"], len(batch["step_ends"]))
