"""Order and division of the training data: lengths, costs and a seed in, one rank's micro-batches for every optimizer step out.

Every number of ranks sees the same global batches in the same order. A micro-batch is what one rank packs into one forward pass.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MicroBatches = list[list[int]]
"""Indices of the items of each micro-batch; an empty one keeps a rank in step with ranks that have more."""


@dataclass(frozen=True)
class Division:
    """How a global batch is divided: over `world_size` ranks, then into forward passes."""

    global_batch_size: int
    """Items per optimizer step, over all ranks."""
    token_budget: int
    """Tokens per forward pass; a longer item gets a pass of its own."""
    world_size: int = 1
    max_items: int | None = None
    """Items per forward pass."""
    min_micro_batches: int = 1
    """Forward passes per rank and optimizer step, at least."""

    def __call__(self, batch: Sequence[int], lengths: Sequence[int], costs: Sequence[float]) -> list[MicroBatches]:
        """Micro-batches of every rank, equally many on each: ranks of nearly equal cost, in passes of nearly equal length."""
        ranks = balance(batch, costs, self.world_size)
        count = max(self.passes(items, lengths) for items in ranks)
        return [balance(items, lengths, count, self.max_items) for items in ranks]

    def passes(self, items: Sequence[int], lengths: Sequence[int]) -> int:
        """The fewest forward passes that keep these items within the budget."""
        tokens = sum(lengths[item] for item in items)
        by_items = math.ceil(len(items) / self.max_items) if self.max_items else 1
        count = max(self.min_micro_batches, by_items, math.ceil(tokens / self.token_budget))
        while not all(self.fits(part, lengths) for part in balance(items, lengths, count, self.max_items)):
            count += 1
        return count

    def fits(self, items: Sequence[int], lengths: Sequence[int]) -> bool:
        return len(items) <= 1 or sum(lengths[item] for item in items) <= self.token_budget


class GlobalBatchSampler:
    """Batch sampler of one rank; yields the micro-batches of one optimizer step. A pass over it is one epoch and advances `epoch`.

    An epoch is a seeded permutation cut into global batches; the last one is topped up from the epoch's start, as PyTorch's
    DistributedSampler does. Order and division depend on lengths, costs and seed alone, so that every rank computes them for
    itself and no rank waits long for another.
    """

    def __init__(self, lengths: Sequence[int], costs: Sequence[float], division: Division, rank: int, seed: int):
        assert 0 <= rank < division.world_size, (rank, division.world_size)
        self.lengths, self.costs, self.division = lengths, costs, division
        self.rank, self.seed, self.epoch = rank, seed, 0

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.lengths) / self.division.global_batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[MicroBatches]:
        size = self.division.global_batch_size
        order = epoch_order(len(self.lengths), size, self.seed, self.epoch)
        self.epoch += 1
        for start in range(0, len(order), size):
            yield self.division(order[start : start + size], self.lengths, self.costs)[self.rank]


def epoch_order(num_items: int, global_batch_size: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the items, repeated from its start until it fills whole global batches."""
    permutation = np.random.default_rng([seed, epoch]).permutation(num_items).tolist()
    size = math.ceil(num_items / global_batch_size) * global_batch_size
    return (permutation * math.ceil(size / num_items))[:size]


def balance(items: Sequence[int], weights: Sequence[float], num_parts: int, max_items: int | None = None) -> list[list[int]]:
    """Divide items into parts of nearly equal weight, the heaviest first, each to the lightest part (longest processing time).

    No part gets more than `max_items`. The result does not depend on the order of `items`.
    """
    assert max_items is None or len(items) <= num_parts * max_items, (len(items), num_parts, max_items)
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    lightest = [(0.0, 0, index) for index in range(num_parts)]
    for item in sorted(items, key=lambda item: (-weights[item], item)):
        load, count, index = heapq.heappop(lightest)
        parts[index].append(item)
        if max_items is None or count + 1 < max_items:
            heapq.heappush(lightest, (load + weights[item], count + 1, index))
    return parts
