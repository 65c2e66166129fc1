import math

import pytest

from prm.benchmarks.page.review import review_items, severity, to_units, verdict, worst_of_each_group
from prm.benchmarks.results import Item


def item(scores=(0.9, 0.2), name="a", steps=None, **fields):
    return Item(name, "g", "q", ["s"] * len(scores) if steps is None else steps, list(scores), **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"first_error": 1, "predicted": 1}, "hit"),
        ({"first_error": 1, "predicted": -1}, "missed"),
        ({"first_error": 1, "predicted": 0}, "wrong step"),
        ({"first_error": -1, "predicted": -1}, "accepted"),
        ({"first_error": -1, "predicted": 0}, "false alarm"),
        ({"is_selected": True, "correct": True}, "right pick"),
        ({"is_selected": True, "correct": False}, "wrong pick"),
        ({"is_selected": True}, "wrong pick"),
        ({"is_selected": False, "correct": True}, "not picked"),
        ({"first_error": 0, "predicted": 0, "is_selected": True}, "hit"),
        ({"first_error": 0}, None),
        ({}, None),
    ],
)
def test_verdicts(fields, expected):
    assert verdict(item(**fields)) == expected


def test_a_response_without_scores_and_prediction_is_a_miss():
    assert verdict(item((), steps=["s"], first_error=0)) == "no prediction"


@pytest.mark.parametrize(
    ("scores", "fields", "expected"),
    [
        ((0.9, 0.8, 0.1), {"first_error": 1}, 0.8),  # believes the wrong step; what stands behind it does not count
        ((0.3, 0.2), {"first_error": 1}, 0.7),  # rejects the right step before it
        ((0.3, 0.2), {"first_error": 0}, 0.3),
        ((0.9, 0.4), {"first_error": -1}, 0.6),
        ((0.9, 0.4), {"correct": True}, 0.6),
        ((0.9, 0.4), {"correct": False}, 0.4),
        ((0.9, 0.4), {"correct": False, "response_score": 0.7}, 0.7),
        ((0.9, 0.4), {}, None),
        ((), {"correct": False}, None),
        ((), {"first_error": 0, "predicted": -1}, 1.0),
        ((), {"first_error": 0, "predicted": 0}, 0.0),
    ],
)
def test_severity(scores, fields, expected):
    (review,) = review_items([item(scores, steps=["s"] * max(1, len(scores)), **fields)])
    assert review.severity == (expected if expected is None else pytest.approx(expected))


def test_below_one_half_is_what_a_threshold_of_one_half_gets_right():
    for scores in [(0.9, 0.4), (0.4, 0.9), (0.6, 0.7), (0.2, 0.1)]:
        predicted = next((i for i, s in enumerate(scores) if s < 0.5), -1)
        for first_error in (-1, 0, 1):
            severe = severity(item(scores, first_error=first_error), scores, None) > 0.5
            assert severe == (predicted != first_error)


def test_misses_come_first_then_the_severe_then_the_order_of_the_file():
    rows = [
        item((0.9, 0.9), "accepted", first_error=-1, predicted=-1),
        item((0.97, 0.93), "hit late", first_error=1, predicted=1),
        item((0.9, 0.9), "unknown"),
        item((0.9, 0.8), "missed", first_error=1, predicted=-1),
        item((0.9, 0.99), "missed worse", first_error=1, predicted=-1),
        item((0.9, 0.9), "accepted too", first_error=-1, predicted=-1),
    ]
    reviews = review_items(rows)
    assert [r.item.id for r in reviews] == ["missed worse", "missed", "hit late", "accepted", "accepted too", "unknown"]
    assert [r.place for r in reviews] == [4, 3, 1, 0, 5, 2]


def test_scores_beyond_zero_and_one_become_their_share():
    assert to_units([0.0, 0.25, 1.0]).tolist() == [0.0, 0.25, 1.0]
    assert to_units([-3.0, 2.0, 2.0, 7.0]).tolist() == [0.125, 0.5, 0.5, 0.875]
    assert math.isnan(to_units([math.nan, 5.0, -1.0])[0])
    assert to_units([]).tolist() == []


def test_each_group_has_a_scale_of_its_own():
    """A PRM with logits beside one with probabilities."""
    rows = [Item("p", "prm", "q", ["s"] * 2, [0.2, 0.8]), Item("l", "logits", "q", ["s"] * 2, [-4.0, 9.0])]
    assert [review.units for review in review_items(rows)] == [[0.2, 0.8], [0.25, 0.75]]


def test_a_cut_keeps_the_first_of_each_group_in_proportion():
    """Six of one group are worse than all three of the other: a cut of all together would leave none of these."""
    rows = [
        Item(f"{group}{n}", group, "q", ["s"], [score - n / 100], first_error=0)
        for group, size, score in (("a", 6, 0.9), ("b", 3, 0.2))
        for n in range(size)
    ]
    reviews = review_items(rows)
    assert [r.item.id for r in worst_of_each_group(reviews, 1)] == ["a0"]
    assert [r.item.id for r in worst_of_each_group(reviews, 3)] == ["a0", "a1", "b0"]
    assert [r.item.id for r in worst_of_each_group(reviews, 6)] == ["a0", "a1", "a2", "a3", "b0", "b1"]
    assert worst_of_each_group(reviews, 9) == worst_of_each_group(reviews, 99) == reviews
    assert worst_of_each_group(reviews, 0) == []


def test_nothing_to_review():
    assert review_items([]) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([item((0.1,), steps=["s", "t"])], "'a' has 2 steps but 1 scores"),
        ([item(first_error=2)], r"first_error is 2, its steps are 0 to 1"),
        ([item(predicted=-2)], "predicted is -2"),
        ([item(first_error=1, wrong_steps=[1, 2])], "a wrong step is 2"),
        ([item(), item()], "'a' stands 2 times"),
    ],
)
def test_items_that_contradict_themselves(rows, message):
    with pytest.raises(ValueError, match=message):
        review_items(rows)
