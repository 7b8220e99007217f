"""The hook in front of `mlflow.evaluate`. Stock MLflow refuses `evaluate(uri, evaluators=["privacy_meter"])` before any
evaluator is asked: it wants `data` and `model_type`.

Light, and without MLflow at the top: `plugin.py` loads it while MLflow itself is being imported.
"""

from __future__ import annotations

import functools
from typing import Any

from mlflow_privacy.evaluators import EVALUATOR
from mlflow_privacy.store.mlflow_private import rebind_evaluate

_MARK = "_mlflow_privacy_original"


def names_privacy_meter(evaluators: Any) -> bool:
    """Whether the call asked for this evaluator by name.

    >>> [names_privacy_meter(e) for e in ("privacy_meter", ["default", "privacy_meter"], None, ["default"])]
    [True, True, False, False]
    """
    return evaluators == EVALUATOR or (isinstance(evaluators, list) and EVALUATOR in evaluators)


def _wrap(original: Any) -> Any:
    """`original` with this evaluator's calls prepared; every other call goes straight through."""

    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        if not names_privacy_meter(kwargs.get("evaluators")):
            return original(*args, **kwargs)
        from mlflow_privacy.evaluators.call import evaluate_privacy

        return evaluate_privacy(original, *args, **kwargs)

    setattr(evaluate, _MARK, original)
    return evaluate


def install_privacy_meter_hook(base: Any) -> None:
    """Puts the wrapper in front of `evaluate` in `base`, and of every name of MLflow's that is already bound to it."""
    original = base.evaluate
    if hasattr(original, _MARK):
        return
    base.evaluate = wrapped = _wrap(original)
    rebind_evaluate(original, wrapped)
