"""Options of the miniature, checked before anything runs."""

from dataclasses import dataclass, field

from prm.miniature.policy import BaseConfig, PolicyConfig
from prm.miniature.problems import ProblemConfig

MAIN_LOSSES = ["step_ce", "orm", "implicit_prm", "asym"]
OTHER_LOSSES = ["min", "geometric_mean", "softmin"]
FURTHER_LOSSES = ["robust_asym", "reversed_asym", "td_lambda", "pqm"]


@dataclass
class MiniatureConfig:
    """How large the miniature is."""

    output_dir: str = "outputs/miniature"
    """Folder of the run; an interrupted run continues there."""
    losses: list[str] = field(default_factory=lambda: list(MAIN_LOSSES))
    """Objectives to train, in this order."""
    all: bool = False
    """Train the symmetric objectives too: min, geometric_mean and softmin."""
    num_train_questions: int = 600
    """Questions whose graded rollouts the PRMs learn from."""
    num_eval_questions: int = 200
    """Held-out questions of the Best-of-N curves."""
    num_train_samples: int = 16
    """Responses sampled for every training question."""
    num_eval_samples: int = 64
    """Responses sampled for every held-out question: the largest N."""
    min_steps: int = ProblemConfig.min_steps
    """Fewest steps of a question."""
    max_steps: int = ProblemConfig.max_steps
    """Most steps of a question, at most 9."""
    fact_steps: int = BaseConfig.fact_steps
    """Optimizer steps of the base's pre-training on single facts."""
    document_steps: int = BaseConfig.document_steps
    """Optimizer steps of the base's pre-training on documents."""
    mark_steps: int = BaseConfig.mark_steps
    """Optimizer steps of the base's pre-training on documents with marks before the reviews."""
    policy_steps: int = PolicyConfig.num_steps
    """Optimizer steps of the policy's fine-tuning."""
    max_train_steps: int = -1
    """Optimizer steps of every PRM at the most; -1 keeps what its own config says."""
    false_positive_rates: list[float] = field(default_factory=lambda: [0.0])
    """Shares of right answers with a wrong step to reach among the training labels, by calling wrong responses right; every
    objective is trained for each. 0 keeps the labels as they were graded."""
    training_runs: int = 1
    """Times that every objective is trained on the same data: the first with --seed, each further one with the next seed."""
    labelling: bool = False
    """Compare ways of labelling steps instead of training PRMs."""
    judge_steps: int = 150
    """Optimizer steps of the LLM judge's tuning, for --labelling; 0 leaves the judge out."""
    num_ranks: int = 2
    """DeepSpeed ranks of PRM training."""
    seed: int = 0
    """Seed of problems, models and samples."""

    def __post_init__(self) -> None:
        known = [*MAIN_LOSSES, *OTHER_LOSSES, *FURTHER_LOSSES]
        if unknown := set(self.losses) - {*known}:
            raise ValueError(f"--losses {min(unknown)}: choose from {', '.join(known)}")
        for rate in self.false_positive_rates:
            if not 0 <= rate < 1:
                raise ValueError(f"--false_positive_rates {rate}: it must be at least 0 and below 1")
        if self.training_runs < 1:
            raise ValueError(f"--training_runs {self.training_runs}: give 1 or more")
        if self.training_runs > 1 and any(self.false_positive_rates):
            raise ValueError("--training_runs repeats training on the labels as graded: leave --false_positive_rates out")
        if self.labelling and (any(self.false_positive_rates) or self.training_runs > 1):
            raise ValueError("--labelling trains no PRM: leave --false_positive_rates and --training_runs out")
        if self.all:
            self.losses = [*self.losses, *(loss for loss in OTHER_LOSSES if loss not in self.losses)]
