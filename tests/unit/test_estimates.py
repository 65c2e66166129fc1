"""Monte-Carlo statistics: intervals and labels by hand, when sampling stops, what bisection asks."""

import math

import pytest

from prm.annotation.estimates import (
    StoppingRule,
    all_unknown,
    first_error,
    hard_labels,
    is_good,
    labels_around,
    next_in_bisection,
    soft_labels,
    wilson_interval,
)


class TestWilson:
    def test_by_hand(self):
        # z = 1.959964, z^2 = 3.841459: (8 + 1.920729 -+ 1.959964 sqrt(8 * 2 / 10 + 0.960365)) / 13.841459.
        assert wilson_interval((8, 10), 0.95) == pytest.approx((0.490162, 0.943318), abs=1e-6)

    def test_ends_by_hand(self):
        # z^2 / (n + z^2) = 3.841459 / 19.841459.
        assert wilson_interval((0, 16), 0.95) == (0.0, pytest.approx(0.193607, abs=1e-6))
        assert wilson_interval((16, 16), 0.95) == (pytest.approx(0.806393, abs=1e-6), 1.0)

    def test_it_is_where_the_score_test_ends(self):
        """Its ends p satisfy |k/n - p| = z sqrt(p (1 - p) / n)."""
        for end in wilson_interval((3, 7), 0.9):
            assert abs(3 / 7 - end) == pytest.approx(1.6448536 * math.sqrt(end * (1 - end) / 7), rel=1e-6)

    def test_more_completions_and_less_confidence_make_it_narrower(self):
        widths = [high - low for low, high in (wilson_interval((n // 2, n), 0.95) for n in (2, 8, 32))]
        assert widths == sorted(widths, reverse=True)
        low, high = wilson_interval((4, 8), 0.5)
        assert high - low < widths[1]


class TestStoppingRule:
    def test_a_fixed_number_is_drawn_at_once(self):
        rule = StoppingRule(8, 8)
        assert [rule.num_wanted(counts) for counts in ((0, 0), (0, 8), (5, 8))] == [8, 0, 0]

    def test_the_number_doubles_up_to_the_most(self):
        rule = StoppingRule(4, 20, half_width=0.01)
        assert [rule.num_wanted((k // 2, k)) for k in (0, 4, 8, 16, 20)] == [4, 4, 8, 4, 0]

    def test_it_stops_at_the_half_width(self):
        # The interval of 0 in 16 is 0.1936 wide, that of 0 in 8 3.8415 / 11.8415 = 0.3244.
        rule = StoppingRule(4, 64, half_width=0.1)
        assert [rule.num_wanted((0, k)) for k in (4, 8, 16)] == [4, 8, 0]
        assert rule.num_wanted((8, 16)) == 16

    def test_with_a_threshold_it_stops_once_the_interval_excludes_it(self):
        rule = StoppingRule(4, 64, half_width=0.01, threshold=0.5)
        # (4, 4): low end 4 / 7.8415 = 0.510. (3, 4): 0.301 to 0.954. (0, 4): high end 0.490.
        assert [rule.num_wanted((k, 4)) for k in (4, 3, 0)] == [0, 4, 0]
        assert StoppingRule(4, 64, half_width=0.01).num_wanted((4, 4)) == 4

    def test_one_right_completion_settles_a_threshold_of_zero(self):
        rule = StoppingRule(4, 64, half_width=0.01, threshold=0.0)
        assert rule.num_wanted((1, 4)) == 0
        assert rule.num_wanted((0, 4)) == 4


class TestBisection:
    @pytest.mark.parametrize("num_steps", range(1, 40))
    def test_it_finds_every_first_error_with_log2_questions(self, num_steps):
        for error in range(num_steps):
            known: list[bool | None] = [None] * (num_steps - 1) + [False]
            asked = 0
            while steps := next_in_bisection(known):
                (step,) = steps
                known[step] = step < error
                asked += 1
            assert first_error(known) == error
            assert asked <= math.ceil(math.log2(num_steps))

    def test_by_hand(self):
        """Eight steps, the error at index 2: it asks 3 (bad), 1 (good), 2 (bad)."""
        known: list[bool | None] = [None] * 7 + [False]
        asked = []
        while steps := next_in_bisection(known):
            asked += steps
            known[steps[0]] = steps[0] < 2
        assert asked == [3, 1, 2]

    def test_a_right_outcome_asks_nothing(self):
        assert next_in_bisection([None, None, True]) == []
        assert first_error([None, None, True]) == 3

    def test_what_others_have_asked_is_used_but_does_not_change_the_way(self):
        assert next_in_bisection([False, None, None, None, None, None, None, False]) == [3]
        assert next_in_bisection([None, True, None, False, None, None, None, False]) == [2]

    def test_an_unfinished_search_has_no_result(self):
        with pytest.raises(AssertionError, match="step 0 has no verdict"):
            first_error([None, None, False])


def test_every_unknown_step_is_asked_without_bisection():
    assert all_unknown([True, None, False, None, True]) == [1, 3]


def test_labels_by_hand():
    completions = [(4, 4), (1, 4), (0, 4), (0, 1)]
    assert soft_labels(completions) == [1.0, 0.25, 0.0, 0.0]
    assert hard_labels(completions, threshold=0.0) == [1.0, 1.0, -1.0, -1.0]
    assert hard_labels(completions, threshold=0.25) == [1.0, -1.0, -1.0, -1.0]
    assert labels_around(2, 4) == [1.0, 1.0, -1.0, -1.0]
    assert labels_around(4, 4) == [1.0] * 4


def test_a_share_equal_to_the_threshold_does_not_exceed_it():
    assert [is_good((k, 4), 0.5) for k in range(5)] == [False, False, False, True, True]
