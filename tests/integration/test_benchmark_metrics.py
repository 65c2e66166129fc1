"""benchmark_metrics.py on little, and the limits that it keeps at full size."""

import json

import benchmark_metrics
import pytest

from prm.benchmarks.speed import metrics as metric_speed

SMALL = ["--num_questions", "6", "--num_candidates", "8", "--num_items", "40", "--num_bootstrap", "50"]


def run(tmp_path, *flags):
    status = benchmark_metrics.main([*flags, "--output_dir", str(tmp_path)])
    return status, json.loads((tmp_path / "metrics.json").read_text())


def test_every_part_is_timed(tmp_path, capsys):
    status, result = run(tmp_path, *SMALL)
    assert status == 0
    names = {"curve and bootstrap", "threshold sweep", "calibration error", "temperature fit"}
    assert result["seconds"].keys() == names | {"whole evaluation"}
    assert "Best-of-N on 6 x 8, 50 resamples; sweep of 40 items" in capsys.readouterr().out
    assert run(tmp_path, *SMALL, "--with_votes", "False")[1]["seconds"].keys() == names


def test_a_part_beyond_its_limit_fails_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(metric_speed.LIMITS, "threshold sweep", 0.0)
    assert run(tmp_path, *SMALL)[0] == 1
    assert "too slow: threshold sweep" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["threshold sweep", "curve and bootstrap"])
def test_full_size_within_the_limit(tmp_path, part):
    assert run(tmp_path, "--with_votes", "False")[1]["seconds"][part] < metric_speed.LIMITS[part]
