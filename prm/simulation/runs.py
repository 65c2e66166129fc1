"""Runs: the settings of one training signal in one kind of world in, its measures for every seed out; known ones from disk."""

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

import prm
from prm import metrics
from prm.files import hash64, write_json
from prm.simulation import measures
from prm.simulation.contestants import CONTESTANTS, fit
from prm.simulation.environment import AdditiveWorld, Table, WeakestLinkWorld, pick, streams, uniform_traces
from prm.simulation.estimators import TrainingConfig, train
from prm.simulation.queries import SIGNALS, Verifier
from prm.tracking import hash_path, library_versions, progress

NUM_TEST_TRACES = 200
CODE = (
    *(f"simulation/{name}.py" for name in ("contestants", "environment", "estimators", "measures", "queries", "runs")),
    *("losses/*.py", "aggregation.py", "metrics/first_error.py"),
)
"""What results depend on; runs of other code are made anew."""
Measures = dict[str, list[float]]
"""Name of a measure -> its value for every seed."""


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """One method of the published study."""

    study: ClassVar[str] = "published"
    method: str
    num_steps: int = 16
    num_tokens: int = 10
    critical_rate: float = 0.3
    num_alternatives: int = 4
    num_iterations: int = 400
    learning_rate: float = 0.01
    init_scale: float = 0.01
    td_lambda: float = 0.8

    def check(self) -> None:
        """Raises ValueError for what `train` and the world would refuse."""
        settings = TrainingConfig(num_iterations=0, num_alternatives=self.num_alternatives)
        train(self.method, AdditiveWorld.make([0], self.num_steps, self.num_tokens), settings)

    def measure(self, seeds: Sequence[int]) -> Measures:
        world = AdditiveWorld.make(seeds, self.num_steps, self.num_tokens, self.critical_rate)
        chosen = {name: value for name, value in asdict(self).items() if name in TrainingConfig.__dataclass_fields__}
        scores = train(self.method, world, TrainingConfig(**chosen))
        traces = uniform_traces(streams(seeds, "test"), (NUM_TEST_TRACES, self.num_steps), self.num_tokens)
        values = world.step_values(traces)
        found = {
            "mse": measures.squared_error(scores, traces, values),
            "calibrated_mse": measures.calibrated_squared_error(scores, traces, values),
            "correlation": measures.row_correlation(scores, world.values),
            "ranking": measures.ranking_accuracy(scores, world.values),
            "ranking_critical": measures.ranking_accuracy(scores, world.values, world.is_critical),
            "ranking_within_steps": measures.ranking_accuracy_within_steps(scores, world.values),
        }
        return {name: column.tolist() for name, column in found.items()}

    @property
    def cost(self) -> float:
        """Roughly in proportion to the time it takes."""
        return self.num_steps * (self.num_alternatives if self.method == "intervention" else 1)


@dataclass(frozen=True, kw_only=True)
class OutcomeRun:
    """One contestant of the study of binary outcomes."""

    study: ClassVar[str] = "outcomes"
    contestant: str
    world: Literal["weakest_link", "additive"]
    num_steps: int = 16
    num_tokens: int = 10
    budget: int = 100
    num_others: int = 4
    """Completions behind a Monte-Carlo prefix, exchanges of an intervention."""
    false_negatives: float = 0.0
    false_positives: float = 0.0
    share_right: float = 0.5
    """Of uniform traces, in the weakest-link world."""
    num_iterations: int = 400
    learning_rate: float = 0.1

    def check(self) -> None:
        """Raises ValueError for K beyond the other tokens, a budget below one label, and as world and verifier do."""
        signal = CONTESTANTS[self.contestant].signal
        is_limited = signal == "exchanges at one step"
        if self.num_others < 1 or (is_limited and self.num_others >= self.num_tokens):
            allowed = f"1 to {self.num_tokens - 1}" if is_limited else "1 or more"
            raise ValueError(f"num_alternatives {self.num_others}: {self.contestant} takes {allowed} of them")
        needed = 1 if signal in ("traces", "completions") else 2
        if self.budget < needed:
            raise ValueError(f"budget {self.budget}: {self.contestant} needs {needed} outcomes for its first label")
        Verifier(self.make_world([0]), self.false_negatives, self.false_positives)

    def make_world(self, seeds: Sequence[int]) -> AdditiveWorld | WeakestLinkWorld:
        if self.world == "additive":
            return AdditiveWorld.make(seeds, self.num_steps, self.num_tokens)
        return WeakestLinkWorld.make(seeds, self.num_steps, self.num_tokens, self.share_right)

    def measure(self, seeds: Sequence[int]) -> Measures:
        world, contestant = self.make_world(seeds), CONTESTANTS[self.contestant]
        verifier = Verifier(world, self.false_negatives, self.false_positives)
        examples = SIGNALS[contestant.signal](verifier, self.budget, self.num_others)
        scores = fit(contestant, examples, self.num_tokens, self.num_iterations, self.learning_rate)
        # A table that nothing moved does not vary, and knows nothing.
        found = {"correlation": np.nan_to_num(measures.row_correlation(scores, world.values)).tolist()}
        if isinstance(world, WeakestLinkWorld):
            found["first_error_f1"] = first_error_f1(scores, world)
        return found

    @property
    def cost(self) -> float:
        """Roughly in proportion to the time it takes."""
        return self.num_steps * self.budget * (3 if self.contestant == "softmin" else 1)


Run = PublishedRun | OutcomeRun


def first_error_f1(scores: Table, world: WeakestLinkWorld) -> list[float]:
    """ProcessBench's F1 on fresh traces of each seed, at the threshold that is best on other fresh traces."""
    tuning, test = (scored_traces(scores, world, purpose) for purpose in ("threshold", "test"))
    found = []
    for (tuning_scores, tuning_labels), (test_scores, labels) in zip(tuning, test, strict=True):
        threshold, _ = metrics.best_threshold(tuning_scores, tuning_labels)
        found.append(metrics.first_error_score(metrics.predict_first_error(test_scores, threshold), labels).f1)
    return found


def scored_traces(scores: Table, world: WeakestLinkWorld, purpose: str) -> Iterator[tuple[list[list[float]], np.ndarray]]:
    """Step scores and first wrong step (-1: none) of each seed's fresh traces."""
    _, num_steps, num_tokens = scores.shape
    traces = uniform_traces(streams(world.seeds, purpose), (NUM_TEST_TRACES, num_steps), num_tokens)
    wrong = world.wrong_steps(traces)
    return zip(pick(scores, traces).tolist(), np.where(wrong.any(-1), wrong.argmax(-1), -1), strict=True)


def measure_all(runs: Iterable[Run], seeds: Sequence[int], folder: Path, num_workers: int) -> dict[Run, Measures]:
    """The measures of every run, each kept in `folder` as soon as it is known and taken from there if everything agrees."""
    places = {run: folder / f"{run.study}-{hash64(json.dumps(identity(run, seeds))):016x}.json" for run in dict.fromkeys(runs)}
    found = {run: json.loads(place.read_text()) for run, place in places.items() if place.exists()}
    missing = sorted(places.keys() - found.keys(), key=lambda run: (-run.cost, str(run)))
    bar = progress(measured(missing, seeds, num_workers), total=len(places), initial=len(found), desc="simulating", unit="run")
    for run, result in bar:
        write_json(places[run], identity(run, seeds) | {"measures": result})
        found[run] = {"measures": result}
    return {run: found[run]["measures"] for run in places}


def identity(run: Run, seeds: Sequence[int]) -> dict[str, Any]:
    """Everything that a result depends on."""
    return {"study": run.study, "run": asdict(run), "seeds": list(seeds), "code": code_hash(), "libraries": versions()}


@cache
def versions() -> dict[str, str]:
    return {name: version for name, version in library_versions().items() if name in ("torch", "numpy")}


@cache
def code_hash() -> str:
    root = Path(prm.__file__).parent
    files = [file for pattern in CODE for file in sorted(root.glob(pattern))]
    return hashlib.sha256("".join(f"{file.relative_to(root)} {hash_path(file)}\n" for file in files).encode()).hexdigest()


def measured(runs: Sequence[Run], seeds: Sequence[int], num_workers: int) -> Iterator[tuple[Run, Measures]]:
    """Runs with their measures as they come; in this process if there is one worker."""
    if num_workers == 1 or len(runs) < 2:
        yield from ((run, run.measure(seeds)) for run in runs)
        return
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), start_worker, (os.getpid(),)) as pool:
        futures = {pool.submit(run.measure, seeds): run for run in runs}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        finally:
            pool.shutdown(cancel_futures=True)


def start_worker(parent: int) -> None:
    """One thread, and an end when the parent was killed: the pool's workers would wait for it forever."""
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
