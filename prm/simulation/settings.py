"""The options of the controlled study."""

import os
from dataclasses import dataclass, field

PUBLISHED = ("methods", "lengths", "sparsity", "seeds", "artefacts")
"""Experiments of the published study and what explains them."""
OUTCOMES = ("budgets", "horizons", "completions", "false_negatives", "false_positives", "threshold")
"""Experiments on binary outcomes under one budget of outcome queries."""
GROUPS = {"published": PUBLISHED, "outcomes": OUTCOMES, "all": (*PUBLISHED, *OUTCOMES)}


@dataclass
class SimulationConfig:
    """Which experiments run, at what size, and where their results go."""

    experiment: list[str] = field(default_factory=lambda: ["all"])
    """published (methods, lengths, sparsity, seeds, artefacts), outcomes (budgets, horizons, completions, false_negatives,
    false_positives, threshold), all, or single ones of these."""
    output_dir: str = "outputs/simulation"
    """Folder for metrics.json, tables.json, the figures, manifest.json, and runs/, from which an interrupted study continues."""
    methods: list[str] = field(default_factory=list)
    """Training signals to run, of the published study (monte_carlo, td, contrastive, intervention) and of the one on outcomes
    (these, asym, min, orm_sum, ...); default: all."""
    num_seeds: int = 20
    """Worlds behind every number, each with traces of its own; seeds count from 0."""
    num_steps: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    """Steps of a trace, the values of T; experiments at one length take 16, or the first where that is left out."""
    num_tokens: int = 10
    """Tokens to choose from at every step, V."""
    num_alternatives: int = 4
    """Other tokens that an intervention tries, and completions behind a Monte-Carlo prefix, K."""
    budgets: list[int] = field(default_factory=lambda: [25, 50, 100, 200, 400])
    """Outcome queries of a contestant; experiments at one budget take 100, or the first where that is left out, and threshold the
    largest."""
    noise_rates: list[float] = field(default_factory=lambda: [0.0, 0.03, 0.06, 0.12, 0.2, 0.3])
    """Chances that the verifier calls a right trace wrong (false_negatives) or a wrong one right (false_positives)."""
    num_iterations: int = 400
    """Steps of gradient descent, stochastic in the published study and full-batch Adam in the one on outcomes."""
    num_workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that share the runs, one core each."""

    def __post_init__(self) -> None:
        known = {*GROUPS, *GROUPS["all"]}
        if not self.experiment or (unknown := [name for name in self.experiment if name not in known]):
            raise ValueError(f"--experiment {' '.join(unknown) if self.experiment else 'is empty'}: choose from {sorted(known)}")
        for name in ("num_seeds", "num_iterations", "num_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: give at least 1")
        for name in ("num_steps", "budgets", "noise_rates"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is empty: give at least one value")

    @property
    def experiments(self) -> list[str]:
        """Groups resolved, in the order of `GROUPS`."""
        chosen = {member for name in self.experiment for member in GROUPS.get(name, (name,))}
        return [name for name in GROUPS["all"] if name in chosen]

    @property
    def seeds(self) -> range:
        return range(self.num_seeds)

    @property
    def is_as_published(self) -> bool:
        """Whether the published numbers at each T are of these settings."""
        return (self.num_tokens, self.num_alternatives, self.num_iterations) == (10, 4, 400)

    @property
    def length(self) -> int:
        """T of the experiments at one length."""
        return 16 if 16 in self.num_steps else self.num_steps[0]

    @property
    def budget(self) -> int:
        """Outcome queries of the experiments at one budget."""
        return 100 if 100 in self.budgets else self.budgets[0]
