"""Best-of-N in closed form, voting, and the bootstrap over questions."""

import itertools
import json
import time
from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest

from prm import metrics

RNG = np.random.default_rng(0)


def enumerated(scores, correct, n):
    """Mean over all n-subsets of the correctness of a top-scored candidate, ties shared equally."""
    values = []
    for subset in combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        values.append(np.mean([correct[i] for i in subset if scores[i] == top]))
    return np.mean(values)


class TestBestOfN:
    def test_by_hand(self):
        # Pairs of {.9 wrong, .5 right, .1 wrong}: the wrong .9 wins two of three, the right .5 the third.
        values = metrics.best_of_n(np.array([[0.9, 0.5, 0.1]]), np.array([[False, True, False]]), [1, 2, 3])
        np.testing.assert_allclose(values, [[1 / 3, 1 / 3, 0]], atol=1e-15)

    @pytest.mark.parametrize("levels", [2, 3, 1000])
    def test_equals_enumeration_with_ties(self, levels):
        scores = RNG.integers(levels, size=(6, 9)) / levels
        correct = RNG.random((6, 9)) < 0.5
        values = metrics.best_of_n(scores, correct, range(1, 10))
        expected = [[enumerated(s, c, n) for n in range(1, 10)] for s, c in zip(scores, correct, strict=True)]
        np.testing.assert_allclose(values, expected, atol=1e-12, rtol=0)

    def test_identities_at_full_size(self):
        correct, ns = RNG.random((20, 1024)) < RNG.random((20, 1)), [2**k for k in range(11)]
        num_right = correct.sum(1)
        oracle, adversary = correct.astype(float), -correct.astype(float)
        all_right = [[comb(int(c), n) / comb(1024, n) for n in ns] for c in num_right]
        all_wrong = [[comb(1024 - int(c), n) / comb(1024, n) for n in ns] for c in num_right]
        np.testing.assert_allclose(metrics.pass_at_n(correct, ns), 1 - np.array(all_wrong), atol=1e-12, rtol=0)
        np.testing.assert_allclose(metrics.best_of_n(oracle, correct, ns), 1 - np.array(all_wrong), atol=1e-12, rtol=0)
        np.testing.assert_allclose(metrics.best_of_n(adversary, correct, ns), all_right, atol=1e-12, rtol=0)
        mean = metrics.random_choice(correct, ns)
        np.testing.assert_allclose(metrics.best_of_n(np.ones((20, 1024)), correct, ns), mean, atol=1e-12, rtol=0)
        np.testing.assert_allclose(metrics.best_of_n(RNG.random((20, 1024)), correct, [1]), mean[:, :1], atol=1e-12, rtol=0)

    def test_invariant_to_order_and_monotone_maps(self):
        scores, correct = RNG.integers(20, size=(4, 50)) / 20, RNG.random((4, 50)) < 0.3
        order = RNG.permutation(50)
        values = metrics.best_of_n(scores, correct, [1, 7, 50])
        np.testing.assert_allclose(metrics.best_of_n(scores[:, order], correct[:, order], [1, 7, 50]), values, atol=1e-12)
        np.testing.assert_allclose(metrics.best_of_n(np.exp(3 * scores), correct, [1, 7, 50]), values, atol=1e-12)

    def test_is_fast(self):
        scores, correct = RNG.random((500, 1024)).round(3), RNG.random((500, 1024)) < 0.4
        start = time.process_time()
        metrics.best_of_n(scores, correct, [2**k for k in range(11)])
        assert time.process_time() - start < 2

    def test_first_n_gives_ties_to_the_lowest_index(self):
        scores, correct = np.array([[0.2, 0.7, 0.7, 0.9]]), np.array([[1, 0, 1, 1]])
        assert metrics.first_n(scores, correct, [1, 2, 3, 4]).tolist() == [[1, 0, 0, 1]]

    def test_ragged_pools_keep_their_order(self):
        scores = [RNG.random(size) for size in (5, 3, 5, 4)]
        correct = [RNG.random(len(s)) < 0.5 for s in scores]
        values = metrics.over_ragged(metrics.best_of_n, [1, 3], scores, correct)
        alone = [metrics.best_of_n(s[None], c[None], [1, 3])[0] for s, c in zip(scores, correct, strict=True)]
        np.testing.assert_array_equal(values, alone)

    def test_errors(self):
        scores, correct = np.array([[0.1, 0.2]]), np.array([[True, False]])
        with pytest.raises(ValueError, match=r"n = 3 is outside 1\.\.2"):
            metrics.best_of_n(scores, correct, [3])
        with pytest.raises(ValueError, match="n = 0"):
            metrics.pass_at_n(correct, [0])
        with pytest.raises(ValueError, match="question 0 has a NaN"):
            metrics.best_of_n(np.array([[np.nan, 0.2]]), correct, [1])
        with pytest.raises(ValueError, match="the smallest number of candidates"):
            metrics.over_ragged(metrics.pass_at_n, [2], [np.array([True, False]), np.array([True])])
        with pytest.raises(ValueError, match="pool is empty"):
            metrics.over_ragged(metrics.pass_at_n, [1], [])


def voted(answers, correct, weights, n):
    """Exact expected correctness of the winning answer over all n-subsets; integer weights keep ties exact."""
    values = []
    for subset in combinations(range(len(answers)), n):
        votes = Counter()
        for i in subset:
            if answers[i] >= 0:
                votes[answers[i]] += weights[i]
        winners = [a for a in votes if votes[a] == max(votes.values())]
        values.append(np.mean([correct[answers == a].mean() for a in winners]) if winners else 0.0)
    return np.mean(values)


class TestVote:
    def test_answers_are_numbered_by_appearance(self):
        assert metrics.group_answers(["7", " 7", None, "8", "7 "]).tolist() == [0, 0, -1, 1, 0]
        assert metrics.group_answers(["1/2", "0.5"], lambda a: str(eval(a))).tolist() == [0, 0]

    @pytest.mark.parametrize("weighted", [False, True])
    def test_agrees_with_enumeration_within_its_error(self, weighted):
        answers = np.array([0, 0, 1, 1, 1, 2, -1, 2])
        correct = (answers == 0) | (answers == 2)
        weights = np.array([3, 1, 1, 2, 1, 2, 5, 2]) if weighted else np.ones(8, int)
        estimate = metrics.vote([answers], [correct], range(1, 9), [weights.astype(float)], num_draws=4000)
        exact = [voted(answers, correct, weights, n) for n in range(1, 9)]
        gap = np.abs(estimate.values[0] - exact)
        assert (gap <= 4.5 * estimate.standard_error[0] + 1e-12).all()
        assert gap[0] < 1e-12
        assert gap[-1] < 1e-12
        assert estimate.standard_error[0, [0, -1]].tolist() == [0, 0]
        assert (estimate.standard_error[0, 1:-1] > 0).all()

    def test_ties_are_shared(self):
        estimate = metrics.vote([np.array([0, 1])], [np.array([True, False])], [2], [np.array([0.3, 0.1 + 0.2])])
        assert estimate.values.tolist() == [[0.5]]

    def test_seeded(self):
        arguments = [RNG.integers(4, size=20)], [RNG.random(20) < 0.5], [5]
        first, again = metrics.vote(*arguments, seed=1), metrics.vote(*arguments, seed=1)
        assert first.values == again.values
        assert first.values != metrics.vote(*arguments, seed=2).values

    def test_first_n_by_hand(self):
        # 2 | 2 7: a tie, 2 was first | 2 7 7: 7 | abstentions do not vote.
        answers, correct = [np.array([0, 1, 1, -1, -1, -1])], [np.array([True, False, False, True, True, True])]
        assert metrics.first_n_vote(answers, correct, [1, 2, 3, 6]).tolist() == [[1, 1, 0, 0]]
        assert metrics.first_n_vote([np.array([-1, 0])], [np.array([False, True])], [1, 2]).tolist() == [[0, 1]]
        with pytest.raises(ValueError, match="n = 7"):
            metrics.first_n_vote(answers, correct, [7])

    def test_several_weightings_are_the_same_votes_one_by_one(self):
        answers, correct = [RNG.integers(-1, 4, 20) for _ in range(5)], [RNG.random(20) < 0.5 for _ in range(5)]
        weights = [RNG.random(20) for _ in range(5)]
        together = metrics.vote_each(answers, correct, [1, 5, 20], [None, weights], num_draws=400, seed=3)
        for estimate, alone in zip(together, (None, weights), strict=True):
            expected = metrics.vote(answers, correct, [1, 5, 20], alone, seed=3)
            np.testing.assert_array_equal(estimate.values, expected.values)
            np.testing.assert_array_equal(estimate.standard_error, expected.standard_error)

    def test_nobody_votes(self):
        estimate = metrics.vote([np.array([-1, -1])], [np.array([False, False])], [1, 2])
        assert estimate.values.tolist() == [[0, 0]]

    def test_errors(self):
        answers, correct = [np.array([0, 1])], [np.array([True, False])]
        with pytest.raises(ValueError, match=r"question 0 has the vote weight -0\.5.*signed"):
            metrics.vote(answers, correct, [1], [np.array([0.5, -0.5])])
        with pytest.raises(ValueError, match="vote weight nan"):
            metrics.vote(answers, correct, [1], [np.array([0.5, np.nan])])
        with pytest.raises(ValueError, match="n = 3"):
            metrics.vote(answers, correct, [3])


class TestResampling:
    def test_interval_matches_the_normal_one(self):
        values = RNG.normal(3.0, 2.0, size=(400, 2))
        low, high = metrics.bootstrap_interval(values)
        half = 1.96 * values.std(axis=0) / 20
        np.testing.assert_allclose((low, high), (values.mean(0) - half, values.mean(0) + half), atol=0.02)

    def test_resampling_by_hand(self):
        # Two questions, one right: means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
        means = metrics.resampled_means(np.array([0.0, 1.0]), num_draws=100_000)
        shares = [(means == value).mean() for value in (0, 0.5, 1)]
        np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.006)

    def test_columns_share_their_resamples_and_chunks_do_not_matter(self, monkeypatch):
        values = RNG.random((7, 2, 3))
        means = metrics.resampled_means(values, 50)
        np.testing.assert_allclose(metrics.resampled_means(values[:, 1, 2], 50), means[:, 1, 2], atol=1e-15)
        monkeypatch.setattr("prm.metrics.resampling.CHUNK", 7 * 8)  # seven chunks, the last of two draws
        np.testing.assert_array_equal(metrics.resampled_means(values, 50), means)
        assert means.shape == (50, 2, 3)

    def test_paired_difference(self):
        base = (RNG.random(300) < 0.5).astype(float)
        better = np.maximum(base, RNG.random(300) < 0.2)
        test = metrics.paired_difference(better, base)
        assert 0 < test.low < test.difference < test.high
        assert test.difference == pytest.approx(better.mean() - base.mean())
        assert test.p_value < 0.001
        same = metrics.paired_difference(base, base)
        assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)

    def test_p_value_by_hand(self):
        gaps = np.array([1.0, 1.0, 1.0, -1.0, 0.0])
        sums = np.array([sum(resample) for resample in itertools.product(gaps, repeat=5)])
        test = metrics.paired_difference(gaps, np.zeros(5), num_draws=50_000)
        assert test.p_value == pytest.approx(2 * (sums <= 0).mean(), abs=0.02)

    def test_p_value_of_few_questions(self):
        """Resamples of differences that are all alike say nothing of how few they are; the signs of n give 2^(1 - n) at least."""
        one = metrics.paired_difference(np.ones((1, 3)), np.zeros((1, 3)))
        assert one.difference.tolist() == [1, 1, 1]
        assert np.isnan(one.p_value).all()
        for number, expected in ((2, 0.5), (5, 2**-4), (100, 2 / 10_001)):
            assert metrics.paired_difference(np.ones(number), np.zeros(number)).p_value == expected
        assert metrics.paired_difference(np.array([0.1, 0.9]), np.zeros(2)).p_value == 0.5
        assert metrics.paired_difference(np.repeat([1.0, 0.0], [4, 2]), np.zeros(6)).p_value == 2**-3, "two questions say nothing"
        assert metrics.paired_difference(np.ones(100), np.zeros(100), num_draws=99).p_value == 0.02
        assert metrics.paired_difference(np.ones(5), np.ones(5)).p_value == 1
        even = metrics.paired_difference(np.array([0.1 + 0.2, 0.0]), np.array([0.0, 0.3]))
        assert (even.difference, even.p_value) == (0, 1), "resamples of both questions are even, whatever the rounding errors say"
        alike = metrics.paired_difference(np.full(50, 0.1 + 0.2), np.full(50, 0.3))
        assert (alike.difference, alike.p_value) == (0, 1), "a rounding error is no difference"

    def test_p_value_is_uniform_without_a_difference(self):
        # 200 experiments in which nothing differs: about 10 of them fall below 0.05.
        rng = np.random.default_rng(5)
        p_values = [metrics.paired_difference(rng.random(100), rng.random(100), num_draws=400, seed=s).p_value for s in range(200)]
        assert 2 <= sum(p < 0.05 for p in p_values) <= 20

    def test_is_fast(self):
        start = time.process_time()
        metrics.bootstrap_interval(RNG.random((500, 11)))
        assert time.process_time() - start < 10

    def test_errors(self):
        with pytest.raises(ValueError, match="no questions"):
            metrics.bootstrap_interval(np.empty((0, 2)))
        with pytest.raises(ValueError, match=r"confidence is 95\.0"):
            metrics.bootstrap_interval(np.ones(3), confidence=95.0)


def test_published_numbers(real_data):
    """Qwen2.5-Math's candidates under its own ORM: the accuracies that the first n = 1, 2, 4, 8 give."""
    rows = [json.loads(line) for line in (real_data / "rollouts" / "qwen25math_rm_100x8.jsonl").open()]
    scores = np.array([[score for (score,) in row["pred_score"]] for row in rows])
    correct, ns = np.array([row["score"] for row in rows]), [1, 2, 4, 8]
    np.testing.assert_allclose(metrics.first_n(scores, correct, ns).mean(0), [0.90, 0.93, 0.93, 0.94], atol=1e-12)
    np.testing.assert_allclose(metrics.best_of_n(scores, correct, [1, 8]).mean(0), [0.91, 0.94], atol=1e-12)
    np.testing.assert_allclose(metrics.pass_at_n(correct, [1, 8]).mean(0), [0.91, 0.96], atol=1e-12)
    answers = [metrics.group_answers(row["pred"]) for row in rows]
    # Published voting gives a tie to the answer seen first; expected over ties it is half a point off.
    np.testing.assert_allclose(metrics.first_n_vote(answers, list(correct), ns).mean(0), [0.90, 0.90, 0.93, 0.93], atol=1e-12)
    assert metrics.vote(answers, list(correct), [8]).values.mean() == pytest.approx(0.925)


def test_cohen_kappa_by_hand():
    """[[20, 5], [10, 15]]: 35 of 50 agree, (30 * 25 + 20 * 25) / 2500 = 0.5 by chance."""
    assert metrics.cohen_kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert metrics.cohen_kappa(np.array([[7, 0], [0, 3]])) == 1.0
    assert metrics.cohen_kappa(np.array([[0, 5], [5, 0]])) == -1.0
    assert metrics.cohen_kappa(np.array([[0, 0], [0, 9]])) is None
    assert metrics.cohen_kappa(np.zeros((2, 2), dtype=int)) is None


@pytest.mark.parametrize(
    ("option", "value"), [("num_bootstrap", 0), ("num_bootstrap", 10**9), ("confidence", 0.0), ("confidence", 1.0), ("seed", -1)]
)
def test_options_of_the_bootstrap_that_give_no_interval(option, value):
    with pytest.raises(ValueError, match=f"--{option} {value}"):
        metrics.BootstrapConfig(**{option: value})
