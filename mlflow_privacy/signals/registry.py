"""Signals of models that this package does not know: functions that a script or an installed package registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow_privacy.errors import ConfigError, SignalError
from mlflow_privacy.fingerprint import digest
from mlflow_privacy.plugins import Registry
from mlflow_privacy.trainers.canonical import Walk
from mlflow_privacy.types import ModelOutputs, Records

GROUP = "mlflow_privacy.signals"


def _check(name: str, outputs: Any) -> None:
    if not callable(outputs):
        raise ConfigError(
            f"The signals {name!r} must be a function outputs(model, records, **asked) -> ModelOutputs or None, got "
            f"{outputs!r}."
        )


# By the name of a framework. Each function gets a model, n records, and by name `task`, `classes` (of a classifier, the
# sorted labels of the pool), `device`, `batch_size` and `scale` as `model_outputs` has them; it gives None for a model
# that is none of its framework's.
SIGNALS: Registry[Callable[..., ModelOutputs | None]] = Registry(GROUP, {}, _check)


def functions_key() -> str | None:
    """A digest of what the registered functions do, in their order, with the code they use; None if there are none.

    What they said of a model is stored under it, so that another function of the same name is asked anew.
    """
    walk = Walk()
    forms = [[name, walk(SIGNALS[name])] for name in SIGNALS]
    return digest({"functions": forms, "rests_on": walk.code()}) if forms else None


def registered_outputs(model: Any, records: Records, **asked: Any) -> ModelOutputs | None:
    """What the first registered function that knows a model says, None if none knows it.

    Raises:
      SignalError: it gives something other than one signal a record.
    """
    for name in SIGNALS:
        outputs = SIGNALS[name](model, records, **asked)
        if outputs is None:
            continue
        given = type(outputs).__name__
        if isinstance(outputs, ModelOutputs):
            given = f"signals of shape {outputs.signal.shape} and losses of shape {outputs.loss.shape}"
            if outputs.signal.shape == outputs.loss.shape == (len(records),):
                return outputs
        raise SignalError(
            f"The signals {name!r} of a {type(model).__qualname__} must be ModelOutputs with one signal and one loss a "
            f"record, got {given} for {len(records)} records."
        )
    return None
