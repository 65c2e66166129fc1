"""Order of the training data: the same global batches on any number of ranks, every response once an epoch, balanced ranks."""

import numpy as np
import pytest

from prm.training.sampler import GlobalBatchSampler, balance, epoch_order

LENGTHS = [int(n) for n in np.random.default_rng(0).lognormal(5, 0.7, 100)]


def global_batches(world_size: int, micro_batch_size: int, accumulation: int, epoch: int = 0) -> list[list[int]]:
    """What one optimizer step sees over all ranks, step by step."""
    ranks = []
    for rank in range(world_size):
        sampler = GlobalBatchSampler(LENGTHS, micro_batch_size, accumulation, world_size, rank, seed=3)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    steps = range(0, len(ranks[0]), accumulation)
    return [sorted(i for rank in ranks for micro in rank[s : s + accumulation] for i in micro) for s in steps]


def test_balance_by_hand():
    """Longest first to the lightest part, two items each: 9 | 8, then 7 to the 8, 1 to the 9."""
    assert balance([0, 1, 2, 3], [9, 8, 7, 1], 2) == [[0, 3], [1, 2]]


def test_every_item_once_per_epoch_and_topped_up_from_the_start():
    order = epoch_order(10, 4, seed=0, epoch=0)
    assert sorted(order[:10]) == list(range(10))
    assert order[10:] == order[:2]
    assert len(epoch_order(3, 8, seed=0, epoch=0)) == 8


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "accumulation"), [(1, 4, 2), (2, 4, 1), (2, 2, 2), (4, 2, 1), (8, 1, 1)]
)
def test_global_batches_do_not_depend_on_ranks(world_size, micro_batch_size, accumulation):
    assert global_batches(world_size, micro_batch_size, accumulation) == global_batches(1, 8, 1)


def test_epochs_differ_and_each_pass_is_the_next_epoch():
    sampler = GlobalBatchSampler(LENGTHS, 8, 1, 1, 0, seed=3)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(1)
    assert list(sampler) == second


def test_seed_changes_the_order():
    assert epoch_order(50, 10, seed=0, epoch=0) != epoch_order(50, 10, seed=1, epoch=0)


def test_busiest_rank_does_little_more_than_the_mean():
    loads = np.array([[sum(LENGTHS[i] for i in part) for part in balance(batch, LENGTHS, 4)] for batch in global_batches(1, 32, 1)])
    assert (loads.max(1) / loads.mean(1)).mean() < 1.1
