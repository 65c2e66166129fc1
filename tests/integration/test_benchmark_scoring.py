"""The scoring benchmark in miniature: every variant here scores the same candidates, compiled layers too."""

import json

from benchmark_scoring import main

SMALL = ["--shape", "tiny", "--use_cpu", "True", "--num_candidates", "20", "--prompt_length", "20", "--mean_length", "50"]
NAMES = ["implicit", "padded", "padded_sorted", "packed", "packed_compiled", "shared", "shared_compiled", "implicit_cached"]


def test_metrics_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmark_scoring.setup_logging", lambda: None)
    main([*SMALL, "--repetitions", "2", "--copies", "0.3", "--output_dir", str(tmp_path), "--variants", *NAMES])
    result = json.loads((tmp_path / "metrics.json").read_text())["scoring"]
    assert list(result["variants"]) == NAMES
    assert (result["candidates"]["responses"], result["candidates"]["copies"]) == (20, 6)
    for name, variant in result["variants"].items():
        assert all(run["seconds"] > 0 and run["tokens"] == result["candidates"]["tokens"] for run in variant["repetitions"])
        assert name.startswith("implicit") or variant["largest_difference"] < 1e-5
        assert variant["computed"]["responses"] == (20 if name.startswith("padded") else 14)
    assert set(result["ratios"]["shared"]) == {"padded", "packed"}
    printed = capsys.readouterr().out
    assert "shared_compiled" in printed
    *_, copies, inference_time = printed.splitlines()
    assert copies.startswith(
        "6 of 20 candidates are copies of others, word for word: scored once by implicit, packed, packed_compiled,"
    )
    measured = result["inference_time"]["ratios"]["implicit"]
    assert f"with its reference {measured['median']:.2f} (by FLOPs {measured['flops']:.2f})" in inference_time
    assert (tmp_path / "manifest.json").exists()
