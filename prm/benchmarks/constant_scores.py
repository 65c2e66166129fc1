"""Step scores of PRMs in; a note and a warning on each PRM whose scores are a constant, and so judge nothing, out."""

import logging
from collections.abc import Mapping, Sequence

from prm.aggregation import is_signed
from prm.metrics.degenerate import DegenerateDetector

logger = logging.getLogger(__name__)


def constant_notes(step_scores: Mapping[str, Sequence[Sequence[float]]]) -> list[str]:
    """For the tables, a note on each PRM whose scores tell no step from another; also logged as a warning.

    While a model scores, this is an error (`prm.scoring`); scores from elsewhere may be a baseline on purpose. Texts are not looked
    at: every score counts as that of a different step (an outcome model's as that of a different response). Scores count as
    probabilities unless one lies outside [0, 1]. A single number for all is called a constant even where it may be certainty, as
    in "every step right".
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
