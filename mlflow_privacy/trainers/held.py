"""What an estimator with scikit-learn's API holds that references must not take along as it is.

`sklearn.base.clone` copies a parameter that is no estimator, and with a torch module its trained weights. References
must not start from these: each module is re-initialised, as the trainer of modules does it, or the recipe is refused.
An encoder refuses a category that it never saw: a reference must answer all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from mlflow_privacy.errors import RecipeError
from mlflow_privacy.trainers.canonical import qualified_name

_STARTS = {"LoadInitState": "skorch"}  # callbacks that load weights before training, by their library
_ENCODERS = {"OneHotEncoder", "OrdinalEncoder"}
_KERAS = ("keras", "tf_keras", "tensorflow")


def parts_of(estimator: Any) -> dict[str, Any]:
    """The estimator and all estimators and other values among its parameters, by their path; its own is ""."""
    return {"": estimator, **(estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {})}


def modules_of(estimator: Any) -> dict[str, Any]:
    """Parameters that are live torch modules with weights, by their path."""
    return {name: value for name, value in parts_of(estimator).items() if name and _has_weights(value)}


def holds_torch(estimator: Any) -> bool:
    """Whether an estimator is skorch's, or holds a torch module or its class, at any depth."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    return any(
        isinstance(value, torch.nn.Module)
        or (isinstance(value, type) and issubclass(value, torch.nn.Module))
        or any(cls.__module__.partition(".")[0] == "skorch" for cls in type(value).__mro__)
        for value in parts_of(estimator).values()
    )


def trained_starts(estimator: Any) -> list[str]:
    """A sentence for each thing that would carry trained weights into a clone and cannot be made fresh."""
    faults = []
    for name, value in parts_of(estimator).items():
        title = repr(name) if name else "it"
        params = value.get_params(deep=False) if hasattr(value, "get_params") and not isinstance(value, type) else {}
        beside = [k for k, v in getattr(value, "__dict__", {}).items() if params and k not in params and _inside(v)]
        if beside:
            faults.append(
                f"{title} keeps torch modules in {', '.join(map(repr, beside))} when it is cloned, which are no "
                "parameters of it: references would start from their trained weights. Make them in fit, or pass "
                "train_fn"
            )
        if name and not _has_weights(value) and not hasattr(value, "get_params") and _inside(value):
            faults.append(
                f"{title} holds torch modules in a {type(value).__name__}: references would start from their trained "
                "weights. Give each a parameter of its own, or the class instead of the module, or pass train_fn"
            )
        roots = [
            (cls.__name__, cls.__module__.partition(".")[0]) for item in _items(value) for cls in type(item).__mro__
        ]
        faults += [
            f"{title} holds a {cls}, which loads weights before training: references would start from what the target "
            "learned. Leave it out, or pass train_fn"
            for cls, root in roots
            if _STARTS.get(cls) == root
        ]
        if name and any(root in _KERAS for _, root in roots) and callable(getattr(value, "get_weights", None)):
            faults.append(
                f"{title} is a live Keras model: references would start from its weights. Give a function that builds "
                "it, or pass train_fn"
            )
    return list(dict.fromkeys(faults))


def with_fresh_modules(estimator: Any, seed: int) -> Any:
    """The estimator, in place, with every torch module among its parameters re-initialised from `seed`.

    Raises:
      RecipeError: a module cannot be re-initialised; names the parameter, the submodule and the remedy.
    """
    modules = modules_of(estimator)
    if not modules:
        return estimator
    from mlflow_privacy.trainers.torch.reinit import reinitialise

    fresh: dict[str, Any] = {}
    faults: list[str] = []
    for name, module in sorted(modules.items()):
        if not any(parameter.requires_grad for parameter in module.parameters()):
            continue  # training does not change it
        own = np.random.SeedSequence([seed & 0xFFFFFFFF, len(fresh)])
        try:
            fresh[name] = reinitialise(module, int(own.generate_state(1)[0] >> 1))
        except RecipeError as error:
            faults.append(f"The parameter {name!r} of {qualified_name(type(estimator))}: {error}")
    if faults:
        raise RecipeError("\n".join(faults))
    for name, module in fresh.items():
        _put(estimator, name, module)
    return estimator


def _put(estimator: Any, name: str, value: Any) -> None:
    """Sets a parameter where it is kept: skorch refuses modules in `set_params`."""
    if name in vars(estimator):
        object.__setattr__(estimator, name, value)
        return
    head, _, rest = name.partition("__")
    _put(estimator.get_params(deep=True)[head], rest, value)


def _has_weights(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module) and any(True for _ in value.parameters())


def _inside(value: Any, depth: int = 3) -> bool:
    """Whether a value is, or a container holds, a module with weights."""
    return any(map(_has_weights, _items(value, depth)))


def _items(value: Any, depth: int = 3) -> Iterator[Any]:
    """A value, or what a container of it and of containers in it hold."""
    if depth and isinstance(value, (Mapping, list, tuple, set)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _items(item, depth - 1)
    else:
        yield value


# --- the types that modules take ---------------------------------------------------------------------------------


def forms_for_torch(x: Any) -> list[Any]:
    """Features (n, ...) as a module inside an estimator may take them, the likeliest first: floats as float32.

    >>> [form.dtype.name for form in forms_for_torch(np.zeros((2, 3)))]
    ['float32']
    """
    if hasattr(x, "iloc"):
        wide = [name for name, kind in x.dtypes.items() if getattr(kind, "kind", "O") == "f" and kind != np.float32]
        return [x.astype(dict.fromkeys(wide, np.float32)) if wide else x]
    array = np.asarray(x)
    if array.dtype.kind == "f":
        return [array.astype(np.float32, copy=False)]
    if array.dtype.kind in "biu":
        return [array.astype(np.int64), array.astype(np.float32)]
    return [x]


# --- categories that a reference never saw -----------------------------------------------------------------------


def strict_encoders(estimator: Any) -> dict[str, Any]:
    """Encoders inside an estimator that refuse a category which they never saw, by their path; its own is ""."""
    return {
        name: part
        for name, part in parts_of(estimator).items()
        if _is_encoder(part) and getattr(part, "handle_unknown", None) == "error"
    }


def _is_encoder(part: Any) -> bool:
    return type(part).__name__ in _ENCODERS and type(part).__module__.startswith("sklearn.preprocessing")


def with_lenient_encoders(fitted: Any) -> Any:
    """A fitted estimator, in place, whose encoders take a category which they never saw for none of those they know.

    What it learned is the same. A record of such a category gets zeros (of an ordinal encoder -1): a reference that was
    not trained on it can be asked about it.
    """
    for part in _all_inside(fitted):
        if not _is_encoder(part) or part.handle_unknown != "error":
            continue
        if type(part).__name__ == "OneHotEncoder":
            rare = part.min_frequency is not None or part.max_categories is not None
            part.handle_unknown = "infrequent_if_exist" if rare else "ignore"
        elif np.dtype(part.dtype).kind in "fi":
            part.handle_unknown = "use_encoded_value"
            part.unknown_value = -2 if getattr(part, "encoded_missing_value", None) == -1 else -1
    return fitted


def _all_inside(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Estimators that a fitted one holds, in its parameters and in what it learned."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        inside: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple)):
        inside = value
    elif not isinstance(value, type) and (
        hasattr(value, "get_params") or type(value).__module__.startswith("sklearn.")
    ):
        yield value
        inside = getattr(value, "__dict__", {}).values()
    else:
        return
    for item in inside:
        yield from _all_inside(item, seen)


def title_of(name: str, part: Any) -> str:
    """An encoder by its class and its path in a pipeline."""
    return f"{type(part).__name__} at {name!r}" if name else type(part).__name__
