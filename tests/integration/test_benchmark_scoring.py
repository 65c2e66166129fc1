"""The scoring benchmark in miniature: every variant here scores the same candidates, compiled layers too."""

import json

from benchmark_scoring import main

SMALL = ["--shape", "tiny", "--use_cpu", "True", "--num_candidates", "20", "--prompt_length", "20", "--mean_length", "50"]
NAMES = ["padded", "padded_sorted", "packed", "packed_compiled", "shared", "shared_compiled", "implicit", "implicit_cached"]


def test_metrics_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmark_scoring.setup_logging", lambda: None)
    main([*SMALL, "--repetitions", "2", "--output_dir", str(tmp_path), "--variants", *NAMES])
    result = json.loads((tmp_path / "metrics.json").read_text())["scoring"]
    assert list(result["variants"]) == NAMES
    assert result["candidates"]["responses"] == 20
    for name, variant in result["variants"].items():
        assert all(run["seconds"] > 0 and run["tokens"] == result["candidates"]["tokens"] for run in variant["repetitions"])
        assert name.startswith("implicit") or variant["largest_difference"] < 1e-5
    assert set(result["ratios"]["shared"]) == {"padded", "packed"}
    printed = capsys.readouterr().out
    assert "shared_compiled" in printed
    assert (tmp_path / "manifest.json").exists()
