"""What a run shows of itself: micro-batches and gradients of step outputs in; throughput and where the gradient goes out.

With outcome labels alone nobody says which step is to blame. The shares of the gradient show whom the objective blames, and the
loss by number of steps whether long responses are learned as well as short ones (the length trap of geometric means).
"""

import time
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LARGEST_STEP_COUNTS = (1, 2, 4, 8, 16, 32)
"""Upper ends of the classes of responses by their number of steps; the last class is open."""

Reduce = Callable[[Tensor], Tensor]


def names_of_classes() -> list[str]:
    """Classes of responses by their number of steps: `1`, `2`, `3-4`, ..., `33+`."""
    lowest = [1, *(highest + 1 for highest in LARGEST_STEP_COUNTS)]
    closed = [str(b) if a == b else f"{a}-{b}" for a, b in zip(lowest, LARGEST_STEP_COUNTS, strict=False)]
    return [*closed, f"{lowest[-1]}+"]


GRADIENT_NAMES = [f"gradient_{what}_{outcome}" for what in ("spread", "on_lowest") for outcome in ("correct", "wrong")]
LOSS_NAMES = [f"loss_steps_{name}" for name in names_of_classes()]


def gradient_shares(
    gradient: Float[Tensor, "batch steps"], scores: Float[Tensor, "batch steps"], mask: Bool[Tensor, "batch steps"]
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """How evenly |gradient| is spread over a response's steps, and the share that its lowest-scoring step receives.

    Spread is the shares' entropy over its maximum: 1 when all steps receive the same, 0 when one receives everything. NaN where
    a response has one step or no gradient. Steps that share the lowest score count together.
    """
    size = gradient.float().abs().masked_fill(~mask, 0)
    shares = size / size.sum(-1, keepdim=True)
    spread = torch.special.entr(shares).sum(-1) / mask.sum(-1).log()
    is_lowest = mask & (scores == scores.masked_fill(~mask, torch.inf).amin(-1, keepdim=True))
    on_lowest = shares.masked_fill(~is_lowest, 0).sum(-1)
    has_shares = (mask.sum(-1) > 1) & (size.sum(-1) > 0)
    return spread.masked_fill(~has_shares, torch.nan), on_lowest.masked_fill(~has_shares, torch.nan)


class Means:
    """Running means by name, on the device, so that adding to them never waits for it."""

    names = (*GRADIENT_NAMES, *LOSS_NAMES)

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(2, len(self.names), dtype=torch.float64, device=device)

    def add_gradient(
        self,
        gradient: Float[Tensor, "batch steps"],
        scores: Float[Tensor, "batch steps"],
        mask: Bool[Tensor, "batch steps"],
        correct: Float[Tensor, "batch"],
    ) -> None:
        """Which steps the objective blames, apart for right and wrong responses."""
        for first, values in zip((0, 2), gradient_shares(gradient, scores, mask), strict=True):
            self._add(first + (correct == 0).long(), values.masked_fill(correct.isnan(), torch.nan))

    def add_losses(self, losses: Float[Tensor, "batch"], step_counts: Int[Tensor, "batch"]) -> None:
        """The loss by number of steps; NaN for a response that has none."""
        classes = torch.bucketize(step_counts, torch.tensor(LARGEST_STEP_COUNTS, device=step_counts.device))
        self._add(len(GRADIENT_NAMES) + classes.to(losses.device), losses)

    def _add(self, index: Int[Tensor, "values"], values: Float[Tensor, "values"]) -> None:
        is_value = ~values.isnan()
        pair = torch.stack([values.masked_fill(~is_value, 0).double(), is_value.double()])
        self.sums.index_add_(1, index, pair)

    def take(self, reduce: Reduce) -> dict[str, float]:
        """The means over all ranks since the last call, without those of nothing."""
        totals, counts = reduce(self.sums.clone()).tolist()
        self.sums.zero_()
        return {name: total / count for name, total, count in zip(self.names, totals, counts, strict=True) if count}


class Throughput:
    """Useful tokens per second of all ranks, padding, and the share of the device's peak (MFU).

    The clock runs from `start`, at the first micro-batch, to `pause`, before validation and saving.
    """

    def __init__(self, peak_flops: float | None):
        self.peak_flops = peak_flops
        self.seconds, self.started = 0.0, None
        self.counts = {"useful": 0, "computed": 0, "flops": 0}
        self.num_steps = 0

    def start(self) -> None:
        """An optimizer step begins."""
        self.num_steps += 1
        if self.started is None:
            self.started = time.perf_counter()

    def pause(self) -> None:
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
            self.started = None

    def add(self, useful: int, computed: int, flops: int) -> None:
        """Tokens of responses, tokens computed, and useful FLOPs of one micro-batch."""
        for name, value in {"useful": useful, "computed": computed, "flops": flops}.items():
            self.counts[name] += value

    def take(self, reduce: Reduce, world_size: int, device: torch.device) -> dict[str, float]:
        """Figures of all ranks since the last call."""
        self.pause()
        counts = torch.tensor(list(self.counts.values()), dtype=torch.float64, device=device)
        useful, computed, flops = reduce(counts).tolist()
        rates = {"tokens_per_second": useful / max(self.seconds, 1e-9), "padding": 1 - useful / max(computed, 1)}
        if self.peak_flops:
            rates["mfu"] = flops / max(self.seconds, 1e-9) / (world_size * self.peak_flops)
        rates["seconds_per_step"] = self.seconds / max(self.num_steps, 1)
        self.seconds, self.num_steps, self.counts = 0.0, 0, dict.fromkeys(self.counts, 0)
        return rates
