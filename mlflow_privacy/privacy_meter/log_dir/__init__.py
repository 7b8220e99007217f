"""An experiment's files in Privacy Meter's layout: models, memberships, signals, figures and averages over targets."""

from mlflow_privacy.privacy_meter.log_dir.layout import Audited
from mlflow_privacy.privacy_meter.log_dir.place import Place, opened
from mlflow_privacy.privacy_meter.log_dir.write import write_experiment

__all__ = ["Audited", "Place", "opened", "write_experiment"]
