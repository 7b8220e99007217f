"""CatBoost: its model file keeps every parameter of the training, and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import StoreError
from mlflow_privacy.trainers.booster.model import Boosted, Scores, columns_of, in_columns

FILE = "booster.cbm"
ALIASES = {
    **dict.fromkeys(("n_estimators", "num_boost_round", "num_trees", "iterations"), "rounds"),
    **{"max_depth": "depth", "eta": "learning_rate", "reg_lambda": "l2_leaf_reg", "objective": "loss_function"},
}
# What leaves the trees as they are, stops early, or is drawn anew for each reference.
_LEFT_OUT = {
    *("iterations", "num_boost_round", "n_estimators", "num_trees", "od_wait", "od_type", "od_pval", "random_seed"),
    *("early_stopping_rounds", "use_best_model", "best_model_min_trees", "eval_fraction", "verbose", "silent"),
    *("random_state", "verbose_eval", "logging_level", "metric_period", "thread_count", "task_type", "devices"),
    *("train_dir", "allow_writing_files", "save_snapshot", "snapshot_file", "snapshot_interval", "used_ram_limit"),
    *("class_names", "classes_count", "eval_metric", "custom_metric", "name", "learning_rate"),
}
_STOPS = ("od_wait", "od_type", "od_pval", "early_stopping_rounds", "use_best_model", "eval_fraction")
_BINARY, _MULTI = ("Logloss", "CrossEntropy"), {"MultiClass": "multi", "MultiClassOneVsAll": "one against all"}
_REGRESSION = (
    *("RMSE", "MAE", "Quantile", "LogLinQuantile", "Poisson", "MAPE", "Lq", "Huber", "Expectile", "Tweedie", "LogCosh"),
)
_LOGARITHMS = ("Poisson", "Tweedie", "LogLinQuantile")  # of which the raw scores are logarithms of the amounts


def describe(model: Any) -> Boosted | None:
    """The model with the meaning of its scores; None for a ranker, several targets or a loss of the caller's own."""
    name = str(model.get_all_params().get("loss_function", "")).partition(":")[0]
    labels = None if model.classes_ is None or not len(model.classes_) else tuple(np.asarray(model.classes_).tolist())
    scores: Scores
    if name in _BINARY:
        scores, outputs = "binary", 2
    elif name in _MULTI:
        scores, outputs = ("multi" if name == "MultiClass" else "one against all"), len(labels or ())
    elif name in _REGRESSION:
        scores, outputs, labels = "regression", 1, None
    else:
        return None
    return Boosted(model, "catboost", name, scores, outputs, labels, fractions=name == "CrossEntropy")


def scores_of(boosted: Boosted, x: Any) -> np.ndarray:
    """(n,) or (n, k) logits of a classifier, predictions of a regressor."""
    kind = "Exponent" if boosted.objective in _LOGARITHMS else "RawFormulaVal"
    return np.asarray(boosted.model.predict(_columns(boosted.model, x), prediction_type=kind))


def _columns(model: Any, x: Any) -> Any:
    return in_columns(x, [*map(str, model.feature_names_ or [])] if hasattr(x, "iloc") else None)


def parameters(boosted: Boosted, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Parameters of another training like this one, "rounds" among them, and where they are from."""
    own = boosted.model.get_params()
    inside = bool(own.get("eval_fraction"))  # references, too, take the validation set from their own members
    left_out = _LEFT_OUT - {*_STOPS, "eval_metric"} if inside else _LEFT_OUT
    told = {ALIASES.get(key, key): value for key, value in own.items() if key not in left_out}
    weights = told.get("class_weights")
    if isinstance(weights, Mapping) and boosted.labels:
        told["class_weights"] = [weights.get(label, 1.0) for label in boosted.labels]
    everything = boosted.model.get_all_params()
    rate = everything["learning_rate"]  # where nobody gave it, it was chosen for a number of rounds
    return {
        **{key: value for key, value in told.items() if value is not None},
        **{"loss_function": everything["loss_function"], "learning_rate": float(f"{rate:.6g}")},
        **{"rounds": int(own.get("iterations", 1000)) if inside else boosted.model.tree_count_, **settings},
    }, "the model itself"


def train(spec: Mapping[str, Any], x: Any, y: np.ndarray, seed: int) -> Any:
    """A model of the recipe's parameters; labels are 0 to k - 1."""
    import catboost

    params = dict(spec["params"])
    rounds = params.pop("rounds")
    if spec["scores"] in ("multi", "one against all"):
        params["classes_count"] = spec["outputs"]
    x = in_columns(x, columns_of(x))
    model = catboost.CatBoost(
        {**params, "iterations": rounds, "random_seed": seed, "verbose": 0, "allow_writing_files": False}
    )
    return model.fit(x, y)


def save(model: Any, folder: Path) -> None:
    model.save_model(str(folder / FILE), format="cbm")


def load(path: Path) -> Any:
    """The model of a file. Raises `StoreError` if it is not readable."""
    import catboost

    try:
        return catboost.CatBoost().load_model(str(path), format="cbm")
    except (catboost.CatBoostError, ValueError, OSError) as error:
        raise StoreError(f"{path.name} is not a readable CatBoost model: {error}") from error
