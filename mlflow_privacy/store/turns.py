"""Audits that run at one moment on one store that each opens itself, in threads or in processes.

Two things go wrong there that no audit meets alone:

- MLflow looks for a data set of the same name and digest, and inserts one if there is none. Audits of several models
  on one pool all find none at first, and all but one insert in vain. Whoever loses such a race tries again.
- For one call an SQL store takes up to four connections, each while it holds those before (`_NESTED`), of a pool that
  has fifteen for all threads of the process. Threads that call at once may hold all of them, and each wait for one
  more until the pool gives up. So such calls are made in turn. SQLite writes one after the other in any case; a
  server answers each call alone, so nobody waits for his turn there.
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
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

T = TypeVar("T")
_logger = logging.getLogger(__name__)
_RACED = re.compile(r"unique constraint|integrityerror|duplicate (entry|key)|database is locked", re.I)
_TRIES, _PAUSE = 6, 0.05  # seconds before the second try; twice as long before each further one
# Connections that one call holds at once, counted in MLflow 3.17.2: create_run 2, log_batch 2, and 4 where it names the
# run, log_inputs 2, set_tag 2 where it names the run. All others that an audit makes take one.
_NESTED = ("create_run", "log_batch", "log_inputs", "set_tag")
_SQL = ("sqlite", "mysql", "postgresql", "postgres", "mssql")  # with or without a driver, as in "mysql+pymysql"
_MARK = "_mlflow_privacy_in_turn"
_in_turn: contextvars.ContextVar[bool] = contextvars.ContextVar("mlflow_privacy_in_turn", default=False)
_installing = threading.Lock()
_turn = threading.RLock()


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
def taking_turns() -> Iterator[None]:
    """Inside, this thread takes turns with the others that do, and tries again where it lost a race.

    It holds for what MLflow's own `evaluate` and `start_run` ask of the client too, which nothing but the client can
    be patient for. Threads that never asked for it are left as they are.
    """
    _install()
    token = _in_turn.set(True)
    try:
        yield
    finally:
        _in_turn.reset(token)


def take_turns() -> None:
    """`taking_turns` for all that is left of this thread: for threads that are started for an audit."""
    _install()
    _in_turn.set(True)


def _opens_a_database(tracking_uri: str) -> bool:
    """Whether this process itself opens the store's database.

    >>> [_opens_a_database(uri) for uri in ("sqlite:///mlflow.db", "mysql+pymysql://host/db", "https://host", "mlruns")]
    [True, True, False, False]
    """
    return urlsplit(tracking_uri).scheme.partition("+")[0] in _SQL


def _install() -> None:
    """Puts methods that take turns in place of the client's own, unless they are there."""
    with _installing:
        for name in _NESTED:
            original = getattr(MlflowClient, name)
            if not hasattr(original, _MARK):
                setattr(MlflowClient, name, _taking_turns(original))


def _taking_turns(original: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the client that takes turns in threads that do."""

    @functools.wraps(original)
    def method(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        if not _in_turn.get():
            return original(self, *args, **kwargs)

        def in_turn() -> Any:
            with _turn if _opens_a_database(self.tracking_uri) else contextlib.nullcontext():
                return original(self, *args, **kwargs)

        return again_if_raced(in_turn)

    setattr(method, _MARK, True)
    return method
