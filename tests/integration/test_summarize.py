"""summarize.py end to end: evaluations of several PRMs on several data in, tables and a CSV file out."""

import csv
import json

import bon_eval
import prmbench_eval
import processbench_eval
import pytest
import report
import summarize

from prm.benchmarks.results import read_tables, write_results
from prm.files import read_rows, write_json, write_jsonl
from prm.records import StepScores
from prm.tracking import write_manifest

STEPS = {"a": 0, "b": 1, "c": -1, "d": -1}
"""Items of three steps and their first wrong one."""


def items(names=tuple(STEPS)):
    return [{"id": n, "generator": "g", "problem": f"{n}?", "steps": ["x", "y", "z"], "label": STEPS[n]} for n in names]


@pytest.fixture
def results(tmp_path):
    """ProcessBench of two PRMs and, of one, of fewer items; PRMBench; Best-of-N of both; a calibration report."""
    folder = tmp_path / "results"
    write_json(tmp_path / "math.json", items())
    write_json(tmp_path / "omnimath.json", items("ac"))
    scores = {
        "good": {n: [0.1 if i == first else 0.9 for i in range(3)] for n, first in STEPS.items()},
        "bad": {n: [0.9, 0.8 if first == -1 else 0.9, 0.95] for n, first in STEPS.items()},
    }
    fast = ["--num_bootstrap", "20", "--num_random_draws", "2"]
    for prm, by_item in scores.items():
        rows = [{"id": n, "step_scores": s} for n, s in by_item.items()]
        write_jsonl(tmp_path / f"{prm}.jsonl", rows)
        flags = ["--predictions", str(tmp_path / f"{prm}.jsonl"), *fast]
        output = str(folder / prm / "processbench")
        processbench_eval.main(["--data", str(tmp_path / "math.json"), *flags, "--output_dir", output])
    few, output = str(tmp_path / "omnimath.json"), str(folder / "good" / "few")
    good = ["--predictions", str(tmp_path / "good.jsonl"), *fast]
    processbench_eval.main(["--data", few, *good, "--output_dir", output])
    question = {"original_question": "1?", "modified_question": "2?"}
    process = {"original_process": ["1. a"], "modified_process": ["1. a", "2. b"], "error_steps": [2]}
    write_jsonl(tmp_path / "raw.jsonl", [{"idx": "p", "classification": "circular", **question, **process}])
    write_jsonl(tmp_path / "labels.jsonl", [{"id": "circular_p", "step_scores": [0.9, 0.2]}])
    flags = ["--data", str(tmp_path / "raw.jsonl"), "--predictions", str(tmp_path / "labels.jsonl"), *fast]
    prmbench_eval.main([*flags, "--output_dir", str(folder / "good" / "prmbench")])
    for prm, sign in (("good", 1), ("bad", -1)):
        rows = [StepScores("q", i, [0.5 + sign * 0.1 * i], i == 3, "1", str(i)) for i in range(4)]
        write_jsonl(tmp_path / f"{prm}_bon.jsonl", rows)
    pools = [f"{prm}={tmp_path / prm}_bon.jsonl" for prm in ("good", "bad")]
    bon_eval.main(["--scores", *pools, *fast[:2], "--num_vote_draws", "5", "--output_dir", str(folder / "best_of_n")])
    write_results(folder / "calibration", {"responses": {}}, [])
    write_manifest(folder / "calibration", {})
    return folder


def run(tmp_path, *inputs):
    summarize.main(["--input", *map(str, inputs), "--output_dir", str(tmp_path / "out")])
    return {table.title: table.rows for table in read_tables(tmp_path / "out")}


def test_a_table_per_data_and_a_row_per_prm(tmp_path, results, capsys):
    tables = run(tmp_path, results)
    assert list(tables) == [
        "Best-of-N: 1 questions, 4 candidates (%)",
        "ProcessBench: 4 items of math (%)",
        "ProcessBench: 2 items of omnimath (%)",
        "PRMBench: 1 items (%)",
    ]
    best_of_n, math, omnimath, prmbench = tables.values()
    assert best_of_n[0] == ["PRM", "best of 4, min", "best of 4, mean", "best of 4, last", "AUC, min"]
    assert [row[:2] for row in best_of_n[1:4]] == [
        ["good", "100.0 [100.0, 100.0]"],
        ["bad", "0.0 [0.0, 0.0]"],
        ["random", "25.0 [25.0, 25.0]"],
    ]
    assert math[0] == ["PRM", "F1, fixed", "F1, oracle", "step AUC"]
    assert [row[0] for row in math[1:3]] == ["good", "bad"]
    assert [row[1].split()[0] for row in math[1:3]] == ["100.0", "0.0"]
    assert [row[0] for row in math[3:]] == [row[0] for row in omnimath[2:]], "baselines once"
    assert math[-1] == ["every step right", "", "0.0", ""], "a baseline has the best threshold, as under the oracle rule"
    assert prmbench[1][:2] == ["labels", "100.0 [100.0, 100.0]"]
    assert "calibration: left out, as its metrics are none of Best-of-N, ProcessBench, PRMBench" in capsys.readouterr().err


def test_the_numbers_are_those_of_the_evaluations(tmp_path, results):
    run(tmp_path, results)
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    found = {(row["folder"], row["prm"], row["metric"]): row for row in rows}
    assert len(found) == len(rows)
    metrics = json.loads((results / "best_of_n" / "metrics.json").read_text())
    row = found[str(results / "best_of_n"), "bad", "best of 2, mean"]
    curve = metrics["prms"]["bad"]["mean"]["best_of_n"]
    assert [float(row[key]) for key in ("value", "low", "high")] == [curve[key]["2"] for key in ("accuracy", "low", "high")]
    metrics = json.loads((results / "bad" / "processbench" / "metrics.json").read_text())
    place = metrics["results"]["oracle"]["subsets"]["math"]
    assert float(found[str(results / "bad" / "processbench"), "bad", "F1 of math, oracle"]["value"]) == place["f1"]
    assert "| good | 100.0 [100.0, 100.0] |" in (tmp_path / "out" / "summary.md").read_text()
    report.main(["--input", str(tmp_path / "out")])
    assert "ProcessBench: 4 items of math" in (tmp_path / "out" / "report.html").read_text()
    assert len(run(tmp_path, tmp_path)) == 4, "a summary is no evaluation"


def test_two_evaluations_that_agree_are_one(tmp_path, results):
    scores = f"good={tmp_path / 'good_bon.jsonl'}"
    flags = ["--num_bootstrap", "20", "--num_vote_draws", "5", "--aggregation", "product", "mean"]
    bon_eval.main(["--scores", scores, *flags, "--output_dir", str(results / "good" / "best_of_n")])
    rows = run(tmp_path, results)["Best-of-N: 1 questions, 4 candidates (%)"]
    places = [place for place, column in enumerate(rows[0]) if column.startswith("best of 4")]
    assert sorted(rows[0][place] for place in places) == [f"best of 4, {name}" for name in ("last", "mean", "min", "product")]
    assert rows[1][0] == "good"
    assert all(rows[1]), "numbers of both"
    random = next(row for row in rows if row[0] == "random")
    assert all(random[place] for place in places)


def test_a_limited_evaluation_has_a_table_of_its_own(tmp_path, results):
    good = ["--predictions", str(tmp_path / "good.jsonl"), "--num_bootstrap", "20", "--num_random_draws", "2"]
    for limit in ("2", "4"):  # of four items, which are the whole benchmark
        flags = ["--data", str(tmp_path / "math.json"), *good, "--limit", limit]
        processbench_eval.main([*flags, "--output_dir", str(tmp_path / "limited" / limit)])
    write_jsonl(tmp_path / "raw.jsonl", [row for row, _ in read_rows(tmp_path / "raw.jsonl")] * 2)
    flags = ["--data", str(tmp_path / "raw.jsonl"), "--predictions", str(tmp_path / "labels.jsonl"), "--limit", "1"]
    prmbench_eval.main([*flags, "--num_bootstrap", "20", "--output_dir", str(tmp_path / "limited" / "prmbench")])
    tables = run(tmp_path, results / "bad", results / "good" / "prmbench", tmp_path / "limited")
    assert {title: [row[0] for row in rows[1:] if row[0] in ("good", "bad", "labels")] for title, rows in tables.items()} == {
        "ProcessBench: 4 items of math (%)": ["bad"],
        "ProcessBench: 2 items of math, the first only (--limit 2) (%)": ["good"],
        "ProcessBench: 4 items of math, the first only (--limit 4) (%)": ["good"],
        "PRMBench: 1 items (%)": ["labels"],
        "PRMBench: 1 items, the first only (--limit 1) (%)": ["labels"],
    }


def test_a_given_name_replaces_that_of_the_prm(tmp_path, results):
    tables = run(tmp_path, f"A={results / 'good' / 'processbench'}", f"B={results / 'best_of_n'}", results / "bad")
    assert [row[0] for row in tables["ProcessBench: 4 items of math (%)"][1:3]] == ["A", "bad"]
    assert [row[0] for row in tables["Best-of-N: 1 questions, 4 candidates (%)"][1:3]] == ["B: good", "B: bad"]
    tables = run(tmp_path, results, f"A={results / 'bad' / '..' / 'good' / 'processbench'}")
    assert [row[0] for row in tables["ProcessBench: 4 items of math (%)"][1:3]] == ["A", "bad"], "it is not good as well"


def test_training_runs_of_one_method(tmp_path, results, capsys):
    flags = ["--data", str(tmp_path / "math.json"), "--num_bootstrap", "20", "--num_random_draws", "2", "--predictions"]
    processbench_eval.main([*flags, str(tmp_path / "bad.jsonl"), "--output_dir", str(tmp_path / "again")])
    folders = [results / "good" / "processbench", tmp_path / "again", results / "bad" / "processbench"]
    names = ["asym-seed0", "asym-seed1", "min"]
    tables = run(tmp_path, *[f"{name}={folder}" for name, folder in zip(names, folders, strict=True)])
    title = "ProcessBench: 4 items of math"
    assert list(tables)[:3] == [
        f"{title} (%)",
        f"{title}: over training runs (%)",
        f"{title}: F1, fixed of methods against each other, points, over training runs",
    ]
    over_runs = tables[f"{title}: over training runs (%)"]
    assert over_runs[1][:3] == ["asym", "2", "50.0 ± 70.7 (0.0 to 100.0)"]
    assert over_runs[2][:3] == ["min", "1", "0.0"]
    assert "asym - min  " in capsys.readouterr().out
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (test,) = (row for row in numbers["differences"] if row["metric"] == "F1, fixed")
    assert (test["first"], test["second"], test["difference"]) == ("asym", "min", 0.5)
    rows = csv.DictReader((tmp_path / "out" / "summary.csv").open())
    assert {(row["prm"], row["method"]) for row in rows} >= {("asym-seed0", "asym"), ("asym-seed1", "asym"), ("min", "min")}


def test_a_constant_is_no_result(tmp_path, results):
    rows = [{"id": f"{n}{i}", "step_scores": [0.5] * 3} for n in STEPS for i in range(10)]
    write_jsonl(tmp_path / "failed.jsonl", rows)
    write_json(tmp_path / "math.json", [{**item, "id": f"{item['id']}{i}"} for item in items() for i in range(10)])
    flags = ["--data", str(tmp_path / "math.json"), "--predictions", str(tmp_path / "failed.jsonl"), "--num_bootstrap", "20"]
    processbench_eval.main([*flags, "--output_dir", str(tmp_path / "again")])
    summarize.main(["--input", str(tmp_path / "again"), "--output_dir", str(tmp_path / "out")])
    (table,) = read_tables(tmp_path / "out")
    assert table.note.startswith("failed: all 120 scores lie between 0.5 and 0.5: a constant, which judges nothing")


def test_without_training_runs_there_are_no_tables_of_them(tmp_path, results):
    assert not [title for title in run(tmp_path, results) if "runs" in title]


@pytest.mark.parametrize("rules", [["oracle", "fixed"], ["fixed"]])
def test_baselines_stand_under_the_oracle_rule(tmp_path, results, rules):
    flags = ["--data", str(tmp_path / "math.json"), "--num_bootstrap", "20", "--num_random_draws", "2"]
    flags += ["--threshold", *rules, "--predictions", str(tmp_path / "good.jsonl")]
    processbench_eval.main([*flags, "--output_dir", str(tmp_path / "again")])
    head, _, *baselines = run(tmp_path, tmp_path / "again")["ProcessBench: 4 items of math (%)"]
    assert sorted(head[1:3]) == ["F1, fixed", "F1, oracle"]
    assert all(row[head.index("F1, oracle")] and not row[head.index("F1, fixed")] for row in baselines)


def test_rows_are_ordered_by_what_all_have(tmp_path, results):
    flags = ["--data", str(tmp_path / "math.json"), "--num_bootstrap", "20", "--num_random_draws", "2"]
    flags += ["--threshold", "oracle", "--predictions", str(tmp_path / "good.jsonl")]
    processbench_eval.main([*flags, "--output_dir", str(results / "good" / "processbench")])
    rows = run(tmp_path, results)["ProcessBench: 4 items of math (%)"]
    assert [row[0] for row in rows[1:3]] == ["good", "bad"]
    assert rows[0][1:] == ["F1, fixed", "F1, oracle", "step AUC"]
    assert rows[1][1] == ""


def test_a_prm_is_called_as_its_evaluation_calls_it(tmp_path, results):
    folder = results / "bad" / "processbench"
    (table, *_), metrics = read_tables(folder), json.loads((folder / "metrics.json").read_text())
    assert table.title == "ProcessBench, bad: F1 of the first wrong step (%)"
    write_json(folder / "metrics.json", metrics | {"prm": "Qwen2.5-Math-PRM-7B"})
    assert run(tmp_path, folder)["ProcessBench: 4 items of math (%)"][1][0] == "Qwen2.5-Math-PRM-7B"


def test_equal_words_and_other_data(tmp_path, results):
    other = [{**item, "label": 0} if item["id"] == "b" else item for item in items()]
    write_json(tmp_path / "math.json", other)
    flags = ["--data", str(tmp_path / "math.json"), "--predictions", str(tmp_path / "bad.jsonl"), "--num_bootstrap", "20"]
    processbench_eval.main([*flags, "--output_dir", str(tmp_path / "other")])
    titles = list(run(tmp_path, results / "bad", tmp_path / "other"))
    folders = results / "bad" / "processbench", tmp_path / "other"
    assert titles == [f"ProcessBench: 4 items of math as in {folder} (%)" for folder in folders]


def test_inputs_that_cannot_be_summarized_are_refused(tmp_path, results):
    best_of_n_of_one = tmp_path / "best_of_n"
    flags = ["--num_bootstrap", "20", "--num_vote_draws", "5", "--output_dir", str(best_of_n_of_one)]
    bon_eval.main(["--scores", f"good={tmp_path / 'good_bon.jsonl'}", *flags])
    with pytest.raises(ValueError, match="give --input"):
        summarize.main([])
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        run(tmp_path, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="calibration: no evaluation of Best-of-N, ProcessBench, PRMBench"):
        run(tmp_path, results / "calibration")
    with pytest.raises(ValueError, match=r"bad/processbench: F1, fixed of 'good' is another than in .*good/processbench, on"):
        run(tmp_path, f"good={results / 'good' / 'processbench'}", f"good={results / 'bad' / 'processbench'}")
    with pytest.raises(ValueError, match=r"best_of_n: a PRM is called 'random', as a baseline is; give it another name, NAME=/"):
        run(tmp_path, f"random={best_of_n_of_one}")
    with pytest.raises(ValueError, match="is the input itself"):
        summarize.main(["--input", str(results), "--output_dir", str(results / "best_of_n")])
    (results / "bad" / "processbench" / "manifest.json").unlink()
    assert "bad" not in [row[0] for row in run(tmp_path, results)["ProcessBench: 4 items of math (%)"]]
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: is missing, so the evaluation did not come to its end"):
        run(tmp_path, results / "bad" / "processbench")
    path = results / "good" / "processbench" / "metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["results"]["fixed"]["average"]
    write_json(path, metrics)
    with pytest.raises(
        ValueError, match=rf"{path}: lacks what this version writes \(KeyError\('average'\)\); run the evaluation again"
    ):
        run(tmp_path, results)
