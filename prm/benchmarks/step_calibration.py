"""Calibration of step scores: scores and which steps are right in, Brier score and calibration error with their table out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from prm import metrics
from prm.aggregation import is_signed
from prm.benchmarks.tables import Table, number, percent
from prm.steps import Reading


def reading_of(prm: str, step_scores: Sequence[Sequence[float]], read_as: str) -> Reading:
    """`read_as`; for `auto` probabilities where all scores lie in [0, 1], otherwise logits.

    Raises ValueError for a score outside the range of what it is to be read as.
    """
    lowest = {"probabilities": 0, "differences": -1}
    flat = [score for scores in step_scores for score in scores]
    if read_as in lowest and not lowest[read_as] <= min(flat) <= max(flat) <= 1:
        raise ValueError(f"{prm}: its scores are to be read as {read_as}, but reach from {min(flat):.6g} to {max(flat):.6g}")
    if read_as == "auto":
        return "logits" if is_signed(step_scores) else "probabilities"
    return read_as


def step_calibration(
    scores: Float[np.ndarray, " steps"], is_good: Bool[np.ndarray, " steps"], num_bins: int, reading: Reading
) -> dict[str, float | int]:
    """Brier score and ECE of the scores as probabilities of a right step (nan for logits), and what they are measured on."""
    is_probability = reading != "logits"
    scores = metrics.as_probabilities(scores, reading)
    return {
        "brier": metrics.brier_score(scores, is_good) if is_probability else float("nan"),
        "brier_of_constant": metrics.brier_of_constant(is_good),
        "ece": metrics.expected_calibration_error(scores, is_good, num_bins) if is_probability else float("nan"),
        "num_steps": len(scores),
        "share_right": float(is_good.mean()) if len(is_good) else float("nan"),
    }


def calibration_table(by_name: Mapping[str, Mapping[str, Any]], note: str = "") -> Table:
    rows = [["", "Brier score", "Brier of a constant", "ECE", "right steps", "steps"]]
    for name, found in by_name.items():
        numbers = [number(found[key], ".4f") for key in ("brier", "brier_of_constant", "ece")]
        share = "-" if found["share_right"] is None else f"{percent(found['share_right'])}%"
        rows.append([name, *numbers, share, str(found["num_steps"])])
    if any(found["brier"] is None and found["num_steps"] for found in by_name.values()):
        note = f"{note} Undefined (-) for raw values, which are no probabilities.".strip()
    return Table("Calibration of the step scores as probabilities of a right step", rows, note)
