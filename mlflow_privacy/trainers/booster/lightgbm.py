"""LightGBM: its model file keeps every parameter of the training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import StoreError
from mlflow_privacy.trainers.booster.model import Boosted, Scores, columns_of, in_columns

FILE = "booster.txt"
ALIASES = {
    **dict.fromkeys(("num_boost_round", "n_estimators", "num_iterations", "num_iteration", "num_round"), "rounds"),
    **{"eta": "learning_rate", "reg_lambda": "lambda_l2", "reg_alpha": "lambda_l1", "num_leaf": "num_leaves"},
    **{"subsample": "bagging_fraction", "subsample_freq": "bagging_freq", "colsample_bytree": "feature_fraction"},
    **{"min_child_samples": "min_data_in_leaf", "min_child_weight": "min_sum_hessian_in_leaf"},
}
# What leaves the trees as they are, stops early, or is drawn anew for each reference: every seed is.
_LEFT_OUT = {
    *("num_iterations", "metric", "verbosity", "num_threads", "device_type", "early_stopping_round"),
    *("early_stopping_min_delta", "first_metric_only", "eval_at", "histogram_pool_size", "force_col_wise"),
    *("force_row_wise", "num_machines", "local_listen_port", "time_out", "machines", "machine_list_filename", "seed"),
    *(
        "gpu_platform_id",
        "gpu_device_id",
        "gpu_device_id_list",
        "gpu_use_dp",
        "num_gpu",
        "saved_feature_importance_type",
    ),
    *("header", "two_round", "label_column", "weight_column", "group_column", "ignore_column", "pre_partition"),
    *("precise_float_parser", "parser_config_file", "data", "valid", "categorical_feature"),
}


def describe(model: Any) -> Boosted | None:
    """The booster with the meaning of its scores; None for a ranker or an objective of the caller's own."""
    params = _params(model)
    name = str(params.get("objective", ""))
    classes = int(params.get("num_class", 1))
    scores: Scores
    if name in ("binary", "cross_entropy"):
        scores, outputs = "binary", 2
    elif name in ("multiclass", "multiclassova"):
        scores, outputs = ("multi" if name == "multiclass" else "one against all"), classes
    elif name in ("cross_entropy_lambda", "lambdarank", "rank_xendcg", "custom", "none", ""):
        return None
    else:
        scores, outputs = "regression", 1
    return Boosted(model, "lightgbm", name, scores, outputs, fractions=name == "cross_entropy")


def _params(model: Any) -> dict[str, Any]:
    """All parameters, the defaults too: those of a model that is still as it was trained are the caller's alone."""
    import lightgbm

    return lightgbm.Booster(model_str=model.model_to_string()).params


def scores_of(boosted: Boosted, x: Any) -> np.ndarray:
    """(n,) or (n, k) logits of a classifier, predictions of a regressor."""
    raw = boosted.scores != "regression"
    values = np.asarray(boosted.model.predict(_columns(boosted.model, x), raw_score=raw))
    if raw and boosted.objective in ("binary", "multiclassova"):
        values = values * float(_params(boosted.model).get("sigmoid", 1.0))
    return values


def _columns(model: Any, x: Any) -> Any:
    """The features with the model's columns, those of categories with the categories that it knows."""
    x = in_columns(x, model.feature_name() if hasattr(x, "iloc") else None)
    return _with_categories(x, model.pandas_categorical)


def _with_categories(x: Any, known: Any) -> Any:
    if not known or not hasattr(x, "iloc"):
        return x
    import pandas as pd

    named = [name for name, kind in zip(x.columns, x.dtypes) if getattr(kind, "kind", "O") not in "biuf"]
    if len(named) != len(known):
        return x  # LightGBM says what it misses
    return x.assign(**{name: pd.Categorical(x[name], categories=values) for name, values in zip(named, known)})


def parameters(boosted: Boosted, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Parameters of another training like this one, "rounds" among them, and where they are from."""
    told = {
        key: value
        for key, value in _params(boosted.model).items()
        if key not in _LEFT_OUT and not key.endswith("_seed") and value not in ("", None, [])
    }
    categories = boosted.model.pandas_categorical
    if categories:
        told["pandas_categorical"] = [list(values) for values in categories]
    return {**told, "rounds": boosted.model.current_iteration(), **settings}, "the model itself"


def train(spec: Mapping[str, Any], x: Any, y: np.ndarray, seed: int) -> Any:
    """A booster of the recipe's parameters."""
    import lightgbm

    params = dict(spec["params"])
    rounds, categories = params.pop("rounds"), params.pop("pandas_categorical", None)
    x = _with_categories(in_columns(x, columns_of(x)), categories)
    how = {**params, "seed": seed, "verbosity": -1}
    return lightgbm.train(how, lightgbm.Dataset(x, y, params=how), rounds)


def save(model: Any, folder: Path) -> None:
    model.save_model(str(folder / FILE))


def load(path: Path) -> Any:
    """The booster of a file. Raises `StoreError` if it is not readable."""
    import lightgbm

    try:
        return lightgbm.Booster(model_str=path.read_text())
    except (lightgbm.basic.LightGBMError, ValueError, OSError) as error:
        raise StoreError(f"{path.name} is not a readable LightGBM model: {error}") from error
