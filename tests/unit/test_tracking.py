import json
import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from prm import tracking


@dataclass
class Inner:
    folder: Path
    rates: tuple[float, ...] = (0.5, 1.0)


def test_manifest_holds_what_made_the_output(tmp_path):
    (tmp_path / "in.txt").write_text("x")
    manifest = tracking.write_manifest(tmp_path, Inner(tmp_path), [tmp_path / "in.txt"], {"dropped": 3}, {"model": "m"})
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert manifest["config"] == {"folder": str(tmp_path), "rates": [0.5, 1.0]}
    assert manifest["inputs"] == {str(tmp_path / "in.txt"): tracking.hash_path(tmp_path / "in.txt")}
    assert (manifest["counts"], manifest["model"]) == ({"dropped": 3}, "m")
    assert manifest["code_version"].startswith("0.1.0+")
    assert manifest["libraries"]["torch"].startswith("2.")
    assert tracking.write_manifest(tmp_path, None, {"gsm8k": "commit"})["inputs"] == {"gsm8k": "commit"}


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_an_output_of_another_run_is_refused(tmp_path, name):
    output = tmp_path / name
    place = tracking.manifest_path(output)
    tracking.refuse_other_run(output, {"input": "a"})
    tracking.write_manifest(place.parent, None, extra={"run": {"input": "a"}}, name=place.name)
    tracking.refuse_other_run(output, {"input": "a"})
    with pytest.raises(ValueError, match=r"manifest\.json is of a run with input 'a', this one has 'b'; name another --output, or"):
        tracking.refuse_other_run(output, {"input": "b"})
    place.unlink()
    shards = output.with_name("out.jsonl.partial") if output.suffix else output
    shards.mkdir(exist_ok=True)
    tracking.refuse_other_run(output, {"input": "a"})  # killed before its first shard
    (shards / "part-00000.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"holds \.jsonl rows but no (out\.)?manifest\.json"):
        tracking.refuse_other_run(output, {"input": "a"})


@pytest.mark.parametrize("run", [None, "a", [1]])
def test_a_manifest_that_no_run_writes_is_named(tmp_path, run):
    tracking.write_manifest(tmp_path / "out", None, extra={"run": run})
    with pytest.raises(ValueError, match=r"out/manifest\.json: run is .*, which no run writes; name another --output"):
        tracking.refuse_other_run(tmp_path / "out", {"input": "a"})


def test_the_remedy_removes_all_of_the_other_run(tmp_path):
    """Following it, the next run is not refused; and a hash says nothing to people."""
    output, place = tmp_path / "out.jsonl", tracking.manifest_path(tmp_path / "out.jsonl")
    tracking.write_manifest(tmp_path, None, extra={"run": {"input": "a" * 64}}, name=place.name)
    (tmp_path / "out.jsonl.partial").mkdir()
    (tmp_path / "out.jsonl.partial" / "part-00000.jsonl").write_text("{}\n")
    output.write_text("{}\n")
    names = f"{output} and {output}.partial and {place}"
    with pytest.raises(ValueError, match=f"is of a run with input of other content; name another --output, or remove {names}$"):
        tracking.refuse_other_run(output, {"input": "b" * 64})
    output.unlink()
    place.unlink()
    with pytest.raises(ValueError, match=r"holds \.jsonl rows but no out\.manifest\.json; .* or remove .*out\.jsonl\.partial$"):
        tracking.refuse_other_run(output, {"input": "b" * 64})
    place.write_text("{")
    with pytest.raises(ValueError, match=r"out\.manifest\.json: not valid JSON"):
        tracking.refuse_other_run(output, {"input": "b" * 64})


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "--output is empty"),
        ("data/a.jsonl", "is the input itself"),
        ("data/b.jsonl", r"lies in the input .*data:"),
        ("data", "holds the input"),
        ("model", "is the folder of the model"),
        ("scores.json", r"the output is a folder or a \.jsonl file"),
        ("scores.jsonl.gz", r"the output is a folder or a \.jsonl file"),
        ("folder.jsonl", "is a folder already"),
        ("file", "is a file already"),
        ("file/new", "nothing can be written to"),
        ("/proc/new", r"nothing can be written to /proc \("),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path, monkeypatch, output, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "model", "folder.jsonl"):
        (tmp_path / folder).mkdir()
    for file in ("data/a.jsonl", "file"):
        (tmp_path / file).write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        tracking.check_output("--output", output, ["gsm8k", None, tmp_path / "data" / "a.jsonl", "data"], ".jsonl", ["model", None])
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_beside_its_input_is_fine(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    for output in ("b.jsonl", "b", "new/b.v2", "a"):
        tracking.check_output("--output", str(tmp_path / output), [tmp_path / "a.jsonl"], ".jsonl")
    with pytest.raises(ValueError, match=r"the output is a folder; another ending than \.jsonl"):
        tracking.check_output("--output_dir", str(tmp_path / "b.jsonl"))


def test_jobs_that_share_a_folder_have_names_of_their_own(tmp_path):
    assert tracking.manifest_path(tmp_path, 1, 4).name == "manifest-00001-of-00004.json"
    assert tracking.shard_prefix(1, 4) == "part-00001-of-00004"
    assert tracking.shard_prefix(0, 1) == "part"


def test_the_commit_of_another_project_is_not_ours(tmp_path, monkeypatch):
    """As where this package is installed into an environment within its checkout."""
    (tmp_path / "tracking.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "tracking.py"))
    assert tracking.code_version().endswith("+unknown")
    subprocess.run([*git, "add", "tracking.py"], check=True)
    assert not tracking.code_version().endswith("+unknown")


def test_hash_of_a_folder_sees_names_and_contents_but_not_manifests(tmp_path):
    (tmp_path / "a").write_text("1")
    before = tracking.hash_path(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / ".hidden").write_text("?")
    assert tracking.hash_path(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = tracking.hash_path(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({before, renamed, tracking.hash_path(tmp_path)}) == 3
    (tmp_path / "manifest_of_rollouts.jsonl").write_text("{}")
    with_rows = tracking.hash_path(tmp_path)
    (tmp_path / "manifest_of_rollouts.jsonl").write_text("{ }")
    assert tracking.hash_path(tmp_path) != with_rows
    # The known SHA-256 of "abc".
    (tmp_path / "abc").write_text("abc")
    assert tracking.hash_path(tmp_path / "abc").startswith("ba7816bf8f01cfea")
    with pytest.raises(FileNotFoundError, match="no such file"):
        tracking.hash_path(tmp_path / "none")


def test_metrics_are_appended(tmp_path):
    tracking.append_metrics(tmp_path / "run", {"loss": 0.5})
    tracking.append_metrics(tmp_path / "run", {"loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [0.5, 0.25]
    assert all(line["time"] > 1e9 for line in lines)


def test_only_rank_0_speaks(monkeypatch):
    for rank, is_main, level in (("3", False, logging.WARNING), ("0", True, logging.INFO)):  # the last level stays
        monkeypatch.setenv("RANK", rank)
        tracking.setup_logging()
        assert tracking.is_main_process() is is_main
        assert logging.getLogger("prm").level == level
        assert tracking.progress(range(3)).disable is not is_main
