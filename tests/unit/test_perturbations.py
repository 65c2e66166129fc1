"""Perturbations: what they do to steps, and a scorer that falls for them, one that does not."""

import pytest

from prm.benchmarks.calibration.evaluate import CalibrationConfig
from prm.benchmarks.calibration.perturbations import (
    FILLER,
    choose_questions,
    evaluate_perturbations,
    insert_filler,
    merge_neighbours,
    split_sentences,
)
from prm.benchmarks.calibration.report import report_calibration
from prm.records import Response, StepScores

CONFIG = CalibrationConfig(aggregation=["min", "last"], num_bootstrap=200)


def test_merging():
    assert merge_neighbours(["a", "b", "c"]) == ["a\n\nb", "c"]
    assert merge_neighbours(["a"]) == ["a"]


def test_splitting():
    assert split_sentences(["Add 3. So it is 3.5! Why?", "Done"]) == ["Add 3.", "So it is 3.5!", "Why?", "Done"]
    assert split_sentences(["1. Add them. 2. Stop."]) == ["1. Add them.", "2. Stop."]
    assert split_sentences(["**2.** Add\nthem.\n"]) == ["**2.** Add\nthem."]


def test_filling():
    assert insert_filler(["a", "b", "c"]) == ["a", FILLER, "b", FILLER, "c"]
    assert insert_filler(["a"]) == [FILLER, "a"]


def candidates():
    """Two questions, three candidates each; steps are `good` or `bad` and the answer is right without a bad one."""
    kinds = [["good. good.", "good.", "good."], ["good.", "bad. good."], ["bad.", "good."]]
    return [Response(q, i, "?", steps, "bad" not in " ".join(steps)) for q in ("a", "b") for i, steps in enumerate(kinds)]


def by_content(name, responses):
    """A PRM that reads: a filler is fine, a step with something bad in it is not."""
    return [StepScores(r.question_id, r.sample_index, [0.1 if "bad" in s else 0.9 for s in r.steps]) for r in responses]


def by_form(name, responses):
    """A PRM that wants few steps and hates fillers."""
    return [
        StepScores(r.question_id, r.sample_index, [0.2 if s == FILLER else 1 / (1 + len(r.steps)) for s in r.steps])
        for r in responses
    ]


def perturb(score, responses, names):
    """Every form scored, the originals too."""
    return evaluate_perturbations(score, responses, score("original", responses), names, CONFIG)


def test_a_prm_that_reads_is_not_moved():
    found = perturb(by_content, candidates(), ["merge", "split", "filler"])
    assert (found["num_responses"], found["num_left_out"], found["has_outcomes"]) == (6, 0, True)
    assert {name: perturbed["share_changed"] for name, perturbed in found["perturbations"].items()} == {
        "merge": 1,
        "split": pytest.approx(2 / 3),
        "filler": 1,
    }
    for name, perturbed in found["perturbations"].items():
        low = perturbed["responses"]["min"]
        assert low["change"] == {"value": 0, "low": 0, "high": 0}, name
        assert low["auc"] == {"before": 1, "after": 1}
        assert low["rank_correlation"] == pytest.approx(1)
        assert (low["best_of_n"]["before"], low["best_of_n"]["after"], low["best_of_n"]["share_selection_changed"]) == (1, 1, 0)
    assert found["perturbations"]["filler"]["mean_filler_score"] == 0.9
    assert found["perturbations"]["split"]["steps_after"] > found["perturbations"]["split"]["steps_before"]


def test_a_prm_that_goes_by_form_is_found_out():
    found = perturb(by_form, candidates(), ["merge", "split", "filler"])["perturbations"]
    assert found["merge"]["responses"]["last"]["change"]["value"] > 0
    assert found["split"]["responses"]["last"]["change"]["value"] < 0
    # Steps 3, 2, 2 become 5, 3, 3: 1/4, 1/3, 1/3 fall to 1/6, 1/4, 1/4.
    assert found["filler"]["responses"]["last"]["change"]["value"] == pytest.approx(-(1 / 12 + 1 / 12 + 1 / 12) / 3)
    assert found["filler"]["mean_filler_score"] == pytest.approx(0.2)
    # Before, the two wrong candidates tie for the choice; merged, steps 2, 1, 1 leave it so; split, 4, 3, 2 select the last.
    best = found["split"]["responses"]["last"]["best_of_n"]
    assert (best["before"], best["after"], best["share_selection_changed"]) == (0, 0, 1)


def test_what_cannot_be_scored_in_every_form_is_left_out():
    def short(name, responses):
        return by_content(name, [r for r in responses if len(r.steps) < 5])

    found = perturb(short, candidates(), ["filler"])
    assert (found["num_responses"], found["num_left_out"]) == (4, 2)
    with pytest.raises(ValueError, match="no response can be scored in its own steps and in every perturbed form"):
        perturb(lambda name, responses: [], candidates(), ["filler"])


def test_without_outcomes_only_scores_are_compared():
    bare = [Response(r.question_id, r.sample_index, "?", r.steps) for r in candidates()]
    change = perturb(by_form, bare, ["filler"])["perturbations"]["filler"]["responses"]["min"]
    assert change["auc"] is None
    assert change["best_of_n"] is None
    assert change["change"]["value"] < 0


def test_one_question_gives_no_p_value(tmp_path):
    one = candidates()[:3]
    found = perturb(by_form, one, ["split"])
    best = found["perturbations"]["split"]["responses"]["last"]["best_of_n"]
    assert (best["num_questions"], best["p_value"]) == (1, None)
    _, tables = report_calibration({"prm": by_form("original", one)}, one, CONFIG, tmp_path, perturbations=found)
    assert [row[-2] for row in tables[-1].rows] == ["p", "-", "-"]
    assert "NaN" not in (tmp_path / "metrics.json").read_text()


def test_whole_questions_are_chosen():
    chosen = choose_questions(candidates(), 2, seed=0)
    assert len(chosen) == 3
    assert len({r.question_id for r in chosen}) == 1
    assert len(choose_questions(candidates(), 4, seed=0)) == 6
    assert len(choose_questions(candidates(), 100, seed=0)) == 6
    assert len({choose_questions(candidates(), 1, seed=s)[0].question_id for s in range(9)}) == 2


def test_an_unknown_perturbation_is_refused():
    with pytest.raises(ValueError, match="--perturbations shuffle: choose from merge, split, filler"):
        perturb(lambda name, responses: [], candidates(), ["shuffle"])
