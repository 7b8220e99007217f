r"""XGBoost: what its model file keeps of a training, what its trees tell of the rest, and training anew.

XGBoost's own files (.ubj, .json), which MLflow stores, hold the objective, the number of rounds and the trees, and no
parameter of the training: a loaded model has the defaults. Most can be computed from the trees, because each node holds
its weight w, hessian H and gain g. With λ (`reg_lambda`), α (`reg_alpha`) and η (`learning_rate`), of which only leaves
are multiplied by η (Chen and Guestrin 2016, https://arxiv.org/abs/1603.02754, eq. 5 to 7):

.. math:: g = w_L^2 (H_L + \lambda) + w_R^2 (H_R + \lambda) - w^2 (H + \lambda)

is linear in λ where both children are inner nodes, and in 1/η² where one is a leaf. What left no trace (`subsample`,
`colsample_*`) comes from the run's parameters or the recipe; else it is XGBoost's default, and that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError, StoreError
from mlflow_privacy.trainers.booster.model import Boosted, Scores, columns_of, in_columns

FILE = "booster.ubj"
ALIASES = {
    **{"eta": "learning_rate", "lambda": "reg_lambda", "alpha": "reg_alpha", "min_split_loss": "gamma"},
    **{"num_boost_round": "rounds", "n_estimators": "rounds", "num_round": "rounds"},
}
# Parameters of a training; what else a run may have logged changes nothing that is learned.
KEYS = (
    *("rounds", "learning_rate", "max_depth", "max_leaves", "min_child_weight", "subsample", "colsample_bytree"),
    *("colsample_bylevel", "colsample_bynode", "gamma", "reg_lambda", "reg_alpha", "max_delta_step", "grow_policy"),
    *("tree_method", "max_bin", "num_parallel_tree", "sampling_method", "scale_pos_weight", "base_score"),
    *(
        "max_cat_to_onehot",
        "max_cat_threshold",
        "monotone_constraints",
        "interaction_constraints",
        "multi_strategy",
        "booster",
        "rate_drop",
        "skip_drop",
    ),
    *(
        "huber_slope",
        "tweedie_variance_power",
        "quantile_alpha",
        "sample_type",
        "normalize_type",
        "one_drop",
        "feature_selector",
        "top_k",
        "updater",
    ),
)
UNTOLD = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")
_BINARY = ("binary:logistic", "binary:logitraw", "reg:logistic")
_CONDITION = 1e-3  # of a node's equation: below, float32 leaves too few digits
_MANY, _LEAST_GAIN = 50, 1e-2  # least values count as bounds where there are so many of them


def describe(model: Any) -> Boosted | None:
    """The booster with the meaning of its scores; None for what is audited by its predictions, such as a ranker."""
    learner = _learner(model)
    name = str(learner["objective"]["name"])
    classes = int(learner["learner_model_param"]["num_class"])
    scores: Scores
    targets = max(1, int(learner["learner_model_param"].get("num_target", 1)))
    if _known_categories(model) is None or (targets > 1 and not name.startswith(("reg:", "count:"))):
        return None
    if targets > 1:
        scores, outputs = "regression", targets
    elif name in _BINARY:
        scores, outputs = "binary", 2
    elif name == "binary:hinge":
        scores, outputs = "labels", 2
    elif name.startswith("multi:"):
        scores, outputs = "multi", classes
    elif name.startswith(("reg:", "count:")):
        scores, outputs = "regression", 1
    else:
        return None
    return Boosted(model, "xgboost", name, scores, outputs, fractions=name == "reg:logistic" and targets == 1)


def scores_of(boosted: Boosted, x: Any) -> np.ndarray:
    """(n,) or (n, k) raw scores of a classifier, predictions of a regressor."""
    margin = boosted.scores in ("binary", "multi")
    model = boosted.model
    matrix = _matrix(x, model.feature_names, _known_categories(model) or {})
    return np.asarray(model.predict(matrix, output_margin=margin))


def _matrix(x: Any, names: Any, categories: Mapping[str, Sequence[Any]], label: Any = None) -> Any:
    import xgboost

    x = in_columns(x, names)
    if categories and hasattr(x, "iloc"):
        import pandas as pd

        # A category that a reference never saw is a missing value to it.
        x = x.assign(**{name: pd.Categorical(x[name], categories=[*each]) for name, each in categories.items()})
    return xgboost.DMatrix(x, label=label, enable_categorical=bool(categories))


def _known_categories(model: Any) -> dict[str, list[Any]] | None:
    """The categories of each column that has some, {} without any; None where the model knows them as numbers alone."""
    if "c" not in (model.feature_types or []):
        return {}
    if not hasattr(model, "get_categories"):  # XGBoost before 3.1
        return None
    found = model.get_categories(export_to_arrow=True).to_arrow()
    return {name: values.to_pylist() for name, values in found if values is not None} or None


def _learner(model: Any) -> Mapping[str, Any]:
    return json.loads(bytes(model.save_raw("json")))["learner"]


def parameters(boosted: Boosted, settings: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Parameters of another training like this one, "rounds" among them; and in words where they are from.

    Args:
      settings: of the recipe, under the names in `KEYS`; they win over what the trees tell.

    Raises:
      RecipeError: the model has no trees, or they were learned at another rate than the recipe says.
    """
    learner = _learner(boosted.model)
    told = from_trees(learner)
    told.update(rounds=boosted.model.num_boosted_rounds(), objective=boosted.objective)
    told.update(_of_objective(learner))
    config = _changed(boosted.model)
    given = dict(settings)
    rate = told.get("learning_rate")
    if rate and "learning_rate" in given and not np.isclose(float(given["learning_rate"]), rate, rtol=0.02):
        raise RecipeError(
            f"The model's trees were learned with learning_rate {rate:g}, but the recipe says "
            f"{given['learning_rate']!r}: it is of another training. Correct it, or leave it out."
        )
    kind = "multi_output_tree" if "multi_strategy" in told else learner["gradient_booster"]["name"]
    if kind != "gbtree" and not given and not config:
        raise RecipeError(
            "XGBoost's file keeps no training parameters, and those of a "
            f"{kind} booster cannot be read from what it learned. Name them: "
            'log_lineage(recipe={"learning_rate": ...}), or '
            'evaluator_config={"privacy_meter": {"recipe": {...}}}.'
        )
    if categories := _known_categories(boosted.model):
        told["categories"] = categories
    source = "the model's trees"
    if config:
        source = "the model"
    elif not given:
        source += f", and XGBoost's defaults for {', '.join(untold(boosted.model))}, which its file does not keep"
    return {**told, **config, **given}, source


def untold(model: Any) -> tuple[str, ...]:
    """Parameters of a training that left no trace in its trees."""
    return (*UNTOLD, "max_cat_to_onehot", "max_cat_threshold") if "c" in (model.feature_types or []) else UNTOLD


def rate_of(model: Any) -> float | None:
    """The learning rate that a booster's trees tell."""
    return from_trees(_learner(model)).get("learning_rate")


def of_estimator(estimator: Any) -> dict[str, Any]:
    """Parameters for an estimator of XGBoost's scikit-learn API that was read from a file, which has lost its own.

    Empty for one that still has any. The rounds are those that its predictions use.
    """
    own = estimator.get_params()
    if own.get("n_estimators") is not None or any(own.get(key) is not None for key in ("learning_rate", "max_depth")):
        return {}
    booster = estimator.get_booster()
    learner = _learner(booster)
    told = from_trees(learner)
    told.update((key, value) for key, value in _of_objective(learner).items() if key in own)
    best = booster.attributes().get("best_iteration")
    told["n_estimators"] = booster.num_boosted_rounds() if best is None else int(best) + 1
    told.setdefault("base_score", None)  # the file has the target's own; a reference takes that of its members
    return {key: value for key, value in told.items() if key in own}


def _of_objective(learner: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the loss, which the file keeps, and a start that was given."""
    told: dict[str, Any] = {}
    for part in learner["objective"].values():
        if isinstance(part, Mapping):
            told.update({key: number(value) for key, value in part.items()})
    if "num_class" in told and not told["num_class"]:
        del told["num_class"]
    model = learner["learner_model_param"]
    if str(model.get("boost_from_average", "1")) == "0":
        scores = json.loads(str(model["base_score"])) if str(model["base_score"])[:1] == "[" else [model["base_score"]]
        told["base_score"] = float(scores[0]) if len(set(scores)) == 1 else [float(score) for score in scores]
    return told


def _changed(model: Any) -> dict[str, Any]:
    """Parameters that its file would lose: of a model that is still as it was trained, none of a loaded one."""
    import xgboost

    loaded = xgboost.Booster(model_file=bytearray(model.save_raw("ubj")))
    own, left = (_flat(json.loads(each.save_config())["learner"]) for each in (model, loaded))
    found = {ALIASES.get(key, key): value for key, value in own.items() if left.get(key) != value}
    return {key: number(value) for key, value in found.items() if key in KEYS and key not in ("booster", "base_score")}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The tree parameters of a configuration, wherever in it they are."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            out.update(_flat(value))
        elif isinstance(value, str):
            out[key] = value
    return {key: value for key, value in out.items() if key not in ("updater", "name", "objective", "num_class")}


def number(value: Any) -> Any:
    """A text as the number, the truth value or the nothing that it says; other values as they are.

    >>> [number(text) for text in ("3", "0.5", "hist", "None", "True")]
    [3, 0.5, 'hist', None, True]
    """
    if not isinstance(value, str):
        return value
    words = {"none": None, "null": None, "true": True, "false": False}
    if value.lower() in words:
        return words[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def from_trees(learner: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that the nodes of the trees tell: η, λ, α, depth or leaves, and the least hessian of a leaf."""
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        return {"booster": booster["name"]}
    read = [_nodes(tree) for tree in booster["model"]["trees"]]
    told: dict[str, Any] = {}
    if any(tree is None for tree in read):
        told["multi_strategy"] = "multi_output_tree"
    parallel = int(booster["model"]["gbtree_model_param"].get("num_parallel_tree", 1))
    if parallel > 1:
        told["num_parallel_tree"] = parallel
    trees = [tree for tree in read if tree is not None and len(tree["left"]) > 1]
    if not trees:
        return told
    depth, leaves = max(int(tree["depth"].max()) for tree in trees), [int(tree["leaf"].sum()) for tree in trees]
    most = max(leaves)
    if np.mean(np.array(leaves) == most) > 0.5 and most != 2**depth and most > 2:
        told.update(grow_policy="lossguide", max_leaves=most, max_depth=0)
    else:
        told["max_depth"] = depth
    least = min(float(tree["h"][tree["leaf"]].min()) for tree in trees)
    if least < 1 or (least > 2 and sum(leaves) >= _MANY):  # the default of 1 leaves leaves of little more than 1
        told["min_child_weight"] = float(np.floor(least * 1e3) / 1e3)
    gains = np.concatenate([tree["gain"][_last_splits(tree)] for tree in trees])
    if len(gains) >= _MANY and gains.min() > _LEAST_GAIN and "max_leaves" not in told:
        told["gamma"] = _rounded(float(gains.min()) * 0.999)
    penalty = _penalty(trees)
    told["reg_lambda"] = penalty
    alpha, rate = _alpha(trees, penalty), _rate(trees, penalty)
    if alpha:
        told["reg_alpha"] = alpha
    if rate:
        told["learning_rate"] = _rounded(rate * parallel)  # the trees of a round share it
    return told


def _last_splits(tree: Mapping[str, np.ndarray]) -> np.ndarray:
    """Nodes of two leaves, which are pruned where they gain less than γ."""
    i, a, b = _pairs(tree)
    return i[tree["leaf"][a] & tree["leaf"][b]]


def _nodes(tree: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Arrays over the nodes of one tree; None where leaves are vectors."""
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    w = np.array(tree["base_weights"], float)
    if len(w) != len(left):
        return None
    depth = np.zeros(len(left), int)
    for i in np.flatnonzero(left >= 0):  # parents come before their children
        depth[[left[i], right[i]]] = depth[i] + 1
    h, gain = np.array(tree["sum_hessian"], float), np.array(tree["loss_changes"], float)
    return {"left": left, "right": right, "w": w, "h": h, "gain": gain, "depth": depth, "leaf": left < 0}


def _pairs(tree: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inner = np.flatnonzero(~tree["leaf"])
    return inner, tree["left"][inner], tree["right"][inner]


def _penalty(trees: list[dict[str, np.ndarray]]) -> float:
    """λ, from nodes whose children are inner nodes; XGBoost's default where there are none."""
    found: list[float] = []
    for tree in trees:
        i, a, b = _pairs(tree)
        both = ~tree["leaf"][a] & ~tree["leaf"][b]
        i, a, b = i[both], a[both], b[both]
        w, h = tree["w"], tree["h"]
        slope = w[a] ** 2 + w[b] ** 2 - w[i] ** 2
        known = w[a] ** 2 * h[a] + w[b] ** 2 * h[b] - w[i] ** 2 * h[i]
        good = np.abs(slope) > _CONDITION * (w[a] ** 2 + w[b] ** 2 + w[i] ** 2)
        found += ((tree["gain"][i] - known)[good] / slope[good]).tolist()
    value = float(np.median(found)) if found else 1.0
    return _rounded(value) if value > _CONDITION else 0.0


def _rate(trees: list[dict[str, np.ndarray]], penalty: float) -> float | None:
    """η, from nodes with a leaf."""
    found: list[float] = []
    for tree in trees:
        i, a, b = _pairs(tree)
        square = tree["w"] ** 2 * (tree["h"] + penalty)
        leaf = tree["leaf"]
        scaled = np.where(leaf[a], square[a], 0) + np.where(leaf[b], square[b], 0)
        rest = np.where(leaf[a], 0, square[a]) + np.where(leaf[b], 0, square[b])
        unscaled = tree["gain"][i] + square[i] - rest
        good = (scaled > 0) & (unscaled > _CONDITION * (np.abs(tree["gain"][i]) + square[i] + rest))
        found += np.sqrt(scaled[good] / unscaled[good]).tolist()
    return float(np.median(found)) if found else None


def _alpha(trees: list[dict[str, np.ndarray]], penalty: float) -> float:
    """α: by how much soft-thresholded gradients of two inner children, of one sign, fall short of their parent's."""
    found: list[float] = []
    for tree in trees:
        i, a, b = _pairs(tree)
        gradient = tree["w"] * (tree["h"] + penalty)  # of the sign of -G, and α nearer to 0
        one = ~tree["leaf"][a] & ~tree["leaf"][b] & (np.sign(gradient[a]) == np.sign(gradient[b]))
        found += (np.abs(gradient[i]) - np.abs(gradient[a]) - np.abs(gradient[b]))[one].tolist()
    value = float(np.median(found)) if found else 0.0
    return _rounded(value) if value > 1e-2 else 0.0


def _rounded(value: float) -> float:
    """To three digits: what people write, and what float32 leaves of it."""
    return float(f"{value:.3g}")


def train(spec: Mapping[str, Any], x: Any, y: np.ndarray, seed: int) -> Any:
    """A booster of the recipe's parameters."""
    import xgboost

    params = dict(spec["params"])
    rounds, categories = params.pop("rounds"), params.pop("categories", {})
    matrix = _matrix(x, columns_of(x), categories, y)
    return xgboost.train({**params, "seed": seed, "verbosity": 0}, matrix, rounds)


def save(model: Any, folder: Path) -> None:
    model.save_model(folder / FILE)


def load(path: Path) -> Any:
    """The booster of a file. Raises `StoreError` if it is not readable."""
    import xgboost

    try:
        return xgboost.Booster(model_file=path)
    except (xgboost.core.XGBoostError, ValueError, TypeError, OSError) as error:
        raise StoreError(f"{path.name} is not a readable XGBoost model: {error}") from error
