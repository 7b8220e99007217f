"""Reference models of a scikit-learn estimator, or of anything with its API: cloned and fitted."""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.base import clone

from mlflow_privacy.errors import RecipeError, nearest
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.seeding import seeded
from mlflow_privacy.trainers import boosting
from mlflow_privacy.trainers.base import OneByOne
from mlflow_privacy.trainers.canonical import Walk, qualified_name
from mlflow_privacy.trainers.held import (
    forms_for_torch,
    holds_torch,
    strict_encoders,
    title_of,
    trained_starts,
    with_fresh_modules,
    with_lenient_encoders,
)
from mlflow_privacy.trainers.identity.estimators import estimator_form
from mlflow_privacy.trainers.identity.origins import root_of
from mlflow_privacy.trainers.persistence import load_estimator, save_estimator
from mlflow_privacy.trainers.settings import fault_text
from mlflow_privacy.types import Recipe, Records, Task

_logger = logging.getLogger(__name__)

# Seeds, which every reference gets anew, and what `with_jobs` sets.
_JOBS = frozenset({"n_jobs", "nthread", "num_threads", "thread_count"})
_NEVER_TOLD = _JOBS | {"random_state"}
# Parameters of estimators of these libraries that change where they compute, or what is printed or cached.
_HARMLESS = {
    "sklearn": {"verbose", "memory", "pre_dispatch"},
    "imblearn": {"verbose", "memory"},
    "skorch": {"verbose", "device"},
    "xgboost": {"verbose", "verbosity", "device"},
    "lightgbm": {"verbose", "verbosity", "device", "device_type"},
    "catboost": {"verbose", "silent", "logging_level"},
}


def sklearn_recipe(estimator: Any, settings: Mapping[str, Any], *, task: Task, source: str = "") -> Recipe:
    """The recipe of an estimator or pipeline: its class and parameters, not what it has learned.

    Args:
      settings: parameters to change before cloning; usually empty.

    Raises:
      RecipeError: it cannot be cloned, or `settings` name parameters that it does not have.
    """
    try:
        template = clone(estimator)
    except (TypeError, RuntimeError) as error:
        raise RecipeError(
            f"{qualified_name(type(estimator))} cannot be cloned: {error} Make it keep its constructor's arguments "
            "unchanged, or pass train_fn."
        ) from error
    known = template.get_params(deep=True)
    faults = [
        f"{key!r} is no parameter of it{nearest(key, list(known)) or '.'}" for key in settings if key not in known
    ]
    faults += [
        f"{name or 'it'} is a {type(part).__name__}, which holds a fitted estimator that would carry the target's data "
        "into its references; pass train_fn."
        for name, part in [("", template), *known.items()]
        if type(part).__name__ == "FrozenEstimator" or getattr(part, "cv", None) == "prefit"
    ]
    faults += trained_starts(template)
    if faults:
        raise RecipeError(fault_text(f"The recipe of this {type(estimator).__name__} is wrong", faults))
    with_fresh_modules(template, 0)  # nothing that the target learned is in a key either
    if settings:
        template.set_params(**settings)
    note = boosting.without_early_stopping(estimator, template, settings)
    if note:
        _logger.info("Reference models of this %s are trained %s.", type(estimator).__name__, note)
    strict = ", ".join(title_of(name, part) for name, part in strict_encoders(template).items())
    unseen = f"a category that a reference never saw counts as none of those it knows ({strict})" if strict else ""
    walk = Walk()
    described = estimator_form(template, walk, harmless)
    spec = {"estimator": described, "task": task, "versions": _versions(template)}
    return Recipe("sklearn", spec, template, ", ".join(filter(None, (source, note, unseen))), walk.code())


def harmless(estimator: Any) -> frozenset[str]:
    """Parameters of its own that do not change what an estimator learns; of a class of the caller's nothing is known.

    >>> from sklearn.linear_model import LogisticRegression
    >>> "verbose" in harmless(LogisticRegression()), "C" in harmless(LogisticRegression())
    (True, False)
    """
    return _NEVER_TOLD | _HARMLESS.get(root_of(type(estimator)), set())


def _versions(estimator: Any) -> dict[str, str]:
    """major.minor of the libraries whose code trains."""
    versions = {"sklearn": sklearn.__version__}
    for part in [estimator, *estimator.get_params(deep=True).values()]:
        root = type(part).__module__.partition(".")[0]
        if root in ("xgboost", "lightgbm"):
            versions[root] = sys.modules[root].__version__
    return {name: ".".join(version.split(".")[:2]) for name, version in sorted(versions.items())}


def with_seed(estimator: Any, seed: int) -> Any:
    """A clone with every `random_state` inside set from `seed`, also where it was fixed: references must vary.

    Torch modules among its parameters are re-initialised from `seed` too.

    >>> from sklearn.linear_model import LogisticRegression
    >>> with_seed(LogisticRegression(random_state=0), 7).random_state != 0
    True
    """
    fresh = clone(estimator)
    names = [name for name in fresh.get_params(deep=True) if name.rpartition("__")[2] == "random_state"]
    for name in names:
        own = np.random.SeedSequence([seed & 0xFFFFFFFF, zlib.crc32(name.encode())])
        fresh.set_params(**{name: int(own.generate_state(1)[0] >> 1)})
    return with_fresh_modules(fresh, seed)


def _fitted_on_first(estimator: Any, data: Records, seed: int) -> Any:
    """An estimator around a torch module, fitted on the records in the first type that the module takes."""
    problem: Exception | None = None
    for form in forms_for_torch(data.x):
        try:
            with seeded(seed):
                return with_seed(estimator, seed).fit(form, data.y)
        except (RuntimeError, TypeError, IndexError) as error:
            problem = problem or error
    raise RecipeError(
        f"The module inside {type(estimator).__name__} does not take the records: {problem}. Log them as it was "
        "trained on them."
    ) from problem


def with_jobs(estimator: Any, threads: int) -> Any:
    """A clone that starts at most `threads` threads or processes of its own, wherever it would start any.

    Where cores are taken by other references, more would only wait for each other. What is fitted stays the same: the
    seeds of a forest's trees are drawn before they are handed out.

    >>> from sklearn.ensemble import RandomForestClassifier
    >>> with_jobs(RandomForestClassifier(n_jobs=-1), 1).n_jobs
    1
    """
    fresh = clone(estimator)
    parameters = fresh.get_params(deep=True)
    given = {name: value for name, value in parameters.items() if name.rpartition("__")[2] in _JOBS}
    owner = {name: parameters.get(name.rpartition("__")[0], fresh) for name in given}
    # None is one job to scikit-learn, and all cores to XGBoost and LightGBM.
    many = [name for name, value in given.items() if value not in (None, 1) or boosting.is_boosted(owner[name])]
    return fresh.set_params(**dict.fromkeys(many, threads))


class SklearnTrainer(OneByOne):
    """Clones the recipe's estimator and fits it; `device` does not matter here."""

    def train_one(self, recipe: Recipe, data: Records, seed: int, *, device: str) -> Any:
        if recipe.template is None:
            raise RecipeError("The recipe's estimator is not at hand: make the recipe again from the registered model.")
        estimator = with_seed(recipe.template, seed)
        if boosting.needs_indices(estimator):
            return boosting.fit(estimator, data.x, data.y)
        if holds_torch(estimator):
            return _fitted_on_first(estimator, data, seed)
        strict = strict_encoders(estimator)
        try:
            fitted = estimator.fit(data.x, data.y)
        except ValueError as error:
            if not strict or "unknown categor" not in str(error).lower():
                raise
            raise RecipeError(
                f"A reference model cannot be trained: {', '.join(title_of(*one) for one in strict.items())} meets a "
                f"category in one part of its data that it did not see in another ({error}). Train the model with "
                'handle_unknown="ignore" in that step, or pass train_fn.'
            ) from error
        return with_lenient_encoders(fitted) if strict else fitted

    def save(self, recipe: Recipe, model: Any, folder: Path) -> bool:
        """Writes skops, or the booster's own format; False for what neither can hold safely, such as trees."""
        if boosting.is_boosted(model):
            return boosting.save(model, folder)
        return save_estimator(model, folder, recipe=recipe_digest(recipe))

    def load(self, recipe: Recipe, folder: Path) -> Any:
        if boosting.is_boosted(recipe.template):
            return boosting.load(recipe.template, folder)
        return load_estimator(folder)
