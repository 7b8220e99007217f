"""What an experiment hands over to have its files written: frozen records, made there and read here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import StoreError
from mlflow_privacy.types import AuditResult, Evidence


@dataclasses.dataclass(frozen=True)
class TargetReport:
    """One audited target.

    Attributes:
      variant: its name in the config.
      experiment: 0 to `num_experiments` - 1.
      version: of the registered model; model_uri: "models:/NAME/VERSION".
      run_id: of its training; audit_run_id: of its audit.
      metrics: "train_accuracy", "holdout_accuracy", "train_loss", … ("train_r2" for a regression).
      audit: `privacy/<attack>/<metric>` of its audit.
      headline: the attack the verdict is about.
    """

    variant: str
    experiment: int
    version: str
    model_uri: str
    run_id: str
    metrics: Mapping[str, float]
    audit_run_id: str = ""
    audit: Mapping[str, float] = dataclasses.field(default_factory=dict)
    headline: str = ""


@dataclasses.dataclass(frozen=True)
class ExperimentReport:
    """What an experiment found.

    Attributes:
      name: of the registered model.
      run_id, experiment_id: of the parent run.
      targets: one report a version, in the order they were trained.
      timings: seconds per stage.
    """

    name: str
    run_id: str
    experiment_id: str
    targets: tuple[TargetReport, ...]
    timings: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Audited:
    """One target with its audit.

    Attributes:
      report: what the experiment says of it.
      train: how it and its references were trained: "model_name", "optimizer", "epochs" and so on.
      members, nonmembers: indices in the data set of the records that it trained on, and of those that were held out.
      population: indices in the data set's own population if it has one, else in the data set.
      result: its audit, with `evidence`.
      weights: a folder with its weights as plain files, None if it has no such form.
    """

    report: TargetReport
    train: Mapping[str, Any]
    members: np.ndarray
    nonmembers: np.ndarray
    population: np.ndarray
    result: AuditResult
    weights: Path | None = None

    @property
    def evidence(self) -> Evidence:
        if self.result.evidence is None:
            raise StoreError(f"The audit of {self.report.model_uri} kept no signals; audit it again in this process.")
        return self.result.evidence
