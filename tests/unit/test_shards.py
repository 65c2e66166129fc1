"""ShardWriter: what is written survives, what is finished is known, a file is joined from shards."""

import subprocess
import sys
import textwrap

import pytest

from prm.files import read_records, read_rows, write_jsonl
from prm.records import StepScores
from prm.shards import ShardWriter, WrittenBefore, in_shard

SCORES = [StepScores("b", 0, [0.25, 1.0], correct=True), StepScores("a", 1, [0.5]), StepScores("a", 0, [0.125])]


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_shard_writer_resumes(tmp_path, name):
    def interrupted():
        with ShardWriter(tmp_path / name, shard_size=10) as writer:
            writer.write(SCORES[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with ShardWriter(tmp_path / name, shard_size=10) as writer:
        assert len(writer.finished_keys) == 1
        assert ("b", 0) in writer.finished_keys
        for record in SCORES[1:]:
            writer.write(record)
    assert sorted(r.key for r in read_records(tmp_path / name, StepScores)) == [("a", 0), ("a", 1), ("b", 0)]
    with ShardWriter(tmp_path / name) as writer:
        assert len(writer.finished_keys) == 3
    assert len(list(read_records(tmp_path / name, StepScores))) == 3


def test_file_output_keeps_the_order_of_writing_and_leaves_no_shards(tmp_path):
    with ShardWriter(tmp_path / "out.jsonl") as writer:
        for record in SCORES:
            writer.write(record)
        assert not (tmp_path / "out.jsonl").exists()
    assert [r.key for r in read_records(tmp_path / "out.jsonl", StepScores)] == [("b", 0), ("a", 1), ("a", 0)]
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
        from prm.shards import ShardWriter, WrittenBefore, in_shard
        writer = ShardWriter({str(tmp_path / "out")!r}, shard_size=10)
        for i in range(25):
            writer.write({{"question_id": "q", "sample_index": i}})
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    (tmp_path / "out" / ".part-00007.jsonl.1.tmp").write_text('{"half": ')
    with ShardWriter(tmp_path / "out") as writer:
        assert [i for i in range(25) if ("q", i) in writer.finished_keys] == list(range(20))
    assert not list((tmp_path / "out").glob(".*"))


def test_the_size_of_the_newest_shard(tmp_path):
    writers = {prefix: ShardWriter(tmp_path / "out", prefix=prefix) for prefix in ("a", "b")}
    for prefix, size in (("a", 2), ("a", 3), ("b", 1)):
        for i in range(size):
            writers[prefix].write({"question_id": prefix, "sample_index": i})
        writers[prefix].flush()
    assert [ShardWriter(tmp_path / "out", prefix=prefix).last_shard_size() for prefix in "abc"] == [3, 1, 0]


def test_two_writers_with_their_own_prefix(tmp_path):
    writers = [ShardWriter(tmp_path / "out", prefix=f"shard-{i}") for i in range(2)]
    for i, writer in enumerate(writers):
        writer.write({"question_id": f"q{i}", "sample_index": 0})
        writer.close()
    assert [row["question_id"] for row, _ in read_rows(tmp_path / "out")] == ["q0", "q1"]


def test_two_writers_of_one_prefix_do_not_overwrite_each_other(tmp_path):
    one, other = ShardWriter(tmp_path / "out"), ShardWriter(tmp_path / "out")
    one.write(SCORES[0])
    other.write(SCORES[1])
    one.flush()
    with pytest.raises(ValueError, match=r"part-00000\.jsonl: another job writes here; let it end and give the command again"):
        other.flush()
    assert list(read_records(tmp_path / "out", StepScores)) == SCORES[:1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"foo": 1}, "no 'question_id'"),
        ({"question_id": "a", "sample_index": "0"}, "'sample_index' is '0'"),
        ({"question_id": "a", "sample_index": -1, "step_scores": [0.5]}, "'sample_index' is -1, it counts from 0"),
        ({"question_id": ["a"], "sample_index": 0}, "'question_id' is"),
        ({"question_id": "a", "sample_index": 0}, "no 'step_scores'"),
    ],
)
def test_a_row_of_another_stage_is_named(tmp_path, row, message):
    write_jsonl(tmp_path / "out" / "part-00000.jsonl", [SCORES[0], row])
    with pytest.raises(ValueError, match=rf"part-00000\.jsonl:2: {message}.*; repair or remove the row, or name another --output"):
        ShardWriter(tmp_path / "out", record_type=StepScores)


def test_written_before_knows_keys_and_content(tmp_path):
    row = {"question_id": "q", "sample_index": 0, "step_scores": [0.5], "answer": "4"}
    with ShardWriter(tmp_path / "out") as writer:
        writer.write(row)
    with ShardWriter(tmp_path / "out") as writer:
        before = WrittenBefore(writer, ("answer",))
        assert before.holds(StepScores("q", 0, [0.7], answer="4"))
        assert not before.holds(StepScores("q", 1, [0.7], answer="4"))
        with pytest.raises(ValueError, match=r"holds a result for another answer under \('q', 0\)"):
            before.holds(StepScores("q", 0, [0.5], answer="5"))


def test_every_question_is_in_one_shard():
    shards = [[in_shard(f"q{i}", index, 4) for i in range(400)] for index in range(4)]
    assert all(sum(column) == 1 for column in zip(*shards, strict=True))
    assert all(60 < sum(shard) < 140 for shard in shards)
