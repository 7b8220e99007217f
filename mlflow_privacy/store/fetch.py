"""Files of runs on this machine: read in place where the artifact store is a folder, else downloaded; those of
references before they are asked for.

A run's artifact URI leads straight to its files. MLflow's own `download_artifacts` asks for the run again, twice a
file, and for logged models of the file's name, and copies what is on this machine already.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from mlflow_privacy.errors import StoreError
from mlflow_privacy.store.mlflow_private import download_file, folder_of, repository_at
from mlflow_privacy.store.quiet import no_artifact_bars

_THREADS, _AHEAD = 8, 16
_IDS = 100  # run ids in one query


def homes_of(client: MlflowClient, run_ids: Sequence[str], experiment_id: str) -> dict[str, str]:
    """Artifact URI by run id, of those of the runs that are in one experiment; asked for together."""
    homes = {}
    for start in range(0, len(run_ids), _IDS):
        some = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + _IDS])
        query = f"attributes.run_id IN ({some})"
        for run in client.search_runs([experiment_id], query, ViewType.ALL, max_results=_IDS):
            homes[run.info.run_id] = run.info.artifact_uri
    return homes


class RunFiles:
    """The files of one run, to be read only.

    Args:
      client: of the tracking server.
      run_id: of the run.
      home: `run.info.artifact_uri`; asked for when it is first needed if None.
    """

    def __init__(self, client: MlflowClient, run_id: str, home: str | None = None) -> None:
        self._client, self.run_id, self._home = client, run_id, home

    @functools.cached_property
    def home(self) -> str:
        """The artifact URI of the run."""
        return self._home or self._client.get_run(self.run_id).info.artifact_uri

    @functools.cached_property
    def _repository(self) -> Any:
        return repository_at(self._client, self.home)

    def listed(self, parent: str) -> set[str]:
        """Paths of the files and folders directly below a folder of the run; empty if there is no such folder."""
        return _listed(self._repository, parent)

    @contextlib.contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """A file or folder of the run on this machine; what had to be downloaded is deleted afterwards.

        Raises:
          MlflowException: it is not there, or cannot be fetched.
        """
        if folder_of(self._repository) is not None:
            yield self._downloaded(path, None)
            return
        with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as folder:
            yield self.copy(path, Path(folder))

    def copy(self, path: str, folder: Path) -> Path:
        """A copy of a file or folder of the run, inside `folder`, which is there; "" is the run's whole folder.

        Raises:
          MlflowException: it is not there, or cannot be fetched.
        """
        return self._downloaded(path, str(folder))

    def _downloaded(self, path: str, folder: str | None) -> Path:
        """What the artifact store gives; without a folder, one on this machine gives the file itself."""
        try:
            return Path(self._repository.download_artifacts(path, folder))
        except MlflowException:
            raise
        except Exception as error:  # each kind of artifact store has its own
            raise MlflowException(f"Run {self.run_id}: {path!r} cannot be downloaded: {error}") from error


class Fetcher:
    """Finds and fetches artifacts of runs. Whoever reads one reference reads the next: those are fetched meanwhile.

    Args:
      client: of the tracking server.
      scratch: folder for what is fetched; the caller removes it.
    """

    def __init__(self, client: MlflowClient, scratch: str) -> None:
        self._client, self._scratch = client, scratch
        self._homes: dict[str, str] = {}
        self._repositories: dict[str, Any] = {}
        self._ahead: dict[tuple[str, str], concurrent.futures.Future[Path | None]] = {}
        self._started: set[tuple[str, str]] = set()
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Drops what was fetched ahead and never asked for."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def know(self, homes: Mapping[str, str]) -> None:
        """Where runs have their artifacts: URI by run id, in the order in which they will be asked for."""
        self._homes |= homes

    def forget(self, run_id: str) -> None:
        """What was fetched ahead of a run whose files have changed since."""
        for key in [key for key in self._ahead if key[0] == run_id]:
            del self._ahead[key]

    def file(self, run_id: str, path: str) -> Path | None:
        """A file of a run, to be read only; None if it has none.

        Raises:
          StoreError: it is there but cannot be fetched.
        """
        repository = self._repository(run_id)
        if (home := folder_of(repository)) is not None:
            return _in_place(home, path)
        wanted = self._ahead.pop((run_id, path), None) or self._start(run_id, path)
        self._start_next(run_id, path)
        return wanted.result()

    def folder(self, run_id: str, path: str) -> Path | None:
        """A folder of a run, to be read only; None if it has none.

        Raises:
          StoreError: it is there but cannot be fetched.
        """
        repository = self._repository(run_id)
        if (home := folder_of(repository)) is not None:
            return _in_place(home, path)
        try:
            if path not in _listed(repository, ""):
                return None
            with no_artifact_bars():
                return Path(repository.download_artifacts(path, tempfile.mkdtemp(dir=self._scratch)))
        except (OSError, MlflowException) as error:
            raise StoreError(f"run {run_id} has {path}, but it cannot be downloaded: {error}") from error

    def _repository(self, run_id: str) -> Any:
        if run_id not in self._repositories:
            if run_id not in self._homes:
                self._homes[run_id] = self._client.get_run(run_id).info.artifact_uri
            self._repositories[run_id] = repository_at(self._client, self._homes[run_id])
        return self._repositories[run_id]

    def _start(self, run_id: str, path: str) -> concurrent.futures.Future[Path | None]:
        self._pool = self._pool or concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="privacy-fetch")
        self._started.add((run_id, path))
        local = Path(tempfile.mkdtemp(dir=self._scratch)) / path.rpartition("/")[2]
        return self._pool.submit(_download, self._repository(run_id), run_id, path, local)

    def _start_next(self, run_id: str, path: str) -> None:
        """Starts fetching the same file of the runs that follow."""
        order = list(self._homes)
        position = order.index(run_id)
        for following in order[position + 1 : position + 1 + _AHEAD]:
            if (following, path) not in self._started:
                self._ahead[following, path] = self._start(following, path)


def _in_place(home: Path, path: str) -> Path | None:
    found = home / path
    return found if found.exists() else None


def _listed(repository: Any, parent: str) -> set[str]:
    return {entry.path for entry in repository.list_artifacts(parent or None)}


def _download(repository: Any, run_id: str, path: str, local: Path) -> Path | None:
    """One file in one request; only where that fails, what there is is listed."""
    try:
        download_file(repository, path, local)
    except Exception as error:  # each kind of artifact store has its own for "not found"
        try:
            if path not in _listed(repository, path.rpartition("/")[0]):
                return None
        except (OSError, MlflowException) as unlisted:
            raise StoreError(f"the artifacts of run {run_id} cannot be listed: {unlisted}") from unlisted
        raise StoreError(f"run {run_id} has {path}, but it cannot be downloaded: {error}") from error
    return local
