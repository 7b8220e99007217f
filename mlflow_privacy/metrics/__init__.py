"""From scores to numbers with intervals: ROC, AUC, TPR@FPR, balanced accuracy. NumPy and SciPy only."""

from mlflow_privacy.metrics.delong import auc, compare_auc
from mlflow_privacy.metrics.evaluation import DEFAULT_FPRS, evaluate_scores
from mlflow_privacy.metrics.names import fpr_key, is_share
from mlflow_privacy.metrics.roc import Tally, roc_curve, tally, tpr_at_fpr
from mlflow_privacy.metrics.threshold import advantage, balanced_accuracy, best_threshold

__all__ = [
    "DEFAULT_FPRS",
    "Tally",
    "advantage",
    "auc",
    "balanced_accuracy",
    "best_threshold",
    "compare_auc",
    "evaluate_scores",
    "fpr_key",
    "is_share",
    "roc_curve",
    "tally",
    "tpr_at_fpr",
]
