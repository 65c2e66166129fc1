"""An evaluation's folder: what is written is read back; a response as an item; tables as text."""

import json

import pytest

from prm.aggregation import Aggregation
from prm.benchmarks.prmbench.evaluate import PRMBenchConfig
from prm.benchmarks.processbench.evaluate import ProcessBenchConfig
from prm.benchmarks.results import (
    Item,
    check_finished,
    check_output_dir,
    read_items,
    read_tables,
    response_item,
    write_results,
)
from prm.benchmarks.tables import Table, align, interval, p_value, percent, render
from prm.records import Response
from prm.scoring import ScoringNotes
from prm.tracking import write_manifest

ITEM = Item("q1 #0", "gsm8k", "1 + 1?", ["2.", "So \\boxed{2}."], [0.9, 0.8], first_error=-1, correct=True)
TABLE = Table("F1 (%)", [["rule", "gsm8k"], ["fixed", "41.0"]], note="of 50 items")


def test_what_is_written_is_read_back(tmp_path):
    write_results(tmp_path / "new", {"f1": 0.41}, [TABLE], [ITEM])
    assert read_tables(tmp_path / "new") == [TABLE]
    assert list(read_items(tmp_path / "new")) == [ITEM]
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {"f1": 0.41}


def test_a_response_as_an_item():
    response = Response("q1", 2, "1 + 1?", ["2.", "So 2."], True, [1.0, -1.0], answer="2", extracted="2.0")
    item = response_item(response, [0.9, 0.8], 0.8, None, "gsm8k", is_selected=True)
    assert item == Item("q1 #2", "gsm8k", "1 + 1?", ["2.", "So 2."], [0.9, 0.8], 1, None, True, 0.8, True, "2", "2.0")
    of_outcome_model = response_item(response, [0.7], 0.7, "orm", "orm")
    assert (of_outcome_model.id, of_outcome_model.steps) == ("orm: q1 #2", ["2.\n\nSo 2."])


@pytest.mark.parametrize(("labels", "expected"), [(None, None), ([1, 0], -1), ([0, -1], 1), ([-1, None], 0), ([None, -1], None)])
def test_the_first_error_of_a_labelled_response(labels, expected):
    response = Response("q", 0, "?", ["a", "b"], step_labels=labels)
    assert response_item(response, [0.1, 0.2], 0.1, None, "").first_error == expected


def test_a_soft_label_of_zero_is_an_error_and_a_neutral_one_is_not():
    soft = Response("q", 0, "?", ["a", "b"], step_labels=[0.5, 0.0], completions=[[2, 4], [0, 4]])
    assert response_item(soft, [0.1, 0.2], 0.1, None, "").first_error == 1


def test_an_evaluation_of_scores_alone_has_no_items(tmp_path):
    write_results(tmp_path, {}, [TABLE])
    assert list(read_items(tmp_path)) == []


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="an evaluation script"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "expected a JSON array"),
        ("[1]", "no tables"),
        ('[{"title": "t", "rows": [[1]]}]', "'rows' is"),
    ],
)
def test_broken_tables_are_named(tmp_path, text, message):
    (tmp_path / "tables.json").write_text(text)
    with pytest.raises(ValueError, match=rf"tables\.json(\[0\])?: {message}"):
        read_tables(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("step_scores", [None]), ("question", None), ("steps", [1]), ("response_score", 1e999)]
)
def test_a_broken_item_is_named(tmp_path, name, value):
    row = {"id": "a", "group": "g", "question": "q", "steps": ["s"], "step_scores": [0.5], name: value}
    (tmp_path / "items.jsonl").write_text(json.dumps(row).replace("Infinity", "1e999") + "\n")
    with pytest.raises(ValueError, match=rf"items\.jsonl:1: '{name}' is"):
        list(read_items(tmp_path))


def test_an_evaluation_that_did_not_come_to_its_end_has_no_manifest(tmp_path):
    """Killed between its files, one into the folder of another must not pass for a finished one."""
    write_results(tmp_path, {}, [TABLE])
    write_manifest(tmp_path, None)
    check_finished(tmp_path)
    write_results(tmp_path, {}, [TABLE])
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: is missing"):
        check_finished(tmp_path)


def test_an_evaluation_may_read_files_from_its_folder_but_none_that_it_writes(tmp_path):
    for name in ("scores.jsonl", "items.jsonl"):
        (tmp_path / name).write_text("")
    check_output_dir(str(tmp_path), [str(tmp_path / "scores.jsonl"), None, "gsm8k"])
    with pytest.raises(ValueError, match=r"holds the input .*items\.jsonl"):
        check_output_dir(str(tmp_path), [str(tmp_path / "items.jsonl")])
    with pytest.raises(ValueError, match="is the input itself"):
        check_output_dir(str(tmp_path), [str(tmp_path)])
    write_results(tmp_path, {}, [TABLE])
    check_output_dir(str(tmp_path), [str(tmp_path)])


def test_a_row_that_is_no_item_is_refused_with_its_place(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"id": "q", "score": 1}\n')
    with pytest.raises(ValueError, match=r"items.jsonl:1: not an item"):
        list(read_items(tmp_path))


def test_tables_stand_apart_with_title_and_note():
    assert align(TABLE.rows) == "rule   gsm8k\nfixed   41.0"
    assert render([TABLE, Table("b", [["x"]])]) == "F1 (%)\nrule   gsm8k\nfixed   41.0\nof 50 items\n\nb\nx"
    assert [percent(None), percent(0.4567)] == ["-", "45.7"]
    assert [p_value(None), p_value(2e-4)] == ["-", "0.0002"]
    assert interval(0.1, 0.25) == "[10.0, 25.0]"


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "difference", "identity"])
def test_the_fixed_threshold_is_where_the_contract_is_undecided(name):
    undecided = 0.5 if name in ("sigmoid", "softmax") else 0.0
    notes = ScoringNotes(Aggregation("min"), name)
    bench, steps = ProcessBenchConfig(), PRMBenchConfig()
    for config in (bench, steps):
        config.take_defaults_of(notes)
    assert (bench.used_threshold, steps.used_threshold) == (undecided, undecided)
    given, skywork = ProcessBenchConfig(fixed_threshold=0.3), PRMBenchConfig(rule="difference")
    for config in (given, skywork):
        config.take_defaults_of(notes)
    assert (given.used_threshold, skywork.used_threshold) == (0.3, -0.05)
