"""Biases of step scores: scored responses in; means by position, length and number of steps and rank correlations out.

A later or longer step is wrong more often, so a score that falls with position may be right to do so. Three things tell bias from
truth: correlations among steps of equal truth, correlations within responses, and the gap between score and truth in each bin.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from prm import metrics
from prm.benchmarks.calibration.evaluate import CalibrationConfig, binned_interval
from prm.benchmarks.calibration.scored_steps import UNKNOWN, ScoredResponses

NUM_BINS = 8
TRUTHS = {"all": None, "good": 1, "bad": 0}


def evaluate_bias(scored: ScoredResponses, config: CalibrationConfig) -> dict[str, Any]:
    """`steps[covariate][truth]`: score against position (from 1), step length and number of steps, among all, good and bad steps.

    Without step labels good and bad are the steps of right and of wrong responses (`truth` says which).
    `responses[aggregation][truth]` is the response score against the number of steps. `rho` compares all items, `rho_within` those
    of one response (response scores: of one question).
    """
    has_labels = bool((scored.step_truth != UNKNOWN).any())
    truth = scored.step_truth if has_labels else scored.truth[scored.response]
    question, probabilities = scored.question[scored.response], scored.probabilities(scored.step_score)
    num_steps = scored.num_steps
    covariates = {
        "position": scored.position + 1,
        "step_length": scored.step_length,
        "num_steps": num_steps[scored.response],
    }
    responses = {}
    for name in config.aggregations:
        values = scored.probabilities(scored.response_scores(name, config.softmin_tau))
        responses[name] = _by_truth(num_steps, values, scored.truth, scored.question, scored.question, config)
    return {
        "truth": "step labels" if has_labels else "outcomes",
        "steps": {
            name: _by_truth(x, probabilities, truth, question, scored.response, config) for name, x in covariates.items() if len(x)
        },
        "responses": responses,
    }


def _by_truth(
    x: Int[np.ndarray, " items"],
    scores: Float[np.ndarray, " items"],
    truth: Int[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    cells: Int[np.ndarray, " items"],
    config: CalibrationConfig,
) -> dict[str, Any]:
    """Relation of scores to a covariate `x` by truth; `rho_within` compares only items of one of the `cells`."""
    chosen = {name: np.ones(len(x), dtype=bool) if value is None else truth == value for name, value in TRUTHS.items()}
    return {name: _relation(x, scores, truth, question, cells, rows, config) for name, rows in chosen.items() if rows.any()}


def _relation(
    x: Int[np.ndarray, " items"],
    scores: Float[np.ndarray, " items"],
    truth: Int[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    cells: Int[np.ndarray, " items"],
    rows: Bool[np.ndarray, " items"],
    config: CalibrationConfig,
) -> dict[str, Any]:
    values, y, truth, question, cells = x[rows].astype(np.float64), scores[rows], truth[rows], question[rows], cells[rows]
    return {
        "num_items": int(rows.sum()),
        "rho": _correlation(values, y, question, None, config),
        "rho_within": _correlation(values, y, question, cells, config),
        "bins": _bins(values, y, truth, question, config),
    }


def _correlation(
    x: Float[np.ndarray, " items"],
    y: Float[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    cells: Int[np.ndarray, " items"] | None,
    config: CalibrationConfig,
) -> dict[str, float] | None:
    """None where either does not vary, be it only in each of (very few) resamples."""
    value = metrics.rank_correlation(x, y, cells)
    low, high = metrics.rank_correlation_interval(x, y, question, cells, *config.draws)
    return None if np.isnan([value, low, high]).any() else {"value": value, "low": low, "high": high}


def _bins(
    x: Float[np.ndarray, " items"],
    y: Float[np.ndarray, " items"],
    truth: Int[np.ndarray, " items"],
    question: Int[np.ndarray, " items"],
    config: CalibrationConfig,
) -> list[dict[str, float | None]]:
    """Mean score in bins of about equally many items; `gap` is mean score less share of good ones, where the truth is known."""
    bins = metrics.equal_mass_bins(x, NUM_BINS)
    low, high = binned_interval(bins, y, question, config)
    found = []
    for index, a, b in zip(np.unique(bins), low, high, strict=True):
        rows = bins == index
        known = rows & (truth != UNKNOWN)
        found.append(
            {
                "from": float(x[rows].min()),
                "to": float(x[rows].max()),
                "mean": float(x[rows].mean()),
                "num_items": int(rows.sum()),
                "score": float(y[rows].mean()),
                "low": float(a),
                "high": float(b),
                "gap": float(y[known].mean() - truth[known].mean()) if known.any() else None,
            }
        )
    return found
