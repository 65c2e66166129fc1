"""Speed of scoring: candidates in; tokens and responses per second, ratios and largest difference of every way of scoring out.

Every way scores the same responses; repetitions are interleaved and ratios taken within one. Tokens per second are a user's: those
of the responses, each counted whole, padding never, copies and what several begin with, computed once, for each of them. FLOPs
are the hardware's: those of what an engine really computes. Time is the CPU time of this process and of an engine's own on a CPU,
and wall time on a GPU.
"""

import gc
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from prm.benchmarks.published_values import parse_published
from prm.benchmarks.speed.candidates import ScoringSpeedConfig, make_candidates
from prm.benchmarks.speed.computed import Computed, computed_work
from prm.benchmarks.speed.scoring_engines import VARIANTS, default_variants
from prm.benchmarks.speed.workload import SHAPES
from prm.models.inference import OneDNNLinear
from prm.models.step_scores import largest_difference
from prm.sampling.base import EngineError
from prm.scoring import ScoringEngine
from prm.scoring.scorer import without_copies
from prm.steps import EncodedResponse
from prm.tracking import progress

logger = logging.getLogger(__name__)

REFERENCES = ("padded", "packed", "vllm", "vllm_compiled")
"""Variants whose speed the table sets the others in relation to."""
DISCRIMINATIVE, IMPLICIT = "shared", ("implicit", "implicit_cached")
"""The variants whose inference times are compared: one engine, a head or token log-probs behind the same backbone."""
WARM_UP = 48
"""Candidates that every engine scores before it is measured: enough to compile for rows of several lengths."""
MATRIX_PRODUCTS = {"cpu": (2048, 2), "cuda": (8192, 30)}
"""Size and number of the products that the matrix rate is measured with."""


@dataclass(frozen=True)
class ScoringRun:
    """One variant in one repetition."""

    seconds: float
    tokens: int
    responses: int
    largest_difference: float | None
    """Of a step score from the first variant's; none for implicit PRMs, which score otherwise."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def clock(engine: ScoringEngine | None, device: torch.device) -> float:
    """Seconds that this process and the engine's, where it has one, have worked; wall time on CUDA."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    seconds = time.process_time()
    if (process := getattr(engine, "process", None)) is not None:
        parent = psutil.Process(process.pid)
        for one in (parent, *parent.children(recursive=True)):
            times = one.cpu_times()
            seconds += times.user + times.system
    return seconds


def measure_scoring(config: ScoringSpeedConfig) -> dict[str, Any]:
    """All repetitions of all variants: every measurement, medians, and ratios to `REFERENCES`."""
    os.environ["OMP_NUM_THREADS"] = str(config.num_threads)  # of engines that are processes
    names = list(dict.fromkeys(config.variants or default_variants(config.torch_compile)))
    encoded = make_candidates(config)
    expected: list[list[float]] | None = None
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engines = start_engines(config, names, encoded, Path(folder), stack)
        names, runs = list(engines), {name: [] for name in engines}
        computed = {name: computed_work(engine, encoded, config.model_config) for name, engine in engines.items()}
        turns = [name for turn in range(config.repetitions) for name in (names if turn % 2 == 0 else reversed(names))]
        for name in progress(turns, desc="scoring", unit="run"):
            seconds, scores = measure(engines[name], encoded, config.device)
            expected = scores if expected is None else expected
            difference = None if name.startswith("implicit") else largest_difference(expected, scores)
            runs[name].append(ScoringRun(seconds, sum(len(r.input_ids) for r in encoded), len(encoded), difference))
    rate = matrix_rate(config.device, getattr(torch, config.dtype))
    return {
        "model": {"shape": config.shape, **SHAPES[config.shape]},
        "dtype": config.dtype,
        "candidates": {
            "responses": len(encoded),
            "copies": len(encoded) - len(without_copies(encoded)),
            "tokens": sum(len(r.input_ids) for r in encoded),
        },
        "matrix_flops_per_second": rate,
        "variants": {name: summary(runs[name], computed[name], rate) for name in names},
        "ratios": {name: ratios(runs[name], runs) for name in names},
        "inference_time": inference_time(runs, computed, config.published),
    }


def start_engines(
    config: ScoringSpeedConfig, names: Sequence[str], encoded: list[EncodedResponse], folder: Path, stack: ExitStack
) -> dict[str, ScoringEngine]:
    """Engines that have scored some of the candidates; `stack` closes them. One that fails is left out with a warning.

    Raises RuntimeError if all do.
    """
    engines: dict[str, ScoringEngine] = {}
    for name in progress(names, desc="warming up", unit="engine"):
        engine = None
        with ExitStack() as failing:
            try:
                engine = VARIANTS[name](config, folder / name)
                if hasattr(engine, "close"):
                    failing.callback(engine.close)
                for number in (WARM_UP, 1):  # a compiler makes another graph of a row in which nothing is shared
                    engine.score_encoded(encoded[:number])
            except (EngineError, torch.OutOfMemoryError) as error:
                logger.warning("%s is left out: %s", name, error)
            else:
                engines[name] = engine
                stack.push(failing.pop_all())
        if name not in engines:  # its memory is for the next
            del engine
            gc.collect()
            torch.cuda.empty_cache()
    if not engines:
        raise RuntimeError(f"none of {', '.join(names)} could start, see above")
    return engines


def measure(engine: ScoringEngine, encoded: list[EncodedResponse], device: torch.device) -> tuple[float, list[list[float]]]:
    start = clock(engine, device)
    scores = engine.score_encoded(encoded)
    return clock(engine, device) - start, scores


def summary(runs: list[ScoringRun], computed: Computed, rate: float) -> dict[str, Any]:
    """Medians over repetitions, the repetitions themselves, and what was computed in each."""
    seconds = statistics.median(run.seconds for run in runs)
    return {
        "tokens_per_second": runs[0].tokens / seconds,
        "responses_per_second": runs[0].responses / seconds,
        "computed": asdict(computed),
        "flops_per_second": computed.flops / seconds,
        "matrix_share": computed.flops / seconds / rate,
        "largest_difference": runs[0].largest_difference,
        "repetitions": [asdict(run) for run in runs],
    }


def ratios(runs: list[ScoringRun], by_name: dict[str, list[ScoringRun]]) -> dict[str, Any]:
    """Speed over that of each reference: median, and every repetition's."""
    result = {}
    for reference in (name for name in REFERENCES if name in by_name):
        pairs = zip(runs, by_name[reference], strict=True)
        values = [other.seconds / run.seconds for run, other in pairs]
        result[reference] = {"median": statistics.median(values), "repetitions": values}
    return result


def inference_time(
    runs: dict[str, list[ScoringRun]], computed: dict[str, Computed], published: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Time of implicit PRMs over the discriminative one's, as measured and by FLOPs; None unless both kinds were run."""
    names = [name for name in IMPLICIT if name in runs]
    if DISCRIMINATIVE not in runs or not names:
        return None
    over = {}
    for name in names:
        values = [run.seconds / other.seconds for run, other in zip(runs[name], runs[DISCRIMINATIVE], strict=True)]
        flops = computed[name].flops / computed[DISCRIMINATIVE].flops
        over[name] = {"median": statistics.median(values), "flops": flops, "repetitions": values}
    return {"over": DISCRIMINATIVE, "ratios": over, "published": parse_published(published, is_share=False)}


@torch.no_grad()
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of large square matrix products, made as the engines make theirs, best of three."""
    size, number = MATRIX_PRODUCTS[device.type]
    layer = OneDNNLinear(size, size, bias=False, device=device, dtype=dtype)
    states = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = clock(None, device)
        for _ in range(number):
            layer(states)
        seconds.append(clock(None, device) - start)
    return 2 * size**3 * number / min(seconds[1:])
