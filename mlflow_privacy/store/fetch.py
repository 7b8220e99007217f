"""Files of reference runs, brought here: read in place where the artifact store is a folder, else fetched ahead."""

from __future__ import annotations

import concurrent.futures
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

from mlflow_privacy.errors import StoreError
from mlflow_privacy.store.quiet import no_artifact_bars

_THREADS, _AHEAD = 8, 16


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
        if isinstance(repository, LocalArtifactRepository):
            return _in_place(repository, path)
        wanted = self._ahead.pop((run_id, path), None) or self._start(run_id, path)
        self._start_next(run_id, path)
        return wanted.result()

    def folder(self, run_id: str, path: str) -> Path | None:
        """A folder of a run, to be read only; None if it has none.

        Raises:
          StoreError: it is there but cannot be fetched.
        """
        repository = self._repository(run_id)
        if isinstance(repository, LocalArtifactRepository):
            return _in_place(repository, path)
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
            uri = add_databricks_profile_info_to_artifact_uri(self._homes[run_id], self._client.tracking_uri)
            self._repositories[run_id] = get_artifact_repository(uri, tracking_uri=self._client.tracking_uri)
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


def _in_place(repository: LocalArtifactRepository, path: str) -> Path | None:
    found = Path(repository.artifact_dir) / path
    return found if found.exists() else None


def _listed(repository: Any, parent: str) -> set[str]:
    return {entry.path for entry in repository.list_artifacts(parent or None)}


def _download(repository: Any, run_id: str, path: str, local: Path) -> Path | None:
    """One file in one request; only where that fails, what there is is listed."""
    try:
        repository._download_file(path, str(local))
    except Exception as error:  # each kind of artifact store has its own for "not found"
        try:
            if path not in _listed(repository, path.rpartition("/")[0]):
                return None
        except (OSError, MlflowException) as unlisted:
            raise StoreError(f"the artifacts of run {run_id} cannot be listed: {unlisted}") from unlisted
        raise StoreError(f"run {run_id} has {path}, but it cannot be downloaded: {error}") from error
    return local
