"""Reference runs: each reference model is an MLflow run with its membership row, weights and signals.

Only a run that is FINISHED counts, and it is finished last, after all its artifacts are written: a process killed at
any moment leaves nothing that a later audit would take for a reference. Weights go in as plain files through the
client, because `log_model` costs seconds a model. Their upload and the last requests of a run go on while the next
reference is trained.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, ViewType
from mlflow.exceptions import MlflowException

from mlflow_privacy._version import __version__
from mlflow_privacy.errors import StoreError
from mlflow_privacy.fingerprint import digest
from mlflow_privacy.store.experiments import is_forbidden
from mlflow_privacy.store.fetch import Fetcher
from mlflow_privacy.store.keys import ReferenceKey, StoredReference, members_digest
from mlflow_privacy.store.quiet import no_run_links
from mlflow_privacy.store.tags import (
    FINGERPRINT,
    IMPORTED,
    RECIPE,
    REPLACED,
    ROLE,
    memory_of,
    memory_searches,
    memory_tag,
    record_of,
    record_tag,
)
from mlflow_privacy.store.turns import take_turns
from mlflow_privacy.types import ModelOutputs

_logger = logging.getLogger(__name__)
_PAGE = 1000
_UNFINISHED = 4  # references whose files wait for their upload
_SECONDS = "train_seconds"  # metric of a reference run
_RECENT = 50  # runs whose seconds are looked at
_EXTRA = "extra/"  # before the key of an extra signal, in the file of a model's outputs


def process_tag() -> str:
    """Names this process so that nobody else is taken for it: host, pid, and start time where the system tells it."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_start_time(pid)}"


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return "?"


def _is_dead(tag: str) -> bool:
    """Whether the process of a tag ran on this host and is gone."""
    host, _, rest = tag.rpartition(":")[0].rpartition(":")
    started = tag.rpartition(":")[2]
    if host != socket.gethostname() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return started != _start_time(int(rest))


def sweep_dead_runs(client: MlflowClient, experiment_ids: Sequence[str]) -> list[str]:
    """Closes as KILLED the audits that say RUNNING but whose process on this host is gone; returns their run ids."""
    swept = []
    query = f"attributes.status = 'RUNNING' and tags.`{ROLE}` LIKE '%'"
    for run in client.search_runs(list(experiment_ids), query, max_results=100):
        if _is_dead(str(record_of(run.data.tags).get("process", ""))):
            client.set_terminated(run.info.run_id, status="KILLED")
            swept.append(run.info.run_id)
    if swept:
        _logger.info("Closed %d audit run(s) whose process is gone: %s.", len(swept), ", ".join(swept))
    return swept


def _outputs_path(data_digest: str) -> str:
    return f"signals/{data_digest[:32]}.npz"


def write_outputs(outputs: ModelOutputs, data_digest: str, path: Path) -> None:
    """Writes outputs as an NPZ without pickles, with the digest of the data they belong to."""
    arrays: dict[str, Any] = {
        "signal": outputs.signal,
        "loss": outputs.loss,
        "link": np.array(outputs.link),
        "data": np.array(data_digest),
    }
    if outputs.correct is not None:
        arrays["correct"] = outputs.correct
    arrays |= {f"{_EXTRA}{key}": values for key, values in outputs.extra.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def read_outputs(path: Path, data_digest: str) -> ModelOutputs:
    """Reads outputs back.

    Raises:
      StoreError: the file is not such an NPZ, or belongs to other data.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["data"]) != data_digest:
                raise StoreError(f"{path.name} holds the signals of data {file['data']}, not of {data_digest}.")
            correct = file["correct"] if "correct" in file.files else None
            extra = {name.removeprefix(_EXTRA): file[name] for name in file.files if name.startswith(_EXTRA)}
            return ModelOutputs(file["signal"], correct, file["loss"], str(file["link"]), extra)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path.name} is not a readable file of signals: {error}") from error


class ReferenceStore:
    """Reads and writes reference runs. Use as a context manager; not shared between threads.

    All calls run on one thread of its own, in their order: while MLflow evaluates, the audited model is the calling
    thread's active model, and any metric logged there, to any run, would attach to it. `save` returns once its run
    exists and leaves the rest to that thread. What goes wrong there is raised by the next call, or on leaving.

    Args:
      client: of the tracking server.
      experiment_id: where new reference runs go.
      parent_run_id: the audit that trains them.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, parent_run_id: str) -> None:
        self._client, self._experiment_id, self._parent = client, experiment_id, parent_run_id
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "privacy-store", initializer=take_turns)
        self._scratch = tempfile.TemporaryDirectory(prefix="mlflow-privacy-")
        self._fetch = Fetcher(client, self._scratch.name)
        self._room = threading.Semaphore(_UNFINISHED)
        self._failure: BaseException | None = None
        self._experiment_ids: list[str] | None = None

    def __enter__(self) -> ReferenceStore:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._thread.shutdown(wait=True)
        self._fetch.close()
        self._scratch.cleanup()
        if self._failure is not None and kind is None:
            raise self._failure

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `function` returns, after all that was left to the thread before is done."""

        def work() -> Any:
            if self._failure is not None:  # nothing is built on a reference that was not stored
                raise self._failure
            return function(*args, **kwargs)

        return self._thread.submit(work).result()

    def _later(self, function: Callable[..., None], *args: Any) -> None:
        """Leaves a call to the thread, once there is room."""

        def work() -> None:
            try:
                if self._failure is None:
                    function(*args)
            except BaseException as error:
                self._failure = error
            finally:
                self._room.release()

        self._room.acquire()
        self._thread.submit(work)

    def find(self, fingerprint: str) -> dict[int, StoredReference]:
        """Finished reference runs with this fingerprint in any experiment, by index; of doubles the oldest."""
        return self._call(self._find, fingerprint)

    def _find(self, fingerprint: str) -> dict[int, StoredReference]:
        found: dict[int, StoredReference] = {}
        for reference in self._finished(fingerprint):
            found.setdefault(reference.key.index, reference)
        return found

    def find_imported(self, fingerprint: str) -> tuple[StoredReference, ...]:
        """Finished runs of imported references with this fingerprint in any experiment, each model once, in order."""
        found: dict[str, StoredReference] = {}
        for reference in self._call(self._finished, fingerprint):
            found.setdefault(reference.key.digest, reference)
        return tuple(found.values())

    def _finished(self, fingerprint: str) -> list[StoredReference]:
        """All finished runs with this fingerprint, the oldest first."""
        found: list[StoredReference] = []
        homes: dict[str, str] = {}
        experiments = self._experiments()
        query = f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'"
        token = None
        while token != "":
            runs = self._client.search_runs(
                experiments,
                query,
                order_by=["attributes.start_time ASC"],
                max_results=_PAGE,
                page_token=token,
            )
            for run in runs:
                reference = _from_tags(fingerprint, run.data.tags, run.info.run_id)
                if reference is not None:
                    found.append(dataclasses.replace(reference, seconds=run.data.metrics.get(_SECONDS)))
                    homes[run.info.run_id] = run.info.artifact_uri
            token = runs.token or ""
        self._fetch.know({one.run_id: homes[one.run_id] for one in sorted(found, key=lambda one: one.key.index)})
        return found

    def _experiments(self) -> list[str]:
        """Ids of all active experiments, asked for once."""
        if self._experiment_ids is None:
            found: list[str] = []
            token = None
            while token != "":
                page = self._client.search_experiments(
                    view_type=ViewType.ACTIVE_ONLY, max_results=_PAGE, page_token=token
                )
                found += [experiment.experiment_id for experiment in page]
                token = page.token or ""
            self._experiment_ids = found
        return self._experiment_ids

    def recall(self, name: str, key: str) -> Mapping[str, Any] | None:
        """What any audit remembered under this name and key; None if there is nothing that can be read."""
        return self._call(self._recall, name, key)

    def _recall(self, name: str, key: str) -> Mapping[str, Any] | None:
        for query in memory_searches(name, key):
            for run in self._client.search_runs(self._experiments(), query, max_results=1):
                values = memory_of(run.data.tags, name, key)
                if values is not None:
                    return values
        return None

    def remember(self, name: str, key: str, values: Mapping[str, Any]) -> None:
        """Keeps a few plain values with the audit, in one tag with their key: there is no key without its value."""
        text = json.dumps({"key": key, "value": dict(values)})
        self._call(self._client.set_tag, self._parent, memory_tag(name), text)

    def pace_of(self, recipe: Mapping[str, Any], n_members: int) -> float | None:
        """Seconds that a reference of this recipe took on any data, as if it had so many members; None if none did."""
        return self._call(self._pace_of, recipe_key(recipe), n_members)

    def _pace_of(self, key: str, n_members: int) -> float | None:
        query = f"tags.`{RECIPE}` = '{key}' and attributes.status = 'FINISHED'"
        newest = ["attributes.start_time DESC"]
        told = []
        for run in self._client.search_runs(self._experiments(), query, order_by=newest, max_results=_RECENT):
            seconds, members = run.data.metrics.get(_SECONDS), run.data.params.get("n_members", "")
            if seconds is not None and members.isdigit() and int(members):
                told.append(seconds * n_members / int(members))
        return sum(told) / len(told) if told else None

    def save(
        self,
        key: ReferenceKey,
        members: np.ndarray,
        *,
        outputs: Mapping[str, ModelOutputs],
        write_weights: Callable[[Path], bool],
        metrics: Mapping[str, float],
        recipe: Mapping[str, Any],
        started: float,
        imported: str = "",
    ) -> StoredReference:
        """Stores one trained reference; its run is finished in the background, before any later call of this store.

        Args:
          members: (n,) bool, its membership row.
          outputs: its outputs by data digest.
          write_weights: writes plain files into a folder; False if the model has no safe form.
          metrics: train and held-out metrics.
          recipe: plain JSON values.
          started: seconds since the epoch.
          imported: of a model that was trained elsewhere, where it came from, in words.
        """
        seconds = {} if imported else {_SECONDS: round(time.time() - started, 4)}
        folder = Path(tempfile.mkdtemp(dir=self._scratch.name))
        weights = folder / "weights"
        weights.mkdir()
        has_weights = write_weights(weights)
        if not has_weights:
            weights.rmdir()
        np.save(folder / "membership.npy", members, allow_pickle=False)
        for data_digest, values in outputs.items():
            write_outputs(values, data_digest, folder / _outputs_path(data_digest))
        record = {
            **dataclasses.asdict(key),
            "n": len(members),
            "n_members": int(members.sum()),
            "recipe": recipe,
        }
        (folder / "reference.json").write_text(json.dumps(record, indent=1, sort_keys=True))
        run_id = self._call(self._create, key, has_weights, started, imported, recipe_key(recipe))
        self._later(self._finish, run_id, key, folder, record["n_members"], {**seconds, **metrics})
        return StoredReference(key, run_id)

    def _create(self, key: ReferenceKey, has_weights: bool, started: float, imported: str, recipe: str) -> str:
        """A new run with all of its tags, by which it is found once it is finished."""
        tags = {
            "mlflow.parentRunId": self._parent,
            ROLE: "reference",
            FINGERPRINT: key.fingerprint,
            **record_tag(
                {
                    "reference_index": key.index,
                    "reference_key": key.digest,
                    "members_digest": key.members_digest,
                    "train_seed": key.train_seed,
                    "weights": has_weights,
                    "version": __version__,
                    "process": process_tag(),
                }
            ),
            RECIPE: recipe,
            **({IMPORTED: imported[:500]} if imported else {}),
        }
        run = self._client.create_run(
            self._experiment_id,
            start_time=int(started * 1000),
            tags=tags,
            run_name=f"{'imported ' if imported else ''}reference {key.index:03d}",
        )
        return run.info.run_id

    def _finish(
        self, run_id: str, key: ReferenceKey, folder: Path, n_members: int, metrics: Mapping[str, float]
    ) -> None:
        self._client.log_artifacts(run_id, str(folder))
        now = int(time.time() * 1000)
        params = {"reference_index": key.index, "train_seed": key.train_seed, "n_members": n_members}
        self._client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), now, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
        )
        with no_run_links():
            self._client.set_terminated(run_id)
        shutil.rmtree(folder, ignore_errors=True)

    def flush(self) -> None:
        """Waits until the run of every saved reference is finished; raises what went wrong."""
        self._call(lambda: None)

    def read(self, reference: StoredReference, data_digest: str) -> ModelOutputs | None:
        """The reference's outputs on the data with this digest, None if it has none.

        Raises:
          StoreError: there is such a file but it is damaged.
        """
        path = self._call(self._fetch.file, reference.run_id, _outputs_path(data_digest))
        return None if path is None else read_outputs(path, data_digest)

    def members(self, reference: StoredReference) -> np.ndarray:
        """(n,) bool: the reference's membership row, as it was stored.

        Raises:
          StoreError: it is missing, damaged, or not the one of the reference's key.
        """
        path = self._call(self._fetch.file, reference.run_id, "membership.npy")
        try:
            row = None if path is None else np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(f"run {reference.run_id} has a damaged membership.npy: {error}") from error
        fits = row is not None and row.dtype == bool and row.ndim == 1
        if row is None or not fits or members_digest(row) != reference.key.members_digest:
            raise StoreError(f"run {reference.run_id} has no membership.npy that fits its members_digest.")
        return row

    def weights(self, reference: StoredReference) -> Path | None:
        """A folder with the reference's weights, to be read only; None if it was stored without."""
        return self._call(self._fetch.folder, reference.run_id, "weights")

    def retire(self, reference: StoredReference) -> None:
        """Marks a finished reference run as replaced: it stays to be looked at, and is found no more."""
        self._call(self._if_allowed, self._client.set_tag, reference.run_id, REPLACED, "true")

    def add(self, reference: StoredReference, data_digest: str, outputs: ModelOutputs) -> None:
        """Adds outputs on further data to a finished reference run."""
        folder = Path(tempfile.mkdtemp(dir=self._scratch.name))
        write_outputs(outputs, data_digest, folder / _outputs_path(data_digest))
        self._call(self._if_allowed, self._client.log_artifacts, reference.run_id, str(folder))
        self._fetch.forget(reference.run_id)
        shutil.rmtree(folder, ignore_errors=True)

    def _if_allowed(self, write: Callable[..., None], run_id: str, *args: Any) -> None:
        """Writes on a reference run, which may be somebody else's: then it stays as it is, and is as good as before."""
        try:
            write(run_id, *args)
        except MlflowException as error:
            if not is_forbidden(error):
                raise
            _logger.info("Reference run %s is somebody else's and stays as it is: %s", run_id, error)

    def elsewhere(self) -> StoreAddress:
        """How a worker opens this store, to keep what it has trained."""
        return StoreAddress(absolute_uri(self._client.tracking_uri), self._experiment_id, self._parent)


@dataclasses.dataclass(frozen=True)
class StoreAddress:
    """How any process opens a store: no connection, no credentials; call it."""

    uri: str
    experiment_id: str
    parent_run_id: str

    def __call__(self) -> ReferenceStore:
        return ReferenceStore(MlflowClient(self.uri), self.experiment_id, self.parent_run_id)


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """What a recipe is found by where only its time matters: kind and spec, whatever versions it rests on.

    >>> recipe_key({"kind": "torch", "spec": {}, "rests_on": 1}) == recipe_key({"kind": "torch", "spec": {}})
    True
    """
    return digest({"kind": recipe.get("kind"), "spec": recipe.get("spec")})


def absolute_uri(uri: str) -> str:
    """A tracking URI that means the same from every folder of this machine.

    >>> absolute_uri("https://host/mlflow"), absolute_uri("sqlite:////tmp/mlflow.db")
    ('https://host/mlflow', 'sqlite:////tmp/mlflow.db')
    """
    start = "sqlite:///"
    if uri.startswith(start):
        return start + str(Path(uri.removeprefix(start)).resolve())
    return uri if "://" in uri or uri.startswith(("file:", "databricks")) else str(Path(uri).resolve())


def _from_tags(fingerprint: str, tags: Mapping[str, str], run_id: str) -> StoredReference | None:
    """The stored reference that tags describe, None if they do not fit their own key or it was replaced."""
    record = record_of(tags)
    try:
        key = ReferenceKey(
            fingerprint,
            int(record["reference_index"]),
            str(record["members_digest"]),
            int(record["train_seed"]),
        )
    except (KeyError, ValueError, TypeError):
        return None
    fits = record.get("reference_key") == key.digest and REPLACED not in tags
    return StoredReference(key, run_id) if fits else None
