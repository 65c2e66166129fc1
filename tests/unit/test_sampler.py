"""Order and division of the data: the same global batches on any number of ranks, every response once an epoch, balanced ranks."""

import numpy as np
import pytest

from prm.training.sampler import Division, GlobalBatchSampler, balance, epoch_order

LENGTHS = [int(n) for n in np.random.default_rng(0).lognormal(5, 0.7, 100)]
COSTS = [n * 1e3 + n * n for n in LENGTHS]
DIVISIONS = {
    "one pass": Division(8, 10**6),
    "two passes": Division(8, 10**6, min_micro_batches=2),
    "a budget": Division(8, 400),
    "two ranks": Division(8, 10**6, world_size=2),
    "two ranks, a budget": Division(8, 300, world_size=2),
    "four ranks, one response a pass": Division(8, 10**6, world_size=4, max_items=1),
    "eight ranks": Division(8, 10**6, world_size=8),
}


def steps_of_all_ranks(division: Division, epoch: int = 0) -> list[list[list[list[int]]]]:
    """Step by step, rank by rank, the micro-batches."""
    ranks = []
    for rank in range(division.world_size):
        sampler = GlobalBatchSampler(LENGTHS, COSTS, division, rank, seed=3)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    return list(zip(*ranks, strict=True))


def global_batches(division: Division) -> list[list[int]]:
    return [sorted(i for rank in ranks for micro in rank for i in micro) for ranks in steps_of_all_ranks(division)]


def test_balance_by_hand():
    """Longest first to the lightest part, two items each: 9 | 8, 7 to the 8, 1 to the 9. Without a limit the 9 stays alone."""
    assert balance([0, 1, 2, 3], [9, 8, 7, 1], 2, max_items=2) == [[0, 3], [1, 2]]
    assert balance([3, 2, 1, 0], [9, 4, 3, 1], 2) == [[0], [1, 2, 3]]


def test_division_by_hand():
    """Two ranks get 9 and 4 + 3 + 1 tokens; a budget of 5 takes the second rank two passes, so the first one idles once."""
    assert Division(4, 5, world_size=2)([0, 1, 2, 3], [9, 4, 3, 1], [9, 4, 3, 1]) == [[[0], []], [[1], [2, 3]]]


def test_every_item_once_per_epoch_and_topped_up_from_the_start():
    order = epoch_order(10, 4, seed=0, epoch=0)
    assert sorted(order[:10]) == list(range(10))
    assert order[10:] == order[:2]
    assert len(epoch_order(3, 8, seed=0, epoch=0)) == 8


@pytest.mark.parametrize("name", DIVISIONS)
def test_global_batches_do_not_depend_on_the_division(name):
    assert global_batches(DIVISIONS[name]) == global_batches(DIVISIONS["one pass"])


@pytest.mark.parametrize("name", DIVISIONS)
def test_micro_batches_keep_to_their_limits_and_are_equally_many_on_every_rank(name):
    division = DIVISIONS[name]
    for ranks in steps_of_all_ranks(division):
        assert len({len(micro_batches) for micro_batches in ranks}) == 1
        assert len(ranks[0]) >= division.min_micro_batches
        for micro in (micro for rank in ranks for micro in rank):
            assert len(micro) <= 1 or sum(LENGTHS[i] for i in micro) <= division.token_budget
            assert len(micro) <= (division.max_items or 8)


def test_epochs_differ_and_each_pass_is_the_next_epoch():
    sampler = GlobalBatchSampler(LENGTHS, COSTS, Division(8, 10**6), 0, seed=3)
    first, second = list(sampler), list(sampler)
    assert first != second
    sampler.set_epoch(1)
    assert list(sampler) == second


def test_seed_changes_the_order():
    assert epoch_order(50, 10, seed=0, epoch=0) != epoch_order(50, 10, seed=1, epoch=0)


def test_busiest_of_four_ranks_does_at_most_a_twentieth_more_than_the_mean():
    """Lengths as in training: log-normal, mean 390, at most 2,047 tokens; costs in FLOPs of Qwen2.5-Math-1.5B."""
    lengths = np.random.default_rng(0).lognormal(5.75, 0.65, 3200).clip(20, 2047).astype(int).tolist()
    costs = [2.62e9 * n + 86_016 * n * n for n in lengths]
    division = Division(32, 16384, world_size=4)
    loads = []
    for start in range(0, 3200, 32):
        ranks = division(range(start, start + 32), lengths, costs)
        loads.append([sum(costs[i] for micro in rank for i in micro) for rank in ranks])
    ratios = np.max(loads, 1) / np.mean(loads, 1)
    assert ratios.mean() < 1.02
    assert np.quantile(ratios, 0.95) < 1.05
