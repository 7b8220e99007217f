"""Dataset inputs of audits that run at one moment: whoever loses the race for the same new row tries again.

MLflow looks for a data set of the same name and digest, and inserts one if there is none. Audits of several models on
one pool, in threads or processes on one SQL store, all find none at first, and all but one insert in vain.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_RACED = re.compile(r"unique constraint|integrityerror|duplicate (entry|key)|database is locked", re.I)
_TRIES, _PAUSE = 6, 0.05  # seconds before the second try; twice as long before each further one
_MARK = "_mlflow_privacy_patient"
_patient: contextvars.ContextVar[bool] = contextvars.ContextVar("mlflow_privacy_patient_inputs", default=False)
_installing = threading.Lock()


def again_if_raced(call: Callable[[], T]) -> T:
    """`call()`, tried again where another thread or process wrote the same row of the store in between.

    Raises:
      MlflowException: any other error, or the last one of six.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return call()
        except MlflowException as error:
            if attempt == _TRIES or not _RACED.search(str(error)):
                raise
            _logger.debug("the tracking store was written to in between, trying again: %s", error)
            time.sleep(_PAUSE * 2 ** (attempt - 1) * (0.5 + random.random()))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def patient_inputs() -> Iterator[None]:
    """Inside, `MlflowClient.log_inputs` of this thread tries again where it lost a race; that of others stays as it is.

    MLflow's own `evaluate` calls it too, which nothing but the client can be patient for.
    """
    _install()
    token = _patient.set(True)
    try:
        yield
    finally:
        _patient.reset(token)


def _install() -> None:
    """Puts the patient method in place of the client's own, unless it is there."""
    with _installing:
        original = MlflowClient.log_inputs
        if hasattr(original, _MARK):
            return

        @functools.wraps(original)
        def log_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not _patient.get():
                return original(self, *args, **kwargs)
            return again_if_raced(lambda: original(self, *args, **kwargs))

        setattr(log_inputs, _MARK, True)
        MlflowClient.log_inputs = log_inputs  # type: ignore[method-assign]
