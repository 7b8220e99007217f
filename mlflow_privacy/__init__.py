"""Audit the privacy of registered MLflow models with membership inference.

Importing this package imports neither torch, scikit-learn nor matplotlib; names below load on first use.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlflow_privacy._version import __version__ as __version__

if TYPE_CHECKING:  # the same names for type checkers, which do not see what `__getattr__` gives
    from mlflow_privacy.attacks import ATTACKS as ATTACKS
    from mlflow_privacy.auditing.options import AuditOptions as AuditOptions
    from mlflow_privacy.auditing.pipeline import audit as audit
    from mlflow_privacy.evaluators.api import evaluate as evaluate
    from mlflow_privacy.evaluators.plan import plan as plan
    from mlflow_privacy.lineage import log_lineage as log_lineage
    from mlflow_privacy.lineage import resolve_target as resolve_target
    from mlflow_privacy.types import AuditResult as AuditResult
    from mlflow_privacy.types import AuditTarget as AuditTarget
    from mlflow_privacy.types import Estimate as Estimate
    from mlflow_privacy.types import Recipe as Recipe
    from mlflow_privacy.types import Records as Records

_LAZY = {
    "evaluate": "mlflow_privacy.evaluators.api",
    "plan": "mlflow_privacy.evaluators.plan",
    "log_lineage": "mlflow_privacy.lineage",
    "resolve_target": "mlflow_privacy.lineage",
    "audit": "mlflow_privacy.auditing.pipeline",
    "AuditOptions": "mlflow_privacy.auditing.options",
    "AuditResult": "mlflow_privacy.types",
    "AuditTarget": "mlflow_privacy.types",
    "Estimate": "mlflow_privacy.types",
    "Recipe": "mlflow_privacy.types",
    "Records": "mlflow_privacy.types",
    "ATTACKS": "mlflow_privacy.attacks",
}

__all__ = ["__version__", *_LAZY]

if not TYPE_CHECKING:  # else every misspelt name would pass as Any

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """This package. Importing the former module `mlflow_privacy.audit` leaves the function `audit` in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


class _OldPaths:
    """Asked last, for a module that nobody else has found: it may have moved."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith(f"{__name__}."):
            return None
        from mlflow_privacy._moved import find_spec

        return find_spec(name)


sys.modules[__name__].__class__ = _Package
sys.meta_path.append(_OldPaths)
