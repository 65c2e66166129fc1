"""Options that evaluations share: bins of the calibration error, the fixed threshold, and what is shown beside a result."""

import math
from dataclasses import dataclass, field

from prm import metrics
from prm.benchmarks.published_values import parse_published
from prm.scoring import ScoringNotes
from prm.steps import Reading

MAX_BINS, MAX_DRAWS = 10_000, 10_000


@dataclass(kw_only=True)
class CalibrationBinsConfig(metrics.BootstrapConfig):
    """How the calibration error is taken."""

    num_calibration_bins: int = metrics.calibration.NUM_BINS
    """Bins of the calibration error and of the reliability plot, of equal width unless a result says equal mass."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.num_calibration_bins <= MAX_BINS:
            raise ValueError(f"--num_calibration_bins {self.num_calibration_bins}: give at least one, and no more than {MAX_BINS}")


FIXED_THRESHOLD = 0.5


def natural_threshold(reading: Reading) -> float:
    """The score at which a PRM is undecided about a step: 0.5 for probabilities, 0 for differences and raw values."""
    return FIXED_THRESHOLD if reading == "probabilities" else 0.0


@dataclass(kw_only=True)
class StepBenchmarkConfig(CalibrationBinsConfig):
    """The fixed threshold of a benchmark of wrong steps, and what stands beside its results."""

    fixed_threshold: float | None = None
    """Threshold of the `fixed` rule, in units of the scores. Default: 0.5, or 0 where the contract of --model, or what
    scripts/score.py noted beside the scores, says that they are no probabilities."""
    num_random_draws: int = 20
    """Draws of uniform random scores behind the content-free baseline."""
    published: list[str] = field(default_factory=list)
    """Published results to show beside the measured one, LABEL=VALUE (a share, such as 0.4699)."""
    limit: int | None = None
    """Evaluate only the first items, so many of every subset of ProcessBench, or of PRMBench in all: a smoke run, whose numbers are
    not the benchmark's. With --model it wants an --output_dir of its own."""

    reading: Reading | None = field(default=None, init=False)
    """What the scores are, where it is known; nothing to choose."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_random_draws < 1:
            raise ValueError(f"--num_random_draws {self.num_random_draws}: the baseline is a mean over draws, give at least one")
        if self.num_random_draws > MAX_DRAWS:
            raise ValueError(f"--num_random_draws {self.num_random_draws}: {MAX_DRAWS} at most, which are held at a time")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: give at least 1 item, or leave it out for all")
        parse_published(self.published)
        if not math.isfinite(self.used_threshold):
            raise ValueError(f"--fixed_threshold {self.fixed_threshold}: give a finite number in units of the scores, such as 0.5")

    @property
    def prm_name(self) -> str:
        """What results call the PRM, where the config does not say which one it is."""
        return "the PRM"

    @property
    def used_threshold(self) -> float:
        """Threshold of the `fixed` rule."""
        return FIXED_THRESHOLD if self.fixed_threshold is None else self.fixed_threshold

    @property
    def has_natural_threshold(self) -> bool:
        """Whether the `fixed` rule takes `natural_threshold`, since the user left its threshold open."""
        return self.fixed_threshold is None

    def take_defaults_of(self, notes: ScoringNotes | None) -> None:
        """Fill in what the user left open from `notes`, if there are any."""
        self.reading = notes.reading if notes else None
        if self.reading is not None and self.has_natural_threshold:
            self.fixed_threshold = natural_threshold(self.reading)


def limit_notes(limit: int | None, of: str) -> list[str]:
    """The first note below a table where `limit` leaves items out; `of` says of what the items are, such as " of every subset"."""
    if limit is None:
        return []
    return [f"--limit {limit}: of the first {limit} items{of} only, a smoke run; these are not the benchmark's numbers."]
