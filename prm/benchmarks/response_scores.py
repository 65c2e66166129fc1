"""Which aggregations an evaluation reports: its options and the PRM's own aggregation in, aggregations out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from prm import metrics
from prm.aggregation import TAU, Aggregation, check_aggregation
from prm.scoring import ScoringNotes

REPORTED = ("min", "mean", "last")
"""What the field reports."""
OWN = "own"
"""Name that stands for each PRM's own aggregation."""


def of_step_scores(aggregation: str) -> str:
    """What a title calls the scores of responses."""
    return "each PRM's own aggregation" if aggregation == OWN else f"{aggregation.replace('_', ' ')} of step scores"


def resolve_aggregation(prm: str, name: str, tau: float, own: Mapping[str, Aggregation]) -> Aggregation:
    """The aggregation that a name stands for under a PRM. Raises ValueError for `own` where the PRM's own one is unknown."""
    if name != OWN:
        return Aggregation(name, tau)
    if prm not in own:
        raise ValueError(
            f"--aggregation {OWN}: nothing says what {prm} was trained for (the manifest of scripts/score.py beside its scores "
            "does): name an aggregation"
        )
    return own[prm]


@dataclass
class ResponseScoreConfig(metrics.BootstrapConfig):
    """Which aggregations an evaluation reports, each beside the others."""

    aggregation: list[str] | None = None
    """How step scores become one score per response: min, geometric_mean, softmin, product, mean, sum, last, max; for Best-of-N
    also own, of each PRM what it was trained for, as the manifest of scripts/score.py has it. Default: min, mean, last, and before
    them, with --model, what the checkpoint's contract or its recipe names (of `qwen`: product)."""
    tau: float | None = None
    """Temperature of softmin, in units of the scores. Default: with --model the checkpoint's own, otherwise 0.1."""

    knows_own: ClassVar[bool] = False
    """Whether `own` may stand among the aggregations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.aggregations:
            if not (name == OWN and self.knows_own):
                check_aggregation(name, self.softmin_tau)
        if self.aggregation is not None:
            self.check_tau()

    @property
    def aggregations(self) -> list[str]:
        """The names to report, the first of which stands for the response where one number must."""
        return list(REPORTED if self.aggregation is None else self.aggregation)

    @property
    def softmin_tau(self) -> float:
        return TAU if self.tau is None else self.tau

    def check_tau(self) -> None:
        """Raises ValueError for a temperature without softmin, which alone has one. Call it once the aggregations are known."""
        if self.tau is not None and "softmin" not in self.aggregations:
            raise ValueError(f"--tau {self.tau}: the temperature of softmin, but --aggregation is {' '.join(self.aggregations)}")

    def take_defaults_of(self, notes: ScoringNotes) -> None:
        """Fill in what the user left open, by what the PRM was trained for."""
        own = notes.aggregation
        if self.aggregation is None:
            self.aggregation = [*REPORTED] if own.name in REPORTED else [own.name, *REPORTED]
        self.check_tau()
        if self.tau is None:
            self.tau = own.tau
