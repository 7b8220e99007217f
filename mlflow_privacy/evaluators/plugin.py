"""What MLflow loads at `import mlflow`: a dataset constructor, which brings the hook in front of `evaluate` along.

Of the plugin entry points that load that early, an exception in a dataset constructor is only a warning; in the others
it breaks `import mlflow`. This module must stay light, and nothing of this package may import it: it needs MLflow,
which loads it. No `from __future__ import annotations` here, because MLflow checks the annotation as a class.
"""

from typing import Optional

from mlflow.data.dataset import Dataset

from mlflow_privacy.evaluators.hook import install_privacy_meter_hook
from mlflow_privacy.store.mlflow_private import when_evaluation_is_imported


def from_model_lineage(model_uri: str, name: Optional[str] = None, digest: Optional[str] = None) -> Dataset:  # noqa: UP045
    """Returns the audit pool of a model as an MLflow dataset: one row per record with its label and membership.

    Args:
      model_uri: such as "models:/credit-scorer/3".
      name: of the dataset; the default is "privacy pool".
      digest: the default is the first 8 hex digits of the pool's SHA-256.

    Raises:
      LineageError: members or non-members cannot be found, loaded or verified.
    """
    from mlflow_privacy.evaluators.dataset import LineageDataset
    from mlflow_privacy.lineage import resolve_target

    return LineageDataset(resolve_target(model_uri), name=name, digest=digest)


when_evaluation_is_imported(install_privacy_meter_hook)
