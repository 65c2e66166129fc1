"""Two PRMs on the same items of a benchmark: the other's evaluation folder and scores of both in; paired tests, a table out."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from prm import metrics
from prm.benchmarks.predictions import PredictionsConfig
from prm.benchmarks.results import ITEMS, METRICS, REMEDY, Item, check_finished, read_items
from prm.benchmarks.tables import Table, interval, p_value
from prm.files import read_json
from prm.records import is_number

Test = Mapping[str, float | None]
"""`difference`, `low`, `high` and `p_value` of a paired test; None where they are undefined."""
NO_TEST: Test = dict.fromkeys(("difference", "low", "high", "p_value"))
COMPARED = "Interval and p: both PRMs on the same resampled items; tuned thresholds stay as they are."
SEVERAL = "p is not corrected for the number of tests."
SAME_DATA = "evaluate both PRMs on the same --data and with the same --limit"
_truth = attrgetter("group", "question", "steps", "first_error", "wrong_steps")


@dataclass(kw_only=True)
class ComparisonConfig(PredictionsConfig):
    """What gives the items their scores, and other evaluations to compare with."""

    compare: list[str] = field(default_factory=list)
    """Folders of other PRMs' evaluations on the same items: the result minus theirs, with paired intervals and tests."""
    output_dir: str = ""
    """Folder of this evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        folders = [Path(folder).resolve() for folder in [self.output_dir, *self.compare]]
        for index, folder in enumerate(folders):
            if folder in folders[:index]:
                name = self.compare[index - 1]
                raise ValueError(f"--compare {name}: given twice, or the --output_dir itself; name other evaluations' folders")

    @property
    def compared_files(self) -> list[str]:
        """What is read of the other evaluations."""
        return [str(Path(folder) / name) for folder in self.compare for name in (METRICS, ITEMS)]


@dataclass(frozen=True)
class Evaluation:
    """A PRM's predictions on all items, in the order of the data, and the thresholds that it was evaluated with, by rule."""

    predictions: list[Any]
    thresholds: dict[str, Any]


Side = tuple[Mapping[str, float], Mapping[str, Float[np.ndarray, " draws"]], Shaped[np.ndarray, "items *_"]]
"""One PRM of a comparison: its score by column of a table, the same in resamples, and the outcome of every item behind them."""


def read_evaluation(
    folder: str | Path, items: Sequence[Item], benchmark: str, places: Iterable[Sequence[str]], may_be_null: Collection[str]
) -> tuple[dict[str, Any], list[Item]]:
    """Metrics and items of a finished evaluation on `benchmark`: the same items as `items`, in their order, with the same truth.

    `places` are paths in a rule's results where a threshold stands; it is null only under the rules `may_be_null`. Raises
    FileNotFoundError where there is no evaluation, ValueError for one of another benchmark or other items, and for damaged files.
    """
    check_finished(folder)
    if missing := [name for name in (METRICS, ITEMS) if not (Path(folder) / name).exists()]:
        raise FileNotFoundError(f"{Path(folder) / missing[0]}: no such file; {REMEDY}")
    result = read_json(Path(folder) / METRICS, REMEDY)
    if result.get("benchmark") != benchmark:
        script = f"scripts/{benchmark.lower()}_eval.py"
        raise damaged(folder, METRICS, f"is not of {benchmark}, or of an older version; give the --output_dir of {script}, or")
    found: dict[str, Item] = {}
    for item in read_items(folder):
        if item.id in found:
            raise damaged(folder, ITEMS, f"item {item.id!r} stands there twice;")
        if (num_scores := len(item.step_scores)) not in (0, len(item.steps)):
            raise damaged(folder, ITEMS, f"item {item.id!r} has {len(item.steps)} steps, but {num_scores} step_scores;")
        found[item.id] = item
    if strangers := {item.id for item in items} ^ found.keys():
        raise ValueError(
            f"{folder}: evaluates other items: {len(strangers)} stand there or here only, such as {min(strangers)!r}; {SAME_DATA}"
        )
    if other := [item.id for item in items if _truth(item) != _truth(found[item.id])]:
        raise ValueError(f"{folder}: item {other[0]!r} has another group, text or labels there; {SAME_DATA}")
    _check_thresholds(folder, result.get("results"), places, may_be_null)
    return result, [found[item.id] for item in items]


def damaged(folder: str | Path, name: str, what: str) -> ValueError:
    """The error for a file that no evaluation writes like this; `what` ends so that the remedy can follow."""
    return ValueError(f"{Path(folder) / name}: {what} {REMEDY}")


def _check_thresholds(folder: str | Path, results: Any, places: Iterable[Sequence[str]], may_be_null: Collection[str]) -> None:
    if not isinstance(results, dict) or not results or ("prediction" in results and len(results) > 1):
        raise damaged(folder, METRICS, f"results are {results!r:.80}, expected them by rule;")
    for rule, place in product(results, places):
        value = reduce(lambda node, key: node.get(key, "missing") if isinstance(node, dict) else "missing", place, results[rule])
        if not (is_number(value) or (value is None and rule in may_be_null)):
            raise damaged(folder, METRICS, f"results.{rule}.{'.'.join(place)} is {value!r:.80}, expected a number;")


def matching_rules(own: Evaluation, other: Evaluation) -> dict[str, str]:
    """For each rule of `own` the rule of `other` that it is compared with: that of the same name, or else the first."""
    return {rule: rule if rule in other.thresholds else next(iter(other.thresholds)) for rule in own.thresholds}


def paired_tests(
    own: Side, other: Side, columns: Mapping[str, Bool[np.ndarray, " items"]], confidence: float
) -> dict[str, dict[str, float]]:
    """A `Test` of `own` minus `other` for each column; `columns` say which items one is of. nan where a test is undefined."""
    *values, by_item = zip(own, other, strict=True)
    is_apart = (by_item[0] != by_item[1]).reshape(len(by_item[0]), -1).any(axis=1)
    tests = {}
    for name, is_own in columns.items():
        gaps = [np.asarray(first[name] - second[name]) for first, second in values]
        found = metrics.paired_test(*gaps, int(is_own.sum()), np.asarray((is_own & is_apart).sum()), confidence)
        tests[name] = {key: float(value) for key, value in vars(found).items()}
    return tests


def comparison_table(
    result: Mapping[str, Any], score: str, head: list[str], cells: Callable[[Any], list[str]], name: Callable[[str], str], note: str
) -> Table:
    """A row per rule and other PRM: its `cells` under `head`, with `name` for a rule."""
    rows = [["", *head]]
    for rule, (other, by_rule) in product(result["results"], result["comparisons"].items()):
        found = by_rule[rule]
        theirs = "" if found["rule"] == rule else f" ({name(found['rule'])})"
        rows.append([f"{name(rule)}, against {other}{theirs}", *cells(found)])
    note = f"{COMPARED} {note}" + (f" {SEVERAL}" if len(rows) > 2 else "")
    return Table(f"{score} of {result['prm']} minus that of other PRMs, points, paired over items", rows, note)


def points(test: Test) -> str:
    """The difference as a table shows it."""
    return "-" if test["difference"] is None else f"{100 * test['difference']:+.1f}"


def interval_and_p(test: Test) -> list[str]:
    """The interval of the difference and the p-value as a table shows them, behind `points`."""
    if test["low"] is None or test["high"] is None:
        return ["-", "-"]
    return [interval(100 * test["low"], 100 * test["high"], "+.1f"), p_value(test["p_value"])]
