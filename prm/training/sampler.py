"""Order of the training data: lengths and a seed in, one rank's micro-batches out.

Every number of ranks sees the same global batches."""

import heapq
import math
from collections.abc import Iterator, Sequence

import numpy as np


class GlobalBatchSampler:
    """Batch sampler of one rank. Each pass over it is one epoch and advances `epoch` by one.

    An epoch is a seeded permutation cut into global batches; the last one is topped up from the epoch's start, as PyTorch's
    DistributedSampler does. A global batch is divided over `world_size * accumulation` micro-batches of equal size and nearly equal
    token count, so that no rank waits long for another. Order and division depend on lengths and seed alone.
    """

    def __init__(self, lengths: Sequence[int], micro_batch_size: int, accumulation: int, world_size: int, rank: int, seed: int):
        assert 0 <= rank < world_size, (rank, world_size)
        self.lengths, self.micro_batch_size, self.accumulation = lengths, micro_batch_size, accumulation
        self.world_size, self.rank, self.seed, self.epoch = world_size, rank, seed, 0

    @property
    def global_batch_size(self) -> int:
        return self.micro_batch_size * self.accumulation * self.world_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return math.ceil(len(self.lengths) / self.global_batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(len(self.lengths), self.global_batch_size, self.seed, self.epoch)
        self.epoch += 1
        first = self.rank * self.accumulation
        for start in range(0, len(order), self.global_batch_size):
            batch = order[start : start + self.global_batch_size]
            yield from balance(batch, self.lengths, self.world_size * self.accumulation)[first : first + self.accumulation]


def epoch_order(num_items: int, global_batch_size: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the items, repeated from its start until it fills whole global batches."""
    permutation = np.random.default_rng([seed, epoch]).permutation(num_items).tolist()
    size = math.ceil(num_items / global_batch_size) * global_batch_size
    return (permutation * math.ceil(size / num_items))[:size]


def balance(batch: Sequence[int], lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Divide a batch into parts of equal size and nearly equal sums of length: the longest item goes to the lightest part."""
    part_size, rest = divmod(len(batch), num_parts)
    assert rest == 0, (len(batch), num_parts)
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    lightest = [(0, index) for index in range(num_parts)]
    for item in sorted(batch, key=lambda item: (-lengths[item], item)):
        load, index = heapq.heappop(lightest)
        parts[index].append(item)
        if len(parts[index]) < part_size:
            heapq.heappush(lightest, (load + lengths[item], index))
    return parts
