"""How evenly ranks are loaded: lengths in, the busiest rank's work over the mean and the share of useful work out. No timing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from prm.training.flops import forward_flops
from prm.training.sampler import Division


def packed_work(lengths: Sequence[int], costs: Sequence[float], division: Division, batches: Sequence[Sequence[int]]) -> np.ndarray:
    """FLOPs [batches, micro-batches, ranks] of packed micro-batches, divided as in training; steps without work hold 0."""
    divided = [division(batch, lengths, costs) for batch in batches]
    for ranks in divided:
        assert len({len(micro_batches) for micro_batches in ranks}) == 1, "ranks differ in their number of micro-batches"
    work = np.zeros((len(divided), max(len(ranks[0]) for ranks in divided), division.world_size))
    for batch, ranks in enumerate(divided):
        for rank, micro_batches in enumerate(ranks):
            for number, items in enumerate(micro_batches):
                work[batch, number, rank] = sum(costs[item] for item in items)
    return work


def padded_work(lengths: Sequence[int], config: PreTrainedConfig, world_size: int, batches: Sequence[Sequence[int]]) -> np.ndarray:
    """FLOPs [batches, 1, ranks] when every rank takes its share as it comes and pads it to its longest response."""
    shares = np.asarray([[lengths[item] for item in batch] for batch in batches]).reshape(len(batches), world_size, -1)
    longest = [[forward_flops(config, [int(length)]) for length in ranks] for ranks in shares.max(-1)]
    return shares.shape[-1] * np.asarray(longest, dtype=float)[:, None]


def balance_report(
    lengths: Sequence[int], config: PreTrainedConfig, global_batch_size: int, world_size: int, token_budget: int, seed: int
) -> dict[str, Any]:
    """Means over random global batches, for packed and balanced ranks and for padded random ones.

    `busiest_over_mean` of the ranks' work in an optimizer step; `efficiency`, useful FLOPs over ranks times the busiest rank's
    FLOPs in each micro-batch, since ranks wait for one another there.
    """
    costs = [forward_flops(config, [length]) for length in lengths]
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = order[: len(order) // global_batch_size * global_batch_size].reshape(-1, global_batch_size).tolist()
    useful = np.asarray([sum(costs[item] for item in batch) for batch in batches])
    work = {
        "packed_balanced": packed_work(lengths, costs, Division(global_batch_size, token_budget, world_size), batches),
        "padded_random": padded_work(lengths, config, world_size, batches),
    }
    return {name: efficiency(flops, useful) for name, flops in work.items()} | {"num_batches": len(batches)}


def efficiency(work: np.ndarray, useful: np.ndarray) -> dict[str, float]:
    """`work` [batches, micro-batches, ranks] and `useful` [batches], in FLOPs."""
    by_rank = work.sum(1)
    busiest = by_rank.max(1) / by_rank.mean(1)
    waited = work.shape[2] * work.max(2).sum(1)
    return {
        "busiest_over_mean": float(busiest.mean()),
        "busiest_over_mean_worst": float(busiest.max()),
        "efficiency": float((useful / waited).mean()),
    }
