"""One response per question: by hand, then against what Best-of-N measures of the same choice."""

import numpy as np
import pytest

from prm.aggregation import Aggregation
from prm.benchmarks.best_of_n.candidates import build_pool
from prm.benchmarks.best_of_n.choose import choice_items, choice_table, choose, summarize_choices
from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, evaluate_best_of_n
from prm.data.sources import load_responses, load_scores
from prm.records import Response, StepScores

MIN = Aggregation("min")


def pool(question_id, *candidates):
    """Responses with these answers, and records with these step scores (None: the PRM could not read it)."""
    responses = [Response(question_id, i, "?", ["s", "t"], extracted=answer) for i, (answer, _) in enumerate(candidates)]
    records = [StepScores(question_id, i, scores) for i, (_, scores) in enumerate(candidates) if scores is not None]
    return records, responses


def chosen(method, *candidates, **options):
    (choice,) = choose("prm", *pool("q", *candidates), MIN, method, **options)
    return choice.chosen, choice.vote_share


def test_the_best_score_of_equals_the_first():
    assert chosen("best_of_n", ("1", [0.9, 0.2]), ("2", [0.5, 0.6]), ("3", [0.9, 0.5])) == (1, None)
    assert chosen("best_of_n", ("1", None), ("2", [0.0, 0.0])) == (1, None)
    assert chosen("best_of_n", ("1", [0.1, 0.1]), ("2", [0.5, 0.5]), ("3", [0.9, 0.9]), num_candidates=2) == (1, None)
    assert chosen("best_of_n", ("1", [-2.0, 1.0]), ("2", [-1.0, 3.0])) == (1, None)


def test_a_vote_takes_the_answer_with_most_weight():
    three = (("1", [0.2, 0.2]), ("2.", [0.9, 0.9]), ("1", [0.3, 0.3]))
    assert chosen("majority_vote", *three) == (2, 2 / 3)
    assert chosen("weighted_vote", *three) == (1, pytest.approx(0.9 / 1.4))
    assert chosen("majority_vote", ("2", [0.1, 0.1]), ("1", [0.9, 0.9])) == (0, 0.5), "a tie: the answer that came first"
    assert chosen("majority_vote", (None, [0.9, 0.9]), ("1", [0.1, 0.1])) == (1, 1.0), "no answer, no vote"
    assert chosen("weighted_vote", (None, [0.1, 0.1]), (None, [0.9, 0.9])) == (1, None)
    assert chosen("majority_vote", ("1", None), ("1", None), ("2", [0.9, 0.9])) == (0, pytest.approx(2 / 3))
    assert chosen("weighted_vote", ("1", None), ("1", None), ("2", [0.1, 0.1])) == (2, 1.0), "what is unread has no weight"
    assert chosen("weighted_vote", ("1", [0.0, 0.0]), ("2", [0.0, 0.0])) == (0, 0.0)
    assert chosen("weighted_vote", ("1", [1e-14, 1.0]), ("2", [3e-14, 1.0])) == (1, pytest.approx(0.75)), "no rounding errors"


def test_answers_are_found_in_ungraded_texts():
    responses = [Response("q", i, "?", [f"So \\boxed{{{n}}}."]) for i, n in enumerate((3, 4, 4))]
    records = [StepScores("q", i, [0.5]) for i in range(3)]
    (choice,) = choose("prm", records, responses, MIN, "majority_vote")
    assert choice.row({("q", 1): "as sampled"}) == {
        "question_id": "q",
        "sample_index": 1,
        "question": "?",
        "response": "as sampled",
        "extracted": "4",
        "response_score": 0.5,
        "vote_share": pytest.approx(2 / 3),
        "num_candidates": 3,
    }


def test_a_question_of_which_nothing_could_be_read_has_its_first_sample():
    records, responses = pool("a", ("1", [0.5, 0.5]))
    _, unread = pool("b", ("1", None), ("2", None))
    choices = choose("prm", records, [*unread, *responses], MIN)
    assert [choice.candidates[0].question_id for choice in choices] == ["b", "a"], "in the order of the questions"
    assert choices[0].row({})["response_score"] is None
    summary = summarize_choices(choices)
    assert (summary["num_unscored"], summary["mean_score"], summary["mean_vote_share"]) == (2, 0.5, None)
    table = choice_table(summary, "prm", MIN, "best_of_n", [])
    assert table.rows[1] == ["prm", "2", "3", "2", "0", "0.500", "0.500", "-"]
    assert [item.id for item in choice_items(choices, 16)] == ["a #0"]


def test_items_are_the_chosen_one_and_the_best_others():
    records, responses = pool("q", ("1", [0.1, 0.1]), ("1", [0.8, 0.8]), ("2", [0.9, 0.9]), ("1", [0.2, 0.2]))
    choices = choose("prm", records, responses, MIN, "majority_vote")
    items = list(choice_items(choices, 2))
    assert [(item.id, item.group, item.is_selected) for item in items] == [
        ("q #1", "chosen", None),
        ("q #2", "other candidates", None),
    ]
    assert list(choice_items(choices, 0)) == []


def test_scores_that_cannot_choose_are_refused():
    records, responses = pool("q", ("1", [-0.5, 0.5]))
    with pytest.raises(ValueError, match=r"prm: its scores leave .* choose by best_of_n or majority_vote"):
        choose("prm", records, responses, MIN, "weighted_vote")
    with pytest.raises(ValueError, match="needs scores in"):
        choose("prm", records, responses, Aggregation("product"))
    with pytest.raises(ValueError, match=r"prm: 1 scored responses are not among the rollouts, such as \('z', 0\)"):
        choose("prm", [StepScores("z", 0, [0.5])], responses, MIN)
    with pytest.raises(ValueError, match="not one of the 1 responses has scores"):
        choose("prm", [], responses, MIN)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_choices_are_as_good_as_best_of_n_measures_them(real_data, n):
    """`first N` and the published vote of the ORM's golden values: 90 / 93 / 93 / 94 and 90 / 90 / 93 / 93."""
    source = real_data / "rollouts" / "qwen25math_rm_100x8.jsonl"
    responses, records = load_responses(source), load_scores(source)
    golden = {"best_of_n": {1: 90, 2: 93, 4: 93, 8: 94}, "majority_vote": {1: 90, 2: 90, 4: 93, 8: 93}}
    for method, accuracy in golden.items():
        choices = choose("orm", records, responses, Aggregation("last"), method, n)
        assert sum(choice.candidates[choice.chosen].correct is True for choice in choices) == accuracy[n]


def test_weighted_votes_on_a_real_pool(real_data):
    source = real_data / "bon" / "bon16_math500_50.jsonl"
    responses, records = load_responses(source), load_scores(source, "qwen_prm")
    config = BestOfNConfig(aggregation=["min"], num_candidates=[16], num_bootstrap=10)
    measured = evaluate_best_of_n({"prm": records}, config)["prms"]["prm"]["min"]["weighted_vote"]["accuracy"]["16"]
    choices = choose("prm", records, responses, MIN, "weighted_vote")
    assert np.mean([choice.candidates[choice.chosen].correct is True for choice in choices]) == pytest.approx(measured)
    assert len(build_pool({"prm": records}).questions) == len(choices)
