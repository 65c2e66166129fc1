"""The published comparison of four training signals: its printed numbers, and whether ours agree with one of them."""

from collections.abc import Mapping
from typing import Any

from prm.simulation.settings import SimulationConfig

PUBLISHED_LENGTH = 16
"""T of the tables that do not vary it."""

METHODS = {
    "monte_carlo": {"mse": 0.257, "correlation": 0.996, "ranking": 0.942},
    "contrastive": {"mse": 1.139, "correlation": 0.910, "ranking": 0.825},
    "intervention": {"mse": 1.064, "correlation": 0.768, "ranking": 0.852},
    "td": {"mse": 1.197, "correlation": 0.207, "ranking": 0.572},
}
LENGTHS = {
    "monte_carlo": {"8": 0.994, "16": 0.995, "32": 0.993, "64": 0.994},
    "contrastive": {"8": 0.930, "16": 0.917, "32": 0.805, "64": 0.555},
    "intervention": {"8": 0.924, "16": 0.783, "32": 0.526, "64": 0.291},
    "td": {"8": 0.429, "16": 0.190, "32": 0.059, "64": 0.019},
}
SPARSITY = {
    "monte_carlo": {"dense": 0.954, "moderate": 0.951, "sparse": 0.950, "very sparse": 0.954},
    "contrastive": {"dense": 0.829, "moderate": 0.827, "sparse": 0.822, "very sparse": 0.839},
    "intervention": {"dense": 0.819, "moderate": 0.832, "sparse": 0.839, "very sparse": 0.823},
    "td": {"dense": 0.558, "moderate": 0.598, "sparse": 0.440, "very sparse": 0.460},
}
SEEDS = {
    "monte_carlo": (0.994, 0.003),
    "contrastive": (0.912, 0.010),
    "intervention": (0.767, 0.049),
    "td": (0.198, 0.026),
}
"""Mean and standard deviation of the correlation over five seeds, T = 16."""
TOLERANCE = 0.05
VERDICT_NOTE = f"yes: published within {TOLERANCE} of our mean; range: not so, but within the range of our seeds; no: in neither"


def printed(config: SimulationConfig) -> dict[str, Any]:
    """The published numbers by experiment and method; none for those that were published under other settings."""
    at_length = config.is_as_published and config.length == PUBLISHED_LENGTH
    tables = {"methods": METHODS, "sparsity": SPARSITY, "seeds": SEEDS} if at_length else {}
    return tables | ({"lengths": LENGTHS} if config.is_as_published else {})


def verdict(published: float, ours: Mapping[str, Any]) -> str:
    """`yes`, `range` or `no`, as `VERDICT_NOTE` has it."""
    if abs(published - ours["mean"]) <= TOLERANCE:
        return "yes"
    return "range" if ours["min"] <= published <= ours["max"] else "no"
