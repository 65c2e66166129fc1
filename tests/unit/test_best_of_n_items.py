import dataclasses

import numpy as np
import pytest

from prm.benchmarks.best_of_n.candidates import with_unscored
from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, measure_best_of_n
from prm.benchmarks.best_of_n.items import best_of_n_items, describe_choice, named_groups, worth_reading
from prm.benchmarks.best_of_n.report import BestOfNReportConfig
from prm.benchmarks.page.review import review_items
from prm.benchmarks.score_files import Texts
from prm.records import Response, StepScores

SCORES = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4])
CORRECT = np.array([False, True, False, True, True, False, False, True])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, [0]),  # the chosen one
        (2, [0, 2]),  # the best-scored wrong one that is left
        (3, [0, 1, 2]),  # the worst-scored right one
        (5, [0, 1, 2, 3, 6]),
        (8, list(range(8))),
        (16, list(range(8))),
    ],
)
def test_the_chosen_one_then_wrong_ones_from_above_and_right_ones_from_below(count, expected):
    assert worth_reading(SCORES, CORRECT, count) == expected


def test_where_one_kind_runs_out_the_other_takes_its_places():
    assert worth_reading(SCORES, np.ones(8, dtype=bool), 3) == [0, 1, 3]
    assert worth_reading(SCORES, np.zeros(8, dtype=bool), 3) == [0, 2, 4]
    assert worth_reading(SCORES, SCORES < 0.25, 5) == [0, 1, 2, 3, 4]


def test_of_equal_scores_the_first_goes_first():
    assert worth_reading(np.full(6, 0.5), np.array([False, True] * 3), 4) == [0, 1, 2, 4]


@pytest.mark.parametrize("seed", range(20))
def test_no_candidate_left_out_is_a_worse_miss(seed):
    rng = np.random.default_rng(seed)
    scores, correct = rng.choice(12, 20) / 12, rng.random(20) < rng.random()
    kept = worth_reading(scores, correct, 7)
    left = np.setdiff1d(np.arange(20), kept)
    assert len(kept) == 7
    assert int(np.argmax(scores)) in kept
    others = [c for c in kept if c != int(np.argmax(scores))]
    for kind, sign in ((True, 1), (False, -1)):
        of_kind = [sign * scores[c] for c in others if correct[c] == kind]
        assert max(of_kind, default=-np.inf) <= min((sign * scores[c] for c in left if correct[c] == kind), default=np.inf)


def measured_and_texts(texts_of=range(8)):
    """Two PRMs, the second the first one upside down, over one question of eight candidates and one of two."""
    rows = [("a", i, float(SCORES[i]), bool(CORRECT[i])) for i in range(8)] + [("b", 0, 0.2, True), ("b", 1, 0.3, False)]
    records = {
        "good": [StepScores(q, i, [1.0, s], c) for q, i, s, c in rows],
        "bad": [StepScores(q, i, [1 - s, 1.0], c) for q, i, s, c in rows],
    }
    texts = {(q, i): Response(q, i, f"{q}?", ["s", f"t{i}"], c) for q, i, _, c in rows if i in texts_of}
    return measure_best_of_n(records, BestOfNConfig(aggregation=["min", "last"], num_bootstrap=10)), Texts(texts)


def test_each_prm_chooses_for_itself():
    measured, texts = measured_and_texts()
    items = list(best_of_n_items(measured, texts, {}, 3))
    assert [item.id for item in items] == [
        *("good: a #0", "good: a #1", "good: a #2", "good: b #0", "good: b #1"),
        *("bad: a #1", "bad: a #4", "bad: a #5", "bad: b #0", "bad: b #1"),
    ]
    assert [item.id for item in items if item.is_selected] == ["good: a #0", "good: b #1", "bad: a #1", "bad: b #0"]
    reviews = review_items(items)
    assert [(r.item.id, r.verdict) for r in reviews][:2] == [("good: a #0", "wrong pick"), ("good: b #1", "wrong pick")]
    # Behind the wrong picks, right answers with low scores and wrong ones with high scores.
    assert [r.item.id for r in reviews][2:6] == ["good: a #1", "good: a #2", "good: b #0", "bad: a #4"]
    assert [r.severity for r in reviews][2:6] == pytest.approx([0.9, 0.8, 0.8, 0.7])


def test_only_candidates_with_texts_are_kept_and_none_stands_in_for_the_chosen_one():
    measured, texts = measured_and_texts(texts_of=[1, 2, 3, 7])
    items = [item for item in best_of_n_items(measured, texts, {}, 3) if item.group == "good" and item.id.startswith("good: a")]
    assert [item.id for item in items] == ["good: a #1", "good: a #2", "good: a #3"]
    assert not any(item.is_selected for item in items)


def test_copies_of_a_text_come_last_behind_the_best_scored():
    """Of "good", 2 repeats the chosen 0, and 4 repeats 1, which is scored lower."""
    measured, texts = measured_and_texts()
    for copy, original in ((2, 0), (4, 1)):
        texts.responses["a", copy] = dataclasses.replace(texts.responses["a", copy], steps=texts.responses["a", original].steps)

    def of_good(count):
        items = [item for item in best_of_n_items(measured, texts, {}, count) if item.id.startswith("good: a")]
        assert [item.id for item in items if item.is_selected] == ["good: a #0"]
        return [int(item.id[-1]) for item in items]

    assert [of_good(count) for count in (3, 6, 7, 8)] == [[0, 3, 6], [0, 3, 4, 5, 6, 7], [0, 1, 3, 4, 5, 6, 7], list(range(8))]


def test_a_group_says_what_it_is_a_value_of():
    levels = ["5", "unknown", "Level 3"]
    assert named_groups({"level": levels, "subject": ["Algebra"] * 3}) == ["level 5", "level unknown", "Level 3"]
    assert named_groups({"Level": ["Level 3"]}) == ["Level 3"]
    assert named_groups({}) == []


def test_what_is_left_out_is_said():
    measured, texts = measured_and_texts()
    which = "the chosen one, the best-scored wrong ones and the worst-scored right ones"
    ends = f" candidates of each question are kept to look at: {which}"
    assert describe_choice(measured, texts, 3) == "2 to 3 of 2 to 8" + ends
    assert describe_choice(measured, texts, 1) == "1 of 2 to 8" + ends
    assert describe_choice(measured, texts, 8) == describe_choice(measured, texts, 0) == describe_choice(measured, Texts(), 3) == ""


def test_candidates_that_were_not_read_are_no_items_and_that_is_said():
    responses = [Response("a", i, "a?", [f"t{i}"], i == 0) for i in range(6)]
    texts = Texts({response.key: response for response in responses})
    records = with_unscored("prm", [StepScores("a", i, [0.1 * i], i == 0) for i in range(2)], responses)
    measured = measure_best_of_n({"prm": records}, BestOfNConfig(aggregation=["min"], num_bootstrap=10))
    for count in (3, 6):
        assert [item.id for item in best_of_n_items(measured, texts, {}, count)] == ["a #0", "a #1"]
        assert describe_choice(measured, texts, count) == (
            "2 of 6 candidates of each question are kept to look at: those that the PRM could read"
        )


def test_a_negative_number_of_responses():
    with pytest.raises(ValueError, match="--items_per_question -1: give 0"):
        BestOfNReportConfig(items_per_question=-1)
