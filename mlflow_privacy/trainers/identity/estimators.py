"""What an estimator with scikit-learn's API is before it has learned anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow_privacy.trainers.identity.code import Walker, within
from mlflow_privacy.trainers.identity.origins import origin, root_of

_CLONED = ("_metadata_request", "_sklearn_output_config")  # what scikit-learn's clone takes along beside parameters


def estimator_form(value: Any, walk: Walker, harmless: Callable[[Any], frozenset[str]]) -> dict[str, Any]:
    """An estimator that is cloned before it is trained: its class and parameters, and those of estimators inside.

    Args:
      harmless: from an estimator to its own parameters that do not change what it learns.
    """

    def parameter(item: Any) -> Any:
        """Lists and tuples are one to a library's estimators; estimators inside are cloned too."""
        if type(item) in (list, tuple):
            return [parameter(inner) for inner in item]
        is_estimator = callable(getattr(item, "get_params", None)) and not isinstance(item, type)
        return estimator_form(item, walk, harmless) if is_estimator else walk(item)

    name, dropped, params = type(value).__qualname__, harmless(value), {}
    for key, item in sorted(value.get_params(deep=False).items()):
        if key not in dropped:
            with walk.at(f"the parameter {key!r} of a {name}"):
                params[key] = parameter(item)
    attributes = getattr(value, "__dict__", {})
    kept = {key: attributes[key] for key in _CLONED if attributes.get(key)}
    if origin(root_of(getattr(type(value), "__sklearn_clone__", None))) == "own":  # it may take anything along
        kept = attributes
    told = {"kept": within(walk, f"an attribute of a {name}", kept)} if kept else {}
    return {**walk(type(value)), "params": params, **told}
