"""What evaluations report: scores, labels and predictions in, numbers out. Pure NumPy; nothing here imports torch."""

from prm.metrics.calibration import (
    ReliabilityBin,
    apply_temperature,
    brier_score,
    calibration_error,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability_bins,
    to_logits,
)
from prm.metrics.classification import accuracy, cohen_kappa, judged_steps, roc_auc, step_auc
from prm.metrics.first_error import (
    UNPARSABLE,
    FirstErrorScore,
    best_threshold,
    f1_interval,
    first_error_score,
    predict_first_error,
    resampled_f1,
    threshold_curve,
)
from prm.metrics.prm_score import COUNTS, StepMeasures, best_prm_threshold, count_steps, prm_score_curve, step_measures
from prm.metrics.resampling import PairedDifference, bootstrap_interval, paired_difference, percentile_interval, resampled_means
from prm.metrics.selection import best_of_n, first_n, over_ragged, pass_at_n, random_choice
from prm.metrics.voting import VoteEstimate, group_answers, vote

__all__ = [
    "COUNTS",
    "UNPARSABLE",
    "FirstErrorScore",
    "PairedDifference",
    "ReliabilityBin",
    "StepMeasures",
    "VoteEstimate",
    "accuracy",
    "apply_temperature",
    "best_of_n",
    "best_prm_threshold",
    "best_threshold",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "cohen_kappa",
    "count_steps",
    "expected_calibration_error",
    "f1_interval",
    "first_error_score",
    "first_n",
    "fit_temperature",
    "group_answers",
    "judged_steps",
    "log_loss",
    "over_ragged",
    "paired_difference",
    "pass_at_n",
    "percentile_interval",
    "predict_first_error",
    "prm_score_curve",
    "random_choice",
    "reliability_bins",
    "resampled_f1",
    "resampled_means",
    "roc_auc",
    "step_auc",
    "step_measures",
    "threshold_curve",
    "to_logits",
    "vote",
]
