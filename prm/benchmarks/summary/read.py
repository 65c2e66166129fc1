"""Evaluations of PRMs: their folders in, what each reaches by which metric out."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prm.benchmarks.best_of_n.evaluate import BENCHMARK as BEST_OF_N
from prm.benchmarks.best_of_n.plots import BASELINE_LABELS
from prm.benchmarks.prmbench.evaluate import BENCHMARK as PRMBENCH
from prm.benchmarks.prmbench.report import BASELINES as PRMBENCH_BASELINES
from prm.benchmarks.processbench.evaluate import BENCHMARK as PROCESSBENCH
from prm.benchmarks.processbench.report import BASELINES as PROCESSBENCH_BASELINES
from prm.benchmarks.results import METRICS, REMEDY, check_finished, read_items
from prm.benchmarks.score_files import split_name
from prm.files import hash64, read_json
from prm.tracking import manifest_path

logger = logging.getLogger(__name__)

ORACLE = "oracle"


@dataclass(frozen=True)
class Number:
    """A share that a PRM, or a baseline, reaches by one metric; None where it is undefined. The interval, where there is one."""

    prm: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class Summary:
    """What one folder holds."""

    folder: Path
    benchmark: str
    data: str
    """In words."""
    data_hash: int
    numbers: list[Number]
    columns: list[str]
    """The metrics that a table shows."""
    constant_scores: list[str]
    """What the evaluation notes of PRMs whose scores judge nothing."""


def find_evaluations(inputs: Sequence[str]) -> list[tuple[str | None, Path]]:
    """Name and folder of the evaluations that are given as FOLDER or NAME=FOLDER, or lie below such a folder.

    One that is given a name is not listed again without it, wherever else it is found. What is not summarized (calibration reports,
    evaluations that did not come to their end) is left out with a log line. Raises FileNotFoundError for an entry without any.
    """
    found: list[tuple[str | None, Path]] = []
    for entry in inputs:
        name, folder = split_name(entry)
        below = sorted(path.parent for path in Path(folder).rglob(METRICS))
        if not (readable := [path for path in below if _is_readable(path)]):
            check_finished(folder)
            raise FileNotFoundError(f"{entry}: no evaluation of {', '.join(READERS)}; give its --output_dir, or a folder above it")
        found += [(name, path) for path in readable]
    named = {path.resolve() for name, path in found if name}
    return list(dict.fromkeys((name, path) for name, path in found if name or path.resolve() not in named))


def read_summary(folder: Path, name: str | None = None) -> Summary:
    """The numbers of the evaluation in `folder`; its PRM is called `name`, by default as the evaluation itself calls it.

    Several PRMs in one folder are called `name: PRM`. Raises ValueError, naming the file, for metrics that this version does not
    write, and for a PRM that has the name of a baseline.
    """
    result = read_json(folder / METRICS, REMEDY)
    try:
        data, numbers, columns = READERS[result["benchmark"]](result)
        data_hash, constant = _hash_data(result, folder), list(result["constant_scores"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder / METRICS}: lacks what this version writes ({error!r}); {REMEDY}") from error
    if name:
        is_alone = len({n.prm for n in numbers if not n.is_baseline}) == 1
        numbers = [n if n.is_baseline else replace(n, prm=name if is_alone else f"{name}: {n.prm}") for n in numbers]
    prms = {n.prm for n in numbers if not n.is_baseline}
    if taken := {n.prm for n in numbers if n.is_baseline and n.prm in prms}:
        raise ValueError(f"{folder}: a PRM is called {min(taken)!r}, as a baseline is; give it another name, NAME={folder}")
    return Summary(folder, result["benchmark"], data, data_hash, numbers, columns, constant)


def _is_readable(folder: Path) -> bool:
    benchmark = read_json(folder / METRICS, REMEDY).get("benchmark")
    is_finished = manifest_path(folder).exists()
    if benchmark not in READERS or not is_finished:
        reason = "its metrics are none of " + ", ".join(READERS) if is_finished else "it did not come to its end"
        logger.info("%s: left out, as %s", folder, reason)
    return benchmark in READERS and is_finished


def _hash_data(result: Mapping[str, Any], folder: Path) -> int:
    """A hash of the data: of all items, or for Best-of-N, which keeps only some candidates, of what two exact baselines reach."""
    if result["benchmark"] == BEST_OF_N:
        return hash64(repr([result["baselines"][name]["accuracy"] for name in ("random", "pass_at_n")]))
    return hash64(repr(sorted((item.id, item.question, item.first_error, item.wrong_steps) for item in read_items(folder))))


Content = tuple[str, list[Number], list[str]]
"""Data, numbers and columns."""


def _best_of_n(result: Mapping[str, Any]) -> Content:
    ns = list(map(str, result["n"]))
    numbers = []
    for prm, by_aggregation in result["prms"].items():
        for aggregation, found in by_aggregation.items():
            curve = found["best_of_n"]
            parts = [(f"best of {n}, {aggregation}", *(curve[key][n] for key in ("accuracy", "low", "high"))) for n in ns]
            numbers += [Number(prm, *part) for part in parts]
            numbers.append(Number(prm, f"AUC, {aggregation}", found["outcome_auc"]))
    aggregations = list(dict.fromkeys(name for found in result["prms"].values() for name in found))
    columns = [f"best of {ns[-1]}, {name}" for name in aggregations]
    for key, curve in result["baselines"].items():
        if curve:
            values = [curve[end][ns[-1]] for end in ("accuracy", "low", "high")]
            numbers += [Number(BASELINE_LABELS[key], column, *values, is_baseline=True) for column in columns]
    data = f"{result['num_questions']:,} questions, {result['num_candidates']:,} candidates"
    return data, numbers, [*columns, f"AUC, {aggregations[0]}"]


def _processbench(result: Mapping[str, Any]) -> Content:
    prm, subsets = result["prm"], list(result["step_auc"]["subsets"])
    numbers = []
    for rule, found in result["results"].items():
        parts = {f"F1, {rule}": found["average"]} | {f"F1 of {s}, {rule}": found["subsets"][s] for s in subsets}
        numbers += [Number(prm, metric, part["f1"], part["low"], part["high"]) for metric, part in parts.items()]
    numbers.append(Number(prm, "step AUC", result["step_auc"]["average"]))
    columns = _columns("F1", result)
    for key, label in PROCESSBENCH_BASELINES.items():
        numbers.append(Number(label, f"F1, {ORACLE}", result["baselines"][key]["average"]["f1"], is_baseline=True))
    return f"{result['num_items']:,} items of {', '.join(subsets)}{_limit(result)}", numbers, [*columns, "step AUC"]


def _prmbench(result: Mapping[str, Any]) -> Content:
    prm, numbers = result["prm"], []
    for rule, found in result["results"].items():
        parts = {f"PRMScore, {rule}": found}
        parts |= {f"PRMScore of {name}, {rule}": part for name, part in found["categories"].items() if "prm_score" in part}
        numbers += [Number(prm, metric, part["prm_score"], part.get("low"), part.get("high")) for metric, part in parts.items()]
    numbers.append(Number(prm, "step AUC", result["step_auc"]))
    columns = _columns("PRMScore", result)
    for key, label in PRMBENCH_BASELINES.items():
        numbers.append(Number(label, f"PRMScore, {ORACLE}", result["baselines"][key]["prm_score"], is_baseline=True))
    return f"{result['num_items']:,} items{_limit(result)}", numbers, [*columns, "step AUC"]


def _limit(result: Mapping[str, Any]) -> str:
    return "" if result["limit"] is None else f", the first only (--limit {result['limit']})"


def _columns(metric: str, result: Mapping[str, Any]) -> list[str]:
    """One for each rule, and in any case that of the oracle: the baselines are measured at their best threshold."""
    return [f"{metric}, {rule}" for rule in dict.fromkeys([*result["results"], ORACLE])]


READERS = {BEST_OF_N: _best_of_n, PROCESSBENCH: _processbench, PRMBENCH: _prmbench}
"""Benchmark -> what reads its metrics."""
