"""Step scores of one or several PRMs in, a note and a warning out on each whose scores are a constant: they judge nothing."""

import logging
from collections.abc import Mapping, Sequence

from prm.aggregation import is_signed
from prm.metrics.degenerate import DegenerateDetector

logger = logging.getLogger(__name__)


def constant_notes(step_scores: Mapping[str, Sequence[Sequence[float]]]) -> list[str]:
    """A note for the tables on each PRM, by name, whose scores tell no step from another.

    While a model scores, this is an error (`prm.scoring`); scores from elsewhere may be a baseline on purpose. Texts are not looked
    at, so every score counts as that of a different step (an outcome model's as that of a different response), and scores count as
    probabilities unless one lies outside [0, 1]. One and the same number is a constant even where it may be certainty, as in "every
    step right".
    """
    notes = []
    for name, responses in step_scores.items():
        detector = DegenerateDetector(name, "logits" if is_signed(responses) else "probabilities")
        for index, scores in enumerate(responses):
            detector.update((f"{index}.{step}" for step in range(len(scores))), scores)
        if detector.is_degenerate or detector.is_one_value:
            notes.append(
                f"{name}: all {detector.count} scores lie between {detector.lowest_score:.6g} and {detector.highest_score:.6g}: "
                "a constant, which judges nothing; if it is no baseline on purpose, see how they were made"
            )
    for note in notes:
        logger.warning("%s", note)
    return notes
