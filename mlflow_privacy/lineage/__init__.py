"""From a model URI to members, non-members, population and recipe. One of the rooms that read MLflow.

model.py      URI → AuditedModel
text_model.py a pyfunc model → the language model inside
tables.py     data in memory, in any form → Table (features and labels, or one frame)
files.py      data files of safe formats
sources.py    an MLflow dataset → Table, verified against its digest (readings.py)
manifest.py   what `log_lineage` wrote: `privacy/lineage/lineage.json`
records.py    Table → Records in the form the model takes
pool.py       members and non-members → pool without duplicates
parts.py      what the caller gives, the manifest says, MLflow recorded → Tables with roles
recipe.py     settings, by the same precedence → Recipe
resolve.py    all of it → AuditTarget
log.py        `log_lineage`, for the training run
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers, which do not see what `__getattr__` gives
    from mlflow_privacy.lineage.log import log_lineage
    from mlflow_privacy.lineage.model import resolve_model
    from mlflow_privacy.lineage.pool import load_pool_frame
    from mlflow_privacy.lineage.resolve import resolve_target

_LAZY = {
    "load_pool_frame": "mlflow_privacy.lineage.pool",
    "log_lineage": "mlflow_privacy.lineage.log",
    "resolve_model": "mlflow_privacy.lineage.model",
    "resolve_target": "mlflow_privacy.lineage.resolve",
}

__all__ = ["load_pool_frame", "log_lineage", "resolve_model", "resolve_target"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
