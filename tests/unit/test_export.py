"""Conversion: labels by hand, round trips, counts, resumption, refusals."""

import json
from pathlib import Path

import pytest

from prm.data.export import ConvertConfig, convert_dataset, keep_last_label, to_stepwise, with_neutral
from prm.data.sources import load_questions, load_responses, load_rollouts
from prm.files import read_rows, write_jsonl
from prm.records import Response

LABELLED = Response("q", 0, "1+1?", ["a", "b", "c"], step_labels=[1.0, None, -1.0])
PLAIN = Response("q", 1, "1+1?", ["a"])


def convert(source: Path, output: Path, **options) -> dict:
    return convert_dataset(ConvertConfig(str(source), str(output), **options))


def rows(path: Path) -> list[dict]:
    return [row for row, _ in read_rows(path)]


def with_labels(*labels: float | None) -> Response:
    return Response("q", 0, "1+1?", ["step"] * len(labels), step_labels=list(labels))


def test_stepwise_labels_as_booleans_or_numbers():
    row = {"prompt": "1+1?", "completions": ["a", "b", "c"]}
    assert to_stepwise(LABELLED) == row | {"labels": [True, None, False]}
    assert to_stepwise(LABELLED, "number") == row | {"labels": [1.0, None, -1.0]}
    assert to_stepwise(with_labels(0.0, 0.5), "number")["labels"] == [0.0, 0.5]


def test_neutral_labels_become_good_or_bad():
    response = with_labels(1.0, 0.0, None, -1.0)
    assert with_neutral(response, "good").step_labels == [1.0, 1.0, None, -1.0]
    assert with_neutral(response, "bad").step_labels == [1.0, -1.0, None, -1.0]
    assert with_neutral(PLAIN, "bad") is PLAIN


def test_only_the_last_label_is_kept():
    assert keep_last_label(with_labels(1.0, 0.0, -1.0)).step_labels == [None, None, -1.0]
    assert keep_last_label(PLAIN) is PLAIN


@pytest.mark.parametrize(
    ("function", "response", "message"),
    [
        (
            to_stepwise,
            with_labels(1.0, 0.0),
            r"response \('q', 0\): step label 0 is neither .*--neutral .*--label_type",
        ),
        (to_stepwise, with_labels(0.5), "step label 0.5 is neither"),
        (to_stepwise, Response("q", 0, "?", ["a", "b"], step_labels=[1.0]), "1 step labels for 2 steps; label every step"),
        (lambda r: with_neutral(r, "bad"), with_labels(0.0, 0.5), "step label 0.5 is a soft target; --neutral is for -1, 0 and 1"),
    ],
)
def test_labels_that_do_not_fit(function, response, message):
    with pytest.raises(ValueError, match=message):
        function(response)


def test_a_file_and_its_manifest(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [LABELLED, PLAIN])
    counts = convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", format="stepwise")
    assert counts == {"written": 1, "dropped": {"unlabelled": 1}}
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["counts"] == counts
    assert len(manifest["inputs"][str(tmp_path / "in.jsonl")]) == 64
    assert rows(tmp_path / "out.jsonl") == [to_stepwise(LABELLED)]


def test_a_folder_of_shards_continues_where_it_stopped(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [Response(f"q{i}", 0, "?", [str(i)], step_labels=[1.0]) for i in range(5)])
    convert(tmp_path / "in.jsonl", tmp_path / "out", shard_size=2)
    shards = sorted(tmp_path.glob("out/*.jsonl"))
    assert [shard.name for shard in shards] == ["part-00000.jsonl", "part-00001.jsonl", "part-00002.jsonl"]
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    shards[0].touch()
    written = shards[0].stat().st_mtime_ns
    assert convert(tmp_path / "in.jsonl", tmp_path / "out", shard_size=2)["written"] == 5
    assert [shard.read_bytes() for shard in shards] == before
    assert shards[0].stat().st_mtime_ns == written


def test_a_folder_of_another_conversion_is_refused(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [LABELLED])
    convert(tmp_path / "in.jsonl", tmp_path / "out")
    with pytest.raises(ValueError, match="is of a run with format"):
        convert(tmp_path / "in.jsonl", tmp_path / "out", format="stepwise")
    write_jsonl(tmp_path / "in.jsonl", [LABELLED, PLAIN])
    with pytest.raises(ValueError, match="is of a run with input"):
        convert(tmp_path / "in.jsonl", tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds \.jsonl rows but no manifest\.json"):
        convert(tmp_path / "in.jsonl", tmp_path / "out")


def test_an_error_leaves_no_file(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [LABELLED, with_labels(0.5)])
    with pytest.raises(ValueError, match=r"duplicate key"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "question", "neutral": "good"}, "--neutral good: --format question does not read it"),
        ({"format": "rollout", "labels": "last"}, "--labels last: --format rollout does not read it"),
        ({"label_type": "number"}, "--label_type number: --format response does not read it"),
        ({"shard_size": 0}, "--shard_size 0: must be at least 1 row"),
    ],
)
def test_options_that_do_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvertConfig("in", "out", **options)


def test_mistakes(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [PLAIN])
    with pytest.raises(ValueError, match="is the input itself"):
        convert(tmp_path / "in.jsonl", tmp_path / "in.jsonl")
    with pytest.raises(ValueError, match=r"nothing to write as --format stepwise; dropped: \{'unlabelled': 1\}"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", format="stepwise")
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl: no such file"):
        convert(tmp_path / "none.jsonl", tmp_path / "out.jsonl")


def test_questions_without_an_answer_are_counted(tmp_path):
    write_jsonl(tmp_path / "in.jsonl", [{"problem": "a", "solution": "\\boxed{1}"}, {"problem": "b", "solution": None}])
    with pytest.raises(ValueError, match=r"in.jsonl:2: no reference answer"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", format="question")
    counts = convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", format="question", skip_unreadable=True)
    assert counts == {"written": 1, "dropped": {"unreadable": 1}}
    assert load_questions(tmp_path / "out.jsonl")[0].id == "in-0"


def contents(responses: list[Response]) -> list[tuple]:
    return [(r.question, r.steps, r.step_labels) for r in responses]


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("prm800k/raw_records_6.jsonl", {"label_type": "number"}),
        ("prm800k/raw_records_6.jsonl", {"neutral": "bad"}),
        ("math_shepherd/samples.jsonl", {}),
        ("prmbench/prmbench_meta_30idx.jsonl", {}),
        ("processbench/omnimath.json", {}),
    ],
)
def test_stepwise_round_trip_of_real_data(real_data, tmp_path, file, options):
    """Questions, steps and labels survive, and the samples of one question stay together; ids and outcomes have no place there."""
    convert(real_data / file, tmp_path / "stepwise.jsonl", format="stepwise", **options)
    convert(tmp_path / "stepwise.jsonl", tmp_path / "back.jsonl")
    before, back = load_responses(real_data / file), load_responses(tmp_path / "back.jsonl")
    if "neutral" in options:
        before = [with_neutral(response, options["neutral"]) for response in before]
    assert contents(back) == contents(before)
    assert len({r.question_id for r in back}) == len({r.question for r in before})
    assert {r.key for r in back if r.sample_index > 0} >= {(r.question_id, 1) for r in back if r.sample_index == 2}


def test_rollouts_of_real_data(real_data, tmp_path):
    source = real_data / "rollouts" / "qwen25math_rm_100x8.jsonl"
    assert convert(source, tmp_path / "out", format="rollout", shard_size=300) == {"written": 800, "dropped": {}}
    assert load_rollouts(tmp_path / "out") == load_rollouts(source)
