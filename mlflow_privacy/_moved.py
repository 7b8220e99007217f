"""Where things were before the package had rooms: their old paths work for one more release, with a warning.

Here stand the paths that were documented, and those of classes that lie in models which users have pickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Old module → where its names are now. The first entry is where a name is looked for first.
MODULES = {
    "mlflow_privacy.audit": ("mlflow_privacy.auditing.pipeline",),
    "mlflow_privacy.blind": ("mlflow_privacy.auditing.blind",),
    "mlflow_privacy.compare": (
        "mlflow_privacy.decide.compare",
        "mlflow_privacy.decide.comparison",
        "mlflow_privacy.decide.differences",
    ),
    "mlflow_privacy.config": ("mlflow_privacy.auditing.options",),
    "mlflow_privacy.experiment_config": ("mlflow_privacy.experiment.load",),
    "mlflow_privacy.gate": ("mlflow_privacy.decide.gate",),
    "mlflow_privacy.importer": ("mlflow_privacy.privacy_meter.importer",),
    "mlflow_privacy.log_dir": ("mlflow_privacy.privacy_meter.log_dir",),
    "mlflow_privacy.policy": ("mlflow_privacy.decide.policy",),
    "mlflow_privacy.report.compare_html": ("mlflow_privacy.decide.compare_html",),
    "mlflow_privacy.report.compare_text": ("mlflow_privacy.decide.compare_text",),
    "mlflow_privacy.safe_pickle": ("mlflow_privacy.privacy_meter.safe_pickle.reader",),
    "mlflow_privacy.trainers.fast_resnet_net": ("mlflow_privacy.zoo.fast_resnet",),
    "mlflow_privacy.trainers.torch_exported": ("mlflow_privacy.trainers.torch.exported",),
    # A package bears the name now; its `__init__` calls `moved_names`.
    "mlflow_privacy.experiment": ("mlflow_privacy.experiment.run",),
    "mlflow_privacy.games.usage": ("mlflow_privacy.games.usage.estimate",),
}


class _Old:
    """Makes a module that holds nothing but finds every name where it is now."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__doc__ = f"Moved to {', '.join(MODULES[module.__name__])}."
        module.__dict__["__getattr__"] = moved_names(module.__name__)


def find_spec(path: str) -> ModuleSpec | None:
    """The spec of a module under its old path; None for any other path.

    >>> find_spec("mlflow_privacy.gate").name, find_spec("mlflow_privacy.no_such_module")
    ('mlflow_privacy.gate', None)
    """
    return ModuleSpec(path, _Old()) if path in MODULES else None  # type: ignore[arg-type]


def moved_names(old: str) -> Callable[[str], Any]:
    """`__getattr__` of the module or package `old`, which looks for its former names where they are now."""

    def __getattr__(name: str) -> Any:
        for new in () if name.startswith("__") or _is_submodule(old, name) else MODULES[old]:
            found = importlib.import_module(new)
            if hasattr(found, name):
                warnings.warn(
                    f"{old}.{name} has moved to {new}.{name}; the old path works until the next release.",
                    DeprecationWarning,
                    stacklevel=2,
                )
                return getattr(found, name)
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return __getattr__


def _is_submodule(old: str, name: str) -> bool:
    """Whether it is a module of a package, which whoever asks for it imports without bringing `MODULES[old]` along."""
    return hasattr(sys.modules[old], "__path__") and importlib.util.find_spec(f"{old}.{name}") is not None
