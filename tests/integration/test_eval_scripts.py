"""bon_eval.py and processbench_eval.py end to end: score files, real candidate pools, a checkpoint, mistakes."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bon_eval
import build_dataset
import calibration_report
import choose_responses
import convert_dataset
import grade_rollouts
import prmbench_eval
import processbench_eval
import pytest
import report
import score

from prm.benchmarks.page import build_page
from prm.benchmarks.results import read_items, read_tables
from prm.benchmarks.score_files import read_scores
from prm.files import read_records, write_json, write_jsonl
from prm.records import Rollout, StepScores
from prm.scoring import Scorer

SCRIPTS = Path(__file__).parents[2] / "scripts"
FAST = ["--num_bootstrap", "200", "--num_vote_draws", "20"]


@pytest.fixture(scope="module")
def checkpoint(make_prm):
    return make_prm(max_length=300)


@pytest.fixture
def rollouts(tmp_path):
    rows = [
        Rollout(f"q{q}", i, f"Question {q}?", "1", f"Think {q} {i}.\n\n\\boxed{{{i % 2}}}", "stop", 3, i % 2 == 1, str(i % 2))
        for q in range(3)
        for i in range(4)
    ]
    write_jsonl(tmp_path / "rollouts.jsonl", rows)
    return tmp_path / "rollouts.jsonl"


def scores(shift=0.0):
    return [StepScores(f"q{q}", i, [0.9, 0.1 * i + shift], i == 3, "1", str(i)) for q in range(3) for i in range(4)]


def run_bon(tmp_path, *flags):
    bon_eval.main([*map(str, flags), *FAST, "--output_dir", str(tmp_path / "out")])
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


class TestChoice:
    def run(self, tmp_path, *flags):
        choose_responses.main([*map(str, flags), "--output_dir", str(tmp_path / "chosen")])
        return [json.loads(line) for line in (tmp_path / "chosen" / "chosen.jsonl").open()]

    def test_scores_of_ungraded_rollouts(self, tmp_path, capsys):
        texts = [f"Add {i}.\n\n\n\nSo \\boxed{{{i // 2}}}." for i in range(4)]
        rows = [{"question_id": "q", "sample_index": i, "question": "?", "response": text} for i, text in enumerate(texts)]
        write_jsonl(tmp_path / "rollouts.jsonl", rows)  # no reference answer
        write_jsonl(tmp_path / "s.jsonl", [StepScores("q", i, [0.9, 0.2 + 0.1 * i]) for i in range(3)])
        flags = ["--scores", tmp_path / "s.jsonl", "--rollouts", tmp_path / "rollouts.jsonl"]
        (row,) = self.run(tmp_path, *flags)
        assert (row["sample_index"], row["extracted"], row["response_score"]) == (2, "1", 0.4)
        assert row["response"] == texts[2], "as it was sampled"
        assert self.run(tmp_path, *flags, "--aggregation", "last", "--num_candidates", 2)[0]["sample_index"] == 1
        assert self.run(tmp_path, *flags, "--method", "weighted_vote")[0]["vote_share"] == pytest.approx(0.5 / 0.9)
        assert "by a vote weighted by scores" in capsys.readouterr().out
        report.main(["--input", str(tmp_path / "chosen")])
        assert "other candidates" in (tmp_path / "chosen" / "report.html").read_text()

    def test_a_model_and_its_own_aggregation(self, tmp_path, rollouts, checkpoint):
        rows = self.run(tmp_path, "--model", checkpoint, "--rollouts", rollouts)
        assert [row["question_id"] for row in rows] == ["q0", "q1", "q2"]
        score.main(["--model", checkpoint, "--input", str(rollouts), "--output", str(tmp_path / "scores.jsonl")])
        flags = ["--scores", tmp_path / "scores.jsonl", "--rollouts", rollouts]
        assert self.run(tmp_path, *flags) == self.run(tmp_path, *flags, "--aggregation", "own") == rows
        kept = json.loads((tmp_path / "chosen" / "metrics.json").read_text())
        assert (kept["prm"], kept["aggregation"], kept["num_questions"]) == ("scores", "min", 3)

    def test_mistakes(self, tmp_path, rollouts):
        write_jsonl(tmp_path / "s.jsonl", scores())
        flags = ["--scores", tmp_path / "s.jsonl"]
        with pytest.raises(ValueError, match=r"s\.jsonl: holds no texts to choose from; give --rollouts"):
            self.run(tmp_path, *flags)
        flags += ["--rollouts", rollouts]
        with pytest.raises(ValueError, match="--aggregation own: nothing says what s was trained for"):
            self.run(tmp_path, *flags, "--aggregation", "own")
        with pytest.raises(ValueError, match="responses are chosen by one, give one"):
            self.run(tmp_path, *flags, "--aggregation", "min", "mean")
        with pytest.raises(ValueError, match="--num_candidates 0: give a number of responses"):
            self.run(tmp_path, *flags, "--num_candidates", 0)
        with pytest.raises(ValueError, match="--scores hold s, t: one PRM chooses"):
            self.run(tmp_path, *flags[:2], f"t={tmp_path / 's.jsonl'}", *flags[2:])
        assert not (tmp_path / "chosen").exists()

    def test_a_constant_chooses_nothing_and_the_table_says_so(self, tmp_path, rollouts):
        rows = [Rollout(f"q{q}", 0, f"Question {q}?", "1", "\n\n".join(f"{q} {i}" for i in range(40)), "stop", 3) for q in range(3)]
        write_jsonl(rollouts, rows)
        write_jsonl(tmp_path / "s.jsonl", [StepScores(row.question_id, 0, [0.5] * 40) for row in rows])
        self.run(tmp_path, "--scores", tmp_path / "s.jsonl", "--rollouts", rollouts)
        (table,) = read_tables(tmp_path / "chosen")
        assert "s: all 120 scores lie between 0.5 and 0.5: a constant, which judges nothing" in table.note
        assert json.loads((tmp_path / "chosen" / "metrics.json").read_text())["constant_scores"]


class TestBestOfN:
    def test_score_files_become_curves(self, tmp_path, capsys):
        write_jsonl(tmp_path / "good.jsonl", scores())
        write_jsonl(tmp_path / "bad.jsonl", [StepScores(s.question_id, s.sample_index, s.step_scores[::-1]) for s in scores(-0.0)])
        flags = ["--scores", tmp_path / "good.jsonl", f"flipped={tmp_path / 'bad.jsonl'}", "--aggregation", "last", "min"]
        result = run_bon(tmp_path, *flags, "--num_candidates", 1, 4)
        assert list(result["prms"]) == ["good", "flipped"]
        (tmp_path / "lr=1e-5").mkdir()
        shutil.copy(tmp_path / "good.jsonl", tmp_path / "lr=1e-5" / "s.jsonl")
        odd = [f"asym={tmp_path / 'lr=1e-5' / 's.jsonl'}", f"a=b={tmp_path / 'good.jsonl'}", tmp_path / "lr=1e-5" / "s.jsonl"]
        assert list(run_bon(tmp_path, "--scores", *odd)["prms"]) == ["asym", "a=b", "s"]
        with pytest.raises(FileNotFoundError, match=r"lr=1/none\.jsonl"):
            run_bon(tmp_path, "--scores", "x=lr=1/none.jsonl")
        assert result["prms"]["good"]["last"]["best_of_n"]["accuracy"] == {"1": 0.25, "4": 1.0}
        assert result["prms"]["flipped"]["last"]["best_of_n"]["accuracy"] == {"1": 0.25, "4": 0.25}
        names = {p.name for p in (tmp_path / "out").iterdir()}
        assert names == {"metrics.json", "tables.json", "items.jsonl", "best_of_n.png", "best_of_n.svg", "manifest.json"}
        assert list(read_items(tmp_path / "out")) == [], "scores alone have no texts"
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["counts"]["num_candidates"] == 12
        assert len(manifest["inputs"]) == 2
        table = capsys.readouterr().out
        assert "flipped, weighted vote" in table
        assert "good - flipped" in table

    def test_candidates_missing_from_the_scores_are_ranked_last(self, tmp_path, rollouts):
        write_jsonl(tmp_path / "s.jsonl", [StepScores(f"q{q}", i, [0.5], i % 2 == 1) for q in range(3) for i in range(3)])
        assert run_bon(tmp_path, "--scores", tmp_path / "s.jsonl")["n"] == [1, 2, 3]
        result = run_bon(tmp_path, "--scores", tmp_path / "s.jsonl", "--rollouts", rollouts, "--aggregation", "min")
        # Two wrong and one right tie for the first place; the right one without a score is never picked.
        assert result["prms"]["s"]["min"]["best_of_n"]["accuracy"]["4"] == pytest.approx(1 / 3)
        counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
        assert counts["num_unscored s"] == 3
        assert result["num_unscored"] == {"s": 3}
        note = json.loads((tmp_path / "out" / "tables.json").read_text())[0]["note"]
        assert "s has no scores for 3 of 12 candidates: they are ranked last" in note

    @pytest.mark.parametrize("name", ["asym.jsonl", "asym"])
    def test_the_aggregation_that_a_prm_was_trained_for_comes_with_its_scores(self, tmp_path, rollouts, checkpoint, name):
        score.main(["--model", checkpoint, "--input", str(rollouts), "--output", str(tmp_path / name)])
        result = run_bon(tmp_path, "--scores", tmp_path / name, "--aggregation", "own", "min")
        assert result["prms"]["asym"]["own"] == result["prms"]["asym"]["min"]
        assert result["own_aggregation"] == {"asym": "min"}
        assert run_bon(tmp_path, "--scores", f"x={tmp_path / name}", "--aggregation", "own")["own_aggregation"] == {"x": "min"}
        write_jsonl(tmp_path / "bare.jsonl", scores())
        with pytest.raises(ValueError, match="nothing says what bare was trained for"):
            run_bon(tmp_path, "--scores", tmp_path / "bare.jsonl", "--aggregation", "own")

    def test_what_scoring_left_out_is_said(self, tmp_path, rollouts, checkpoint):
        unread = [Rollout("q0", 4 + i, "Question 0?", "1", "One.<extra_0>", "stop", 1, False, "0") for i in range(2)]
        write_jsonl(rollouts, [*read_records(rollouts, Rollout), *unread])
        score.main(["--model", checkpoint, "--input", str(rollouts), "--output", str(tmp_path / "asym.jsonl")])
        assert run_bon(tmp_path, "--scores", tmp_path / "asym.jsonl")["left_out_by_scoring"] == {"asym": 2}
        assert "asym: scoring left out 2 responses" in read_tables(tmp_path / "out")[1].note
        complete = run_bon(tmp_path, "--scores", tmp_path / "asym.jsonl", "--rollouts", rollouts)
        assert (complete["left_out_by_scoring"], complete["num_unscored"]) == ({}, {"asym": 2})

    def test_texts_become_items(self, tmp_path, rollouts):
        write_jsonl(tmp_path / "s.jsonl", scores_of_rollouts := [s for s in scores() if s.sample_index < 3])
        run_bon(
            tmp_path, "--scores", tmp_path / "s.jsonl", "--rollouts", rollouts, "--aggregation", "min", "--items_per_question", 2
        )
        items = list(read_items(tmp_path / "out"))
        assert len(scores_of_rollouts) == 9
        # Scored .0, .1, .2 and, without scores, 0; as the rollouts say, 0 and 2 are wrong. So 2 is chosen, and 0 the best-scored
        # wrong one that is left.
        assert [item.id for item in items] == [f"q{q} #{i}" for q in range(3) for i in (0, 2)]
        assert [item.is_selected for item in items] == [False, True] * 3
        assert (items[1].steps, items[1].step_scores) == (["Think 0 2.", "\\boxed{0}"], [0.9, 0.2])
        assert (items[1].response_score, items[1].correct) == (0.2, False)
        kept = json.loads((tmp_path / "out" / "manifest.json").read_text())["items"]
        assert kept.startswith("2 of 4 candidates of each question")

    def test_fields_of_a_question_file_break_the_curves_down(self, tmp_path, rollouts):
        write_jsonl(tmp_path / "s.jsonl", scores())
        questions = [{"id": f"q{q}", "question": f"Question {q}?", "answer": "1", "level": q // 2} for q in range(2)]
        write_jsonl(tmp_path / "questions.jsonl", questions)
        flags = ["--scores", tmp_path / "s.jsonl", "--rollouts", rollouts, "--questions", tmp_path / "questions.jsonl"]
        result = run_bon(tmp_path, *flags, "--aggregation", "min", "--length_unit", "characters")
        levels = result["breakdown"]["level"]
        assert {level: group["num_questions"] for level, group in levels.items()} == {"0": 2, "unknown": 1}
        assert levels["unknown"]["prms"]["s"]["min"]["accuracy"] == result["prms"]["s"]["min"]["best_of_n"]["accuracy"]
        assert result["length"] is None, "the texts are equally long"
        assert {item.group for item in read_items(tmp_path / "out")} == {"level 0", "level unknown"}
        write_jsonl(tmp_path / "questions.jsonl", [{**row, "id": "other"} for row in questions[:1]])
        assert "level" in run_bon(tmp_path, *flags)["breakdown"], "found by its text"
        pool = [
            {"question": f"Question {q}?", "answer": "1", "problem_id": f"q{q}", "level": q, "candidates": candidates}
            for q, candidates in enumerate([[{"text": "x", "step_scores": [0.5], "correct": True}] * 4] * 3)
        ]
        write_jsonl(tmp_path / "pool.jsonl", pool)
        bare = ["--scores", tmp_path / "s.jsonl", tmp_path / "pool.jsonl"]
        write_jsonl(tmp_path / "s.jsonl", [StepScores(f"q{q}", i, [0.1 * i], True) for q in range(3) for i in range(4)])
        assert list(run_bon(tmp_path, *bare, "--breakdown", "level")["breakdown"]["level"]) == ["0", "1", "2"], "of any file"
        with pytest.raises(ValueError, match=r"--breakdown color: no question in .* has that field; they have answer, id, level"):
            run_bon(tmp_path, *flags, "--breakdown", "level", "color")
        write_jsonl(tmp_path / "questions.jsonl", [{"id": "z", "question": "Who?", "answer": "1"}])
        with pytest.raises(ValueError, match="holds none of the 3 questions, such as 'q0'"):
            run_bon(tmp_path, *flags)

    @pytest.mark.parametrize("kind", [int, str])
    def test_bare_scores_of_questions_with_numbers_for_ids(self, tmp_path, kind):
        rows = [
            {"question_id": kind(q), "sample_index": i, "step_scores": [0.1 * i], "correct": i == q} for q in (0, 7) for i in (0, 1)
        ]
        write_jsonl(tmp_path / "s.jsonl", rows)
        assert run_bon(tmp_path, "--scores", tmp_path / "s.jsonl")["prms"]["s"]["last"]["best_of_n"]["accuracy"] == {
            "1": 0.25,
            "2": 0,
        }
        write_jsonl(tmp_path / "questions.jsonl", [{"id": "7", "question": "?", "answer": "1", "level": 3}])
        result = run_bon(tmp_path, "--scores", tmp_path / "s.jsonl", "--questions", tmp_path / "questions.jsonl")
        assert {level: group["num_questions"] for level, group in result["breakdown"]["level"].items()} == {"3": 1, "unknown": 1}

    def test_scores_of_other_steps_are_refused(self, tmp_path, rollouts):
        write_jsonl(tmp_path / "s.jsonl", [StepScores(s.question_id, s.sample_index, [0.1] * 3, s.correct) for s in scores()])
        with pytest.raises(ValueError, match=r"s: response \('q0', 0\) has 3 step scores but 2 steps"):
            run_bon(tmp_path, "--scores", tmp_path / "s.jsonl", "--rollouts", rollouts)
        cut = StepScores("q0", 0, [0.1], False)
        write_jsonl(tmp_path / "s.jsonl", [cut if s.key == cut.key else s for s in scores()])
        with pytest.raises(ValueError, match=r"s: response \('q0', 0\) has 1 step scores but 2 steps"):
            run_bon(tmp_path, "--scores", tmp_path / "s.jsonl", "--rollouts", rollouts)
        write_jsonl(tmp_path / "s.jsonl", [StepScores("z", 0, [0.1], True), *scores()])
        with pytest.raises(ValueError, match="1 scored responses are not among the rollouts"):
            run_bon(tmp_path, "--scores", tmp_path / "s.jsonl", "--rollouts", rollouts)
        assert not (tmp_path / "out").exists()

    def test_checkpoint_scores_rollouts(self, tmp_path, rollouts, checkpoint, monkeypatch):
        rows = list(read_records(rollouts, Rollout))
        write_jsonl(rollouts, [*rows, Rollout("q2", 4, "Question 2?", "1", " ", "stop", 0)])
        result = run_bon(tmp_path, "--model", checkpoint, "--rollouts", rollouts)
        assert list(result["prms"]) == ["asym"]
        assert (result["num_candidates"], result["num_without_outcome"]) == (13, 1)
        assert len(list(read_records(tmp_path / "out" / "scores.jsonl", StepScores))) == 12, "the empty response has no scores"
        again = run_bon(tmp_path, "--scores", f"asym={tmp_path / 'out' / 'scores.jsonl'}", "--rollouts", rollouts)
        assert again == result
        monkeypatch.setattr(Scorer, "load", lambda *_, **__: pytest.fail("a model was loaded"))
        other = run_bon(tmp_path, "--model", checkpoint, "--rollouts", rollouts, "--aggregation", "softmin", "min")
        assert list(other["prms"]["asym"]) == ["softmin", "min"]
        assert (other["prms"]["asym"]["min"], other["num_unscored"]) == (result["prms"]["asym"]["min"], {"asym": 1})
        write_jsonl(rollouts, [replace(rollout, correct=not rollout.correct) for rollout in rows])
        with pytest.raises(ValueError, match=r"is of a run with responses .* name another --output_dir"):
            run_bon(tmp_path, "--model", checkpoint, "--rollouts", rollouts)
        write_jsonl(
            rollouts, [replace(r, correct=not r.correct) for r in [*rows, Rollout("q2", 4, "Question 2?", "1", " ", "", 0)]]
        )
        regraded = run_bon(tmp_path, "--model", checkpoint, "--rollouts", rollouts)
        assert regraded["prms"]["asym"]["min"]["outcome_auc"] != result["prms"]["asym"]["min"]["outcome_auc"]

    def test_the_checkpoint_s_own_aggregation_comes_first(self, tmp_path, rollouts, checkpoint):
        copy = tmp_path / "copy"
        shutil.copytree(checkpoint, copy)
        contract = json.loads((copy / "prm_config.json").read_text())
        write_json(copy / "prm_config.json", {**contract, "aggregation": "product", "tau": 0.3})
        result = run_bon(tmp_path, "--model", copy, "--rollouts", rollouts)
        assert list(result["prms"]["copy"]) == ["product", "min", "mean", "last"]
        config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
        assert (config["aggregation"], config["tau"]) == (["product", "min", "mean", "last"], 0.3)

    def test_real_pool_shows_every_prm(self, tmp_path, real_data):
        pool = real_data / "bon" / "bon16_gsm8k_50.jsonl"
        flags = ["--aggregation", "min", *FAST]
        command = [sys.executable, SCRIPTS / "bon_eval.py", "--scores", pool, *flags, "--output_dir", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "qwen_prm, weighted vote" in done.stdout
        assert "Does the PRM win by length?" in {table.title for table in read_tables(tmp_path / "out")}
        items = list(read_items(tmp_path / "out"))
        assert len(items) == 7 * 800
        assert sum(item.is_selected for item in items) == 7 * 50
        assert all(len(item.steps) == len(item.step_scores) for item in items)
        result = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert len(result["prms"]) == 7
        assert result["n"] == [1, 2, 4, 8, 16]
        assert (result["length"]["unit"], list(result["breakdown"])) == ("tokens", ["response length"])
        picked = run_bon(tmp_path, "--scores", pool, "--prm", "qwen_prm", "skywork_prm", *flags)
        assert list(picked["prms"]) == ["qwen_prm", "skywork_prm"]
        for prm, by_aggregation in picked["prms"].items():
            assert by_aggregation["min"]["best_of_n"] == result["prms"][prm]["min"]["best_of_n"]
        assert list(read_scores([f"mine={pool}"], ["qwen_prm"])) == ["mine"]
        assert list(read_scores([f"mine={pool}"], ["qwen_prm", "math_shepherd"])) == ["mine/math_shepherd", "mine/qwen_prm"]
        for chosen in (["gpt"], ["qwen_prm", "gpt"]):
            with pytest.raises(ValueError, match=r"--prm gpt: .* holds? step scores of internlm2_1_8b_reward"):
                run_bon(tmp_path, "--scores", pool, "--prm", *chosen)

    def test_a_prm_that_can_read_nothing_is_no_result(self, tmp_path, rollouts, checkpoint):
        write_jsonl(rollouts, [Rollout("q", i, "?", "1", "One.<extra_0>", "stop", 1, i == 0, "1") for i in range(2)])
        with pytest.raises(ValueError, match="asym: not one of the 2 candidates has scores; the PRM could read none of them"):
            run_bon(tmp_path, "--model", checkpoint, "--rollouts", rollouts)

    def test_mistakes(self, tmp_path, rollouts, checkpoint):
        write_jsonl(tmp_path / "a.jsonl", scores())
        (tmp_path / "b").mkdir()
        write_jsonl(tmp_path / "b" / "a.jsonl", scores())
        with pytest.raises(ValueError, match="a second curve named 'a'; name the files apart, NAME="):
            run_bon(tmp_path, "--scores", tmp_path / "a.jsonl", tmp_path / "b" / "a.jsonl")
        with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
            run_bon(tmp_path, "--scores", tmp_path / "nothing.jsonl")
        for flags in ([], ["--model", "m"], ["--model", "m", "--rollouts", "r", "--scores", "s"]):
            with pytest.raises(ValueError, match="give either --scores"):
                run_bon(tmp_path, *flags)
        with pytest.raises(ValueError, match="--reference says how --model is loaded, but --scores is given"):
            run_bon(tmp_path, "--scores", tmp_path / "a.jsonl", "--reference", "r")
        with pytest.raises(ValueError, match="--prm gpt: chooses among the PRMs of candidate pools, and none of"):
            run_bon(tmp_path, "--scores", tmp_path / "a.jsonl", "--prm", "gpt")
        with pytest.raises(ValueError, match="--prm chooses among the PRMs of candidate pools, but --model scores"):
            run_bon(tmp_path, "--model", checkpoint, "--rollouts", rollouts, "--prm", "gpt")
        called = "a PRM is called 'random', as a baseline is: give it another name"
        with pytest.raises(ValueError, match=f"{called}, --scores NAME=FILE"):
            run_bon(tmp_path, "--scores", f"random={tmp_path / 'a.jsonl'}")
        (tmp_path / "random").mkdir()
        with pytest.raises(ValueError, match=called):  # before anything is loaded
            run_bon(tmp_path, "--model", tmp_path / "random", "--rollouts", rollouts)
        with pytest.raises(ValueError, match=r"--tau 0\.2: the temperature of softmin, but --aggregation is min mean"):
            run_bon(tmp_path, "--scores", tmp_path / "a.jsonl", "--aggregation", "min", "mean", "--tau", 0.2)
        write_jsonl(tmp_path / "empty_pool.jsonl", [{"problem_id": "p", "question": "?", "answer": "1", "candidates": []}])
        with pytest.raises(ValueError, match=r"empty_pool\.jsonl:1: a question without candidates"):
            run_bon(tmp_path, "--scores", tmp_path / "empty_pool.jsonl")
        write_jsonl(rollouts, [Rollout("q", 0, "?", "1", "7", "stop", 1)])
        with pytest.raises(ValueError, match="no rollout has an outcome; grade them first"):
            run_bon(tmp_path, "--model", checkpoint, "--rollouts", rollouts)
        assert not (tmp_path / "out").exists()


class TestProcessBench:
    ITEMS = (
        {"id": "x", "problem": "1?", "steps": ["a", "b"], "label": 1},
        {"id": "y", "problem": "2?", "steps": ["c"], "label": -1},
    )

    def run(self, tmp_path, *flags):
        processbench_eval.main([*map(str, flags), "--num_bootstrap", "100", "--output_dir", str(tmp_path / "out")])
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    def test_predictions(self, tmp_path, capsys):
        write_json(tmp_path / "gsm8k.json", list(self.ITEMS))
        write_jsonl(tmp_path / "p.jsonl", [{"id": "x", "step_scores": [0.8, 0.2]}, {"id": "y", "step_scores": [0.3]}])
        result = self.run(tmp_path, "--data", tmp_path / "gsm8k.json", "--predictions", tmp_path / "p.jsonl")
        assert result["results"]["fixed"]["subsets"]["gsm8k"]["f1"] == 0
        assert result["results"]["oracle"]["subsets"]["gsm8k"]["f1"] == 1
        names = {p.name for p in (tmp_path / "out").iterdir()}
        assert names == {"metrics.json", "tables.json", "items.jsonl", "f1.png", "f1.svg", "manifest.json"}
        shown = capsys.readouterr().out
        assert "random scores, oracle" in shown
        assert shown.startswith("ProcessBench, p: F1 of the first wrong step (%)\n")
        assert "ProcessBench, p: " in build_page(tmp_path / "out")

    def test_checkpoint_scores_the_miniature_s_kind_of_file(self, tmp_path, checkpoint):
        write_json(
            tmp_path / "first_error.json", [{**item, "generator": "policy", "final_answer_correct": True} for item in self.ITEMS]
        )
        flags = ["--data", tmp_path / "first_error.json", "--threshold", "fixed", "oracle"]
        result = self.run(tmp_path, *flags, "--model", checkpoint)
        assert list(result["results"]) == ["fixed", "oracle"]
        again = self.run(tmp_path, *flags, "--predictions", tmp_path / "out" / "predictions.jsonl")
        assert (result["prm"], again) == ("asym", result | {"prm": "predictions"})
        by_folder = self.run(tmp_path, *flags, "--predictions", tmp_path / "out")
        assert by_folder == result | {"prm": "out"}, "the folder holds no other predictions"

    def test_a_smoke_run_is_no_result(self, tmp_path, checkpoint, capsys):
        for name, items in (("gsm8k", self.ITEMS), ("math", [item | {"id": f"m{item['id']}"} for item in self.ITEMS])):
            write_json(tmp_path / "data" / f"{name}.json", list(items))
        flags = ["--data", tmp_path / "data", "--threshold", "fixed"]
        result = self.run(tmp_path, *flags, "--model", checkpoint, "--limit", 1)
        assert (result["limit"], [item.id for item in read_items(tmp_path / "out")]) == (1, ["x", "mx"])
        assert "--limit 1: of the first 1 items of every subset only, a smoke run" in capsys.readouterr().out
        with pytest.raises(ValueError, match=r"is of a run with responses of other content; name another --output_dir"):
            self.run(tmp_path, *flags, "--model", checkpoint)
        assert self.run(tmp_path / "whole", *flags, "--model", checkpoint)["limit"] is None
        by_file = self.run(tmp_path, *flags, "--predictions", tmp_path / "whole" / "out" / "predictions.jsonl", "--limit", 1)
        assert by_file["num_other_predictions"] == 2
        assert by_file["results"]["fixed"]["average"] == result["results"]["fixed"]["average"]
        assert "2 predictions of other items were left out." in read_tables(tmp_path / "out")[0].note

    def test_items_that_are_too_long_are_counted_as_wrong(self, tmp_path, checkpoint, capsys):
        long = {"id": "z", "problem": "3?", "steps": ["word " * 400], "label": -1}
        write_json(tmp_path / "first_error.json", [item | {"final_answer_correct": True} for item in (*self.ITEMS, long)])
        result = self.run(tmp_path, "--data", tmp_path / "first_error.json", "--threshold", "oracle", "--model", checkpoint)
        assert result["num_unscored"] == {"first_error": 1}
        assert result["results"]["oracle"]["subsets"]["first_error"]["num_correct"] == 2
        assert result["results"]["oracle"]["subsets"]["first_error"]["acc_correct"] <= 0.5
        assert "could not read 1 of first_error" in capsys.readouterr().out
        assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"] == {"num_items": 3, "too_long": 1}
        items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").open()]
        assert [(item["id"], item["step_scores"] == [], "predicted" in item) for item in items][2] == ("z", True, False)
        assert "95% bootstrap intervals over items" in read_tables(tmp_path / "out")[0].note
        # The same through a file of scripts/score.py, which leaves the item out; without its notes that is a missing prediction.
        score.main(["--model", checkpoint, "--input", str(tmp_path / "first_error.json"), "--output", str(tmp_path / "s.jsonl")])
        by_file = ["--data", tmp_path / "first_error.json", "--threshold", "oracle", "--predictions", tmp_path / "s.jsonl"]
        assert self.run(tmp_path, *by_file)["results"] == result["results"]
        # It may hold more items than are evaluated, but then it must be whole.
        write_json(tmp_path / "fewer.json", [item | {"final_answer_correct": True} for item in (self.ITEMS[0], long)])
        fewer = ["--data", tmp_path / "fewer.json", "--threshold", "fixed", "--predictions", tmp_path / "s.jsonl"]
        assert self.run(tmp_path, *fewer)["num_unscored"] == {"fewer": 1}
        lines = (tmp_path / "s.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "s.jsonl").write_text(lines[0])
        with pytest.raises(ValueError, match="1 of 2 items have no prediction, such as 'z'"):
            self.run(tmp_path, *fewer)
        (tmp_path / "s.jsonl").write_text("".join(lines))
        (tmp_path / "s.manifest.json").unlink()
        with pytest.raises(ValueError, match="1 of 3 items have no prediction, such as 'z'"):
            self.run(tmp_path, *by_file)

    def test_mistakes(self, tmp_path):
        write_json(tmp_path / "first_error.json", list(self.ITEMS))
        write_jsonl(tmp_path / "p.jsonl", [{"id": "x", "step_scores": [0.8, 0.2]}, {"id": "y", "step_scores": [0.3]}])
        given = ["--data", tmp_path / "first_error.json", "--predictions", tmp_path / "p.jsonl"]
        with pytest.raises(ValueError, match="the data holds first_error: add gsm8k"):
            self.run(tmp_path, *given, "--threshold", "gsm8k")
        with pytest.raises(ValueError, match="give either --model MODEL or --predictions"):
            self.run(tmp_path, "--data", tmp_path)
        with pytest.raises(ValueError, match="--recipe says how --model is loaded, but --predictions is given"):
            self.run(tmp_path, "--predictions", tmp_path / "p.jsonl", "--recipe", "qwen")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (bon_eval, ["--scores"]),
        (calibration_report, ["--scores"]),
        (choose_responses, ["--scores"]),
        (processbench_eval, ["--predictions", "x.jsonl", "--data"]),
        (prmbench_eval, ["--predictions", "x.jsonl", "--data"]),
        (score, ["--model", "x", "--input"]),
        (grade_rollouts, ["--input"]),
        (build_dataset, ["--rollouts"]),
        (convert_dataset, ["--input"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_script_writes_into_its_input(tmp_path, script, flags):
    write_jsonl(tmp_path / "a.jsonl", scores())
    option = (
        "--output_dir"
        if script in (bon_eval, choose_responses, calibration_report, processbench_eval, prmbench_eval)
        else "--output"
    )
    with pytest.raises(ValueError, match=f"{option} {tmp_path} is the input itself, {tmp_path}:"):
        script.main([*flags, str(tmp_path), option, str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
