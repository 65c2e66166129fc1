"""Data files: every format read alike, broken ones named by place, writes whole or absent."""

import errno
import gzip
import json
import os
import re
import subprocess
import sys

import datasets
import pytest

import prm.files
from prm.files import KeySet, read_json, read_records, read_rows, write_json, write_jsonl, write_text, written_aside
from prm.records import Question, StepScores, clean_text, to_row

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
    assert [place for _, place in read_rows(tmp_path / "d")][1:] == [f"{tmp_path}/d/part-1.jsonl:{n}" for n in (1, 2)]


def test_a_folder_s_arrays_are_data_and_its_objects_are_not(tmp_path):
    write_json(tmp_path / "b.json", [{"n": 2}])
    (tmp_path / "a.json").write_text('\ufeff\n [{"n": 1}]', encoding="utf-8")
    write_json(tmp_path / "manifest.json", {"n": 3})
    write_json(tmp_path / "s.manifest.json", {"n": 3})
    (tmp_path / "dataset_infos.json").write_text("")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.jsonl").mkdir()
    write_jsonl(tmp_path / "c.jsonl", [{"n": 3}])
    assert [row["n"] for row, _ in read_rows(tmp_path)] == [1, 2, 3]
    (tmp_path / "b.json").write_text('[{"n": 2}')
    with pytest.raises(ValueError, match=r"b\.json: not valid JSON"):
        list(read_rows(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"id": \n', r"x.jsonl:2: not valid JSON"),
        (GOOD + "\n[1]\n", r"x.jsonl:3: expected a JSON object, found list"),
        ('{"id": NaN}\n', r"x.jsonl:1: not valid JSON \(NaN is not a JSON number\)"),
        ('{"id": "\xff"}\n', r"x.jsonl:1: not valid JSON"),
        ("[" * 100_000 + "\n", r"x.jsonl:1: not valid JSON"),
        ('{"id": "a", "question": "?"}\n', r"x.jsonl:1: no 'answer'; a Question needs"),
        ('{"id": "a", "question": "?", "answer": 3}\n', r"x.jsonl:1: 'answer' is 3, expected a text"),
        ('{"id": "a", "question": "?", "answer": "3"}\n' * 2, r"x.jsonl:2: duplicate key 'a', first seen at .*x.jsonl:1"),
    ],
)
def test_broken_lines_name_their_place(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        list(read_records(tmp_path / "x.jsonl", Question))


def test_missing_paths_and_wrong_shapes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(read_rows(tmp_path / "none.jsonl"))
    with pytest.raises(FileNotFoundError, match=r"holds no \.jsonl"):
        list(read_rows(tmp_path))
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="expected a JSON array"):
        list(read_rows(tmp_path / "x.json"))


def test_surrogates_and_nul_are_cleaned_at_the_door(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": "a", "question": "\ud800?", "answer": "\x00"}) + "\n")
    (question,) = read_records(tmp_path / "x.jsonl", Question)
    assert (question.question, question.answer) == ("??", "\ufffd")
    assert clean_text("fine ½") == "fine ½"


def test_failed_write_leaves_the_old_file(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", SCORES)
    with pytest.raises(ValueError, match="not finite"):
        write_jsonl(tmp_path / "s.jsonl", [*SCORES, StepScores("q", 0, [float("inf")])])
    assert list(read_records(tmp_path / "s.jsonl", StepScores)) == SCORES
    assert [f.name for f in tmp_path.iterdir()] == ["s.jsonl"]
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "s.jsonl", "\ud800")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.jsonl.gz", "x", "would be left out, .*; unpack it"),
        ("b.zip", "x", "would be left out, .*; unpack it"),
        ("b.ndjson", "{}", r"would be left out, .*; rename it to b\.jsonl"),
        ("b.JSONL", "{}", r"would be left out, .*; rename it to b\.jsonl"),
        ("b.json", '{"n": 1}\n{"n": 2}\n', "is no array of objects, .* one object a line is named .jsonl"),
        ("statement.json", "", "is no array of objects"),
    ],
)
def test_no_file_of_a_folder_is_left_out_in_silence(tmp_path, name, content, message):
    write_jsonl(tmp_path / "a.jsonl", [{"n": 1}])
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}: {message}"):
        list(read_rows(tmp_path))


def test_a_compressed_file_under_another_name_is_called_so(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(ValueError, match=r"a\.jsonl:1: is compressed \(gzip\); unpack it"):
        list(read_rows(tmp_path / "a.jsonl"))


def test_large_sample_indices_cost_what_small_ones_do():
    """Times or hashes as indices, and not a bit for every number below them."""
    keys = [("a", 3), ("a", 1_700_000_000_000), ("b", 2**63)]
    found = KeySet(keys)
    assert sorted(found) == sorted(keys)
    assert len(found) == 3
    assert ("a", 2**63) not in found
    assert max(sys.getsizeof(samples) for samples in found._samples.values()) < 1000


def test_key_set_is_exact():
    """Keys of one question share a number; others are never in by accident."""
    keys = [("a", 0), ("a", 70), ("b", 1)]
    found = KeySet([*keys, ("a", 0)])
    assert len(found) == 3
    assert all(key in found for key in keys)
    assert not any(key in found for key in [("a", 1), ("b", 0), ("c", 0)])


def test_table_formats(tmp_path):
    """Parquet keeps types and nested lists; every CSV cell is a string."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [{"question": "a\x00", "steps": ["x", "y"], "n": 1}, {"question": "b", "steps": [], "n": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert list(read_rows(tmp_path / "t.parquet")) == [
        (rows[0] | {"question": "a\ufffd"}, f"{tmp_path}/t.parquet[0]"),
        (rows[1], f"{tmp_path}/t.parquet[1]"),
    ]
    (tmp_path / "t.csv").write_text('question,answer\n"one, two\nthree",3\n', encoding="utf-8")
    assert list(read_rows(tmp_path / "t.csv")) == [({"question": "one, two\nthree", "answer": "3"}, f"{tmp_path}/t.csv:3")]


def test_a_dataset_that_was_saved_to_disk_comes_with_the_way_to_read_it(tmp_path):
    datasets.Dataset.from_list([{"question": "?", "answer": "3"}]).save_to_disk(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match=r"saved: the folder holds no .*to_parquet\(FILE\)"):
        list(read_rows(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,b\n1\n", r"t.csv:2: the row has not as many cells"),
        ("t.csv", b"a,b\n1,2,3\n", r"t.csv:2: the row has not as many cells"),
        ("t.csv", b'a,b\n1,"2\n', r"t.csv:\d: not valid CSV"),
        ("t.csv", b"a,b\n1,\xff\n", r"t.csv:\d: not valid CSV in UTF-8"),
        ("t.parquet", b"PAR1", r"t.parquet: not a Parquet file"),
        ("t.txt", b"hello", r"t.txt: .txt is no known format; known are .jsonl, .json, .parquet, .csv"),
    ],
)
def test_broken_tables_name_their_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name))


def test_write_in_pieces_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        write_jsonl(tmp_path / "x.jsonl", [{"a": 1}, {"a": float("nan")}])
    assert not list(tmp_path.iterdir())


def test_a_lone_surrogate_in_a_json_file_is_replaced_as_in_rows(tmp_path):
    (tmp_path / "manifest.json").write_text('{"title": "a\\ud800b"}')
    assert read_json(tmp_path / "manifest.json", "restore it") == {"title": "a?b"}


def test_a_folder_is_whole_or_absent_too(tmp_path):
    def write(path, error=None):
        with written_aside(path) as aside:
            (aside / "within").mkdir(parents=True)
            assert not path.exists()
            if error:
                raise error

    write(tmp_path / "folder")
    assert (tmp_path / "folder" / "within").exists()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "other", KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


KILLED = """
import os, sys
from prm.files import written_aside
with written_aside(sys.argv[1]) as aside:
    if sys.argv[2:]:
        aside.mkdir()
        aside /= "within"
    aside.write_text("half")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, is_folder):
    names = [tmp_path / "x.jsonl", tmp_path / "other.jsonl"]
    for name in names:
        subprocess.run([sys.executable, "-c", KILLED, str(name), *["folder"] * is_folder], check=False)
    killed = {name: next(tmp_path.glob(f".{name.name}.*.tmp")) for name in names}
    prefix = killed[names[0]].name.rsplit(".", 2)[0]
    kept = {tmp_path / f"{prefix}.{os.getppid()}.tmp", tmp_path / ".x.jsonl.0123456789abcdef.1.tmp", tmp_path / ".x.jsonl.1.tmp"}
    for path in [*kept, tmp_path / f"{prefix}.{os.getpid()}.tmp"]:  # of a running process, of who knows whom, of an earlier one
        path.write_text("half")
    write_text(names[0], "whole")
    assert set(tmp_path.iterdir()) == kept | {names[0], killed[names[1]]}
    assert names[0].read_text() == "whole"


def test_another_user_s_process_runs(monkeypatch):
    def kill(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert prm.files._is_running(1)


def test_what_another_user_s_killed_writer_left_stays(tmp_path, monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leftover = tmp_path / f".x.{prm.files._process_space()}.{gone.pid}.tmp"
    leftover.write_text("half")
    remove = prm.files._remove

    def refuse(path):
        if path == leftover:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        remove(path)

    monkeypatch.setattr(prm.files, "_remove", refuse)
    write_text(tmp_path / "x", "whole")
    assert {path: path.read_text() for path in tmp_path.iterdir()} == {tmp_path / "x": "whole", leftover: "half"}


def test_process_numbers_hold_since_the_machine_started(tmp_path, monkeypatch):
    here = prm.files._process_space()
    for text in ("another boot", None):
        monkeypatch.setattr(prm.files, "BOOT_ID", tmp_path / "boot_id")
        if text:
            (tmp_path / "boot_id").write_text(text)
        else:
            (tmp_path / "boot_id").unlink()
        prm.files._process_space.cache_clear()
        assert re.fullmatch("[0-9a-f]{16}", prm.files._process_space())
        assert prm.files._process_space() != here
    prm.files._process_space.cache_clear()


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.jsonl'"), written_aside(tmp_path / "x.jsonl"):
        raise OSError(errno.ENOSPC, "No space left on device")
