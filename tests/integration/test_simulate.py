"""scripts/simulate.py from end to end at a small size: the folder, the same numbers again and from two processes, a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from simulate import main

ROOT = Path(__file__).parents[2]
SMALL = [*("--num_seeds", "2", "--num_steps", "4", "8", "--num_tokens", "6", "--num_iterations", "20")]
SMALL += ["--budgets", "20", "40", "--noise_rates", "0", "0.2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("simulate") / "out"
    main([*SMALL, "--num_workers", "1", "--output_dir", str(output_dir)])
    return output_dir


def test_the_folder_holds_every_experiment(folder):
    names = {path.name for path in folder.iterdir()}
    figures = {f"{name}.{kind}" for name in ("published", "outcomes", "first_errors", "noise") for kind in ("png", "svg")}
    assert names == figures | {"metrics.json", "tables.json", "items.jsonl", "manifest.json", "runs"}
    result = json.loads((folder / "metrics.json").read_text())
    lengths = {method: columns["8"]["correlation"]["mean"] for method, columns in result["lengths"].items()}
    assert max(lengths, key=lengths.get) == "monte_carlo"
    assert len(result["budgets"]["weakest_link"]) == 14
    assert len(result["methods"]["td"]["mse"]["seeds"]) == 2
    assert result["verdicts"] == {}, "the published numbers are of other settings"
    titles = [table["title"] for table in json.loads((folder / "tables.json").read_text())]
    assert "Weakest-link world, false positives: first-error F1" in titles
    assert any("Published study: four training signals" in title for title in titles)
    assert any(line.startswith("Additive world, 20 outcomes, correlation:") for line in result["findings"])


def test_the_same_numbers_from_several_processes_and_after_a_kill(folder, tmp_path):
    flags = [*SMALL, "--experiment", "lengths", "false_positives", "--output_dir", str(tmp_path)]
    command = [sys.executable, str(ROOT / "scripts" / "simulate.py"), *flags, "--num_workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("runs/*.json"))) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)
    workers = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(workers) > 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline, "workers end when their parent was killed"
        time.sleep(0.1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*.json")}
    main([*flags, "--num_workers", "1"])
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was there is used"
    expected, found = (json.loads((place / "metrics.json").read_text()) for place in (folder, tmp_path))
    assert all(found[name] == expected[name] for name in ("lengths", "false_positives"))


def test_one_experiment_of_one_method(tmp_path, capsys):
    flags = ["--experiment", "published", "false_positives", "--methods", "asym", "--num_workers", "1"]
    main([*SMALL, *flags, "--output_dir", str(tmp_path)])
    assert {path.name for path in tmp_path.glob("*.png")} == {"first_errors.png", "noise.png"}
    printed = capsys.readouterr().out
    assert "False positives, asym: " in printed
    assert "min" not in json.loads((tmp_path / "metrics.json").read_text())["false_positives"]["weakest_link"]
