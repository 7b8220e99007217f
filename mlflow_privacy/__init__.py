"""Audit the privacy of registered MLflow models with membership inference.

Importing this package imports neither torch, scikit-learn nor matplotlib; names below load on first use.
"""

import importlib
from typing import Any

from mlflow_privacy._version import __version__

_LAZY = {
    "evaluate": "mlflow_privacy.evaluators.api",
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


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
