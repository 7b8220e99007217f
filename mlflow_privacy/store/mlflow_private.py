"""What this package needs of MLflow that MLflow does not document, so that it may change without notice.

No other module uses such a name (`tests/test_privates.py`). Every one was seen in MLflow 3.1.4 and 3.17.2; where a
version lacks it, the documented way is taken, which is slower or says less. `tests/store/test_mlflow_private.py` names
the one that has changed. `plugin.py` loads this module while MLflow itself is being imported: it must stay light.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.data.dataset import Dataset
    from mlflow.entities import Dataset as DatasetEntity
    from mlflow.entities import RunInputs

# Where `evaluate` is defined, and the other names of MLflow's that are bound to it.
EVALUATION = "mlflow.models.evaluation.base"
_REGISTRY = "mlflow.models.evaluation.evaluator_registry"
_loading = threading.Lock()
_BOUND = (
    ("mlflow.models.evaluation", "evaluate"),
    ("mlflow.models", "evaluate"),
    ("mlflow.models.evaluation.deprecated", "model_evaluate"),
)


def when_evaluation_is_imported(hook: Callable[[Any], None]) -> None:
    """Calls `hook` with the module that defines `evaluate`, as soon as MLflow imports it.

    Without `mlflow.utils.import_hooks` that is now or never; `mlflow_privacy.evaluate` works in any case.
    """
    try:
        from mlflow.utils.import_hooks import register_post_import_hook
    except ImportError:
        if EVALUATION in sys.modules:
            hook(sys.modules[EVALUATION])
        return
    register_post_import_hook(hook, EVALUATION, overwrite=False)


def evaluation_module() -> Any:
    """The module that defines `evaluate`."""
    return importlib.import_module(EVALUATION)


def load_evaluators() -> None:
    """Imports what MLflow's `evaluate` would import under a lock of its own, one thread at a time.

    It registers hooks for each loaded library, and imports its module for that library (`mlflow.pytorch`, ...), while
    it holds a lock that its import finder takes as well. Where another thread imports anything then, as `start_run`
    does, each waits for the other for ever. What is imported before is not imported there.
    """
    with _loading, contextlib.suppress(ImportError, AttributeError):
        importlib.import_module(_REGISTRY)
        known = importlib.import_module("mlflow.ml_package_versions").FLAVOR_TO_MODULE_NAME
        for flavor in [flavor for flavor, library in known.items() if library in sys.modules]:
            with contextlib.suppress(ImportError):
                importlib.import_module(f"mlflow.{flavor}")


def rebind_evaluate(original: Any, wrapped: Any) -> None:
    """Every other name of MLflow's that is bound to `original` is bound to `wrapped`."""
    for module, name in _BOUND:
        if getattr(sys.modules.get(module), name, None) is original:
            setattr(sys.modules[module], name, wrapped)


def nobody_chose_an_experiment() -> bool:
    """Whether a run that was opened now would go to the default experiment; False where MLflow does not tell it."""
    try:
        from mlflow.tracking.default_experiment import DEFAULT_EXPERIMENT_ID
        from mlflow.tracking.fluent import _get_experiment_id
    except ImportError:
        return False
    return _get_experiment_id() == DEFAULT_EXPERIMENT_ID


def unlinked(model: Any) -> Any:
    """A loaded pyfunc model that does not tell which logged model it is, so that `evaluate` does not write on that.

    Where MLflow keeps the id elsewhere, the model as it is.
    """
    if getattr(model, "_model_id", None) is None:
        return model
    copied = copy.copy(model)
    copied._model_id = None
    return copied


def know_inputs(active: ActiveRun, inputs: RunInputs) -> None:
    """Tells this process's record of the active run which inputs it has; otherwise MLflow sends them again."""
    if hasattr(active, "_inputs"):
        active._inputs = inputs


def dataset_entity(dataset: Dataset) -> DatasetEntity:
    """What MLflow stores of a data set; its own `_to_mlflow_entity` does the same."""
    from mlflow.entities import Dataset as DatasetEntity

    values = dataset.to_dict()
    fields = {name: values[name] for name in ("name", "digest", "source_type", "source")}
    return DatasetEntity(**fields, schema=values.get("schema"), profile=values.get("profile"))


class LoadedFirst:
    """For MLflow's evaluation artifacts: `EvaluationResult.save` finds the content that is loaded when asked for.

    What it calls, `_save`, writes what is in memory.
    """

    def _save(self, output_artifact_path: str) -> None:
        _ = self.content  # type: ignore[attr-defined]
        super()._save(output_artifact_path)  # type: ignore[misc]


_LISTING, _MAP = "_init_packages_to_modules_map", "_PACKAGES_TO_MODULES"


@contextlib.contextmanager
def quick_requirement_check() -> Iterator[None]:
    """Whoever logs or loads a model here gets MLflow's warnings of mismatches without the listing before them.

    MLflow lists every file of every installed package, which takes a second or more, once a process. The list tells
    under which name a package is imported. The check wants that only of packages that have no metadata, and the list is
    made of metadata. Nothing else of MLflow calls this function.

    >>> from mlflow.utils.requirements_utils import _check_requirement_satisfied as check
    >>> with quick_requirement_check():
    ...     str(check("numpy>=1")), str(check("numpy<1")).partition(" (")[0], str(check("no-such-package"))
    ('None', 'numpy', 'no-such-package (current: uninstalled, required: no-such-package)')
    """
    try:
        from mlflow.utils import requirements_utils
    except ImportError:
        yield
        return
    module: Any = requirements_utils
    original = getattr(module, _LISTING, None)
    if original is None or getattr(original, "stands_in", False) or not hasattr(module, _MAP):
        yield
        return

    def no_listing() -> None:
        """In place of the listing: what was listed before stands."""
        if getattr(module, _MAP) is None:
            setattr(module, _MAP, {})

    no_listing.stands_in = True  # type: ignore[attr-defined]
    setattr(module, _LISTING, no_listing)
    try:
        yield
    finally:
        setattr(module, _LISTING, original)


def repository_at(client: MlflowClient, home: str) -> Any:
    """The artifact repository of a run: `download_artifacts(path, folder)`, `list_artifacts(path)`.

    MLflow's own finds it without asking the server for the run, and reads what is on this machine in place.

    Args:
      client: of the tracking server that has the run.
      home: `run.info.artifact_uri`.
    """
    try:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri
    except ImportError:
        return _DocumentedRepository(home, client.tracking_uri)
    uri = add_databricks_profile_info_to_artifact_uri(home, client.tracking_uri)
    # Early releases of MLflow 3 know one tracking server a process.
    known = "tracking_uri" in inspect.signature(get_artifact_repository).parameters
    return get_artifact_repository(uri, **({"tracking_uri": client.tracking_uri} if known else {}))


def folder_of(repository: Any) -> Path | None:
    """The folder of a repository that is one on this machine; None for any other."""
    try:
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    except ImportError:
        return None
    return Path(repository.artifact_dir) if isinstance(repository, LocalArtifactRepository) else None


def download_file(repository: Any, path: str, local: Path) -> None:
    """One file of a repository. MLflow's own way takes one request; the documented one lists what is there first."""
    if hasattr(repository, "_download_file"):
        repository._download_file(path, str(local))
        return
    with tempfile.TemporaryDirectory(dir=local.parent) as folder:
        shutil.move(repository.download_artifacts(path, folder), local)


class _DocumentedRepository:
    """The files below an artifact URI, by `mlflow.artifacts` alone."""

    def __init__(self, uri: str, tracking_uri: str) -> None:
        self._uri, self._tracking_uri = uri.rstrip("/"), tracking_uri

    def download_artifacts(self, path: str, folder: str | None = None) -> str:
        from mlflow.artifacts import download_artifacts

        uri = f"{self._uri}/{path}".rstrip("/")
        return download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=self._tracking_uri)

    def list_artifacts(self, path: str | None = None) -> list[Any]:
        from mlflow.artifacts import list_artifacts
        from mlflow.entities import FileInfo

        found = list_artifacts(artifact_uri=f"{self._uri}/{path or ''}", tracking_uri=self._tracking_uri)
        prefix = f"{path}/" if path else ""
        return [FileInfo(prefix + one.path.rpartition("/")[2], one.is_dir, one.file_size) for one in found]


def uri_below(home: str, path: str) -> str:
    """URI of an artifact of a run, by the rules of the artifact store's own scheme where MLflow tells them."""
    try:
        from mlflow.utils.uri import append_to_uri_path
    except ImportError:
        return f"{home.rstrip('/')}/{path}"
    return append_to_uri_path(home, path)


def address_on_server(uri: str, tracking_uri: str) -> str | None:
    """The HTTP address of an artifact that the tracking server hands out; None where MLflow does not tell it."""
    try:
        from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    except ImportError:
        return None
    return MlflowArtifactsRepository.resolve_uri(uri, tracking_uri)
