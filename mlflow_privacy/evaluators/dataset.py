"""The audit pool as an MLflow dataset."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.evaluation_dataset import EvaluationDataset
from mlflow.data.pyfunc_dataset_mixin import PyFuncConvertibleDatasetMixin, PyFuncInputsOutputs

from mlflow_privacy.fingerprint import array_digest, data_digest
from mlflow_privacy.types import AuditTarget


class LineageSource(DatasetSource):
    """A model's own lineage as the source of a dataset: loading it resolves the model's pool again."""

    def __init__(self, model_uri: str) -> None:
        self.model_uri = model_uri

    @staticmethod
    def _get_source_type() -> str:
        return "mlflow_privacy_lineage"

    def load(self) -> AuditTarget:
        from mlflow_privacy.lineage import resolve_target

        return resolve_target(self.model_uri)

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False

    @classmethod
    def _resolve(cls, raw_source: Any) -> LineageSource:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {"model_uri": self.model_uri}

    @classmethod
    def from_dict(cls, source_dict: dict[str, Any]) -> LineageSource:
        return cls(source_dict["model_uri"])


class LineageDataset(Dataset, PyFuncConvertibleDatasetMixin):
    """One row per audited record: row id, label, membership. The features stay where they are.

    Attributes:
      target: the resolved `AuditTarget`.
    """

    def __init__(self, target: AuditTarget, name: str | None = None, digest: str | None = None) -> None:
        self.target = target
        # One name for all models: the models list has a column per data set, so versions audited on one pool align.
        super().__init__(LineageSource(target.model.uri), name or "privacy pool", digest)

    def _compute_digest(self) -> str:
        return data_digest(self.target.pool)[:4] + array_digest(self.target.membership)[:4]

    def to_dict(self) -> dict[str, str]:
        return {**super().to_dict(), "profile": json.dumps(self.profile)}

    @property
    def profile(self) -> dict[str, int]:
        members = int(self.target.membership.sum())
        population = self.target.population
        return {
            "num_rows": len(self.target.pool),
            "num_members": members,
            "num_nonmembers": len(self.target.pool) - members,
            "num_population": 0 if population is None else len(population),
        }

    @property
    def schema(self) -> None:
        return None

    @property
    def df(self) -> pd.DataFrame:
        """One row per record of the pool: `row_id`, `label`, `member`."""
        return pd.DataFrame(
            {
                "row_id": self.target.pool.row_ids.astype(str),
                "label": self.target.pool.y if self.target.pool.y.ndim == 1 else list(self.target.pool.y),
                "member": self.target.membership,
            }
        )

    def to_pyfunc(self) -> PyFuncInputsOutputs:
        return PyFuncInputsOutputs([self.target.pool.x], [self.target.pool.y])

    def to_evaluation_dataset(
        self, path: str | None = None, feature_names: list[str] | None = None
    ) -> EvaluationDataset:
        return EvaluationDataset(self.df, targets="member", path=path, name=self.name, digest=self.digest)
