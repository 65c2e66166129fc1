"""The scoring benchmark's candidates, padded baseline, clock and arithmetic."""

import subprocess
import sys
import types

import pytest
import torch
from benchmark_scoring import main

from prm.benchmarks.speed.candidates import ScoringSpeedConfig, make_candidates
from prm.benchmarks.speed.report import scoring_table
from prm.benchmarks.speed.scoring import ScoringRun, clock, largest_difference, ratios, summary
from prm.benchmarks.speed.scoring_engines import VARIANTS, default_variants
from prm.steps import EncodedResponse

TINY = {"shape": "tiny", "use_cpu": True, "prompt_length": 20, "mean_length": 50.0, "max_length": 90}


def test_candidates_of_two_questions_with_copies():
    config = ScoringSpeedConfig(**TINY, num_candidates=40, num_questions=2, copies=0.25)
    candidates = make_candidates(config)
    assert candidates == make_candidates(config)
    assert len(candidates) == 40
    assert len({tuple(c.input_ids) for c in candidates}) == 30
    assert len({tuple(c.input_ids[:20]) for c in candidates}) == 2
    for tokens, step_ends, start in candidates:
        assert start == 20
        assert step_ends[-1] == len(tokens) - 1 <= 89
        assert all(start <= end for end in step_ends)
    lengths = [len(c.input_ids) for c in make_candidates(ScoringSpeedConfig(**TINY | {"max_length": 2047}, num_candidates=2000))]
    assert sum(lengths) / 2000 == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_candidates": 0}, "--num_candidates is 0"),
        ({"copies": 1.0}, "--copies 1.0: a share"),
        ({"mean_length": 20.0}, "--mean_length 20.0 counts the question"),
    ],
)
def test_options_that_cannot_be(option, message):
    with pytest.raises(ValueError, match=message):
        ScoringSpeedConfig(**TINY | option)


def test_unknown_variants_are_named():
    with pytest.raises(ValueError, match="--variants paded: unknown; choose from padded, padded_sorted"):
        main(["--variants", "paded"])


def test_every_engine_gives_the_same_scores(tmp_path):
    config = ScoringSpeedConfig(**TINY, num_candidates=30, num_questions=3, copies=0.1, token_budget=300)
    candidates = make_candidates(config)
    engines = {name: VARIANTS[name](config, tmp_path) for name in ("padded", "padded_sorted", "packed", "shared")}
    assert [len(batch) for batch in engines["padded"].batches(candidates)] == [8, 8, 8, 6]
    for batch in engines["padded_sorted"].batches(candidates):
        lengths = [len(candidates[index].input_ids) for index in batch]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] * len(lengths) <= 300
    expected = engines["padded"].score_encoded(candidates)
    assert expected[0][0] != expected[1][0]
    for engine in engines.values():
        assert largest_difference(engine.score_encoded(candidates), expected) < 1e-5


def test_an_implicit_prm_against_itself_gives_nothing(tmp_path):
    config = ScoringSpeedConfig(**TINY, num_candidates=6)
    candidates = make_candidates(config)
    scores = VARIANTS["implicit"](config, tmp_path).score_encoded(candidates)
    assert {score for row in scores for score in row} == {0.0}
    assert VARIANTS["implicit_cached"](config, tmp_path).score_encoded(candidates)[0][0] < 0


def test_the_clock_counts_the_engine_s_own_process():
    burn = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    process = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    alone = types.SimpleNamespace(score_encoded=len)
    engine, cpu = types.SimpleNamespace(score_encoded=len, process=process), torch.device("cpu")
    assert 0.4 < clock(engine, cpu) - clock(alone, cpu) < 5
    process.communicate(b"\n")


def run(seconds: float, difference: float | None = 2e-7) -> ScoringRun:
    return ScoringRun(seconds, 600, 4, difference)


def test_ratios_are_medians_of_paired_repetitions():
    """2, 3 and 12 times as fast; the quotient of the medians would be 4."""
    runs = {"shared": [run(1.0), run(1.0), run(4.0)], "padded": [run(2.0), run(3.0), run(48.0)]}
    assert ratios(runs["shared"], runs) == {"padded": {"median": 3.0, "repetitions": [2.0, 3.0, 12.0]}}


def test_summary_and_table_by_hand():
    config = ScoringSpeedConfig(**TINY)
    encoded = [EncodedResponse([2] * 150, [100, 149], 20)] * 4
    shared = summary("shared", [run(1.0), run(2.0), run(3.0)], config, encoded, rate=None)
    assert (shared["tokens_per_second"], shared["responses_per_second"]) == (300, 2)
    assert (shared["matrix_share"], shared["largest_difference"]) == (None, 2e-7)
    implicit = summary("implicit", [run(2.0, None)], config, encoded, rate=1e9)
    cached = summary("implicit_cached", [run(2.0, None)], config, encoded, rate=1e9)
    assert implicit["flops_per_second"] == 2 * cached["flops_per_second"] > 2 * shared["flops_per_second"]
    assert implicit["matrix_share"] == pytest.approx(implicit["flops_per_second"] / 1e9)
    speed = {
        "model": {"shape": "tiny"},
        "dtype": "float32",
        "candidates": {"responses": 4, "tokens": 600},
        "matrix_flops_per_second": None,
        "variants": {"padded": shared, "shared": shared, "implicit": implicit},
        "ratios": {name: {"padded": {"median": 1.5}} for name in ("padded", "shared", "implicit")},
    }
    lines = scoring_table(speed, {"device": "a CPU", "threads": 1}).splitlines()
    assert lines[0] == "tiny in float32 on a CPU, 1 thread; 4 candidates, 600 tokens"
    assert lines[1].split() == ["scoring", "tokens/CPU-s", "responses/CPU-s", "/", "padded", "difference"]
    assert lines[3].split() == ["shared", "300", "2.0", "1.50", "2e-07"]
    assert lines[4].split() == ["implicit", "300", "2.0", "1.50", "-"]
    speed |= {"matrix_flops_per_second": 1e9, "variants": {"implicit": implicit}}
    on_gpu = scoring_table(speed, {"device": "H200", "threads": None})
    assert "matrix rate" in on_gpu


def test_what_is_measured_by_default(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert default_variants(False) == ["padded", "padded_sorted", "packed", "shared", "implicit", "implicit_cached"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert default_variants(True) == list(VARIANTS)
