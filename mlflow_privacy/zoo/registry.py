"""Names to loaders and builders, ours and those that anybody registers. `loading` and `building` look them up."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow_privacy.zoo.data import Inputs

DATASETS: dict[str, Callable[..., Any]] = {}
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """A registered model.

    Attributes:
      build: `build(input_shape, num_outputs, *, option=default, …)` -> torch module.
      inputs: the form it takes: "flat" (d,), "image" (channels, height, width), or "any": as the data set has it.
      own_recipe: whether its trainer brings a recipe, of which a config changes only what it says.
    """

    name: str
    build: Callable[..., Any]
    inputs: Inputs = "any"
    own_recipe: bool = False

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        parameters = list(inspect.signature(self.build).parameters.values())
        return {p.name: p for p in parameters[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


MODELS: dict[str, ModelEntry] = {}


def dataset(name: str) -> Callable[[F], F]:
    """Registers a loader under a name that `data.dataset` may use.

    The loader returns a `DataSet`, or `(x, y)`. Its keyword parameters are the keys of `data.options`. Two are filled
    in if it has them: `data_dir`, the folder of that name that exists, and `folders`, all folders to look in;
    `data_dir` is then the one to download to.

    Args:
      name: in config files, where case, "-" and "_" do not matter. Registering a name again replaces it, so that a
        notebook cell can be run twice. A name that ends in ":" stands for all names that begin so; the loader gets the
        rest as its first argument.

    >>> from mlflow_privacy.zoo import load_dataset
    >>> @dataset("squares")
    ... def squares(*, rows=4):
    ...     return [[float(i)] for i in range(rows)], [i % 2 for i in range(rows)]
    >>> load_dataset("squares").task, len(load_dataset("Squares", options={"rows": 6}).records)
    ('classification', 6)
    """

    def register(loader: F) -> F:
        DATASETS[name] = loader
        return loader

    return register


def model(name: str, *, inputs: Inputs = "any", own_recipe: bool = False) -> Callable[[F], F]:
    """Registers a builder of a torch module under a name that `train.model_name` may use.

    Every submodule with parameters must have PyTorch's `reset_parameters()`, because each reference model starts
    from fresh parameters.

    Args:
      name: in config files, where case, "-" and "_" do not matter unless they tell two names apart. Registering a name
        again replaces it.
      inputs: the form of one record: "flat" (d,), "image" (channels, height, width), or "any".
      own_recipe: of networks that `trainers.fast_resnet` trains.

    >>> from mlflow_privacy.zoo import check_model
    >>> @model("linear", inputs="flat")
    ... def linear(input_shape, num_outputs, *, bias=True):
    ...     import torch
    ...     return torch.nn.Linear(input_shape[0], num_outputs, bias=bias)
    >>> check_model("linear", {"bais": False}, task="classification")
    ["unknown key train.model_options.bais of 'linear', did you mean 'bias'?"]
    """

    def register(build: F) -> F:
        MODELS[name] = ModelEntry(name, build, inputs, own_recipe)
        return build

    return register


def plain_name(name: str) -> str:
    """The name without what does not matter in it.

    >>> plain_name("CIFAR-10"), plain_name("breast_cancer")
    ('cifar10', 'breastcancer')
    """
    return name.lower().replace("-", "").replace("_", "")


def match(name: str, names: Iterable[str]) -> str | None:
    """The registered name that is meant; a family "hf:" for names that begin so."""
    names = list(names)
    if name in names:
        return name
    family = next((n for n in names if n.endswith(":") and name.lower().startswith(n.lower())), None)
    return family or next((n for n in names if not n.endswith(":") and plain_name(n) == plain_name(name)), None)


def data_folders(data_dir: str | Path | None, folders: Sequence[str | Path] = ()) -> list[Path]:
    """Where data may lie, in order: data_dir itself, or below each of `folders` and the working directory.

    Args:
      data_dir: absolute, or relative to each of `folders`, then to the working directory; None for these themselves.
      folders: such as the config's.

    >>> [str(p) for p in data_folders("data", ["/configs"])] == ["/configs/data", str(Path.cwd() / "data")]
    True
    """
    bases = [*(Path(folder).expanduser().absolute() for folder in folders), Path.cwd()]
    given = Path(data_dir).expanduser() if data_dir is not None else Path()
    return list(dict.fromkeys([given] if given.is_absolute() else [base / given for base in bases]))
