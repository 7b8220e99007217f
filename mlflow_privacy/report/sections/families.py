"""Families of models, and what lowers the risk in each: a forest has no epochs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mlflow_privacy.types import AuditResult

Family = Literal["forest", "boosting", "linear", "kernel", "neighbours", "bayes", "neural", "language", "other"]


@dataclasses.dataclass(frozen=True)
class Step:
    """A measure: its name, what it does, and the settings of a recipe that it would change."""

    name: str
    how: str
    settings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Advice:
    """What lowers the risk of one family.

    Attributes:
      steps: that make a model fit single records less closely, in the order in which they are tried.
      private: how such a model is trained with a guarantee.
    """

    steps: tuple[Step, ...]
    private: Step


_DP = (
    "The only one of these measures with a guarantee: it bounds every attack, known or not. It costs accuracy and "
    "computing time."
)
_MORE = Step(
    "Train on more records, or fewer columns",
    "Makes single records matter less; columns that nearly name a person (identifiers, exact dates and amounts) let a "
    "model tell them apart.",
)

ADVICE: Mapping[Family, Advice] = {
    "forest": Advice(
        (
            Step(
                "Larger leaves and shallower trees",
                "Raise min_samples_leaf, lower max_depth or prune (ccp_alpha), so that no leaf belongs to a few "
                "records; max_samples below 1 shows each tree fewer of them. More trees neither help nor harm much.",
                ("min_samples_leaf", "max_depth", "max_leaf_nodes", "ccp_alpha", "max_samples"),
            ),
            Step(
                "Weaker class weights",
                "Weights that make up for a rare class let each of its few records count many times, so that trees fit "
                "them closely. Move the decision threshold instead.",
                ("class_weight",),
            ),
            _MORE,
        ),
        Step(
            "Train with differential privacy (noisy leaf counts)", f"{_DP} Libraries such as diffprivlib have forests."
        ),
    ),
    "boosting": Advice(
        (
            Step(
                "Stop earlier: fewer rounds of boosting",
                "Each round fits what is still wrong, in the end single records. Stop where the error on held-out "
                "records no longer falls.",
                ("n_estimators", "max_iter", "iterations", "num_boost_round", "learning_rate", "early_stopping"),
            ),
            Step(
                "Smaller trees, larger leaves, stronger penalties",
                "Fewer leaves, more records in each, an L2 penalty on their values, and rows and columns drawn anew "
                "for each tree make single records matter less.",
                (
                    "max_depth",
                    "max_leaf_nodes",
                    "num_leaves",
                    "min_samples_leaf",
                    "min_child_weight",
                    "min_child_samples",
                    "l2_regularization",
                    "reg_lambda",
                    "subsample",
                ),
            ),
            _MORE,
        ),
        Step(
            "Train with differential privacy (noisy histograms)",
            f"{_DP} For boosted trees there are explainable boosting machines with a guarantee (DP-EBM in interpret).",
        ),
    ),
    "linear": Advice(
        (
            Step(
                "Regularise more strongly",
                "A smaller C, or a larger alpha, keeps weights small. With many more records than columns a linear "
                "model has little room for single records.",
                ("C", "alpha", "penalty", "l1_ratio"),
            ),
            _MORE,
        ),
        Step(
            "Train with differential privacy (noise on the objective or the weights)",
            f"{_DP} For linear models with many records it costs little; libraries such as diffprivlib have them.",
        ),
    ),
    "kernel": Advice(
        (
            Step(
                "Regularise more strongly, with a smoother kernel",
                "A smaller C (or more noise, alpha) and a wider kernel (smaller gamma) keep the model from bending "
                "around single records. Support vectors are training records that the model file holds as they are.",
                ("C", "alpha", "gamma", "nu", "epsilon"),
            ),
            _MORE,
        ),
        Step(
            "Train another kind of model with differential privacy",
            f"{_DP} A kernel machine holds training records themselves; a linear model or a network on random "
            "features of the kernel does not.",
        ),
    ),
    "neighbours": Advice(
        (
            Step(
                "More neighbours, all with the same weight",
                'Raise n_neighbors and avoid weights="distance", with which a training record answers for itself.',
                ("n_neighbors", "weights", "radius"),
            ),
            Step(
                "Another kind of model",
                "A model of nearest neighbours is its training records: whoever has the file has them.",
            ),
            _MORE,
        ),
        Step(
            "Train another kind of model with differential privacy",
            f"{_DP} Nearest neighbours hold training records themselves and cannot be trained so.",
        ),
    ),
    "bayes": Advice(
        (
            Step(
                "Smooth more",
                "More smoothing or shrinkage keeps counts and variances of rare classes from following single records.",
                ("alpha", "var_smoothing", "shrinkage", "reg_param"),
            ),
            _MORE,
        ),
        Step(
            "Train with differential privacy (noise on counts and moments)",
            f"{_DP} Libraries such as diffprivlib have naive Bayes.",
        ),
    ),
    "neural": Advice(
        (
            Step(
                "Stop earlier, or train fewer epochs",
                "Stops training where the error on held-out records no longer falls, before the model fits single "
                "records.",
                ("epochs", "num_epochs", "max_epochs", "max_iter", "early_stopping"),
            ),
            Step(
                "Regularise: weight decay, augmentation, a smaller model, more records",
                "Makes single records matter less.",
                ("weight_decay", "alpha", "augmentation"),
            ),
        ),
        Step("Train with differential privacy (DP-SGD)", f"{_DP} Opacus and tensorflow-privacy train networks so."),
    ),
    "language": Advice(
        (
            Step(
                "Train fewer epochs",
                "A language model begins to recite texts when it sees them a second and third time.",
                ("epochs", "num_train_epochs", "max_steps"),
            ),
            Step(
                "Take out repeated texts, train fewer weights",
                "What occurs often is memorised first; remove exact and near copies. An adapter of lower rank, or a "
                "smaller learning rate, fits single texts less.",
                ("learning_rate", "r", "rank", "lora_r"),
            ),
        ),
        Step(
            "Train with differential privacy (DP-SGD)",
            f"{_DP} Fine-tuning a large checkpoint so costs less than training anew.",
        ),
    ),
    "other": Advice(
        (
            Step(
                "Fit less closely",
                "Whatever setting does that for this kind of model: a smaller one, a stronger penalty, an earlier "
                "stop.",
            ),
            _MORE,
        ),
        Step("Train with differential privacy", f"{_DP} Whether there is a way depends on the kind of model."),
    ),
}

# By names of classes, the first that fits: boosting of trees is boosting.
_BY_NAME: tuple[tuple[Family, str], ...] = (
    ("boosting", r"Boost|LGBM|XGB"),
    ("forest", r"Forest|ExtraTree|DecisionTree|Bagging"),
    ("neural", r"MLP|NeuralNet|Keras|Module$"),
    ("neighbours", r"Neighbor|NearestCentroid"),
    ("kernel", r"(?<!Linear)SV[CR]$|GaussianProcess|KernelRidge"),
    ("bayes", r"NB$|DiscriminantAnalysis"),
    (
        "linear",
        r"Logistic|Linear|Ridge|Lasso|Lars|ElasticNet|SGD(Classifier|Regressor)|Perceptron|PassiveAggressive|Huber|"
        r"(Poisson|Gamma|Tweedie|Quantile|TheilSen|RANSAC|ARD)Regressor|OrthogonalMatchingPursuit",
    ),
)
_BY_KIND: Mapping[str, Family] = {
    "torch": "neural",
    "pytorch": "neural",
    "fast_resnet": "neural",
    "keras": "neural",
    "tensorflow": "neural",
    "transformers": "language",
    "xgboost": "boosting",
    "lightgbm": "boosting",
    "catboost": "boosting",
}


def family_of(result: AuditResult) -> Family:
    """The family of the audited model, by its task, the classes in its recipe, its own class, and its flavor.

    Of a pipeline or a search it is that of the last estimator in it.

    Example:
      >>> from mlflow_privacy.report.example import example_result
      >>> family_of(example_result(n=50))
      'other'
    """
    if result.task == "language":
        return "language"
    recipe = result.references.get("recipe") or {}
    classes = [value for key, value in _settings(recipe.get("spec")) if key == "class" and isinstance(value, str)]
    for name in [*classes[::-1], *_classes_in(result.model.native)]:
        for family, pattern in _BY_NAME:
            if re.search(pattern, name.rsplit(".", 1)[-1]):
                return family
    return _BY_KIND.get(str(recipe.get("kind"))) or _BY_KIND.get(result.model.flavor) or "other"


def settings_of(result: AuditResult, names: tuple[str, ...]) -> dict[str, Any]:
    """What the recipe says of these settings; of several of one name the last, which is the estimator's own."""
    spec = (result.references.get("recipe") or {}).get("spec")
    found = {key: value for key, value in _settings(spec) if key in names}
    return {name: found[name] for name in names if name in found}


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """All names with their values in a nested specification, in its order."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _settings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _settings(inner)


def _classes_in(native: Any) -> Iterator[str]:
    """Name of a live model's class; of a pipeline that of its last step first."""
    steps = getattr(native, "steps", None)
    if isinstance(steps, list) and steps and isinstance(steps[-1], tuple):
        yield from _classes_in(steps[-1][-1])
    for part in ("best_estimator_", "estimator"):
        if hasattr(native, part):
            yield from _classes_in(getattr(native, part))
    if native is not None:
        yield type(native).__name__
