import random

import pytest

from prm.files import write_jsonl
from prm.miniature import problems
from prm.miniature.experiment import Miniature, first_error_items
from prm.miniature.report import compare, findings
from prm.miniature.settings import MAIN_LOSSES, MiniatureConfig
from prm.records import Response, Rollout


def response(index, labels, question_id="q"):
    return Response(question_id, index, "?", [f"step {index} {i}" for i in range(len(labels))], correct=True, step_labels=labels)


def test_all_adds_the_symmetric_objectives_and_unknown_ones_are_refused():
    assert MiniatureConfig(all=True).losses == [*MAIN_LOSSES, "min", "geometric_mean", "softmin"]
    with pytest.raises(ValueError, match="--losses asymm: choose from step_ce"):
        MiniatureConfig(losses=["asymm"])
    with pytest.raises(ValueError, match=r"--false_positive_rates 1.0: it must be"):
        MiniatureConfig(false_positive_rates=[0.1, 1.0])


def test_training_runs_have_names_and_seeds_of_their_own(monkeypatch):
    run, started = Miniature(MiniatureConfig(losses=["asym", "orm"], training_runs=3, seed=4)), []
    monkeypatch.setattr(run, "script", lambda name, flags, launcher=(): started.append((flags["output_dir"].name, flags["seed"])))
    for stage in run.stages():
        if stage.name.startswith("train-"):
            stage.run()
    assert started == [("asym", 4), ("orm", 4), ("asym-seed5", 5), ("orm-seed5", 5), ("asym-seed6", 6), ("orm-seed6", 6)]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"training_runs": 0}, "--training_runs 0: give 1 or more"),
        ({"training_runs": 2, "false_positive_rates": [0.1]}, "leave --false_positive_rates out"),
        ({"training_runs": 2, "labelling": True}, "--labelling trains no PRM"),
    ],
)
def test_training_runs_are_checked(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        MiniatureConfig(**options)


def test_first_error_items_are_unique_and_labelled_by_the_judge():
    responses = [response(0, [1.0, -1.0, -1.0]), response(1, [1.0, 1.0]), response(2, [-1.0])]
    copy = Response("q", 9, "?", responses[0].steps, correct=True, step_labels=responses[0].step_labels)
    items = {item["id"]: item["label"] for item in first_error_items([*responses, copy], seed=0)}
    assert items == {"q#9": 1, "q#1": -1, "q#2": 0}


def test_items_do_not_depend_on_the_order_in_which_rollouts_were_finished(tmp_path):
    rng, rollouts = random.Random(0), []
    for index in range(20):
        problem = problems.random_problem(rng, problems.ProblemConfig(), "eval")
        text = "\n\n".join(problems.write_steps(problem, [rng.randrange(problem.modulus) for _ in problem.operations]))
        question = problems.write_question(problem)
        rollouts.append(Rollout("q", index, question, "1", text, "stop", 9, correct=False, extracted="0", grade="wrong"))
    written = []
    for name, order in (("a", rollouts), ("b", rollouts[::-1])):
        run = Miniature(MiniatureConfig(output_dir=str(tmp_path / name)))
        write_jsonl(run.graded("eval"), order)
        run.label_steps("eval")
        written.append([(run.root / file).read_text() for file in ("labels/eval.jsonl", "first_error/miniature.json")])
    assert written[0] == written[1]
    assert written[0][1].count('"id"') == 20


def curves(difference, low, high):
    test = {name: {"64": value} for name, value in (("difference", difference), ("low", low), ("high", high), ("p_value", 0.5))}
    return {"n": [1, 64], "differences": {"own": {"orm": {"asym": test}, "asym": {"majority_vote": test, "random": test}}}}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [((0.1, 0.05, 0.2), "beats"), ((-0.1, -0.2, -0.05), "loses to"), ((0.1, -0.01, 0.2), "cannot be told apart from")],
)
def test_a_finding_says_what_the_interval_says(values, verdict):
    assert f"asym {verdict} majority vote: {100 * values[0]:+.1f} points" in compare(curves(*values), "asym", "majority_vote", "64")


def test_a_difference_listed_the_other_way_round_changes_sign():
    assert "asym loses to orm: -10.0 points [-20.0, -5.0]" in compare(curves(0.1, 0.05, 0.2), "asym", "orm", "64")


@pytest.mark.parametrize(("auc", "verdict"), [(0.97, "the world is learnable"), (0.94, "no comparison below means much")])
def test_an_unlearnable_world_is_called_one(auc, verdict):
    result = {"best_of_n": curves(0.1, 0.05, 0.2), "steps": {"step_ce": {"auc": auc}}}
    result["outcomes"] = {"train": {"right_with_wrong_step": 0.012}}
    test = {name: {"64": 0.1} for name in ("difference", "low", "high")}
    result["best_of_n"]["differences"]["own"]["step_ce"] = {"majority_vote": test}
    lines = findings(result, ["step_ce"])
    assert verdict in lines[0]
    assert "1.2% contain a wrong step" in lines[-1]
