"""Privacy Meter's log directories, and ours in its layout, into registered models and reference runs.

Everything is read and checked first, with all faults in one error; MLflow is written to only then.
"""

from mlflow_privacy.privacy_meter.importer.write import ImportReport, import_log_dir

__all__ = ["ImportReport", "import_log_dir"]
