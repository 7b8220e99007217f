"""Model URI → AuditedModel: loaded once, with its registry name, logged model and source run."""

from __future__ import annotations

import dataclasses
import logging
import re
from typing import TYPE_CHECKING, Any

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.lineage.loading import load_pyfunc
from mlflow_privacy.lineage.text_model import text_model
from mlflow_privacy.trainers.booster.trainer import boosted_of
from mlflow_privacy.trainers.keras.model import keras_net
from mlflow_privacy.types import AuditedModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

_logger = logging.getLogger(__name__)
_VERSION = re.compile(r"models:/+(?P<name>[^/@]+)/(?P<suffix>[^/]+)")
_ALIAS = re.compile(r"models:/+(?P<name>[^/]+)@(?P<alias>[^/@]+)")
_MODEL_ID = re.compile(r"models:/+(?P<model_id>m-[^/@]+)/?")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with what only its metadata knows.

    Attributes:
      inputs: the signature's input column names, None for tensors or without a signature.
      notes: sentences for the report.
    """

    model: AuditedModel
    inputs: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def resolve_model(
    model: str | PyFuncModel, *, loaded: PyFuncModel | None = None, client: MlflowClient | None = None
) -> AuditedModel:
    """Finds a model's registry name, logged model and source run, and loads it once.

    Args:
      model: "models:/name/1", "models:/name@alias", "runs:/<id>/model", "models:/m-…", any other artifact URI or
        folder, or a loaded `mlflow.pyfunc.PyFuncModel`.
      loaded: the same model as a pyfunc model if it is loaded already.
      client: where registry and tracking server are; the current ones if None.

    Returns:
      The model; `native` is the scikit-learn-like estimator, torch module or `text.LanguageModel`, else the pyfunc
      model.

    Raises:
      ConfigError: `model` is neither a URI nor a pyfunc model.
      LineageError: there is no such model, it does not load, or it is a transformers model of a kind without a signal.
    """
    return load_model(model, loaded=loaded, client=client).model


def load_model(model: Any, *, loaded: Any = None, client: Any = None) -> LoadedModel:
    """`resolve_model` with the signature's input names."""
    import mlflow

    client = client or mlflow.MlflowClient()
    if isinstance(model, mlflow.pyfunc.PyFuncModel):
        loaded, uri = model, ""
    elif hasattr(model, "__fspath__") or isinstance(model, str):
        uri = str(model)
    else:
        raise ConfigError(
            f"privacy_meter audits a model by its URI or as a loaded pyfunc model, got {type(model).__name__}. Log the "
            'model and pass its URI, such as "models:/NAME/VERSION".'
        )
    if loaded is None:
        loaded = load_pyfunc(uri, client=client)
    meta = loaded.metadata
    model_id = getattr(meta, "model_id", None) or None
    run_id = getattr(meta, "run_id", None) or None
    if model_id is None and (match := _MODEL_ID.fullmatch(uri)):
        model_id = match["model_id"]
    version = _named_version(uri, client)
    notes: list[str] = []
    if version is not None:
        run_id = run_id or version.run_id or None
    if run_id is None and model_id is not None:
        run_id = client.get_logged_model(model_id).source_run_id or None
    if version is None:
        version, notes = _registered_version(uri, model_id, run_id, client)
    flavor, native = native_model(loaded)
    signature = meta.signature
    inputs = None
    if signature is not None and signature.inputs is not None and signature.inputs.has_input_names():
        inputs = tuple(str(name) for name in signature.inputs.input_names())
    name = None if version is None else version.name
    number = None if version is None else str(version.version)
    if not uri:
        uri = f"models:/{name}/{number}" if name else f"models:/{model_id}" if model_id else f"runs:/{run_id}"
    audited = AuditedModel(uri, name, number, model_id, run_id, flavor, native)
    return LoadedModel(audited, inputs, tuple(notes))


def native_model(loaded: PyFuncModel) -> tuple[str, Any]:
    """The flavor and its own object: estimator, booster, torch module or language model, else the pyfunc model itself.

    A registered `PythonModel` stays a pyfunc model: only its `predict` is under audit. One that holds a language model
    is audited as that, since texts that it writes say little.
    """
    flavors = loaded.metadata.flavors
    language_model = text_model(loaded)
    if language_model is not None:
        return "transformers", language_model
    for flavor in ("sklearn", "xgboost", "lightgbm", "catboost", "keras", "tensorflow", "pytorch"):
        if flavor not in flavors:
            continue
        try:
            raw = loaded.get_raw_model()
        except NotImplementedError:  # the flavor lies inside another pyfunc wrapper
            break
        if flavor == "pytorch" and hasattr(raw, "named_parameters"):
            return flavor, raw
        of_a_library = boosted_of(raw) or keras_net(raw)
        if of_a_library is not None:
            return flavor, of_a_library
        if flavor != "pytorch" and hasattr(raw, "get_params") and hasattr(raw, "fit"):
            return flavor, raw
        break
    return "pyfunc", loaded


def _named_version(uri: str, client: Any) -> Any:
    """The registered version that a `models:/name/…` or `models:/name@alias` URI names, else None."""
    if match := _ALIAS.fullmatch(uri):
        return client.get_model_version_by_alias(match["name"], match["alias"])
    if match := _VERSION.fullmatch(uri):
        name, suffix = match["name"], match["suffix"]
        if suffix.isdigit():
            return client.get_model_version(name, suffix)
        stages = None if suffix.lower() == "latest" else [suffix]
        found = client.get_latest_versions(name, stages)
        return max(found, key=lambda v: int(v.version), default=None)
    return None


def _registered_version(uri: str, model_id: str | None, run_id: str | None, client: Any) -> tuple[Any, list[str]]:
    """The registered version that comes from the same logged model: the only one, or the newest with a note."""
    found = {}
    for key, value in (("source_path", model_id and f"models:/{model_id}"), ("run_id", run_id)):
        if value:
            for version in client.search_model_versions(f"{key}='{value}'"):
                found[version.name, version.version] = version
    matches = [v for v in found.values() if _same_model(v, uri, model_id)]
    if not matches:
        return None, []
    newest = max(matches, key=lambda v: (v.creation_timestamp or 0, int(v.version)))
    if len(matches) == 1:
        return newest, []
    others = ", ".join(f"{v.name} v{v.version}" for v in matches if v is not newest)
    return newest, [
        f"{uri or model_id or run_id} is registered more than once; the result goes to the newest version, "
        f"{newest.name} v{newest.version}, not to {others}. Audit models:/NAME/VERSION to choose."
    ]


def _same_model(version: Any, uri: str, model_id: str | None) -> bool:
    """Whether a registered version comes from this logged model, not just from the same run."""
    import mlflow

    if getattr(version, "model_id", None) and model_id:
        return version.model_id == model_id
    if version.source and version.source.rstrip("/") in {uri.rstrip("/"), f"models:/{model_id}"}:
        return True
    if model_id is None:
        return False
    try:
        meta = mlflow.models.Model.load(f"models:/{version.name}/{version.version}")
    except (mlflow.exceptions.MlflowException, OSError):
        _logger.info("%s v%s cannot be read, so it is not compared", version.name, version.version)
        return False
    return getattr(meta, "model_id", None) == model_id
