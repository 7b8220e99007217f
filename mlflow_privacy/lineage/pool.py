"""Tables → Records → a pool of members and non-members, without exact duplicates between them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.tables import Table
from mlflow_privacy.types import AuditTarget, Records, Task

_logger = logging.getLogger(__name__)
_REGRESSION_LOSSES = ("mse", "l1", "mae", "huber", "smooth_l1", "smoothl1", "squared_error", "gaussian_nll", "poisson")
_CLASSIFICATION_LOSSES = ("cross_entropy", "crossentropy", "bce", "nll", "hinge", "log_loss")
_MANY_LABELS = 20


def load_pool_frame(target: AuditTarget) -> tuple[Any, np.ndarray]:
    """Features and labels of the pool, members and non-members together, as `target.membership` tells them apart."""
    return target.pool.x, target.pool.y


# --- features and labels -----------------------------------------------------------------------------------------


def to_records(
    table: Table,
    prefix: str,
    *,
    index: np.ndarray | None = None,
    targets: str | None = None,
    inputs: Sequence[str] | None = None,
) -> Records:
    """Splits a table into features and labels, and names its records.

    Args:
      table: n rows.
      prefix: of the row ids: "train" gives "train:0", "train:1", …: row numbers of the data set, from 0.
      index: which rows; all if None.
      targets: the label column, as the caller or the lineage names it.
      inputs: the feature columns of the model's signature; other columns are left out.

    Raises:
      LineageError: which column holds the labels is not known, or there are no labels.

    >>> list(to_records(Table(np.eye(3), np.arange(3)), "train", index=np.array([2])).row_ids)
    ['train:2']
    """
    x, y = table.x, table.y
    if table.is_frame:
        column = table.targets if table.targets is not None and targets is None else targets
        x, y = _split_frame(x, column, inputs)
    elif y is None:
        raise LineageError("it has features but no labels: log (features, targets) together")
    y = plain_labels(y)
    row_ids = np.arange(len(y)) if index is None else np.asarray(index)
    if index is not None:
        x, y = (x.iloc[index] if hasattr(x, "iloc") else x[index]), y[index]
    if hasattr(x, "iloc"):
        x = _stacked(x.reset_index(drop=True))
    return Records(x, y, np.char.add(f"{prefix}:", row_ids.astype(str)))


def _split_frame(frame: Any, targets: str | None, inputs: Sequence[str] | None) -> tuple[Any, np.ndarray]:
    """Feature columns and labels; without a name the labels are the only column that the model does not take."""
    names = {str(c): c for c in frame.columns}
    known = list(inputs or [])
    missing = [name for name in known if name not in names]
    if known and missing:
        raise LineageError(
            f"it has no column {', '.join(map(repr, missing[:5]))}, which the model's signature takes; its columns are "
            f"{_some(names)}"
        )
    if targets is not None and targets not in names:
        raise LineageError(f"it has no target column {targets!r}; its columns are {_some(names)}")
    rest = [name for name in names if name not in known]
    if targets is None:
        if not known:
            raise LineageError(
                f"which of its columns holds the labels is not recorded ({_some(names)}); name it: "
                'log_lineage(targets=...), or evaluator_config={"privacy_meter": {"targets": ...}}'
            )
        if len(rest) != 1:
            raise LineageError(
                (
                    f"its columns {_some(rest)} are all unknown to the model's signature, and one of them holds the labels"
                    if rest
                    else "all its columns are inputs of the model, so it has no labels"
                )
                + '; name it: log_lineage(targets=...), or evaluator_config={"privacy_meter": {"targets": ...}}'
            )
        targets = rest[0]
    features = [n for n in known if n != targets] if known else [n for n in names if n != targets]
    return frame[[names[n] for n in features]], frame[names[targets]].to_numpy()


def _some(names: Any) -> str:
    shown = [repr(n) for n in names]
    return ", ".join(shown[:8]) + (f", … ({len(shown)} in all)" if len(shown) > 8 else "")


def _stacked(frame: Any) -> Any:
    """A single column of equally shaped arrays as one array; every other frame as it is."""
    if frame.shape[1] != 1 or frame.dtypes.iloc[0] != object or not len(frame):
        return frame
    column = frame.iloc[:, 0].to_numpy()
    if not all(isinstance(v, (list, tuple, np.ndarray)) for v in column):
        return frame
    try:
        array = np.array([_nested(v) for v in column])
    except ValueError:  # ragged
        return frame
    return frame if array.dtype.hasobject or array.dtype.kind not in "biuf" else array


def _nested(value: Any) -> Any:
    """Arrays of arrays, as Parquet returns lists of lists, as one array."""
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return np.stack([np.asarray(_nested(v)) for v in value])
    return value


def plain_labels(y: Any) -> np.ndarray:
    """(n,) labels as numbers or strings, without Python objects; (n, 1) becomes (n,).

    Raises:
      LineageError: labels are missing.

    >>> plain_labels(np.array(["a", "b"], dtype=object)).dtype.kind
    'U'
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.hasobject:
        missing = sum(v is None or v != v for v in y.ravel())
        if missing:
            raise LineageError(f"{missing} of its {len(y)} labels are missing: leave those records out")
        values = y.tolist()
        if all(isinstance(v, (bool, int, float, np.number)) for v in np.ravel(values)):
            return np.array(values)
        return y.astype(str)
    if y.dtype.kind == "f" and np.isnan(y).any():
        raise LineageError(f"{int(np.isnan(y).sum())} of its {len(y)} labels are missing: leave those records out")
    return y


# --- what the model takes ----------------------------------------------------------------------------------------


def for_model(records: Records, native: Any, flavor: str, inputs: Sequence[str] | None) -> Records:
    """Features in the form that the model was trained on: columns by name, a plain matrix, or texts.

    A module takes numbers; an estimator that was fitted without column names takes a matrix, one that was fitted with
    names takes a frame; a text vectoriser takes the texts themselves.
    """
    x = records.x
    if hasattr(x, "iloc"):
        numeric = all(getattr(dtype, "kind", "O") in "biuf" for dtype in x.dtypes)
        if _takes_texts(native) and x.shape[1] == 1:
            x = x.iloc[:, 0].to_numpy(dtype=object)
        elif numeric and flavor == "pytorch":
            x = x.to_numpy(np.float32)
        elif numeric and flavor in ("sklearn", "xgboost", "lightgbm") and not _has_names(native):
            x = x.to_numpy()
    elif getattr(x, "ndim", 0) == 2:
        names = list(native.feature_names_in_) if _has_names(native) else list(inputs or [])
        named = _has_names(native) or flavor == "pyfunc"
        if named and len(names) == x.shape[1]:
            import pandas as pd

            x = pd.DataFrame(x, columns=names)
    return records if x is records.x else Records(x, records.y, records.row_ids)


def _has_names(native: Any) -> bool:
    """Whether an estimator was fitted on named columns."""
    return getattr(native, "feature_names_in_", None) is not None


def _takes_texts(native: Any) -> bool:
    steps = getattr(native, "steps", None)
    first = steps[0][1] if steps else native
    return hasattr(first, "analyzer") and hasattr(first, "input")


def same_form(first: Records, other: Records, what: str) -> Records:
    """`other` with the columns, shape and kind of labels of `first`.

    Raises:
      LineageError: it cannot have them.
    """
    a, b = first.x, other.x
    if hasattr(a, "iloc"):
        import pandas as pd

        if not hasattr(b, "iloc"):
            if np.ndim(b) != 2 or b.shape[1] != a.shape[1]:
                raise LineageError(
                    f"the {what} are an array of shape {np.shape(b)}, the members have {a.shape[1]} columns"
                )
            b = pd.DataFrame(b, columns=a.columns)
        missing = [c for c in a.columns if c not in b.columns]
        if missing:
            raise LineageError(f"the {what} have no column {_some(missing)}, which the members have")
        b = b[list(a.columns)]
    else:
        b = b.to_numpy() if hasattr(b, "iloc") else b
        if np.shape(a)[1:] != np.shape(b)[1:]:
            raise LineageError(
                f"the {what} have records of shape {np.shape(b)[1:]}, the members of shape {np.shape(a)[1:]}"
            )
    strings = [np.asarray(r.y).dtype.kind in "US" for r in (first, other)]
    if strings[0] != strings[1] or np.ndim(first.y) != np.ndim(other.y):
        raise LineageError(
            f"the {what} have labels such as {other.y[0]!r}, the members such as {first.y[0]!r}: use one kind of labels"
        )
    return other if b is other.x else Records(b, other.y, other.row_ids)


def infer_task(native: Any, y: np.ndarray, loss: str | None = None) -> Task:
    """Classification or regression: what the estimator is, else what the loss is for, else what the labels are.

    Whole numbers and strings are classes, unless the numbers are many and spread like amounts; fractions are
    regression targets, except the two values 0 and 1.

    >>> infer_task(None, np.array([0, 1, 1])), infer_task(None, np.array([0.5, 1.25]))
    ('classification', 'regression')
    >>> infer_task(None, np.array([0.0, 1.0]), "mse")
    'regression'
    """
    kind = getattr(native, "_estimator_type", None) or _sklearn_type(native)
    if kind in ("classifier", "regressor"):
        return "classification" if kind == "classifier" else "regression"
    name = (loss or "").lower().replace("loss", "").replace("_", "")
    for names, task in ((_REGRESSION_LOSSES, "regression"), (_CLASSIFICATION_LOSSES, "classification")):
        if name and any(name.startswith(known.replace("_", "").replace("loss", "")) for known in names):
            return task  # type: ignore[return-value]
    y = np.asarray(y)
    if y.dtype.kind in "USOb":
        return "classification"
    if y.ndim > 1:
        return "regression"
    values = np.unique(y)
    if y.dtype.kind == "f":
        return "classification" if np.isin(values, (0.0, 1.0)).all() else "regression"
    spread = values[0] < 0 or values[-1] >= 2 * len(y)
    return "regression" if spread and len(values) > max(_MANY_LABELS, len(y) / 2) else "classification"


def _sklearn_type(native: Any) -> str | None:
    if not hasattr(native, "get_params"):
        return None
    from sklearn.base import is_classifier, is_regressor

    return "classifier" if is_classifier(native) else "regressor" if is_regressor(native) else None


# --- duplicates --------------------------------------------------------------------------------------------------


def record_keys(records: Records) -> np.ndarray:
    """(n,) one key per record, equal exactly where features and label are equal bit for bit."""
    return np.array([a + b for a, b in zip(_row_hashes(records.x), _row_hashes(records.y))], dtype="S32")


def _row_hashes(values: Any) -> list[bytes]:
    """16 bytes per row, without zero bytes at the end (NumPy strips them from fixed-width strings)."""
    if hasattr(values, "iloc"):
        columns = [_row_hashes(values.iloc[:, j].to_numpy()) for j in range(values.shape[1])]
        return [_hash(b"".join(row)) for row in zip(*columns)] if columns else [_hash(b"")] * len(values)
    array = np.asarray(values)
    if array.dtype.hasobject:
        rows = [_plain_bytes(v) for v in array]
    elif array.dtype.kind == "U":
        rows = ["\0".join(map(str, np.ravel(v))).encode() for v in array]
    else:
        flat = np.ascontiguousarray(array).reshape(len(array), -1)
        size = flat.shape[1] * flat.itemsize
        data = flat.tobytes()
        if size <= 8:  # short rows are their own key
            return [data[i * size : (i + 1) * size].hex().encode().ljust(16, b"-") for i in range(len(flat))]
        rows = [data[i * size : (i + 1) * size] for i in range(len(flat))]
    return [_hash(row) for row in rows]


def _plain_bytes(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        return b"[" + b",".join(_plain_bytes(v) for v in value.tolist()) + b"]"
    if isinstance(value, (list, tuple)):
        return b"[" + b",".join(_plain_bytes(v) for v in value) + b"]"
    if value is None or value != value:
        return b"missing"
    return f"{type(value).__name__}:{value}".encode()


def _hash(row: bytes) -> bytes:
    return hashlib.blake2b(row, digest_size=8).hexdigest().encode()


def without(records: Records, others: Sequence[Records]) -> tuple[Records, int]:
    """`records` without those that equal, in features and label, a record of `others`; and how many those were.

    The same features under another label are another record: a model may have memorised either.
    """
    known = np.unique(np.concatenate([record_keys(o) for o in others]))
    keep = ~np.isin(record_keys(records), known)
    return (records if keep.all() else records.take(np.flatnonzero(keep))), int((~keep).sum())


def build_pool(members: Records, non_members: Records) -> tuple[Records, np.ndarray, int]:
    """Members, then non-members that are not members too.

    Returns:
      The pool, its (n,) membership, and how many exact duplicates of members were left out.

    Raises:
      LineageError: no non-member is left, or the two differ in form.
    """
    non_members = _same_dtype(members, same_form(members, non_members, "non-members"))
    total = len(non_members)
    non_members, n_duplicates = without(non_members, [members])
    if not len(non_members):
        raise LineageError(
            f"all {total} held-out records are exact copies of training records, so there are no non-members: log a "
            "holdout that the model was not trained on"
        )
    pool = Records.concat([members, non_members])
    return pool, np.arange(len(pool)) < len(members), n_duplicates


def _same_dtype(first: Records, other: Records) -> Records:
    """`other` with the dtypes of `first` where no value changes, so that equal records have equal bytes."""
    x, y = other.x, other.y
    if hasattr(x, "iloc"):
        for name, dtype in first.x.dtypes.items():
            if x[name].dtype != dtype:
                cast = _lossless(x[name].to_numpy(), getattr(dtype, "numpy_dtype", dtype))
                x = x if cast is None else x.assign(**{name: cast})
    elif x.dtype != first.x.dtype:
        cast = _lossless(x, first.x.dtype)
        x = x if cast is None else cast
    if y.dtype != first.y.dtype and y.dtype.kind not in "US":
        cast = _lossless(y, first.y.dtype)
        y = y if cast is None else cast
    return Records(x, y, other.row_ids)


def _lossless(array: np.ndarray, dtype: Any) -> np.ndarray | None:
    """`array` as `dtype`, or None if a value would change."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf" or array.dtype.kind not in "biuf":
        return None
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        same = np.array_equal(cast.astype(array.dtype), array, equal_nan=array.dtype.kind == "f")
    return cast if same else None


def subsample(records: Records, size: int | None, seed: int) -> Records:
    """At most `size` records at random, in their order; the same for the same seed."""
    if size is None or size >= len(records):
        return records
    chosen = np.random.default_rng(seed).choice(len(records), size, replace=False)
    return records.take(np.sort(chosen))
