"""The scoring benchmark's candidates, padded baseline and arithmetic."""

import itertools

import pytest
import torch
from benchmark_scoring import main

from prm.benchmarks.speed.candidates import make_candidates
from prm.benchmarks.speed.computed import Computed, computed_work
from prm.benchmarks.speed.report import scoring_table
from prm.benchmarks.speed.scoring import MATRIX_PRODUCTS, ScoringRun, inference_time, matrix_rate, measure_scoring, summary
from prm.benchmarks.speed.scoring_variants import VARIANTS, ScoringSpeedConfig
from prm.models.step_scores import largest_difference
from prm.sampling.base import EngineError
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


def test_candidates_part_at_forks():
    """Of n candidates half agree with another for tokens_per_fork more than of n / 2: about log2(n) times it in the mean."""
    lengths = {"mean_length": 420.0, "max_length": 999, "spread": 0.1}
    config = ScoringSpeedConfig(**TINY | lengths, num_candidates=512, tokens_per_fork=8.0)
    candidates = make_candidates(config)
    assert candidates == make_candidates(config)
    assert len({tuple(c.input_ids) for c in candidates}) == 512
    ordered = sorted(c.input_ids[20:] for c in candidates)
    parted = [[one != other for one, other in zip(*pair, strict=False)] for pair in itertools.pairwise(ordered)]
    assert sum(places.index(True) for places in parted) / 511 == pytest.approx(8 * 9, rel=0.2)
    assert sum(map(len, ordered)) / 512 == pytest.approx(400, rel=0.05)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_candidates": 0}, "--num_candidates is 0"),
        ({"copies": 1.0}, "--copies 1.0: a share"),
        ({"copies": 0.9, "num_candidates": 1}, "--copies 0.9 of --num_candidates 1: leaves no candidate"),
        ({"published": ["x=0"]}, "--published 'x=0': give LABEL=VALUE with a value above 0"),
        ({"published": ["x=inf"]}, "--published 'x=inf': give LABEL=VALUE"),
        ({"tokens_per_fork": -1.0}, "--tokens_per_fork -1.0: expected 0, or 1 or more"),
        ({"tokens_per_fork": 0.5}, "--tokens_per_fork 0.5: expected 0, or 1 or more"),
        ({"tokens_per_fork": float("nan")}, "--tokens_per_fork nan: expected 0, or 1 or more"),
        ({"mean_length": 20.0}, "--mean_length 20.0 counts the question"),
        ({"max_length": 20}, "--max_length 20 counts the question"),
        ({"token_budget": 0}, "--token_budget is 0"),
    ],
)
def test_options_that_cannot_be(option, message):
    with pytest.raises(ValueError, match=message):
        ScoringSpeedConfig(**TINY | option)


def test_unknown_variants_are_named():
    with pytest.raises(ValueError, match="--variants paded: unknown; choose from padded, padded_sorted"):
        main(["--variants", "paded"])


def test_a_published_ratio_needs_what_it_stands_beside():
    for variants in (["shared", "packed"], ["implicit", "implicit_cached"]):
        with pytest.raises(ValueError, match="--published stands beside implicit or implicit_cached over shared"):
            main(["--published", "paper=1.21", "--variants", *variants])


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


def test_an_engine_that_does_not_start_costs_the_others_nothing(monkeypatch, caplog):
    class Broken:
        computed_tokens = 0

        def score_encoded(self, encoded):
            raise EngineError("no memory left")

    monkeypatch.setitem(VARIANTS, "vllm", lambda config, folder: Broken())
    found = measure_scoring(ScoringSpeedConfig(**TINY, num_candidates=6, repetitions=1, variants=["packed", "vllm"]))
    assert list(found["variants"]) == list(found["ratios"]) == ["packed"]
    assert "vllm is left out: no memory left" in caplog.text
    with pytest.raises(RuntimeError, match="none of vllm could start"):
        measure_scoring(ScoringSpeedConfig(**TINY, num_candidates=6, repetitions=1, variants=["vllm"]))


def test_an_engine_that_fails_later_costs_the_others_nothing(monkeypatch, caplog):
    class Failing:
        computed_tokens, calls = 0, 0

        def score_encoded(self, encoded):
            self.calls += 1
            if self.calls > 3:  # two warm it up
                raise torch.OutOfMemoryError("out of memory")
            return [[0.5] * len(response.step_ends) for response in encoded]

    monkeypatch.setitem(VARIANTS, "vllm", lambda config, folder: Failing())
    found = measure_scoring(ScoringSpeedConfig(**TINY, num_candidates=6, repetitions=2, variants=["packed", "vllm"]))
    assert list(found["variants"]) == list(found["ratios"]) == ["packed"]
    assert "vllm is left out: out of memory" in caplog.text
    with pytest.raises(RuntimeError, match="none of vllm could score everything"):
        measure_scoring(ScoringSpeedConfig(**TINY, num_candidates=6, repetitions=2, variants=["vllm"]))


def test_computed_work_by_hand(tmp_path):
    """A prompt of 20 tokens, responses of 10 and 5 behind it that begin with two tokens alike, and a copy of the longer one."""
    config = ScoringSpeedConfig(**TINY)
    prompt = list(range(2, 22))
    first = EncodedResponse([*prompt, *range(30, 40)], [24, 29], 20)
    candidates = [first, EncodedResponse([*prompt, 30, 31, *range(50, 53)], [24], 20), first]
    keys, queries = 2 * 128 * 1 * 64, 2 * 128 * 2 * 64 + 3 * 128 * 256  # with values, with output and MLP

    def flops(tokens: int, spans: int, reads: int, last_spans: int, num_steps: int = 0, num_targets: int = 0) -> int:
        """The last of the two layers has queries, attention and MLP where it is read."""
        linear = 2 * tokens * (2 * keys + queries) + 2 * reads * queries
        heads = 2 * num_steps * 128 * (128 + 1) + 2 * num_targets * 128 * 256
        return linear + 2 * 2 * 64 * (spans + last_spans) + heads

    def computed(name: str) -> Computed:
        return computed_work(VARIANTS[name](config, tmp_path), candidates, config.model_config)

    at_reads = (25**2 - 24**2) + (30**2 - 29**2) + (25**2 - 24**2)
    assert computed("shared") == Computed(2, 33, flops(33, 30**2 + (25**2 - 22**2), 3, at_reads, num_steps=3))
    assert computed("packed") == Computed(2, 55, flops(55, 30**2 + 25**2, 3, at_reads, num_steps=3))
    padded = Computed(3, 85, flops(85, 2 * 30**2 + 25**2, 85, 2 * 30**2 + 25**2, num_steps=5))
    assert computed("padded") == computed("padded_sorted") == padded
    # The first token of its own is predicted at the last common one, which the second response therefore has for itself.
    once = flops(34, 30**2 + (25**2 - 21**2), 13, (29**2 - 19**2) + (24**2 - 21**2), num_targets=13)
    assert (computed("implicit_cached"), computed("implicit")) == (Computed(2, 34, once), Computed(2, 34, 2 * once))
    # Rows that hold one response each have no other to share its prompt with.
    config = ScoringSpeedConfig(**TINY, token_budget=24)
    assert computed("shared") == Computed(2, 55, flops(55, 30**2 + 25**2, 3, at_reads, num_steps=3))


def test_inference_time_by_hand():
    """Twice and three times as slow in the two repetitions; 70 FLOPs over 30."""
    runs = {"implicit": [run(2.0), run(6.0)], "shared": [run(1.0), run(2.0)], "packed": [run(9.0), run(9.0)]}
    computed = {"implicit": Computed(4, 600, 70), "shared": Computed(4, 600, 30)}
    assert inference_time(runs, computed, ["paper=1.21"]) == {
        "over": "shared",
        "ratios": {"implicit": {"median": 2.5, "flops": pytest.approx(7 / 3), "repetitions": [2.0, 3.0]}},
        "published": {"paper": 1.21},
    }
    assert inference_time({name: runs[name] for name in ("implicit", "packed")}, computed) is None
    assert inference_time({name: runs[name] for name in ("shared", "packed")}, computed) is None


def test_an_implicit_prm_against_itself_gives_nothing(tmp_path):
    config = ScoringSpeedConfig(**TINY, num_candidates=6)
    candidates = make_candidates(config)
    scores = VARIANTS["implicit"](config, tmp_path).score_encoded(candidates)
    assert {score for row in scores for score in row} == {0.0}
    assert VARIANTS["implicit_cached"](config, tmp_path).score_encoded(candidates)[0][0] < 0


def run(seconds: float, difference: float | None = 2e-7) -> ScoringRun:
    return ScoringRun(seconds, 600, 4, difference)


def test_summary_and_table_by_hand():
    shared = summary([run(1.0), run(2.0), run(3.0)], Computed(3, 350, 8_000), rate=40_000)
    assert (shared["tokens_per_second"], shared["responses_per_second"]) == (300, 2)
    assert (shared["matrix_share"], shared["largest_difference"]) == (0.1, 2e-7)
    assert (shared["flops_per_second"], shared["computed"]) == (4_000, {"responses": 3, "tokens": 350, "flops": 8_000})
    implicit = summary([run(2.0, None)], Computed(3, 350, 20_000), rate=40_000)
    assert implicit["matrix_share"] == 0.25
    padded = summary([run(4.0)], Computed(4, 600, 9_000), rate=40_000)
    speed = {
        "model": {"shape": "tiny"},
        "dtype": "float32",
        "candidates": {"responses": 4, "copies": 1, "tokens": 600},
        "matrix_flops_per_second": 98.7e9,
        "variants": {"padded": padded, "shared": shared, "implicit": implicit},
        "ratios": {name: {"padded": {"median": 1.5}} for name in ("padded", "shared", "implicit")},
        "inference_time": {
            "over": "shared",
            "ratios": {"implicit": {"median": 2.1, "flops": 2.35}, "implicit_cached": {"median": 1.1, "flops": 1.17}},
            "published": {"paper": 1.21},
        },
    }
    lines = scoring_table(speed, {"device": "a CPU", "threads": 1}).splitlines()
    assert lines[0] == "tiny in float32 on a CPU, 1 thread; 4 candidates, 600 tokens"
    head = "scoring tokens/CPU-s responses/CPU-s / padded % computed % of matrix rate largest difference"
    assert " ".join(lines[1].split()) == head
    assert lines[3].split() == ["shared", "300", "2.0", "1.50", "58.3", "10.0", "2e-07"]
    assert lines[4].split() == ["implicit", "300", "2.0", "1.50", "58.3", "25.0", "-"]
    assert lines[5:] == [
        "matrix rate, of large square products: 99 GFLOPs/s",
        "1 of 4 candidates are copies of others, word for word: scored once by shared, implicit; scored again by padded",
        "inference time, implicit PRM / discriminative (shared): with its reference 2.10 (by FLOPs 2.35); "
        "with cached reference log-probs 1.10 (by FLOPs 1.17); published: paper 1.21",
    ]
    speed |= {"variants": {"implicit": implicit}, "inference_time": None}
    speed["candidates"]["copies"] = 0
    on_gpu = scoring_table(speed, {"device": "H200", "threads": None}).splitlines()
    assert on_gpu[1].split()[:3] == ["scoring", "tokens/s", "responses/s"]
    assert len(on_gpu) == 4


def test_the_matrix_rate_is_that_of_the_products_made(monkeypatch):
    """4 turns of 3 products of 64 x 64, the first a warm-up; the fastest of the others takes half a second."""
    ticks = iter([0, 9, 10, 12, 20, 20.5, 30, 34])
    monkeypatch.setattr("prm.benchmarks.speed.scoring.clock", lambda device: next(ticks))
    monkeypatch.setitem(MATRIX_PRODUCTS, "cpu", (64, 3))
    assert matrix_rate(torch.device("cpu"), torch.float32) == 2 * 64**3 * 3 / 0.5


def test_what_is_measured_by_default(monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    usual = ["padded", "padded_sorted", "packed", "shared", "implicit", "implicit_cached"]
    assert ScoringSpeedConfig(**TINY, published=["paper=1.21"]).variants == usual
    assert "vllm: left out, since vLLM is not installed" in caplog.text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert ScoringSpeedConfig(**TINY, torch_compile=True).variants == list(VARIANTS)
