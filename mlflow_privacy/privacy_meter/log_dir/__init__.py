"""An experiment's files in Privacy Meter's layout: models, memberships, signals, figures and averages over targets."""

from mlflow_privacy.privacy_meter.log_dir.place import Place
from mlflow_privacy.privacy_meter.log_dir.records import Audited, ExperimentReport, TargetReport
from mlflow_privacy.privacy_meter.log_dir.write import write_experiment

__all__ = ["Audited", "ExperimentReport", "Place", "TargetReport", "write_experiment"]
