"""What is wrong with a recipe before its model is known: when it is logged, while whoever wrote it is still there."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_privacy.errors import RecipeError, nearest
from mlflow_privacy.trainers import settings as module
from mlflow_privacy.trainers.fast_resnet import settings as fast
from mlflow_privacy.trainers.registry import TRAINERS, others
from mlflow_privacy.trainers.text import settings as text

# Kinds of models that are trained by a loop: the keys of their recipes, and other names of the same.
KINDS: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "PyTorch module": (module.KEYS, module.ALIASES),
    "language model": (text.KEYS, text.ALIASES),
    "FastResNet": (fast.KEYS, module.ALIASES),
}
# Read by lineage itself, whatever the model.
SAID = frozenset({"base_digest", "classes", "delta", "epsilon"})
# Parameters of estimators have these names too: alone they do not tell that a recipe is a loop's.
_ALSO_OF_ESTIMATORS = frozenset(
    {"alpha", "amsgrad", "base", "batch_size", "betas", "dampening", "eps", "learning_rate", "loss", "max_length"}
    | {"momentum", "nesterov", "objective", "prompt", "text", "tokenizer", "weight_decay"}
)
_SURELY = 0.85  # alike: "epoch", "learning_rte"; but not MLPClassifier's "learning_rate_init"


def check_recipe(recipe: Mapping[str, Any]) -> None:
    """Refuses a recipe by which no model could be trained, if that can be told without the model.

    A recipe with a `train_fn` holds what that function reads, and parameters of an estimator are known to the estimator
    alone: both pass, unless a key is a misspelt one of a training loop. Missing keys are no fault here: run parameters
    or the audit's options may give them.

    Raises:
      RecipeError: with every fault and the nearest valid key.

    >>> check_recipe({"optimizer": "adam", "learning_rte": 1e-3, "epoch": 5, "batch_size": 32})
    Traceback (most recent call last):
    mlflow_privacy.errors.RecipeError: The recipe cannot be used:
      - unknown key 'learning_rte', did you mean 'learning_rate'?
      - unknown key 'epoch', did you mean 'epochs'?
    """
    faults = recipe_faults(recipe)
    if faults:
        raise RecipeError(module.fault_text("The recipe cannot be used", faults))


def recipe_faults(recipe: Mapping[str, Any]) -> list[str]:
    """Faults as sentences; none for what may be an estimator's parameters.

    >>> recipe_faults({"n_estimators": 100, "learning_rate": 0.1}), recipe_faults({"epoch": 5})
    ([], ["unknown key 'epoch', did you mean 'epochs'?"])
    """
    given = {str(key): value for key, value in recipe.items() if key not in SAID}
    if "train_fn" in given or any("__" in key for key in given):  # "step__C", "optimizer__momentum"
        return []
    names = {name for keys, aliases in KINDS.values() for name in (*keys, *_aliases_of(keys, aliases))}
    unknown = [key for key in given if key not in names]
    if unknown:
        own = {key for kind in others() for key in getattr(TRAINERS[kind], "recipe_keys", ())}
        unknown = [key for key in unknown if key not in own]
    if not _of_a_loop(given, names):
        long = {name for name in names if name not in _ALSO_OF_ESTIMATORS or "_" in name}  # RidgeCV's "alphas"
        return [_unknown(key) for key in unknown if nearest(key, long, cutoff=_SURELY)]
    return [_unknown(key) for key in unknown] or _value_faults(given)


def _aliases_of(keys: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    known = set(keys)
    return [alias for alias, name in aliases.items() if name in known]


def _of_a_loop(given: Iterable[str], names: set[str]) -> bool:
    """Whether at least two keys are of a training loop, one of them of nothing else."""
    aliases = {**module.ALIASES, **text.ALIASES}
    known = {aliases.get(key, key) for key in given if key in names} - {"alpha"}  # GaussianProcess has "optimizer" too
    return len(known) > 1 and bool(known - _ALSO_OF_ESTIMATORS)


def _unknown(key: str) -> str:
    keys = list(dict.fromkeys(key for keys, _ in KINDS.values() for key in keys))
    rest = "; a recipe holds how the model is trained and nothing else."
    return f"unknown key {key!r}{nearest(key, [*keys, *module.ALIASES, *text.ALIASES]) or rest}"


def _value_faults(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values, if no kind of model that knows all the keys takes them.

    Only libraries that the training run has loaded are asked: it trains with them.
    """
    if "torch" not in sys.modules:
        return []
    readings = [module.read_settings(given, task=None, complete=False)[1]]
    if "transformers" in sys.modules:
        readings.append(text.read_text_settings(given, complete=False)[1])
    readings.append(fast.read_fast_settings(given, task="classification")[1])
    understood = [faults for faults in readings if not any(fault.startswith("unknown key") for fault in faults)]
    return min(understood, key=len, default=[])
