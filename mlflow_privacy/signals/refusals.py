"""What an estimator refuses, in words, and the type in which a module inside it takes records."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mlflow_privacy.errors import SignalError
from mlflow_privacy.trainers.held import forms_for_torch, holds_torch, strict_encoders, title_of

_P = ParamSpec("_P")
_R = TypeVar("_R")
_PROBED = 3


def names_unknown_categories(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function of an estimator first, whose error about a category never seen names the step and the remedy."""

    @functools.wraps(function)
    def asked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            if "unknown categor" not in str(error).lower():
                raise
            raise SignalError(_unknown(args[0], error)) from error

    return asked


def _unknown(estimator: Any, error: ValueError) -> str:
    found = strict_encoders(estimator) if hasattr(estimator, "get_params") else {}
    steps = ", ".join(title_of(name, part) for name, part in found.items()) or f"a step of {type(estimator).__name__}"
    text = " ".join(str(error).split())
    return (
        f"The model refuses some of the records: {steps} never saw one of their categories ({text[:300]}). By failing "
        "it tells that it was not trained on them. Leave these records out of the held-out data and the population, or "
        'train the model with handle_unknown="ignore" in that step.'
    )


def form_taken(estimator: Any, x: Any) -> Any:
    """The features in the type that a torch module inside an estimator takes; of any other estimator as they are.

    Raises:
      SignalError: it takes them in none.
    """
    if not len(x) or not holds_torch(estimator):
        return x
    problem: Exception | None = None
    for form in forms_for_torch(x):
        try:
            estimator.predict(form.iloc[:_PROBED] if hasattr(form, "iloc") else form[:_PROBED])
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            problem = problem or error
            continue
        return form
    raise SignalError(
        f"The module inside {type(estimator).__name__} does not take the records: {problem}. Log them as it was "
        "trained on them."
    )
