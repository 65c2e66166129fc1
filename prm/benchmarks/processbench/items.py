"""ProcessBench's items and predictions on them: files, folders or the hub's dataset in; items, and a prediction for each, out."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from prm import metrics
from prm.benchmarks.predictions import prediction_files, read_predictions, read_step_scores
from prm.benchmarks.results import Item
from prm.data.hub import PRESETS, parse_source, read_source
from prm.records import Response, Row, is_instance, is_text_or_number

PRESET = "processbench"
SUBSETS = PRESETS[PRESET].splits
Prediction = list[float] | int
"""Step scores (none: the model could not read the item), or the first wrong step (-1 none, `metrics.UNPARSABLE` null)."""


@dataclass(frozen=True)
class FirstErrorItem:
    """A solution in the benchmark's own steps (never split again) and its first wrong step, -1 if none is."""

    id: str
    subset: str
    problem: str
    steps: list[str]
    label: int
    generator: str | None = None
    """The model that wrote the solution."""
    final_answer_correct: bool | None = None

    def as_response(self) -> Response:
        """The item as scoring takes it."""
        return Response(question_id=self.id, sample_index=0, question=self.problem, steps=self.steps)

    def as_item(self) -> Item:
        """The item as an evaluation's folder holds it, without what the PRM says."""
        correct = self.final_answer_correct
        return Item(self.id, self.subset, self.problem, self.steps, [], first_error=self.label, correct=correct)


def data_sources(data: Sequence[str]) -> list[str]:
    """The sources behind `--data`: a folder stands for its files, `processbench` for all four subsets of the hub's dataset."""
    sources: list[str] = []
    for source in data:
        if Path(source).is_dir():
            sources += sorted(map(str, prediction_files(source)), key=_subset_order)
        elif not Path(source).exists() and re.fullmatch(rf"{PRESET}(@[^:]+)?", source):
            sources += [f"{source}:{subset}" for subset in SUBSETS]
        else:
            sources.append(source)
    return sources


def load_items(data: str | Path | Sequence[str], limit: int | None = None) -> list[FirstErrorItem]:
    """Read sources, or a single one: the first `limit` items of every subset, named after its file, on the hub after its split.

    Raises ValueError, naming the place, for a row that is no item, an id that stands twice, and data without items.
    """
    data = [str(data)] if isinstance(data, str | Path) else data
    items = []
    for source in data_sources(data):
        if not (of_source := list(_read_subset(source))):
            raise ValueError(f"{source}: no items in it; remove it, or the average would be over the other subsets")
        items += of_source
    if not items:
        raise ValueError(f"{' '.join(data)}: no items in it")
    name, times = Counter(item.id for item in items).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{' '.join(data)}: id {name!r} stands {times} times: predictions could not be told apart")
    numbers: defaultdict[str, Iterator[int]] = defaultdict(count)
    return [item for item in items if limit is None or next(numbers[item.subset]) < limit]


def load_predictions(path: str | Path, items: Sequence[FirstErrorItem]) -> tuple[list[Prediction], Counter[str]]:
    """Predictions in the order of `items`: rows `{"id", "step_scores"}` or `{"id", "prediction"}`, or our step scores.

    Also counts what was left out, as `read_predictions`. Raises ValueError as it does, and for both kinds in one file.
    """
    predictions, left_out = read_predictions(path, {item.id: item for item in items}, _prediction)
    if len({isinstance(prediction, int) for prediction in predictions}) > 1:
        raise ValueError(f"{path}: some rows hold step_scores and some a prediction; give one kind")
    return predictions, left_out


def _subset_order(file: str) -> int:
    stem = Path(file).stem
    return SUBSETS.index(stem) if stem in SUBSETS else len(SUBSETS)


def _read_subset(source: str) -> Iterator[FirstErrorItem]:
    hub = parse_source(source)
    subset = Path(source).stem if hub is None else hub.split or hub.dataset.rsplit("/", 1)[-1]
    for row, place in read_source(source):
        yield _item(row, subset, place)


def _item(row: Row, subset: str, place: str) -> FirstErrorItem:
    if missing := [key for key in ("id", "problem", "steps", "label") if key not in row]:
        raise ValueError(f"{place}: no {missing[0]!r}; a ProcessBench item has id, problem, steps and label, found {sorted(row)}")
    steps, label, correct = row["steps"], row["label"], row.get("final_answer_correct")
    if not is_text_or_number(row["id"]):
        raise ValueError(f"{place}: id {row['id']!r:.80}; expected a text or a number")
    if not steps or not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise ValueError(f"{place}: item {row['id']!r} has steps {steps!r:.80}; expected a list of texts with at least one")
    for name in ("problem", "generator"):
        if not isinstance(row.get(name), str) and not (name == "generator" and row.get(name) is None):
            raise ValueError(f"{place}: item {row['id']!r} has {name} {row[name]!r:.80}; expected a text")
    if not isinstance(label, int) or isinstance(label, bool) or not -1 <= label < len(steps):
        raise ValueError(
            f"{place}: item {row['id']!r} has label {label!r}; of its {len(steps)} steps give the index of the first wrong one, an "
            "integer from 0, or -1 for no error"
        )
    if not is_instance(correct, bool | None):
        raise ValueError(f"{place}: item {row['id']!r} has final_answer_correct {correct!r:.80}; expected true, false or null")
    return FirstErrorItem(str(row["id"]), subset, row["problem"], steps, label, row.get("generator"), correct)


def _prediction(row: Row, item: FirstErrorItem, place: str) -> Prediction:
    if "step_scores" in row and "prediction" in row:
        raise ValueError(f"{place}: item {item.id!r} has step_scores and a prediction; leave one of the two out")
    if "step_scores" in row:
        return read_step_scores(row["step_scores"], len(item.steps), item.id, place)
    if "prediction" not in row:
        raise ValueError(f"{place}: neither step_scores nor prediction for item {item.id!r}, found {sorted(row)}")
    predicted = row["prediction"]
    if predicted is None:
        return metrics.UNPARSABLE
    if not isinstance(predicted, int) or isinstance(predicted, bool) or predicted < -1:
        raise ValueError(f"{place}: prediction {predicted!r} of item {item.id!r}: give a step's index, -1 or null (unparsable)")
    return min(predicted, len(item.steps))  # behind the last step every number says the same: no step of the item
