"""What a run shows of itself: micro-batches and gradients of step outputs in; throughput and where the gradient goes out.

With outcome labels alone nobody says which step is to blame. The shares of the gradient show whom the objective blames, and the
loss by number of steps whether long responses are learned as well as short ones (the length trap of geometric means).
"""

import time
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

OUTCOMES = {"correct": 1.0, "wrong": 0.0}
LARGEST_STEP_COUNTS = (1, 2, 4, 8, 16, 32)
"""Upper ends of the classes of responses by their number of steps; the last class is open."""

Reduce = Callable[[Tensor], Tensor]


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


def step_count_class(num_steps: int) -> str:
    """Name of a response's class by its number of steps: `1`, `2`, `3-4`, ..., `33+`."""
    for lowest, highest in zip((1, *(n + 1 for n in LARGEST_STEP_COUNTS)), LARGEST_STEP_COUNTS, strict=False):
        if num_steps <= highest:
            return str(highest) if lowest == highest else f"{lowest}-{highest}"
    return f"{LARGEST_STEP_COUNTS[-1] + 1}+"


NAMES = (
    *(f"{quantity}_{outcome}" for quantity in ("gradient_spread", "gradient_on_lowest") for outcome in OUTCOMES),
    *dict.fromkeys(f"loss_steps_{step_count_class(n)}" for n in range(1, LARGEST_STEP_COUNTS[-1] + 2)),
)


class Means:
    """Running means by name, on the device, so that adding to them never waits for it."""

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(2, len(NAMES), dtype=torch.float64, device=device if device.type != "mps" else "cpu")

    def add(self, name: str, values: Float[Tensor, "*shape"]) -> None:
        """Add every value that is not NaN."""
        is_value = ~values.isnan()
        index = NAMES.index(name)
        self.sums[0, index] += values.masked_fill(~is_value, 0).sum()
        self.sums[1, index] += is_value.sum()

    def take(self, reduce: Reduce) -> dict[str, float]:
        """The means over all ranks since the last call, without those of nothing."""
        totals, counts = reduce(self.sums).tolist()
        self.sums.zero_()
        return {name: total / count for name, total, count in zip(NAMES, totals, counts, strict=True) if count}


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
        counts = torch.tensor([float(value) for value in self.counts.values()], device=device)
        useful, computed, flops = reduce(counts).tolist()
        rates = {"tokens_per_second": useful / max(self.seconds, 1e-9), "padding": 1 - useful / max(computed, 1)}
        if self.peak_flops:
            rates["mfu"] = flops / max(self.seconds, 1e-9) / (world_size * self.peak_flops)
        rates["seconds_per_step"] = self.seconds / max(self.num_steps, 1)
        self.seconds, self.num_steps, self.counts = 0.0, 0, dict.fromkeys(self.counts, 0)
        return rates
