"""Speed of scoring: candidates in; tokens and responses per second, ratios and largest difference of every way of scoring out.

Every way scores the same responses. Tokens per second are what a user sees: each response counts whole, even where copies and
shared prefixes are computed once, and padding never counts. FLOPs are what the hardware does: those that an engine really computes.
Time is that of this process and, where an engine has one of its own, of that one.
"""

import logging
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from prm.benchmarks.published_values import parse_published
from prm.benchmarks.speed.candidates import make_candidates
from prm.benchmarks.speed.computed import Computed, computed_work
from prm.benchmarks.speed.peak_memory import release_memory
from prm.benchmarks.speed.repetitions import Run, clock, repeat, speed_ratios, time_ratio
from prm.benchmarks.speed.scoring_variants import DISCRIMINATIVE, IMPLICIT, VARIANTS, ScoringSpeedConfig
from prm.benchmarks.speed.workload import SHAPES
from prm.models.inference import OneDNNLinear
from prm.models.step_scores import largest_difference
from prm.sampling.base import EngineError
from prm.scoring import ScoringEngine
from prm.scoring.scorer import without_copies
from prm.steps import EncodedResponse
from prm.tracking import progress

logger = logging.getLogger(__name__)

FAILURES = (EngineError, torch.OutOfMemoryError)
"""What leaves one engine out and not the others."""
REFERENCES = ("padded", "packed", "vllm", "vllm_compiled")
"""Variants whose speed the table sets the others in relation to."""
WARM_UP = 48
"""Candidates that every engine scores before it is measured: enough to compile for rows of several lengths."""
MATRIX_PRODUCTS = {"cpu": (2048, 2), "cuda": (8192, 30)}
"""Size and number of the products that the matrix rate is measured with."""


@dataclass(frozen=True)
class ScoringRun(Run):
    """Scoring all candidates once."""

    tokens: int
    responses: int
    largest_difference: float | None
    """Of a step score from that of the first variant that is no implicit PRM; none for those, which score otherwise."""


def measure_scoring(config: ScoringSpeedConfig) -> dict[str, Any]:
    """All repetitions of all variants: every measurement, medians, and ratios to `REFERENCES`."""
    encoded = make_candidates(config)
    num_tokens = sum(len(response.input_ids) for response in encoded)
    expected: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engines = start_engines(config, encoded, Path(folder), stack)
        computed = {name: computed_work(engine, encoded, config.model_config) for name, engine in engines.items()}

        def measure(name: str) -> ScoringRun | None:
            start = clock(config.device, engines[name])
            try:
                scores = engines[name].score_encoded(encoded)
            except FAILURES as error:
                logger.warning("%s is left out: %s", name, error)
                return None
            seconds, difference = clock(config.device, engines[name]) - start, None
            if name not in IMPLICIT:
                expected.extend(() if expected else scores)
                difference = largest_difference(expected, scores)
            return ScoringRun(seconds, num_tokens, len(encoded), difference)

        measured = repeat(list(engines), config.repetitions, measure, "scoring")
    runs = {name: of_name for name, of_name in measured.items() if None not in of_name}
    if not runs:
        raise RuntimeError(f"none of {', '.join(measured)} could score everything, see above")
    rate = matrix_rate(config.device, getattr(torch, config.dtype))
    return {
        "model": {"shape": config.shape, **SHAPES[config.shape]},
        "dtype": config.dtype,
        "candidates": {
            "responses": len(encoded),
            "copies": len(encoded) - len(without_copies(encoded)),
            "tokens": num_tokens,
        },
        "matrix_flops_per_second": rate,
        "variants": {name: summary(of_name, computed[name], rate) for name, of_name in runs.items()},
        "ratios": speed_ratios(runs, REFERENCES),
        "inference_time": inference_time(runs, computed, config.published),
    }


def start_engines(
    config: ScoringSpeedConfig, encoded: list[EncodedResponse], folder: Path, stack: ExitStack
) -> dict[str, ScoringEngine]:
    """Engines that have scored some of the candidates; `stack` closes them. One that fails is left out with a warning.

    Raises RuntimeError if all do.
    """
    engines: dict[str, ScoringEngine] = {}
    for name in progress(config.variants, desc="warming up", unit="engine"):
        engine = None
        release_memory()  # of an engine that failed, and what others keep in reserve: vLLM takes what is free
        with ExitStack() as failing:
            try:
                engine = VARIANTS[name](config, folder / name)
                if hasattr(engine, "close"):
                    failing.callback(engine.close)
                for number in (WARM_UP, 1):  # a compiler makes another graph of a row in which nothing is shared
                    engine.score_encoded(encoded[:number])
            except FAILURES as error:
                logger.warning("%s is left out: %s", name, error)
            else:
                engines[name] = engine
                stack.push(failing.pop_all())
    if not engines:
        raise RuntimeError(f"none of {', '.join(config.variants)} could start, see above")
    return engines


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


def inference_time(
    runs: dict[str, list[ScoringRun]], computed: dict[str, Computed], published: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Time of implicit PRMs over the discriminative one's, as measured and by FLOPs; None unless both kinds were run."""
    names = [name for name in IMPLICIT if name in runs]
    if DISCRIMINATIVE not in runs or not names:
        return None
    over = {}
    for name in names:
        flops = computed[name].flops / computed[DISCRIMINATIVE].flops
        over[name] = time_ratio(runs[name], runs[DISCRIMINATIVE]) | {"flops": flops}
    return {"over": DISCRIMINATIVE, "ratios": over, "published": parse_published(published, is_share=False)}


@torch.no_grad()
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of large square matrix products, made as the engines make theirs, best of three."""
    size, number = MATRIX_PRODUCTS[device.type]
    layer = OneDNNLinear(size, size, bias=False, device=device, dtype=dtype)
    states = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        start = clock(device)
        for _ in range(number):
            layer(states)
        seconds.append(clock(device) - start)
    return 2 * size**3 * number / min(seconds[1:])
