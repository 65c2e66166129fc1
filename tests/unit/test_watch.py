"""What the log shows: shares of the gradient by hand, means by number of steps, throughput with a clock that can pause."""

import math

import pytest
import torch

from prm.training import watch
from prm.training.watch import Means, Throughput, gradient_shares, names_of_classes

MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [True, False, False, False]])
CPU = torch.device("cpu")


def test_gradient_shares_by_hand():
    """Four equal shares are spread evenly, a quarter on the lowest score; all on one step; a single step tells nothing."""
    gradient = torch.tensor([[-0.2, 0.2, 0.2, 0.2], [0.0, -3.0, 9.0, 9.0], [1.0, 0.0, 0.0, 0.0]])
    scores = torch.tensor([[1.0, 2.0, 0.5, 3.0], [4.0, -1.0, -9.0, -9.0], [1.0, 0.0, 0.0, 0.0]])
    spread, on_lowest = gradient_shares(gradient, scores, MASK)
    assert spread[:2].tolist() == pytest.approx([1.0, 0.0])
    assert on_lowest[:2].tolist() == pytest.approx([0.25, 1.0])
    assert spread[2].isnan()
    assert on_lowest[2].isnan()


def test_two_thirds_and_a_third():
    spread, on_lowest = gradient_shares(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) / math.log(2)
    assert (spread.item(), on_lowest.item()) == pytest.approx((entropy, 1 / 3))


def test_no_gradient_is_no_share_and_ties_count_together():
    spread, on_lowest = gradient_shares(
        torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    )
    assert spread[0].isnan()
    assert on_lowest[1].item() == 1


def test_classes_of_step_counts():
    assert names_of_classes() == ["1", "2", "3-4", "5-8", "9-16", "17-32", "33+"]


def test_means_by_hand_and_taken_once():
    means = Means(CPU)
    means.add_losses(torch.tensor([1.0, 3.0, math.nan, 5.0]), torch.tensor([3, 4, 4, 33]))
    means.add_losses(torch.tensor([8.0]), torch.tensor([4]))
    gradient = torch.tensor([[1.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    means.add_gradient(gradient, scores, torch.ones(3, 2, dtype=torch.bool), torch.tensor([1.0, 0.0, math.nan]))
    assert means.take(lambda sums: sums) == pytest.approx(
        {
            "loss_steps_3-4": 4.0,
            "loss_steps_33+": 5.0,
            "gradient_spread_correct": 1.0,
            "gradient_on_lowest_correct": 0.5,
            "gradient_spread_wrong": 0.0,
            "gradient_on_lowest_wrong": 0.0,
        }
    )
    assert means.take(lambda sums: sums) == {}


def test_means_are_over_all_ranks():
    means = Means(CPU)
    means.add_losses(torch.tensor([1.0]), torch.tensor([1]))
    other = torch.zeros_like(means.sums)
    other[:, len(watch.GRADIENT_NAMES)] = torch.tensor([5.0, 2.0])
    assert means.take(lambda sums: sums + other) == {"loss_steps_1": 2.0}


def test_throughput_by_hand(monkeypatch):
    """Two steps in 3 s, validation in between not counted; a blank micro-batch is padding; 4e12 of 2 x 1e12 x 3 FLOPs."""
    clock = iter([10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(watch.time, "perf_counter", lambda: next(clock))
    throughput = Throughput(peak_flops=1e12)
    throughput.start()
    throughput.add(useful=600, computed=600, flops=int(3e12))
    throughput.pause()
    throughput.start()
    throughput.add(useful=298, computed=300, flops=int(1e12))
    throughput.start()
    rates = throughput.take(lambda counts: counts, 2, CPU)
    assert rates == pytest.approx({"tokens_per_second": 898 / 3, "padding": 2 / 900, "mfu": 4 / 6, "seconds_per_step": 1.0})


def test_mfu_only_where_the_peak_is_known():
    throughput = Throughput(None)
    throughput.start()
    throughput.add(1, 1, 1)
    assert "mfu" not in throughput.take(lambda counts: counts, 1, CPU)
