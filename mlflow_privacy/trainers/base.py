"""What a trainer is. It trains reference models by one kind of recipe; `trainers.registry` knows which there are."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlflow_privacy.errors import StoreError
from mlflow_privacy.seeding import seeded
from mlflow_privacy.types import Recipe, Records, Task

Progress = Callable[[int, int], None]


class Trainer(Protocol):
    """Trains reference models by one kind of recipe.

    A trainer that inherits from this class needs no more than `train`, one that inherits from `OneByOne` no more than
    `train_one`.

    Attributes:
      recipe_keys: names of settings in its recipes, so that `log_lineage` does not take them for misspelt ones.
    """

    recipe_keys: Sequence[str] = ()

    @abc.abstractmethod
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

        Torch modules come in evaluation mode, on the device that they were trained on.

        Args:
          recipe: what to train.
          data: the pool, n records.
          members: (k, n) bool; model i trains on the records where row i is True.
          seeds: k seeds of initialisation and minibatch order; the same seed gives the same model.
          device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...; for frameworks that know devices.
          progress: called with (steps done, steps in total) from time to time.

        Raises:
          RecipeError: the recipe does not fit the data, or its template is not at hand.
        """
        ...

    def save(self, recipe: Recipe, model: Any, folder: Path) -> bool:
        """Writes a trained model as plain files that load without executing anything; False if it has no such form.

        Where it returns False nothing is written, and the model is trained again when it is needed.
        """
        return False

    def load(self, recipe: Recipe, folder: Path) -> Any:
        """Reads what `save` wrote.

        Raises:
          StoreError: the files are missing, damaged, or of another recipe.
          UnsafeError: loading them would execute what they contain.
        """
        raise StoreError(f"A {recipe.kind} model has no form to be stored in; it must be trained again.")

    def recipe_for(
        self, model: Any, settings: Mapping[str, Any], *, task: Task, source: str = "", data: Records | None = None
    ) -> Recipe | None:
        """The recipe of a live model, None for one that this trainer does not know; a trainer may lack this method.

        Asked of registered trainers by `make_recipe`, whose arguments these are, for models that it does not know.

        Raises:
          RecipeError: the model is known, but no other one like it can be trained.
        """
        return None


class OneByOne(Trainer):
    """A trainer of one model after another; Python's, NumPy's and torch's global generators are seeded for each."""

    @abc.abstractmethod
    def train_one(self, recipe: Recipe, data: Records, seed: int, *, device: str) -> Any:
        """The model of one reference, from its members alone."""

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
        members, data = np.asarray(members, bool), as_logged(recipe, data)
        for i, (row, seed) in enumerate(zip(members, seeds, strict=True)):
            part = data.take(np.flatnonzero(row))
            with seeded(int(seed)):
                model = self.train_one(recipe, part, int(seed), device=device)
            yield model
            if progress is not None:
                progress(i + 1, len(members))


def as_logged(recipe: Recipe, data: Records) -> Records:
    """The records with one-hot labels, if they came so and the recipe's trainer learns them so; else as they are.

    >>> recipe = Recipe("callable", {"one_hot": {"columns": 3, "dtype": "float32"}})
    >>> as_logged(recipe, Records(np.zeros((2, 1)), np.array([2, 0]), np.arange(2))).y.tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    form = recipe.spec.get("one_hot")
    if form is None:
        return data
    names = form.get("classes")
    place = {name: i for i, name in enumerate(range(form["columns"]) if names is None else names)}
    index = np.array([place[label] for label in data.y.tolist()], np.int64)
    return Records(data.x, np.eye(form["columns"], dtype=form["dtype"])[index], data.row_ids)
