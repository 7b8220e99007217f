"""What a trainer is, which there are, and how a recipe is made from a live model."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlflow_privacy.errors import RecipeError, UnsafeError
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.types import Recipe, Records, Task

Progress = Callable[[int, int], None]


class Trainer(Protocol):
    """Trains reference models by one kind of recipe."""

    def train(
        self,
        recipe: Recipe,
        data: Records,
        members: np.ndarray,
        seeds: Sequence[int],
        *,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> Iterator[Any]:
        """Yields one trained model per row, in row order; memory does not grow with the number of rows.

        Args:
          recipe: what to train.
          data: the pool, n records.
          members: (k, n) bool; model i trains on the records where row i is True.
          seeds: k seeds of initialisation and minibatch order; the same seed gives the same model.
          device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
          progress: called with (steps done, steps in total) from time to time.

        Raises:
          RecipeError: the recipe does not fit the data.
        """
        ...

    def save(self, recipe: Recipe, model: Any, folder: Path) -> bool:
        """Writes a trained model as plain files that load without executing anything; False if it has no such form.

        Where it returns False nothing is written, and the model is trained again when it is needed.
        """
        ...

    def load(self, recipe: Recipe, folder: Path) -> Any:
        """Reads what `save` wrote.

        Raises:
          StoreError: the files are missing, damaged, or of another recipe.
          UnsafeError: loading them would execute what they contain.
        """
        ...


_TRAINERS = {
    "sklearn": ("mlflow_privacy.trainers.sklearn", "SklearnTrainer"),
    "torch": ("mlflow_privacy.trainers.torch.trainer", "TorchTrainer"),
    "fast_resnet": ("mlflow_privacy.trainers.fast_resnet.trainer", "FastResNetTrainer"),
    "transformers": ("mlflow_privacy.trainers.text.trainer", "TransformersTrainer"),
    "callable": ("mlflow_privacy.trainers.callable", "CallableTrainer"),
}


class _Lazy(Mapping[str, Trainer]):
    """Trainers by the kind of recipe they understand; a framework is imported when its trainer is asked for."""

    def __getitem__(self, kind: str) -> Trainer:
        module, name = _TRAINERS[kind]
        return getattr(importlib.import_module(module), name)()

    def __iter__(self) -> Iterator[str]:
        return iter(_TRAINERS)

    def __len__(self) -> int:
        return len(_TRAINERS)


TRAINERS: Mapping[str, Trainer] = _Lazy()


def trainer_for(recipe: Recipe) -> Trainer:
    """The trainer that understands a recipe.

    Raises:
      RecipeError: there is none of its kind.

    >>> type(trainer_for(Recipe("callable", {}))).__name__
    'CallableTrainer'
    """
    if recipe.kind not in TRAINERS:
        raise RecipeError(f"There is no trainer for recipes of kind {recipe.kind!r}; there are {sorted(TRAINERS)}.")
    return TRAINERS[recipe.kind]


def make_recipe(
    model: Any,
    settings: Mapping[str, Any] | None = None,
    *,
    train_fn: Callable[..., Any] | None = None,
    task: Task,
    source: str = "",
    data: Records | None = None,
) -> Recipe:
    """The recipe of a live model: everything needed to train another one like it.

    A `train_fn` always wins. Else a scikit-learn estimator (or one with its API, such as `XGBClassifier`) is cloned
    and fitted, a PyTorch module is re-initialised and trained with `settings`, and a `LanguageModel` is fine-tuned from
    its base checkpoint.

    Args:
      model: the target: an estimator, a pipeline, a module; may be None with `train_fn`.
      settings: hyper-parameters; for modules see `mlflow_privacy.trainers.settings`, for estimators parameters to
        change, for a `train_fn` whatever it depends on that its code does not tell.
      train_fn: `train_fn(x, y, seed) -> model`, for any other framework.
      task: "classification", "regression" or "language".
      source: where the recipe came from, in words, for the report.
      data: the pool, if known: its class names are then part of the recipe.

    Raises:
      RecipeError: no reference model like this one can be trained; the message names each submodule or key that is
        in the way, and the remedy.
      UnsafeError: `settings` names code to import.

    Example:
      >>> from sklearn.linear_model import LogisticRegression
      >>> make_recipe(LogisticRegression(C=2.0), task="classification").spec["estimator"]["params"]["C"]
      2.0
    """
    settings = dict(settings or {})
    if isinstance(settings.get("train_fn"), str):
        raise UnsafeError(
            f"The recipe names code to import, train_fn={settings['train_fn']!r}, which is never done unasked. Pass "
            "the function itself, or list its dotted name in allow_code."
        )
    if callable(settings.get("train_fn")) and train_fn is None:
        train_fn = settings.pop("train_fn")
    if train_fn is not None:
        from mlflow_privacy.trainers.callable import callable_recipe

        return callable_recipe(train_fn, settings, source=source)
    if isinstance(model, LanguageModel):
        from mlflow_privacy.trainers.text.trainer import transformers_recipe

        return transformers_recipe(model, settings, task=task, source=source, data=data)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from mlflow_privacy.trainers.torch.reinit import plain_module
        from mlflow_privacy.trainers.torch.trainer import torch_recipe

        if getattr(plain_module(model), "trainer_kind", "") == "fast_resnet":
            from mlflow_privacy.trainers.fast_resnet.trainer import fast_resnet_recipe

            return fast_resnet_recipe(model, settings, task=task, source=source, data=data)
        return torch_recipe(model, settings, task=task, source=source, data=data)
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if type(model).__name__ == "Booster" and name.startswith(("xgboost.", "lightgbm.")):
        raise RecipeError(
            f"A raw {name} does not hold the parameters it was trained with. Log the model through the scikit-learn "
            f"API ({name.partition('.')[0]}'s Classifier or Regressor), or pass "
            'evaluator_config={"privacy_meter": {"train_fn": ...}}.'
        )
    if callable(getattr(model, "get_params", None)) and callable(getattr(model, "fit", None)):
        from mlflow_privacy.trainers.sklearn import sklearn_recipe

        return sklearn_recipe(model, settings, task=task, source=source)
    raise RecipeError(
        f"Reference models like a {name} cannot be trained: it is neither a scikit-learn estimator nor a PyTorch "
        "module. Pass a function train_fn(x, y, seed) -> model in "
        'evaluator_config={"privacy_meter": {"train_fn": ...}}.'
    )


_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def import_allowed(dotted: str, allow_code: Sequence[str]) -> Any:
    """Imports the object behind "package.module:name", if the caller allowed exactly that name.

    Raises:
      UnsafeError: the name is not in `allow_code`; nothing was imported.
      RecipeError: the name is allowed, but there is no such thing.

    Example:
      >>> import_allowed("math:sqrt", allow_code=["math:sqrt"])(9.0)
      3.0
    """
    if not isinstance(dotted, str) or not _DOTTED.fullmatch(dotted):
        raise RecipeError(f'A dotted name must look like "package.module:name", got {dotted!r}.')
    if dotted.replace(":", ".") not in {str(name).replace(":", ".") for name in allow_code}:
        raise UnsafeError(
            f"{dotted!r} would have to be imported, which runs its code. If you trust it, pass allow_code=[{dotted!r}]."
        )
    module, _, name = dotted.rpartition(".") if ":" not in dotted else dotted.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{dotted!r} is allowed but cannot be imported: {error}.") from error
    return found
