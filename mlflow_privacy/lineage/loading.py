"""A model from its URI, or one error that says why it does not load and what helps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_privacy.errors import LineageError, nearest
from mlflow_privacy.store.places import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

_NAMED = re.compile(r"models:/+(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))/?")
_LOGGED = re.compile(r"models:/+(?P<model_id>m-[^/@]+)/?")
_RUN = re.compile(r"runs:/+(?P<run_id>[^/]+)(?:/.*)?")
# Packages that are installed under another name than they are imported by.
_INSTALLED_AS = {"sklearn": "scikit-learn", "cv2": "opencv-python", "PIL": "pillow", "yaml": "pyyaml"}
_INSTALLED_AS |= {"skimage": "scikit-image", "bs4": "beautifulsoup4", "dateutil": "python-dateutil"}


def load_pyfunc(uri: str, *, client: MlflowClient, model_config: Any = None) -> PyFuncModel:
    """`mlflow.pyfunc.load_model`.

    Raises:
      LineageError: there is no such model, it or its files are gone, or a package or module that it needs is not here;
        names the thing and the remedy.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    options = {} if model_config is None else {"model_config": model_config}
    try:
        return mlflow.pyfunc.load_model(uri, **options)
    except ModuleNotFoundError as error:
        if not error.name:
            raise
        raise LineageError(f"{uri} cannot be loaded: {_missing_module(uri, error.name)}") from error
    except (AttributeError, ImportError) as error:
        if not re.search(r"can't get attribute|cannot import name|has no attribute", str(error), re.I):
            raise
        raise LineageError(
            f"{uri} cannot be loaded: {error}. It needs code that is not here, or another version of a package: log it "
            "with code_paths=[...], put that code on PYTHONPATH, or install what the model states "
            f"(mlflow.pyfunc.get_model_dependencies({uri!r}))."
        ) from error
    except (MlflowException, OSError) as error:
        raise LineageError(f"{uri} cannot be loaded: {_why(uri, client, error)}") from error


def _why(uri: str, client: MlflowClient, error: Exception) -> str:
    """What of a URI is not there, asked of the registry itself."""
    if match := _LOGGED.fullmatch(uri):
        return _logged_model(match["model_id"], client, error)
    if match := _NAMED.fullmatch(uri):
        return _named(match["name"], match["version"], match["alias"], client, error)
    if (match := _RUN.fullmatch(uri)) and not _there(lambda: client.get_run(match["run_id"])):
        return f"there is no run {match['run_id']} on {_server()}."
    text = " ".join(str(error).split())[:300].rstrip(".")
    return (
        f"{text}. A model is models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID, runs:/RUN_ID/NAME or its folder."
    )


def _named(name: str, version: str | None, alias: str | None, client: MlflowClient, error: Exception) -> str:
    registered = _asked(lambda: client.get_registered_model(name))
    if registered is None:
        known = _asked(lambda: [model.name for model in client.search_registered_models(max_results=1000)])
        if known is None:
            return f"{' '.join(str(error).split())[:300]} ({_server()})"
        there = nearest(name, known, listed=True) if known else "; there is none at all."
        return f"there is no registered model {name!r} on {_server()}{there}"
    if alias is not None and alias not in (registered.aliases or {}):
        aliases = list(registered.aliases or {})
        hint = nearest(alias, aliases, listed=True) if aliases else ", nor any other."
        return f"model {name!r} has no alias {alias!r}{hint}"
    number = (registered.aliases or {}).get(alias, version) if alias is not None else version
    found = _asked(lambda: client.get_model_version(name, str(number))) if str(number).isdigit() else None
    if found is None:
        versions = _asked(lambda: sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))) or []
        shown = ", ".join(map(str, versions)) or "none"
        return f"model {name!r} has no version {number}; there are: {shown}."
    if match := _LOGGED.fullmatch(str(found.source)):
        return _logged_model(match["model_id"], client, error, of=f"version {number} of {name!r}")
    return _gone(str(found.source), error)


def _logged_model(model_id: str, client: MlflowClient, error: Exception, *, of: str = "") -> str:
    model = _asked(lambda: client.get_logged_model(model_id))
    if model is None:
        begin = f"{of} is the logged model {model_id}, which" if of else f"the logged model {model_id}"
        return f"{begin} is not on {_server()}: it was deleted, or is of another server. Log the model again."
    return _gone(str(model.artifact_location), error)


def _gone(place: str, error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"its files cannot be read at {without_password(place)} ({text}). Restore them, or log the model again."


def _missing_module(uri: str, module: str) -> str:
    """Which package is to be installed, as the model states it."""
    root = module.partition(".")[0]
    stated = _stated(uri)
    line = next((line for name, line in stated.items() if _is_package(name, root)), None)
    if line is not None:
        return (
            f"it needs {root}, which is not installed here. Install it as the model states: pip install {line!r}; or "
            f"all that it states, mlflow.pyfunc.get_model_dependencies({uri!r})."
        )
    return (
        f"it imports {module}, which is not here and none of the packages that the model states. If it is a package, "
        "install it; if it is code of your own, put it on PYTHONPATH, or log the model with code_paths=[...]."
    )


def _is_package(name: str, root: str) -> bool:
    """Whether a package as it is installed has the module.

    >>> _is_package("scikit-learn", "sklearn"), _is_package("tensorflow-cpu", "tensorflow"), _is_package("numpy", "np")
    (True, True, False)
    """
    wanted = _INSTALLED_AS.get(root, root).lower().replace("_", "-")
    return name == wanted or name.startswith(f"{wanted}-")


def _stated(uri: str) -> Mapping[str, str]:
    """The model's own requirements, line by package name."""
    import mlflow

    from mlflow_privacy.store.quiet import no_artifact_bars

    with no_artifact_bars():
        path = _asked(lambda: mlflow.pyfunc.get_model_dependencies(uri, format="pip"))
    if path is None:
        return {}
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    names = {line: re.match(r"[A-Za-z0-9._-]+", line) for line in lines if line and not line.startswith(("#", "-"))}
    return {match[0].lower().replace("_", "-"): line for line, match in names.items() if match}


def _asked(question: Any) -> Any:
    """An answer of MLflow, None where it has none."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(MlflowException, OSError):
        return question()
    return None


def _there(question: Any) -> bool:
    return _asked(question) is not None


def _server() -> str:
    import mlflow

    return without_password(str(mlflow.get_registry_uri()))
