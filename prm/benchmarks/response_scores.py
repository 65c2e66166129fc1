"""How an evaluation makes one score of a response's steps: options and a checkpoint's contract in, aggregations and tau out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prm import metrics
from prm.aggregation import check_aggregation

REPORTED = ("min", "mean", "last")
"""What the field reports."""
TAU = 0.1


@dataclass
class ResponseScoreConfig(metrics.BootstrapConfig):
    """Which aggregations an evaluation reports, each beside the others."""

    aggregation: list[str] | None = None
    """How step scores become one score per response: min, geometric_mean, softmin, product, mean, sum, last, max. Default: min,
    mean, last, and before them, with --model, what the checkpoint's contract or its recipe names (of `qwen`: product)."""
    tau: float | None = None
    """Temperature of softmin, in units of the scores. Default: with --model the checkpoint's own, otherwise 0.1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.aggregations:
            check_aggregation(name, self.softmin_tau)

    @property
    def aggregations(self) -> list[str]:
        """The names to report, the first of which stands for the response where one number must."""
        return list(REPORTED if self.aggregation is None else self.aggregation)

    @property
    def softmin_tau(self) -> float:
        return TAU if self.tau is None else self.tau

    def take_defaults_of(self, contract: Mapping[str, Any]) -> None:
        """Fill in what the user left open, as a checkpoint's contract has it."""
        own = contract["aggregation"]
        if self.aggregation is None:
            self.aggregation = [*REPORTED] if own in REPORTED else [own, *REPORTED]
        if self.tau is None:
            self.tau = contract.get("tau", TAU)
