"""Trains missing references by a plan: in this process, in local workers, or on a Ray cluster."""

from mlflow_privacy.executor.spread import Recover, train_missing
from mlflow_privacy.executor.work import Job, Outputs, Trained, keep_in, split_means

__all__ = ["Job", "Outputs", "Recover", "Trained", "keep_in", "split_means", "train_missing"]
