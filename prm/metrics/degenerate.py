"""Scores of many steps in, an error out when they are all alike: such a PRM is not read as it was trained.

A separator that the tokenizer splits, another chat template, a head that was never loaded: each gives scores (often near 0.5) that
hardly depend on the step, and every benchmark turns them into a number that looks like a result.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from prm.metrics.calibration import as_logits
from prm.steps import Reading

MIN_STEPS = 100
"""Different steps before anything is said: a few steps may well deserve one score."""
LOGIT_DEVIATION = 0.01
"""Standard deviation of the logits below which probabilities count as constant: 0.0025 around 0.5. Trained PRMs reach 1 to 5."""
SATURATION = 6.0
"""Scores that are alike at a mean |logit| beyond this (under 0.0025 or over 0.9975) count as certain, not constant: half precision
rounds them to one number."""
RELATIVE_DEVIATION = 1e-3
"""As `LOGIT_DEVIATION`, for raw values: relative to the largest of them."""


class DegenerateDetector:
    """Watches a run, response by response. Its user holds scores back until `has_enough`, and calls `check` before passing them on.

    `reading` says what the scores are.
    """

    def __init__(self, model: str, reading: Reading):
        self.model, self.reading = model, reading
        self.different_steps: set[str] = set()
        self.count, self.mean, self.squares, self.largest = 0, 0.0, 0.0, 0.0
        self.lowest_score, self.highest_score = math.inf, -math.inf

    def update(self, steps: Iterable[str], scores: Sequence[float]) -> None:
        """Take the scores of one response in."""
        if not self.has_enough:
            self.different_steps.update(steps)
        for score, value in zip(scores, as_logits(np.asarray(scores, dtype=np.float64), self.reading).tolist(), strict=True):
            self.count += 1
            offset = value - self.mean
            self.mean += offset / self.count
            self.squares += offset * (value - self.mean)  # Welford's sum: no cancellation where all are alike
            self.largest = max(self.largest, abs(value))
            self.lowest_score, self.highest_score = min(self.lowest_score, score), max(self.highest_score, score)

    @property
    def has_enough(self) -> bool:
        """Whether there were enough different steps to tell a constant."""
        return len(self.different_steps) >= MIN_STEPS

    @property
    def is_degenerate(self) -> bool:
        """Whether at least `MIN_STEPS` different steps got what is one score, certainty aside."""
        if not self.has_enough:
            return False
        deviation = math.sqrt(self.squares / self.count)
        if self.reading == "logits":
            return deviation <= RELATIVE_DEVIATION * self.largest
        return deviation <= LOGIT_DEVIATION and abs(self.mean) < SATURATION

    @property
    def is_one_value(self) -> bool:
        """Whether at least `MIN_STEPS` different steps got one score to the last digit, which may be certainty."""
        return self.has_enough and bool(self.lowest_score == self.highest_score)

    def check(self) -> None:
        """Raise ValueError when the scores so far are degenerate."""
        if self.is_degenerate:
            raise ValueError(
                f"{self.model}: {self.count} scores of {len(self.different_steps)} or more different steps lie between "
                f"{self.lowest_score:.6g} and {self.highest_score:.6g}: this is a constant, not a judgment. The model is probably "
                "not read as it was trained: check tokenizer, separator and chat template, that the head's weights were loaded, "
                "for a published PRM --recipe, and for an implicit PRM that --reference is not the model itself. Of a training "
                "that failed, --allow_constant True keeps the scores"
            )
