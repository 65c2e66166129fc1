"""What evaluations report: scores, labels and predictions in, numbers out. Pure NumPy; nothing here imports torch."""

from prm.metrics.association import equal_mass_bins, percent_ranks, rank_correlation, rank_correlation_interval
from prm.metrics.calibration import (
    ReliabilityBin,
    apply_temperature,
    bin_of,
    brier_score,
    calibration_error,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability_bins,
    to_logits,
)
from prm.metrics.classification import accuracy, cohen_kappa, roc_auc, step_auc
from prm.metrics.first_error import (
    UNPARSABLE,
    FirstErrorScore,
    best_threshold,
    f1_interval,
    first_error_score,
    predict_first_error,
    threshold_curve,
)
from prm.metrics.length import PAIR_CLASSES, length_controlled, length_moments, length_preference, pair_wins
from prm.metrics.resampling import PairedDifference, bootstrap_interval, paired_difference, ratio_interval, resampled_means
from prm.metrics.selection import best_of_n, first_n, over_ragged, pass_at_n, random_choice
from prm.metrics.voting import VoteEstimate, first_n_vote, group_answers, vote, vote_each

__all__ = [
    "PAIR_CLASSES",
    "UNPARSABLE",
    "FirstErrorScore",
    "PairedDifference",
    "ReliabilityBin",
    "VoteEstimate",
    "accuracy",
    "apply_temperature",
    "best_of_n",
    "best_threshold",
    "bin_of",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "cohen_kappa",
    "equal_mass_bins",
    "expected_calibration_error",
    "f1_interval",
    "first_error_score",
    "first_n",
    "first_n_vote",
    "fit_temperature",
    "group_answers",
    "length_controlled",
    "length_moments",
    "length_preference",
    "log_loss",
    "over_ragged",
    "pair_wins",
    "paired_difference",
    "pass_at_n",
    "percent_ranks",
    "predict_first_error",
    "random_choice",
    "rank_correlation",
    "rank_correlation_interval",
    "ratio_interval",
    "reliability_bins",
    "resampled_means",
    "roc_auc",
    "step_auc",
    "threshold_curve",
    "to_logits",
    "vote",
    "vote_each",
]
