"""How long an audit waits for a source of data: not for ever for one that says nothing.

| variable | default | meaning |
|---|---|---|
| `MLFLOW_PRIVACY_SOURCE_TIMEOUT` | 30 | seconds without a byte, after which a source counts as dead |
| `MLFLOW_PRIVACY_SOURCE_TOTAL` | 3600 | seconds for one source in all |

A source whose progress cannot be seen, such as a table of a hub or a warehouse, has twenty times the first.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

from mlflow_privacy.errors import ConfigError, LineageError

T = TypeVar("T")
SILENCE, TOTAL = "MLFLOW_PRIVACY_SOURCE_TIMEOUT", "MLFLOW_PRIVACY_SOURCE_TOTAL"
_DEFAULTS = {SILENCE: 30.0, TOTAL: 3600.0}
_UNSEEN = 20  # times the silence, for a source whose progress cannot be seen
_TRIES, _PAUSE = 2, 1.0  # of a connection that is refused or breaks
_DEAD_FOR = 15.0  # seconds in which a dead address is not tried again
_CHUNK, _SMALL = 1 << 20, 1 << 10
_POLL = 0.1

_dead: dict[str, float] = {}  # addresses that did not answer, and when


def limit(name: str) -> float:
    """Seconds, from the environment.

    Raises:
      ConfigError: it is set to something else than a positive number.

    >>> limit("MLFLOW_PRIVACY_SOURCE_TOTAL")
    3600.0
    """
    text = os.environ.get(name, "").strip()
    with contextlib.suppress(ValueError):
        value = float(text) if text else _DEFAULTS[name]
        if value > 0:
            return value
    raise ConfigError(f"{name} must be a positive number of seconds, got {text!r}.")


def within_limits(work: Callable[[], T], *, where: str, grows: Path | None = None) -> T:
    """`work()`, given up when it says nothing for too long; what it raises is raised.

    It runs in a thread of its own, which cannot be stopped: one that is given up ends with the process at the latest.

    Args:
      where: the source, for the error.
      grows: a folder into which `work` downloads: every byte there is progress.

    Raises:
      LineageError: a limit is over; names the source, the limit and the remedy.
    """
    address = urlparse(where).netloc.rpartition("@")[2]
    silence, total = limit(SILENCE), limit(TOTAL)
    _raise_if_dead(address, where)
    silence = silence if grows is not None else min(total, _UNSEEN * silence)
    result: list[Any] = []
    done, context = threading.Event(), contextvars.copy_context()

    def run() -> None:
        try:
            result.extend((True, context.run(work)))
        except BaseException as error:
            result.extend((False, error))
        done.set()

    threading.Thread(target=run, daemon=True, name="privacy-source").start()
    started = heard = time.monotonic()
    size = -1
    while not done.wait(_POLL):
        now, before, size = time.monotonic(), size, 0 if grows is None else _bytes_in(grows)
        if before != size:
            heard = now
        if now - heard > silence or now - started > total:
            _dead[address] = now
            name, seconds = (SILENCE, silence) if now - heard > silence else (TOTAL, total)
            raise LineageError(_gave_up(where, name, seconds, grows is not None))
    ok, value = result
    if not ok:
        raise value
    return value


def _gave_up(where: str, name: str, seconds: float, seen: bool) -> str:
    if name == TOTAL:
        said = f"was not there after {seconds:g} s in all ({TOTAL})"
    elif seen:
        said = f"does not answer: nothing came for {seconds:g} s ({SILENCE})"
    else:
        said = f"does not answer within {seconds:g} s ({_UNSEEN} times {SILENCE})"
    return f"its source {where} {said}. Check the address, and whether it can be reached from here"


def _raise_if_dead(address: str, where: str) -> None:
    at = _dead.get(address) if address else None
    if at is not None and time.monotonic() - at < _DEAD_FOR:
        raise LineageError(
            f"its source {where} was not asked: {address} did not answer {time.monotonic() - at:.0f} s ago ({SILENCE})"
        )


def _bytes_in(folder: Path) -> int:
    total = 0
    with contextlib.suppress(OSError):  # files come and go while they are downloaded
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size + 1
    return total


def download(url: str, folder: Path) -> Path:
    """A file of the web inside `folder`; a connection that is refused or breaks is tried twice.

    Raises:
      LineageError: it cannot be had; names URL, reason and how often it was tried.
    """
    import requests

    for attempt in range(1, _TRIES + 1):
        try:
            return _download(url, folder)
        except requests.HTTPError as error:
            status = error.response.status_code
            hint = ". Give this process user and password, as in ~/.netrc" if status in (401, 403) else ""
            raise LineageError(f"its source {url} does not load: HTTP {status}{hint}") from error
        except requests.RequestException as error:
            if isinstance(error, requests.Timeout) or attempt == _TRIES:
                reason = _reason(error)
                if isinstance(error, requests.Timeout):
                    _dead[urlparse(url).netloc.rpartition("@")[2]] = time.monotonic()
                raise LineageError(
                    f"its source {url} does not load: {reason} (tried {'twice' if attempt > 1 else 'once'}). Check the "
                    "address, and whether it can be reached from here"
                ) from error
            time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def _download(url: str, folder: Path) -> Path:
    import requests

    silence = limit(SILENCE)
    with requests.get(url, stream=True, timeout=(silence, silence)) as response:
        response.raise_for_status()
        path = folder / _file_name(url, response.headers.get("Content-Disposition", ""))
        with open(path, "wb", buffering=0) as file:  # what is there is seen at once
            for chunk in _as_it_comes(response):
                file.write(chunk)
    return path


def _as_it_comes(response: Any) -> Iterator[bytes]:
    """The bytes of a response when they come, and not when so many of them are there."""
    read = getattr(response.raw, "read1", None)  # of urllib3 2
    if read is None:
        yield from response.iter_content(_SMALL)
        return
    import requests
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    try:
        while chunk := read(_CHUNK, decode_content=True):
            yield chunk
    except ReadTimeoutError as error:
        raise requests.ReadTimeout(error, request=response.request) from error
    except HTTPError as error:
        raise requests.ConnectionError(error, request=response.request) from error


def _file_name(url: str, disposition: str) -> str:
    """The name that the server gives, else the last part of the path; never one outside the folder.

    >>> _file_name("https://a.b/c/d%20e.csv?x=1", ""), _file_name("https://a.b/", 'attachment; filename="../t.npz"')
    ('d e.csv', 't.npz')
    """
    _, sign, given = disposition.partition("filename=")
    name = given.split(";")[0].strip().strip("\"'") if sign else unquote(urlparse(url).path)
    return name.replace("\\", "/").rpartition("/")[2].strip(". ") or "data"


def _reason(error: Exception) -> str:
    """The innermost cause in a few words: "Connection refused" rather than three classes around it."""
    import socket

    import requests

    if isinstance(error, requests.Timeout):
        return f"nothing came for {limit(SILENCE):g} s ({SILENCE})"
    inner: BaseException = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    if isinstance(inner, socket.gaierror):
        return f"the name {urlparse(str(getattr(getattr(error, 'request', None), 'url', ''))).hostname} is not known"
    return " ".join(str(inner).split())[:200] or type(inner).__name__
