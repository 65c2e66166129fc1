"""PRMBench's items and predictions on them: raw rows, assembled rows or the hub's dataset in; items, a prediction for each, out."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prm.benchmarks.predictions import read_predictions, read_step_scores
from prm.benchmarks.results import Item
from prm.data.sources import iter_prmbench
from prm.records import Response, Row

AREAS = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
"""The benchmark's three areas and their categories, spelled as it spells them."""
CATEGORIES = tuple(category for categories in AREAS.values() for category in categories)
CORRECT = "correct"
"""Category of the solutions before errors were put in: in no score, but what the others are compared with."""
Prediction = list[float] | list[bool]
"""Step scores, or whether each step is called good; without any: the model could not read the item."""
_NUMBERING = re.compile(r"^(Step\s*\d+\.\s*|\d+\.\s*)", re.IGNORECASE)


@dataclass(frozen=True)
class PRMBenchItem:
    """A solution in the benchmark's own steps (never split again) and which of them are right."""

    id: str
    category: str
    question: str
    steps: list[str]
    is_good: list[bool]
    first_error: int | None
    """Lowest of the error steps, from 0; None without errors, and where the lowest names no step of the solution."""

    @property
    def correct_id(self) -> str:
        """Id of the solution that the errors were put into."""
        return f"{CORRECT}{self.id.removeprefix(self.category)}"

    def as_response(self, strip_numbering: bool) -> Response:
        """The item as scoring takes it; `Step 3.` or `3.` before a step is removed, as the benchmark's toolkit does for PRMs."""
        steps = [_NUMBERING.sub("", step.strip()) for step in self.steps] if strip_numbering else self.steps
        return Response(question_id=self.id, sample_index=0, question=self.question, steps=steps)

    def as_item(self) -> Item:
        """The item as an evaluation's folder holds it, without what the PRM says."""
        wrong = [step for step, is_good in enumerate(self.is_good) if not is_good]
        first_error = wrong[0] if wrong else -1
        return Item(self.id, self.category, self.question, self.steps, [], first_error=first_error, wrong_steps=wrong)


def load_items(source: str | Path, limit: int | None = None) -> tuple[list[PRMBenchItem], Counter[str]]:
    """The first `limit` items in the order of the source, and counts of what was left out: ids that stand twice, error steps out of
    range.

    Raises ValueError, naming the item, for a category that the benchmark does not have, and for a source without items to score.
    """
    left_out: Counter[str] = Counter()
    items = [_item(*found) for found in islice(iter_prmbench(source, left_out), limit)]
    if all(item.category == CORRECT for item in items):
        where = "in it" if limit is None else f"among its first {limit}"
        raise ValueError(f"{source}: no items to score {where}, only {len(items)} correct ones")
    return items, +left_out


def load_predictions(path: str | Path, items: Sequence[PRMBenchItem]) -> tuple[list[Prediction], Counter[str]]:
    """Predictions in the order of `items`, of an id that stands twice the first, as in the benchmark; and counts of rows left out.

    Rows are `{"id", "step_scores"}`, our step scores, or the results of the benchmark's own toolkit. Raises ValueError as
    `read_predictions` does, and where some rows hold scores and some labels.
    """
    predictions, left_out = read_predictions(path, {item.id: item for item in items}, _prediction, keep_first=True)
    kinds = {isinstance(prediction[0], bool) for prediction in predictions if prediction}
    if len(kinds) > 1:
        raise ValueError(f"{path}: some rows hold step scores and some labels; give one kind")
    return predictions, left_out


def _item(response: Response, row: Row, place: str) -> PRMBenchItem:
    name = response.question_id
    category = next((known for known in (CORRECT, *CATEGORIES) if name.startswith(f"{known}_")), None)
    if category is None:
        known = ", ".join((CORRECT, *CATEGORIES))
        raise ValueError(f"{place}: item {name!r} is of no category that PRMBench has: they are {known}")
    is_good = [label > 0 for label in response.step_labels or ()]
    lowest = -1 if category == CORRECT else min(row["error_steps"], default=0) - 1
    first_error = lowest if 0 <= lowest < len(is_good) else None
    return PRMBenchItem(name, category, response.question, response.steps, is_good, first_error)


def _prediction(row: Row, item: PRMBenchItem, place: str) -> Prediction:
    if "step_scores" in row:
        return read_step_scores(row["step_scores"], len(item.steps), item.id, place)
    if not row.get("validity", True):
        return []  # the toolkit's row of an answer that it could not read, often without any scores
    if "scores" not in row:
        raise ValueError(f"{place}: neither step_scores nor the toolkit's scores for item {item.id!r}, found {sorted(row)}")
    return _toolkit_labels(row["scores"], item, place)


def _toolkit_labels(scores: Any, item: PRMBenchItem, place: str) -> list[bool]:
    """Labels of the benchmark's toolkit; where it asked for redundancy, a step of those categories is good if not redundant."""
    if not isinstance(scores, dict):
        raise ValueError(f"{place}: the toolkit's scores of item {item.id!r} are {scores!r:.80}, expected an object of labels")
    asks_redundancy = item.category in AREAS["simplicity"] and "step_level_redundancy_labels" in scores
    name = "step_level_redundancy_labels" if asks_redundancy else "step_level_validity_labels"
    labels = scores.get(name)
    if not isinstance(labels, list) or len(labels) != len(item.steps) or not all(label in (0, 1) for label in labels):
        raise ValueError(f"{place}: item {item.id!r} has {len(item.steps)} steps, but {name} are {labels!r:.80}")
    return [bool(label) != asks_redundancy for label in labels]
