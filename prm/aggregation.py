"""Aggregations: the scores of a response's steps in, one response score out."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

Scores = Float[Tensor, "*batch steps"]
Mask = Bool[Tensor, "*batch steps"]
Pooled = Float[Tensor, "*batch"]

SMALLEST = 1e-290
"""Smallest product of step scores; from 1e-308 on float64 loses its digits, and then the number."""
TAU = 0.1
"""Temperature of softmin where nothing else is said, in units of the scores."""


@dataclass(frozen=True)
class Aggregation:
    """How the scores of a response's steps become one score: a key of `AGGREGATIONS` and, for softmin, its temperature."""

    name: str
    tau: float = TAU
    """Temperature of softmin; others ignore it."""

    @classmethod
    def of(cls, contract: Mapping[str, Any]) -> "Aggregation":
        """What a PRM was trained for."""
        return cls(contract["aggregation"], contract.get("tau", TAU))

    def __str__(self) -> str:
        return f"{self.name}, tau {self.tau:g}" if self.name == "softmin" else self.name


def pad_steps(
    flat: Shaped[Tensor, "total_steps *rest"], step_counts: Integer[Tensor, "batch"]
) -> tuple[Shaped[Tensor, "batch steps *rest"], Bool[Tensor, "batch steps"]]:
    """The packed steps of a batch as rows padded with zeros, and the mask of the real ones (at least one column wide).

    Raises ValueError for a response without steps, or counts that do not add up to the number of rows in `flat`.
    """
    counts = step_counts.tolist()
    if min(counts, default=1) < 1:
        raise ValueError(f"response {counts.index(min(counts))} of the batch has no step: drop it before batching")
    if sum(counts) != len(flat):
        raise ValueError(f"step_counts add up to {sum(counts)}, but there are {len(flat)} steps")
    columns = torch.arange(max(counts, default=1), device=flat.device)
    mask = columns < step_counts.to(flat.device).unsqueeze(-1)
    padded = flat.new_zeros(*mask.shape, *flat.shape[1:])
    padded[mask] = flat
    return padded, mask


def minimum(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """The weakest step. Tied steps share the gradient (`amin`; `min` would give it to one of them)."""
    return scores.masked_fill(~mask, torch.inf).amin(-1)


def maximum(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """The strongest step."""
    return scores.masked_fill(~mask, -torch.inf).amax(-1)


def total(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """The sum over steps: favors long responses when scores are positive."""
    return scores.masked_fill(~mask, 0).sum(-1)


def mean(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """The arithmetic mean over steps."""
    return total(scores, mask) / mask.sum(-1)


def product(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """The probability that every step is right, were they independent (Lightman et al. 2023).

    In float64 (in float32 it ends in 0) a product below `SMALLEST`, as hundreds of bad steps have it, keeps its place in the order,
    and no longer its ratio to others: `SMALLEST` times the ratio of both logarithms.
    """
    scores = scores.masked_fill(~mask, 1)
    value = scores.prod(-1)
    return torch.where(value < SMALLEST, SMALLEST * math.log(SMALLEST) / scores.detach().log().sum(-1), value)


def geometric_mean(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """The product without its preference for short responses; for scores >= 0."""
    return mean(scores.masked_fill(~mask, 1).log(), mask).exp()


def last(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """The score at the last step: how an outcome reward model is read."""
    columns = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    return scores.gather(-1, (mask * columns).argmax(-1, keepdim=True)).squeeze(-1)


def softmin(scores: Scores, mask: Mask, tau: float = TAU) -> Pooled:
    """`-tau log mean exp(-s / tau)`: the minimum as tau goes to 0, the mean as tau goes to infinity.

    Small results keep their relative precision: the exponents are taken relative to a pivot within the scores' range,
    as near 0 as it goes without overflow, so that the terms added to it share its sign.
    """
    with torch.no_grad():
        lowest = minimum(scores, mask)
        pivot = torch.zeros_like(lowest).clamp(lowest, maximum(scores, mask)).clamp(max=lowest + 60 * tau)
        exponents = (pivot.unsqueeze(-1) - scores) / tau
        shift = mean(exponents.expm1(), mask)
        # log1p loses its digits near -1, log loses them near 1.
        log_mean = torch.where(shift > -0.5, shift.clamp(min=-0.5).log1p(), mean(exponents.exp(), mask).log())
        value = pivot - tau * log_mean
        weights = ((lowest.unsqueeze(-1) - scores) / tau).masked_fill(~mask, -torch.inf).softmax(-1)
    # The gradient is exactly `weights`; autograd through expm1 would round the small ones to multiples of 6e-8.
    return value + total(weights * (scores - scores.detach()), mask)


AGGREGATIONS: dict[str, Callable[..., Tensor]] = {
    "min": minimum,
    "geometric_mean": geometric_mean,
    "softmin": softmin,
    "product": product,
    "mean": mean,
    "sum": total,
    "last": last,
    "max": maximum,
}
NEEDS_PROBABILITIES = ("product", "geometric_mean")
PICKS = ("min", "last", "max")
"""Aggregations that pick one of the step scores; the others compute a new number, which `without_rounding_errors` rounds."""
BITS = 40
"""Significant binary digits of a computed response score: 12 decimal ones."""
MAX_CELLS = 2**24
"""Step scores, padding included, that `aggregate_lists` holds in one array: 128 MiB in float64."""


def check_aggregation(name: str, tau: float = TAU, signed: bool = False) -> None:
    """Raises ValueError for an unknown name, a temperature that is not positive and finite, and a product of `signed` scores."""
    if name not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {name!r}: choose from {', '.join(AGGREGATIONS)}")
    if not 0 < tau < math.inf:
        raise ValueError(f"tau is {tau}: the temperature of softmin must be positive and finite")
    if signed and name in NEEDS_PROBABILITIES:
        raise ValueError(f"{name} needs scores in [0, 1], but an implicit PRM's step rewards are signed: use min or sum")


def is_signed(step_scores: Iterable[Sequence[float]]) -> bool:
    """Whether a score lies outside [0, 1], so that it is no probability (an implicit PRM's reward, a raw logit)."""
    return any(not 0 <= score <= 1 for scores in step_scores for score in scores)


def aggregate_lists(
    step_scores: Sequence[Sequence[float]], name: str, tau: float = TAU, signed: bool = False
) -> Float[np.ndarray, "responses"]:
    """Response scores (float64) of many responses of unequal length; `signed` marks scores outside [0, 1].

    Response scores that are computed, not picked, have `BITS` significant bits: means that are equal but for rounding errors, such
    as those of the same steps in another order, are ties.

    Raises ValueError for what `check_aggregation` refuses, a response without steps, a score that is not finite, and a
    negative score under product or geometric_mean.
    """
    check_aggregation(name, tau, signed)
    pooled = [_aggregate_chunk(step_scores[start:end], name, tau, start) for start, end in _chunks(step_scores)]
    return np.concatenate([np.empty(0), *pooled])


def _chunks(step_scores: Sequence[Sequence[float]]) -> Iterator[tuple[int, int]]:
    """Start and end of runs of responses that, padded to their longest, fill at most `MAX_CELLS`; a longer one stands alone."""
    start, longest = 0, 0
    for index, scores in enumerate(step_scores):
        longest = max(longest, len(scores))
        if index > start and (index + 1 - start) * longest > MAX_CELLS:
            yield start, index
            start, longest = index, len(scores)
    if start < len(step_scores):
        yield start, len(step_scores)


def _aggregate_chunk(step_scores: Sequence[Sequence[float]], name: str, tau: float, offset: int) -> np.ndarray:
    """`aggregate_lists` of a run of responses; errors count them from `offset`, the place of the first among all."""
    counts = np.array([len(scores) for scores in step_scores])
    if not counts.all():
        raise ValueError(f"response {offset + counts.argmin()} has no step scores: score it or drop it")
    flat = np.fromiter(chain.from_iterable(step_scores), dtype=np.float64, count=counts.sum())
    bad = ~np.isfinite(flat)
    if name in NEEDS_PROBABILITIES:
        bad |= flat < 0
    if bad.any():
        position = bad.argmax()
        response = offset + np.searchsorted(counts.cumsum(), position, side="right")
        raise ValueError(f"response {response} has the step score {flat[position]}, which {name} cannot take")
    padded, mask = pad_steps(torch.from_numpy(flat), torch.from_numpy(counts))
    pooled = AGGREGATIONS[name](padded, mask, tau).numpy()
    return pooled if name in PICKS else without_rounding_errors(pooled)


def without_rounding_errors(values: Float[np.ndarray, "values"]) -> Float[np.ndarray, "values"]:
    """The values rounded to `BITS` significant binary digits.

    Not to decimal ones: a score in half precision, such as 1129/8192, may have a 5 as its 13th decimal digit, which rounding errors
    would send up or down. Binary rounding leaves values of up to 24 bits (float32 and below) as they are.
    """
    mantissas, exponents = np.frexp(values)
    return np.ldexp(np.round(np.ldexp(mantissas, BITS)), exponents - BITS)
