"""Two PRMs on the same items of a benchmark: the folder of another's evaluation in; its metrics and items, and table cells, out."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prm.benchmarks.predictions import PredictionsConfig
from prm.benchmarks.results import ITEMS, METRICS, Item, check_finished, read_items
from prm.benchmarks.tables import interval, p_value
from prm.files import read_json

Test = Mapping[str, float | None]
"""`difference`, `low`, `high` and `p_value` of a paired test; None where they are undefined."""
NO_TEST: Test = dict.fromkeys(("difference", "low", "high", "p_value"))
COMPARED = "Interval and p: both PRMs on the same resampled items; tuned thresholds stay as they are."
SEVERAL = "p is not corrected for the number of tests."


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


def read_evaluation(folder: str | Path, ids: Collection[str], own_keys: set[str], script: str) -> tuple[dict[str, Any], list[Item]]:
    """Metrics, and the items in the order of `ids`, of a finished evaluation by `script`, whose metrics have `own_keys`.

    Raises FileNotFoundError where there is none, ValueError for one of another kind or of other items.
    """
    check_finished(folder)
    path = Path(folder) / METRICS
    result = read_json(path, "run the evaluation again")
    if not own_keys <= result.keys():
        raise ValueError(f"{path}: is of another benchmark; give the --output_dir of scripts/{script}")
    found = {item.id: item for item in read_items(folder)}
    if strangers := set(ids) ^ found.keys():
        raise ValueError(
            f"{folder}: evaluates other items: {len(strangers)} stand there or here only, such as {min(strangers)!r}; "
            "evaluate both PRMs on the same --data"
        )
    return result, [found[name] for name in ids]


def other_truth(folder: str | Path, item_id: str) -> ValueError:
    """For an item that says something else in the other folder."""
    return ValueError(f"{folder}: item {item_id!r} has another group, text or labels there; evaluate both PRMs on the same --data")


def points(test: Test) -> str:
    """The difference as a table shows it."""
    return "-" if test["difference"] is None else f"{100 * test['difference']:+.1f}"


def interval_and_p(test: Test) -> list[str]:
    """The other two cells."""
    if test["low"] is None or test["high"] is None:
        return ["-", "-"]
    return [interval(100 * test["low"], 100 * test["high"], "+.1f"), p_value(test["p_value"])]
