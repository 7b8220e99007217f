"""scikit-learn estimators as skops files: no pickle, no type that skops or this list does not trust."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

from mlflow_privacy.errors import StoreError, UnsafeError

_logger = logging.getLogger(__name__)
FILE = "model.skops"
_DAMAGED = (OSError, zipfile.BadZipFile, LookupError, ValueError, TypeError, AttributeError)

# Plain Python classes of scikit-learn itself, which skops knows but does not trust by default. Restoring them sets
# attributes and runs nothing. Trees are left out: their nodes are read by C code that does not check them.
TRUSTED = frozenset(
    {
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    }
)


def save_estimator(model: Any, folder: Path) -> bool:
    """Writes an estimator into `folder`; False, and nothing written, if it has parts that cannot be trusted on load."""
    import skops.io

    try:
        content = skops.io.dumps(model)
        untrusted = set(skops.io.get_untrusted_types(data=content)) - TRUSTED
    except (TypeError, ValueError, AttributeError, NotImplementedError, RecursionError) as error:
        _logger.debug("skops cannot write a %s: %s", type(model).__name__, error)
        return False
    if untrusted:
        _logger.debug("A %s is not stored: %s cannot be trusted on load.", type(model).__name__, sorted(untrusted))
        return False
    (Path(folder) / FILE).write_bytes(content)
    return True


def load_estimator(folder: Path) -> Any:
    """Reads an estimator back.

    Raises:
      StoreError: the file is missing or damaged.
      UnsafeError: it holds types that are not trusted; nothing was built.
    """
    import skops.io

    path = Path(folder) / FILE
    try:
        untrusted = set(skops.io.get_untrusted_types(file=path)) - TRUSTED
    except _DAMAGED as error:
        raise StoreError(f"{path.name} is not a readable skops file: {error}") from error
    if untrusted:
        raise UnsafeError(
            f"{path.name} holds types that are not trusted: {sorted(untrusted)}. It was not written by this package; "
            "delete that reference run, and it will be trained again."
        )
    try:
        return skops.io.load(path, trusted=sorted(TRUSTED))
    except _DAMAGED as error:
        raise StoreError(f"{path.name} is not a readable skops file: {error}") from error
