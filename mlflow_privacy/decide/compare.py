"""Versions of a model, audited, side by side: which gives away more, and is that more than chance?

    stored audits ─▶ `differences` ─▶ `Comparison` ─▶ page, run

Only what the audits left in MLflow is read; no model is loaded and nothing is attacked again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlflow_privacy.decide.comparison import Comparison
from mlflow_privacy.decide.differences import compare_audits
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.store.audits import read_audit

if TYPE_CHECKING:
    from mlflow import MlflowClient


def compare(
    model_uris: Sequence[str],
    *,
    attack: str | None = None,
    fprs: Sequence[float] = (0.1, 0.01, 0.001),
    confidence: float = 0.95,
    seed: int = 0,
    log: bool = True,
    experiment: str | None = None,
    client: MlflowClient | None = None,
) -> Comparison:
    """Compares the newest finished audits of several models or versions; the first is the baseline.

    Args:
      model_uris: two or more, such as "models:/credit/1", "models:/credit/2".
      attack: whose scores are compared; default: the verdict's attack of the first audit, if all ran it.
      fprs: false-positive rates in (0, 1) to compare the TPR at.
      confidence: of the intervals; differences are called found at 1 − confidence.
      seed: of the bootstrap.
      log: write the comparison as an MLflow run with its page, tags and metrics.
      experiment: name of the experiment for that run; default: that of the first audit.
      client: of the tracking server; the default one if None.

    Raises:
      ConfigError: fewer than two models, or an attack that not all audits ran.
      StoreError: a model has no finished audit, or its files cannot be read.
    """
    uris = list(model_uris)
    if isinstance(model_uris, str) or len(uris) < 2:
        raise ConfigError(
            f"A comparison needs at least two model URIs, such as models:/credit/1 models:/credit/2, got {uris}."
        )
    audits = [read_audit(uri, client) for uri in uris]
    result = compare_audits(audits, attack=attack, fprs=fprs, confidence=confidence, seed=seed)
    if not log:
        return result
    from mlflow_privacy.decide.publish import publish_comparison

    return dataclasses.replace(result, run_id=publish_comparison(result, experiment=experiment, client=client))
