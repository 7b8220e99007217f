"""Parameters that XGBoost's model files have lost: from the trees, and from the parameters of the training run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlflow_privacy.trainers.booster.model import Boosted
from mlflow_privacy.trainers.booster.xgboost import ALIASES, KEYS, number, of_estimator, rate_of, untold

TREES = "the model's trees"


def lost_parameters(model: Any, params: Mapping[str, str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Settings of an XGBoost model that was read from its file, layered: [(who says them, settings)].

    Empty for any other model, and for an estimator that still has its parameters. Run parameters with another learning
    rate than that of the trees are of another training, and left out. The trees of a `Boosted` are read by its trainer.

    Args:
      params: of the run, as MLflow keeps them.
    """
    if isinstance(model, Boosted) and model.library == "xgboost":
        told, booster, names = {}, model.model, set(KEYS)
    elif _is_estimator(model):
        told, booster, names = of_estimator(model), model.get_booster(), set(model.get_params())
        if not told:
            return []
    else:
        return []
    read = {ALIASES.get(key, key): number(value) for key, value in params.items()}
    known = set(KEYS) & names - {"rounds", "booster", "base_score"}  # which the model itself tells
    logged = {key: value for key, value in read.items() if key in known and value is not None}
    rate, said = rate_of(booster), logged.get("learning_rate")
    if isinstance(said, (int, float)) and rate is not None and not np.isclose(said, rate, rtol=0.02):
        logged = {}
    trees = (
        TREES
        if logged
        else f"{TREES} (and XGBoost's defaults for {', '.join(untold(booster))}, which its file does not keep)"
    )
    return [(trees, told), ("run parameters", logged)]


def _is_estimator(model: Any) -> bool:
    xgboost = sys.modules.get("xgboost")
    return xgboost is not None and isinstance(model, xgboost.XGBModel) and model.__sklearn_is_fitted__()
