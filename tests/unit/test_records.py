import json
import subprocess
import sys
import textwrap

import pytest

from prm.records import (
    Question,
    Response,
    Rollout,
    ShardWriter,
    StepScores,
    clean_text,
    read_jsonl,
    read_records,
    to_line,
    to_record,
    to_row,
    write_json,
    write_jsonl,
    write_text,
)

GOOD = '{"id": "b", "question": "?", "answer": "3"}\n'
SCORES = [StepScores("b", 0, [0.25, 1.0], correct=True), StepScores("a", 1, [0.5]), StepScores("a", 0, [0.125])]


def test_round_trip_keeps_order_and_full_precision(tmp_path):
    records = [StepScores("q", 0, [0.1 + 0.2, 1e-300], correct=None, extracted="½")]
    write_jsonl(tmp_path / "s.jsonl", records)
    assert list(read_records(tmp_path / "s.jsonl", StepScores)) == records
    assert to_row(records[0]) == {"question_id": "q", "sample_index": 0, "step_scores": [0.1 + 0.2, 1e-300], "extracted": "½"}


def test_file_array_and_folder_read_the_same(tmp_path):
    rows = [to_row(record) for record in SCORES]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_json(tmp_path / "a.json", rows)
    write_jsonl(tmp_path / "d" / "part-0.jsonl", rows[:1])
    write_jsonl(tmp_path / "d" / "part-1.jsonl", rows[1:])
    for path in ("a.jsonl", "a.json", "d"):
        assert list(read_records(tmp_path / path, StepScores)) == SCORES
    assert [place for _, place in read_jsonl(tmp_path / "d")][1:] == [f"{tmp_path}/d/part-1.jsonl:{n}" for n in (1, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"id": \n', r"x.jsonl:2: not valid JSON"),
        (GOOD + "\n[1]\n", r"x.jsonl:3: expected a JSON object, found list"),
        ('{"id": NaN}\n', r"x.jsonl:1: not valid JSON \(NaN is not a JSON number\)"),
        ('{"id": "\xff"}\n', r"x.jsonl:1: not valid JSON"),
        ("[" * 100_000 + "\n", r"x.jsonl:1: not valid JSON"),
        ('{"id": "a", "question": "?"}\n', r"x.jsonl:1: no 'answer'; a Question needs"),
        ('{"id": "a", "question": "?", "answer": 3}\n', r"x.jsonl:1: 'answer' is 3, expected <class 'str'>"),
        ('{"id": "a", "question": "?", "answer": "3"}\n' * 2, r"x.jsonl:2: duplicate key 'a', first seen at .*x.jsonl:1"),
    ],
)
def test_broken_lines_name_their_place(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        list(read_records(tmp_path / "x.jsonl", Question))


def test_missing_paths_and_wrong_shapes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"holds no \.jsonl"):
        list(read_jsonl(tmp_path))
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="expected a JSON array"):
        list(read_jsonl(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({"step_labels": [1, -1, 0.5]}, True),
        ({"step_labels": None}, True),
        ({"correct": 1}, False),
        ({"sample_index": True}, False),
        ({"sample_index": 1.0}, False),
        ({"steps": "a"}, False),
        ({"steps": ["a", None]}, False),
        ({"unknown": 1}, True),
    ],
)
def test_types_are_checked(change, is_valid):
    row = {"question_id": "q", "sample_index": 0, "question": "?", "steps": ["a"], "correct": None, **change}
    if is_valid:
        assert to_record(row, Response, "x:1").steps == ["a"]
    else:
        with pytest.raises(ValueError, match="x:1: "):
            to_record(row, Response, "x:1")


def test_surrogates_and_nul_are_cleaned_at_the_door(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": "a", "question": "\ud800?", "answer": "\x00"}) + "\n")
    (question,) = read_records(tmp_path / "x.jsonl", Question)
    assert (question.question, question.answer) == ("??", "\ufffd")
    assert clean_text("fine ½") == "fine ½"


def test_not_finite_is_not_written():
    with pytest.raises(ValueError, match="not finite"):
        to_line(StepScores("q", 0, [float("nan")]))


def test_failed_write_leaves_the_old_file(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", SCORES)
    with pytest.raises(ValueError, match="not finite"):
        write_jsonl(tmp_path / "s.jsonl", [*SCORES, StepScores("q", 0, [float("inf")])])
    assert list(read_records(tmp_path / "s.jsonl", StepScores)) == SCORES
    assert [f.name for f in tmp_path.iterdir()] == ["s.jsonl"]
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "s.jsonl", "\ud800")


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_shard_writer_resumes(tmp_path, name):
    def interrupted():
        with ShardWriter(tmp_path / name, shard_size=10) as writer:
            writer.write(SCORES[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with ShardWriter(tmp_path / name, shard_size=10) as writer:
        assert writer.finished_keys == {("b", 0)}
        for record in SCORES[1:]:
            writer.write(record)
    assert sorted(r.key for r in read_records(tmp_path / name, StepScores)) == [("a", 0), ("a", 1), ("b", 0)]
    with ShardWriter(tmp_path / name) as writer:
        assert len(writer.finished_keys) == 3
    assert len(list(read_records(tmp_path / name, StepScores))) == 3


def test_file_output_is_sorted_and_leaves_no_shards(tmp_path):
    with ShardWriter(tmp_path / "out.jsonl") as writer:
        for record in SCORES:
            writer.write(record)
        assert not (tmp_path / "out.jsonl").exists()
    assert [r.key for r in read_records(tmp_path / "out.jsonl", StepScores)] == [("a", 0), ("a", 1), ("b", 0)]
    assert [f.name for f in tmp_path.iterdir()] == ["out.jsonl"]


def test_killed_between_assembling_and_cleaning_up_loses_and_doubles_nothing(tmp_path):
    with ShardWriter(tmp_path / "out.jsonl") as writer:
        for record in SCORES:
            writer.write(record)
        writer.flush()
        write_jsonl(tmp_path / "out.jsonl", SCORES)
    assert len(list(read_records(tmp_path / "out.jsonl", StepScores))) == 3


def test_kill_9_costs_only_what_was_not_flushed(tmp_path):
    code = f"""
        import os
        from prm.records import ShardWriter
        writer = ShardWriter({str(tmp_path / "out")!r}, shard_size=10)
        for i in range(25):
            writer.write({{"question_id": "q", "sample_index": i}})
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    (tmp_path / "out" / ".part-00007.jsonl.1.tmp").write_text('{"half": ')
    with ShardWriter(tmp_path / "out") as writer:
        assert writer.finished_keys == {("q", i) for i in range(20)}
    assert not list((tmp_path / "out").glob(".*"))


def test_two_writers_with_their_own_prefix(tmp_path):
    writers = [ShardWriter(tmp_path / "out", prefix=f"shard-{i}") for i in range(2)]
    for i, writer in enumerate(writers):
        writer.write({"question_id": f"q{i}", "sample_index": 0})
        writer.close()
    assert [row["question_id"] for row, _ in read_jsonl(tmp_path / "out")] == ["q0", "q1"]


def test_rollout_key():
    assert Rollout("q", 3, "?", "1", "text", "stop", 5).key == ("q", 3)
