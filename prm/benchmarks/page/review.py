"""What stands out: the items of an evaluation in; verdict, severity and place of each out, the worst misses first."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from prm.benchmarks.results import Item

VERDICTS = {
    "missed": "a step is wrong, and the PRM finds none",
    "wrong step": "a step is wrong, and the PRM names another one first",
    "false alarm": "every step is right, and the PRM names one",
    "no prediction": "the PRM could not read it, or its prediction could not be read",
    "hit": "the PRM names the first wrong step",
    "accepted": "every step is right, and the PRM names none",
    "wrong pick": "Best-of-N chose it, and its answer is wrong or has no outcome",
    "right pick": "Best-of-N chose it, and its answer is right",
    "not picked": "Best-of-N chose another candidate",
}
MISSES = ("missed", "wrong step", "false alarm", "no prediction", "wrong pick")


@dataclass(frozen=True, slots=True)
class Review:
    """An item with what the page says about it."""

    item: Item
    place: int
    """Number of the item in its file, from 0."""
    verdict: str | None
    severity: float | None
    units: list[float]
    """Step scores between 0 and 1, see `to_units`."""


def review_items(items: Iterable[Item]) -> list[Review]:
    """All items, the worst misses first: those whose verdict is a miss, then the others; each by severity, then as in the file.

    Raises ValueError for an item that contradicts itself and for two with one id.
    """
    items = list(items)
    for item in items:
        _check(item)
    if items and (times := Counter(item.id for item in items).most_common(1)[0])[1] > 1:
        raise ValueError(f"id {times[0]!r} stands {times[1]} times among the items; links to them need ids that differ")
    step_units = _by_group(items, lambda item: item.step_scores)
    response_units = _by_group(items, lambda item: [_response_score(item)])
    reviews = []
    for place, (item, units, (response,)) in enumerate(zip(items, step_units, response_units, strict=True)):
        known = None if math.isnan(response) else response
        reviews.append(Review(item, place, verdict(item), severity(item, units, known), units))
    return sorted(reviews, key=lambda r: (r.verdict not in MISSES, 1 if r.severity is None else -r.severity, r.place))


def worst_of_each_group(reviews: Sequence[Review], count: int) -> list[Review]:
    """Up to `count` of the reviews, in their order: the first ones of each group, in proportion to its size."""
    sizes, seen = Counter(review.item.group for review in reviews), Counter[str]()
    shares = []
    for rank, review in enumerate(reviews):
        shares.append(((seen[review.item.group] + 0.5) / sizes[review.item.group], rank))
        seen[review.item.group] += 1
    return [reviews[rank] for rank in sorted(rank for _, rank in sorted(shares)[:count])]


def verdict(item: Item) -> str | None:
    """One of VERDICTS, by the first error where both the true and the predicted one are known, else by Best-of-N's choice."""
    if item.first_error is not None and item.predicted is not None:
        if item.predicted == item.first_error:
            return "accepted" if item.first_error == -1 else "hit"
        return "false alarm" if item.first_error == -1 else "missed" if item.predicted == -1 else "wrong step"
    if item.is_selected is None:
        return "no prediction" if item.first_error is not None and not item.step_scores else None
    return "not picked" if not item.is_selected else "right pick" if item.correct else "wrong pick"


def severity(item: Item, units: Sequence[float], response_unit: float | None) -> float | None:
    """How far the PRM is off, from 0 to 1: the largest distance between a score and its label, over what has a label.

    - First error known: the steps before it are right (1), it is wrong (0), those behind it have no label. With scores s and first
      error k that is max(s_k, 1 - min_{i<k} s_i), without an error 1 - min s. A threshold of 0.5 gets the response right where it
      is below 0.5, and wrong where it is above.
    - Only the outcome known: the distance between the response score and the outcome (0 or 1).
    - No scores: 1 for a verdict that is a miss, else 0.
    - Nothing known: None.
    """
    if item.first_error is not None and units:
        labelled = [1 - unit for unit in (units if item.first_error == -1 else units[: item.first_error])]
        return max(labelled + ([] if item.first_error == -1 else [units[item.first_error]]))
    if item.correct is not None and response_unit is not None:
        return 1 - response_unit if item.correct else response_unit
    judged = verdict(item)
    return None if judged is None else float(judged in MISSES)


def _by_group(items: Sequence[Item], scores_of: Callable[[Item], list[float]]) -> list[list[float]]:
    """Units of every item's scores, group by group: where several PRMs are compared, each is a group with its own scale."""
    scores: dict[str, list[float]] = {}
    for item in items:
        scores.setdefault(item.group, []).extend(scores_of(item))
    units: dict[str, Iterator[float]] = {group: iter(to_units(values).tolist()) for group, values in scores.items()}
    return [list(islice(units[item.group], len(scores_of(item)))) for item in items]


def to_units(scores: Sequence[float]) -> np.ndarray:
    """Scores between 0 and 1: as they are if all lie there, else (logits, log ratios) the share of all scores below, ties half."""
    values = np.asarray(scores, dtype=float)
    known = np.sort(values[~np.isnan(values)])
    if not len(known) or (known[0] >= 0 and known[-1] <= 1):
        return values
    shares = (np.searchsorted(known, values, "left") + np.searchsorted(known, values, "right")) / (2 * len(known))
    return np.where(np.isnan(values), np.nan, shares)


def _response_score(item: Item) -> float:
    """The aggregated score; where the evaluation has none, the lowest step's."""
    return item.response_score if item.response_score is not None else min(item.step_scores, default=math.nan)


def _check(item: Item) -> None:
    num_steps = len(item.steps) or len(item.step_scores)
    if item.steps and item.step_scores and len(item.steps) != len(item.step_scores):
        raise ValueError(f"item {item.id!r} has {len(item.steps)} steps but {len(item.step_scores)} scores; evaluate it again")
    named = [(name, getattr(item, name)) for name in ("first_error", "predicted")]
    for name, step in [*named, *(("a wrong step", step) for step in item.wrong_steps or ())]:
        if step is not None and not -1 <= step < num_steps:
            raise ValueError(f"item {item.id!r}: {name} is {step}, its steps are 0 to {num_steps - 1} (-1: none is wrong)")
