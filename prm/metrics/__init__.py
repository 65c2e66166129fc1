"""What evaluations report: scores, labels and predictions in, numbers out. Pure NumPy; nothing here imports torch."""

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
from prm.metrics.resampling import PairedDifference, bootstrap_interval, paired_difference, resampled_means
from prm.metrics.selection import best_of_n, first_n, over_ragged, pass_at_n, random_choice
from prm.metrics.voting import VoteEstimate, group_answers, vote

__all__ = [
    "UNPARSABLE",
    "FirstErrorScore",
    "PairedDifference",
    "VoteEstimate",
    "accuracy",
    "best_of_n",
    "best_threshold",
    "bootstrap_interval",
    "cohen_kappa",
    "f1_interval",
    "first_error_score",
    "first_n",
    "group_answers",
    "over_ragged",
    "paired_difference",
    "pass_at_n",
    "predict_first_error",
    "random_choice",
    "resampled_means",
    "roc_auc",
    "step_auc",
    "threshold_curve",
    "vote",
]
