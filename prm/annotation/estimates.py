"""Monte-Carlo statistics: counts of right completions in; intervals, when to stop, what to sample next and labels out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

Counts = tuple[int, int]
"""(k, K): how many of K completions were right."""
Verdicts = Sequence[bool | None]
"""Of every step: good, bad, or None where that is not known."""


@dataclass(frozen=True)
class StoppingRule:
    """When enough completions of a prefix are drawn: looked at after `min_completions`, then whenever their number has doubled.

    The interval is that of a single look; looking again makes it err more often than `confidence` says.
    """

    min_completions: int
    max_completions: int
    half_width: float = 0.0
    """Stop once the interval is at most twice this wide."""
    confidence: float = 0.95
    threshold: float | None = None
    """Stop once the interval lies on one side of it; None where the value itself is wanted: stopping there would bias it."""

    def num_wanted(self, counts: Counts) -> int:
        """Completions to draw next; 0 if there are enough."""
        num_completions = counts[1]
        if num_completions == 0:
            return self.min_completions
        if num_completions >= self.max_completions or self._is_settled(counts):
            return 0
        return min(num_completions, self.max_completions - num_completions)

    def _is_settled(self, counts: Counts) -> bool:
        low, high = wilson_interval(counts, self.confidence)
        is_decided = self.threshold is not None and (low > self.threshold or high <= self.threshold)
        return is_decided or high - low <= 2 * self.half_width


def wilson_interval(counts: Counts, confidence: float) -> tuple[float, float]:
    """Interval of a probability from k hits in K draws (Wilson 1927); unlike the normal one it has a width at 0 and at K hits."""
    num_right, num_completions = counts
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    center = num_right + z * z / 2
    spread = z * math.sqrt(num_right * (num_completions - num_right) / num_completions + z * z / 4)
    low, high = ((center + sign * spread) / (num_completions + z * z) for sign in (-1, 1))
    # Exact at the ends, where rounding would leave a threshold of 0 on the wrong side.
    return (low if num_right else 0.0), (high if num_right < num_completions else 1.0)


def all_unknown(verdicts: Verdicts) -> list[int]:
    """Every step that has no verdict yet."""
    return [index for index, verdict in enumerate(verdicts) if verdict is None]


def next_in_bisection(verdicts: Verdicts) -> list[int]:
    """The one step that the search for the first error needs next; none when it is found (OmegaPRM, Luo et al. 2024)."""
    _, unknown = _bisect(verdicts)
    return [] if unknown is None else [unknown]


def first_error(verdicts: Verdicts) -> int:
    """Index of the first bad step, by bisection; the number of steps if the last one is good."""
    index, unknown = _bisect(verdicts)
    assert unknown is None, f"step {unknown} has no verdict"
    return index


def _bisect(verdicts: Verdicts) -> tuple[int, int | None]:
    """(first bad step as far as known, step to ask next or None).

    Assumes that a solution never recovers: good up to some step, bad from there on. Asks at most ceil(log2(number of steps)) steps,
    and none where the last one, the outcome, is good.
    """
    if verdicts[-1]:
        return len(verdicts), None
    last_good, first_bad = -1, len(verdicts) - 1
    while first_bad - last_good > 1:
        middle = (last_good + first_bad) // 2
        if verdicts[middle] is None:
            return first_bad, middle
        last_good, first_bad = (middle, first_bad) if verdicts[middle] else (last_good, middle)
    return first_bad, None


SEARCHES: dict[str, Callable[[Verdicts], list[int]]] = {"all": all_unknown, "binary": next_in_bisection}
"""Steps to sample behind next, from the verdicts so far."""


def is_good(counts: Counts, threshold: float) -> bool:
    """Hard estimation: more than a share `threshold` of the completions is right; at 0, one is enough (Math-Shepherd)."""
    return counts[0] > threshold * counts[1]


def soft_labels(completions: Sequence[Counts]) -> list[float]:
    """k/K of every step."""
    return [num_right / num_completions for num_right, num_completions in completions]


def hard_labels(completions: Sequence[Counts], threshold: float) -> list[float]:
    """1 for a good step, -1 for a bad one."""
    return [1.0 if is_good(counts, threshold) else -1.0 for counts in completions]


def labels_around(first_bad: int, num_steps: int) -> list[float]:
    """1 before the first error, -1 from it on."""
    return [1.0] * first_bad + [-1.0] * (num_steps - first_bad)
