"""Best-of-N by groups of questions: measured curves and every question's source, level or length in, one curve per group out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prm.benchmarks.best_of_n.evaluate import BestOfNConfig, MeasuredCurves, curve_of

NUM_LENGTH_GROUPS = 4
RESPONSE_LENGTH = "response length"


def evaluate_breakdown(measured: MeasuredCurves, groups: Mapping[str, Sequence[str]], config: BestOfNConfig) -> dict[str, Any]:
    """`result[field][value]`: the number of questions, the baselines' curves and the PRMs' Best-of-N curves on those questions."""
    return {
        name: {
            value: _curves_on(measured, np.array([v == value for v in values]), config)
            for value in sorted(set(values), key=_natural)
        }
        for name, values in groups.items()
    }


def length_groups(lengths: Sequence[np.ndarray], unit: str) -> list[str]:
    """Questions in up to `NUM_LENGTH_GROUPS` equal parts by the mean length of their candidates, named after their range."""
    means = np.array([group.mean() for group in lengths])
    edges = np.unique(np.quantile(means, np.linspace(0, 1, NUM_LENGTH_GROUPS + 1)))
    if len(edges) == 1:
        return [f"{edges[0]:.0f} {unit}"] * len(means)
    part = np.clip(np.searchsorted(edges, means, side="right") - 1, 0, len(edges) - 2)
    return [f"{edges[p]:.4g} to {edges[p + 1]:.4g} {unit}" for p in part]


def _curves_on(measured: MeasuredCurves, rows: np.ndarray, config: BestOfNConfig) -> dict[str, Any]:
    node: dict[str, Any] = {"num_questions": int(rows.sum()), "baselines": {}, "prms": {}}
    for place, values in measured.values.items():
        if place[0] == "baselines":
            node["baselines"][place[1]] = curve_of(values[rows], measured.ns, config)
        elif place[-1] == "best_of_n":
            node["prms"].setdefault(place[1], {})[place[2]] = curve_of(values[rows], measured.ns, config)
    return node


def _natural(value: str) -> tuple[int, float, str]:
    """Numbers in values by size: "Level 10" behind "Level 9"."""
    digits = "".join(c if c.isdecimal() or c == "." else " " for c in value).split()
    number = next((float(d) for d in digits if d.replace(".", "", 1).isdecimal()), None)
    return (1, 0.0, value) if number is None else (0, number, value)
