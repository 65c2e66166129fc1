"""Calibration of step scores: scores and which steps are right in, Brier score and calibration error with their table out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from prm import metrics
from prm.benchmarks.tables import Table, percent


def step_calibration(
    scores: Float[np.ndarray, " steps"], is_good: Bool[np.ndarray, " steps"], num_bins: int
) -> dict[str, float | int]:
    """Of the scores as probabilities of a right step; nan where scores lie outside [0, 1]."""
    is_probability = bool(((scores >= 0) & (scores <= 1)).all())
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
        numbers = ["-" if found[key] is None else f"{found[key]:.4f}" for key in ("brier", "brier_of_constant", "ece")]
        share = "-" if found["share_right"] is None else f"{percent(found['share_right'])}%"
        rows.append([name, *numbers, share, str(found["num_steps"])])
    if any(found["brier"] is None and found["num_steps"] for found in by_name.values()):
        note = f"{note} Undefined (-) for scores outside [0, 1].".strip()
    return Table("Calibration of the step scores as probabilities of a right step", rows, note)
