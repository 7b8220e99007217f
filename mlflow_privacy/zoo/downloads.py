"""Downloads that resume, checksums that are remembered, and archives that cannot write where they like."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import logging
import os
import socket
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import IO, cast

from mlflow_privacy.errors import ConfigError, UnsafeError

_logger = logging.getLogger(__name__)
_BLOCK = 2**20
_NETWORK_FAULTS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str | None = None) -> str:
    """Compares a file with the caller's checksum and with the one that `record_sha256` wrote beside it.

    The record shows later changes of the file; it cannot show that the first one was the original. Only `expected` can.

    Returns: the file's SHA-256.

    Raises:
      UnsafeError: it has another checksum.
    """
    actual, record = sha256_of(path), _record(path)
    known = record.read_text().split()[:1] if record.is_file() else []
    for what, wanted in (("the expected", expected), (f"the one in {record.name}", known[0] if known else None)):
        if wanted is not None and wanted.lower() != actual:
            raise UnsafeError(
                f"{path.name} has SHA-256 {actual}, {what} is {wanted}. Delete it to download it again; if the change "
                f"is right, delete {record.name} too."
            )
    return actual


def record_sha256(path: Path, digest: str) -> None:
    """Writes `NAME.sha256`, as the program sha256sum does, unless it is there."""
    if not _record(path).exists():
        try:
            _record(path).write_text(f"{digest}  {path.name}\n")
        except OSError as error:
            _logger.info("SHA-256 of %s is not written beside it: %s", path, error)


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    max_bytes: int,
    timeout: float = 60.0,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Downloads a file into `path`, which exists only when it is complete.

    What an interrupted download has fetched stays in `NAME.part`, and the next one asks the server for the rest, if
    the file there has not changed.

    Args:
      url: http or https.
      path: of the file; its folder is made.
      sha256: expected, hexadecimal; None if the caller knows none.
      max_bytes: a longer file is refused.
      timeout: seconds without a byte after which an attempt fails.
      attempts: in all; only those that bring nothing new count.
      pause: seconds before the second attempt, doubled for each further one.

    Raises:
      ConfigError: the server cannot be reached, or gives something else.
      UnsafeError: the file is too long or has another checksum.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"a download must be http or https, got {url!r}.")
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.etag")
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part, tag, max_bytes, timeout)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left to fetch, or what we have does not fit the server's file
                if before and error.headers.get("Content-Range") == f"bytes */{before}":
                    break
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise ConfigError(
                    f"{url} cannot be downloaded: the server says {error.code} {error.reason}."
                ) from error
            reason: Exception = error
        except _NETWORK_FAULTS as error:
            reason = error
            if isinstance(
                getattr(error, "reason", None), socket.gaierror
            ):  # no such name: off line, waiting is in vain
                failed = attempts
        grown = (part.stat().st_size if part.exists() else 0) > before
        failed = 0 if grown and failed < attempts else failed + 1
        if failed >= attempts:
            raise ConfigError(
                f"{url} cannot be downloaded: {getattr(reason, 'reason', None) or reason}. Without a connection, fetch "
                f"it elsewhere and save it as {path}."
            ) from reason
        time.sleep(pause * 2 ** max(failed - 1, 0))
    if sha256 is not None and sha256_of(part) != sha256.lower():
        actual = sha256_of(part)
        part.unlink()
        raise UnsafeError(f"{url} has SHA-256 {actual}, the expected is {sha256}. It is not kept.")
    os.replace(part, path)
    tag.unlink(missing_ok=True)
    return path


def _fetch(url: str, part: Path, tag: Path, max_bytes: int, timeout: float) -> None:
    """One attempt: appends to `part` what is missing of it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "mlflow-privacy", "Accept-Encoding": "identity"})
    known = tag.read_text().strip() if tag.is_file() else ""
    if have and known:  # without a validator the server's file may be another by now
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known)
    with urllib.request.urlopen(request, timeout=timeout) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise http.client.HTTPException("the server sent another part than asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None and total > max_bytes:
            raise UnsafeError(f"{url} has {total:,} bytes, more than the {max_bytes:,} this data set may have.")
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        tag.write_text(validator)
        with part.open("ab" if resumed else "wb") as file:
            size = start
            while block := response.read(_BLOCK if total is None else max(1, min(_BLOCK, total - size))):
                size += len(block)
                if size > max_bytes:
                    raise UnsafeError(f"{url} has more than the {max_bytes:,} bytes this data set may have.")
                file.write(block)
        if total is not None and size < total:
            raise ConnectionError(f"the connection ended after {size:,} of {total:,} bytes")


def extract_files(archive: Path, names: Collection[str], folder: Path, *, max_bytes: int) -> dict[str, Path]:
    """Writes the named regular files of a .tgz into `folder`; nothing else of it is written, and no path of it is used.

    Args:
      archive: gzipped tar.
      names: last parts of the wanted paths.
      folder: gets `folder/NAME` for each; files appear there when they are complete.
      max_bytes: of all that is unpacked, wanted or not.

    Returns: the files by name.

    Raises:
      UnsafeError: a member is absolute, has "..", is a link, a device or anything but a file or folder, or there
        is more than `max_bytes`.
      ConfigError: a wanted file is missing or there twice, or the archive is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    try:
        with gzip.open(archive, "rb") as stream:
            limited = _Limited(cast(IO[bytes], stream), max_bytes, archive.name)
            while header := limited.exactly(tarfile.BLOCKSIZE):
                if header == bytes(tarfile.BLOCKSIZE):
                    break
                member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
                name = _checked_name(member, archive.name)
                padding = -member.size % tarfile.BLOCKSIZE
                if name in names and not member.isdir():
                    if name in written:
                        raise ConfigError(f"{archive.name} holds {name!r} twice.")
                    part = folder / f"{name}.part"
                    with part.open("wb") as file:
                        limited.copy(member.size, file)
                    written[name] = part
                else:
                    limited.copy(member.size, None)
                limited.exactly(padding)
        missing = [name for name in names if name not in written]
        if missing:
            raise ConfigError(f"{archive.name} holds no file {', '.join(missing)}. Delete it to download it again.")
        for name, part in written.items():
            written[name] = part.replace(folder / name)
        return written
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{archive.name} cannot be unpacked: {error}. Delete it to download it again.") from error
    finally:
        for name in names:
            (folder / f"{name}.part").unlink(missing_ok=True)


_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
)  # about the next member; skipped, never obeyed


def _checked_name(member: tarfile.TarInfo, archive: str) -> str:
    """The last part of a member's path, if the member is harmless."""
    path = PurePosixPath(member.name)
    if member.type in _EXTENSIONS:
        return ""
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise UnsafeError(f"{archive} holds {member.name!r}, a path out of the archive. It is not unpacked.")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise UnsafeError(f"{archive} holds {member.name!r}, which is neither file nor folder. It is not unpacked.")
    return path.name


class _Limited:
    """Reads a stream to the end or to a limit."""

    def __init__(self, stream: IO[bytes], limit: int, name: str) -> None:
        self._stream, self._left, self._limit, self._name = stream, limit, limit, name

    def exactly(self, size: int) -> bytes:
        buffer = io.BytesIO()
        self.copy(size, buffer)
        return buffer.getvalue()

    def copy(self, size: int, file: IO[bytes] | None) -> None:
        """Copies `size` bytes, or drops them if `file` is None."""
        if size < 0 or size > self._left:
            raise UnsafeError(f"{self._name} unpacks to more than {self._limit:,} bytes. It is not unpacked.")
        self._left -= size
        while size:
            block = self._stream.read(min(size, _BLOCK))
            if not block:
                raise EOFError("it ends too early")
            size -= len(block)
            if file is not None:
                file.write(block)
