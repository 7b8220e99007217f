"""scikit-learn estimators as skops files: no pickle, no type that skops or this list does not trust."""

from __future__ import annotations

import itertools
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

# Parts that are never trusted: C code reads them without a check. They are found without skops, whose import takes
# seconds (it imports torch), and which would write a whole forest to find one.
_NEVER_TRUSTED = frozenset(
    {
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.tree._tree.Tree",
    }
)
_PLAIN = (bool, bytes, float, int, str, type(None))
_MOST = 2000  # objects that are looked at for these
_REFUSED: set[str] = set()  # recipes whose models skops has refused in this process


def save_estimator(model: Any, folder: Path, *, recipe: str = "") -> bool:
    """Writes an estimator into `folder`; False, and nothing written, if it has parts that cannot be trusted on load.

    Args:
      recipe: its digest. Models of one recipe are of the same parts: where one is refused, no other one is tried.
    """
    part = never_trusted(model)
    if part or recipe in _REFUSED:
        _logger.debug("A %s is not stored: %s", type(model).__name__, part or "another one like it was refused.")
        return False
    saved = _save(model, folder)
    if recipe and not saved:
        _REFUSED.add(recipe)
    return saved


def never_trusted(model: Any) -> str:
    """The first part of a fitted estimator that has no safe form, "" if there is none among those looked at.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> never_trusted(DecisionTreeClassifier()), never_trusted(DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]))
    ('', 'sklearn.tree._tree.Tree')
    """
    waiting, seen = [model], set[int]()
    while waiting and len(seen) < _MOST:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _NEVER_TRUSTED:
            return name
        inside: Any = ()
        if isinstance(value, dict):
            inside = value.values()
        elif isinstance(value, (list, tuple)) or (kind.__name__ == "ndarray" and value.dtype.hasobject):
            inside = value
        elif kind.__name__ != "ndarray" and hasattr(value, "__dict__") and not isinstance(value, type):
            inside = vars(value).values()
        waiting += itertools.islice((each for each in inside if type(each) not in _PLAIN), _MOST)
    return ""


def _save(model: Any, folder: Path) -> bool:
    import skops.io

    try:
        content = skops.io.dumps(model)
        untrusted = set(skops.io.get_untrusted_types(data=content)) - TRUSTED
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:  # the last is of torch's tensors
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
