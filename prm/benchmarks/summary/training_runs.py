"""Methods over training runs: what each run's PRM reaches in, tables of mean, spread and differences out.

The PRMs of one method are named as it is, with their seed behind: asym-seed0, asym-seed1. One may be named as the method alone.
"""

import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prm.benchmarks.comparison import NO_TEST, interval_and_p, points
from prm.benchmarks.tables import Table, percent
from prm.metrics import run_difference, run_spread

logger = logging.getLogger(__name__)

RUN_NAME = re.compile(r"(.+?)[-_. ]+seed[-_=]?\d+", re.IGNORECASE)
RUNS_NOTE = "Mean over runs, standard deviation between them, lowest and highest; blank where a run lacks the metric."
DIFFERENCES_NOTE = (
    "Welch's t-test over runs, 95%: what other seeds would give on these items. Not in it: other items, and that there are several "
    "pairs and columns. A method of one run is taken to vary as the other."
)

Values = Mapping[str, Mapping[str, float | None]]
"""PRM -> metric -> the share it reaches, None where undefined."""


def method_of(prm: str) -> str:
    """What a PRM is a run of: its name without the seed."""
    match = RUN_NAME.fullmatch(prm)
    return match[1] if match else prm


def by_method(values: Values) -> dict[str, dict[str, list[float]]]:
    """Method -> metric -> one value per run, of the metrics that all its runs have."""
    runs: dict[str, list[Mapping[str, float | None]]] = {}
    for prm, by_metric in values.items():
        runs.setdefault(method_of(prm), []).append(by_metric)
    methods: dict[str, dict[str, list[float]]] = {}
    for method, of_runs in runs.items():
        found = {metric: [numbers.get(metric) for numbers in of_runs] for metric in of_runs[0]}
        methods[method] = {metric: numbers for metric, numbers in found.items() if None not in numbers}
    return methods


def measure_runs(values: Values) -> dict[str, list[dict[str, Any]]]:
    """`methods`: a `RunSpread` of each method and metric; `differences`: a `RunDifference` of each pair with a common metric.

    Logs a warning of two runs that look like one training under two names: it would count twice, and make the spread too small.
    """
    for first, second in same_runs(values):
        logger.warning(
            "%s and %s reach the same by every metric: if they are one training, leave one of the two out", first, second
        )
    methods = by_method(values)
    spreads = [
        {"method": method, "metric": metric, **asdict(run_spread(numbers))}
        for method, found in methods.items()
        for metric, numbers in found.items()
    ]
    differences = [
        {"first": first, "second": second, "metric": metric, **asdict(run_difference(numbers, methods[second][metric]))}
        for first, second in itertools.combinations(methods, 2)
        for metric, numbers in methods[first].items()
        if metric in methods[second]
    ]
    return {"methods": spreads, "differences": differences}


def same_runs(values: Values) -> list[tuple[str, str]]:
    """Runs of one method that agree in all metrics that both have."""
    pairs = []
    for first, second in itertools.combinations(values, 2):
        shared = values[first].keys() & values[second].keys()
        is_same = all(values[first][metric] == values[second][metric] for metric in shared)
        if method_of(first) == method_of(second) and shared and is_same:
            pairs.append((first, second))
    return pairs


def run_tables(measured: Mapping[str, Sequence[Mapping[str, Any]]], columns: Sequence[str], title: str) -> list[Table]:
    """A row per method, best mean of the first column first; then for each column a row per pair of methods."""
    spreads: dict[str, dict[str, Mapping[str, Any]]] = {}
    for spread in measured["methods"]:
        spreads.setdefault(spread["method"], {})[spread["metric"]] = spread
    order = sorted(spreads, key=lambda method: -spreads[method].get(columns[0], {"mean": 0.0})["mean"])
    rows = [["method", "runs", *columns]]
    for method in order:
        num_runs = next(iter(spreads[method].values()))["num_runs"]
        rows.append([method, str(num_runs), *(_cell(spreads[method].get(column)) for column in columns)])
    tables = [Table(f"{title}: over training runs (%)", rows, RUNS_NOTE)]
    tests = {(test["first"], test["second"], test["metric"]): test for test in measured["differences"]}
    for number, column in enumerate(columns):
        rows = [[column, "difference", "interval", "p"]]
        for first, second in itertools.combinations(order, 2):
            if test := tests.get((first, second, column)):
                rows.append(_difference_row(first, second, test, 1))
            elif test := tests.get((second, first, column)):
                rows.append(_difference_row(first, second, test, -1))
        if len(rows) > 1:
            name = f"{title}: {column} of methods against each other, points, over training runs"
            tables.append(Table(name, rows, DIFFERENCES_NOTE, is_folded=number > 0))
    return tables


def _cell(spread: Mapping[str, Any] | None) -> str:
    if spread is None:
        return ""
    if spread["std"] is None:
        return percent(spread["mean"])
    return f"{percent(spread['mean'])} ± {percent(spread['std'])} ({percent(spread['lowest'])} to {percent(spread['highest'])})"


def _difference_row(first: str, second: str, test: Mapping[str, Any], sign: int) -> list[str]:
    """The first minus the second; sign -1 where the test has them the other way round."""
    test = {key: value if value is None or key == "p_value" else sign * value for key, value in test.items() if key in NO_TEST}
    if sign < 0:
        test |= {"low": test["high"], "high": test["low"]}
    return [f"{first} - {second}", points(test), *interval_and_p(test)]
