"""Table → Records: which column is the label, and the form of features that the model takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage.chats import of_chats, written
from mlflow_privacy.lineage.tables import Table, Targets, names_of
from mlflow_privacy.trainers.torch.columns import expanded
from mlflow_privacy.types import Records

_INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # a column that a file got for the index of a frame


def named_texts(data: Any, text: str) -> Any:
    """A list or array of strings, or a list of chats, as a frame with one column; anything else as it is.

    >>> named_texts(["one", "two"], "text").columns.tolist()
    ['text']
    """
    values = data.tolist() if isinstance(data, np.ndarray) and data.ndim == 1 else data
    texts = isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)
    if isinstance(values, (list, tuple)) and values and (texts or of_chats(values)):
        import pandas as pd

        return pd.DataFrame({text: pd.Series(list(values), dtype=object)})
    return data


def text_records(
    table: Table,
    prefix: str,
    *,
    index: np.ndarray | None = None,
    targets: Targets | None = None,
    text: str | None = None,
    prompt: str | None = None,
    labelled: bool = False,
    tokenizer: Any = None,
) -> Records:
    """Records of a language model: a frame of prompt and text, and class labels where the model has classes.

    Args:
      table: n rows.
      prefix, index, targets: as in `to_records`.
      text: the column of texts or of chats; else "text", else the only column of strings, else the only one of chats.
      prompt: the column before it, if there is one.
      labelled: whether the model is a classifier; else the labels are zeros.
      tokenizer: of the model, whose template writes chats as texts.

    Raises:
      LineageError: there is no such column, a text is missing, or which column holds texts or labels is not known.

    >>> import pandas as pd
    >>> text_records(Table(pd.DataFrame({"text": ["a", "b"]})), "train").y.tolist()
    [0, 0]
    """
    if not table.is_frame:
        raise LineageError("it is an array, but a language model reads texts: log a frame with a text column")
    frame = table.x if index is None else table.x.iloc[index]
    targets = table.targets if targets is None else targets
    names = {str(name): name for name in frame.columns}
    if text is None:
        strings = [
            name
            for name, column in names.items()
            if name not in (*names_of(targets), prompt) and all(isinstance(value, str) for value in frame[column])
        ]
        chats = [name for name, column in names.items() if name != prompt and of_chats(frame[column].tolist())]
        found = strings if len(strings) == 1 else chats
        text = "text" if "text" in names else found[0] if len(found) == 1 else None
        if text is None:
            raise LineageError(
                f"which of its columns holds the texts is not recorded ({_some(names)}); name it: "
                'log_lineage(text=...), or evaluator_config={"privacy_meter": {"recipe": {"text": ..., ...}}}'
            )
    wanted = [name for name in (prompt, text) if name is not None]
    missing = [name for name in [*wanted, *(names_of(targets) if labelled else ())] if name not in names]
    if missing:
        raise LineageError(f"it has no column {_some(missing)}; its columns are {_some(names)}")
    if labelled and targets is None:
        rest = [name for name in names if name not in wanted]
        if len(rest) != 1:
            raise LineageError(
                f"which of its columns holds the labels is not recorded ({_some(names)}); name it: "
                'log_lineage(targets=...), or evaluator_config={"privacy_meter": {"targets": ...}}'
            )
        targets = rest[0]
    if labelled and len(names_of(targets)) > 1:
        raise LineageError(f"a classifier of texts has one label, not {_some(names_of(targets))}: name one")
    x = frame[[names[name] for name in wanted]].astype(object).reset_index(drop=True)
    x.columns = wanted
    if of_chats(x[text].tolist()):
        both = prompt is not None and of_chats(x[prompt].tolist())
        texts, prompts = written(x[text].tolist(), x[prompt].tolist() if both else None, tokenizer, text)
        x = x.assign(**{text: texts}, **({str(prompt): prompts} if both else {})).astype(object)
    for name in wanted:
        strange = sum(not isinstance(value, str) for value in x[name])
        if strange:
            raise LineageError(f"{strange} of its {len(x)} records have no string in {name!r}: leave them out")
    y = plain_labels(frame[names[str(targets)]].to_numpy()) if labelled else np.zeros(len(x), np.int64)
    row_ids = range(len(x)) if index is None else np.asarray(index).tolist()
    return Records(x, y, np.array([f"{prefix}:{i}" for i in row_ids], dtype=str))


def to_records(
    table: Table,
    prefix: str,
    *,
    index: np.ndarray | None = None,
    targets: Targets | None = None,
    inputs: Sequence[str] | None = None,
) -> Records:
    """Splits a table into features and labels, and names its records.

    Args:
      table: n rows.
      prefix: of the row ids: "train" gives "train:0", "train:1", …: row numbers of the data set, from 0.
      index: which rows; all if None.
      targets: the label column or columns, as the caller or the lineage names them.
      inputs: the feature columns of the model's signature; other columns are left out.

    Raises:
      LineageError: which column holds the labels is not known, or there are no labels.

    >>> to_records(Table(np.eye(3), np.arange(3)), "train", index=np.array([2])).row_ids.tolist()
    ['train:2']
    """
    x, y = table.x, table.y
    if table.is_frame:
        x, y = _split_frame(x, table.targets if targets is None else targets, inputs)
    elif y is None:
        raise LineageError("it has features but no labels: log (features, targets) together")
    y = plain_labels(y)
    row_ids = np.arange(len(y)) if index is None else np.asarray(index)
    if index is not None:
        x, y = (x.iloc[index] if hasattr(x, "iloc") else x[index]), y[index]
    if hasattr(x, "iloc"):
        x = _stacked(x.reset_index(drop=True))
    return Records(x, y, np.array([f"{prefix}:{i}" for i in row_ids.tolist()], dtype=str))


def _split_frame(frame: Any, targets: Targets | None, inputs: Sequence[str] | None) -> tuple[Any, np.ndarray]:
    """Feature columns and labels; without a name the labels are the only column that the model does not take."""
    names = {str(c): c for c in frame.columns}
    known = expanded(list(inputs or []), list(names))
    missing = [name for name in known if name not in names]
    if known and missing:
        raise LineageError(
            f"it has no column {', '.join(map(repr, missing[:5]))}, which the model's signature takes; its columns are "
            f"{_some(names)}"
        )
    lacking = [name for name in names_of(targets) if name not in names]
    if lacking:
        raise LineageError(f"it has no target column {_some(lacking)}; its columns are {_some(names)}")
    rest = [name for name in names if name not in known and not _INDEX.fullmatch(name)]
    if targets is None:
        if not known:
            raise LineageError(
                f"which of its columns holds the labels is not recorded ({_some(names)}); name it: "
                'log_lineage(targets=...), or evaluator_config={"privacy_meter": {"targets": ...}}'
            )
        if len(rest) != 1:
            raise LineageError(
                (
                    f"its columns {_some(rest)} are no inputs of the model, so which of them is the label is not known"
                    if rest
                    else "all its columns are inputs of the model, so it has no labels"
                )
                + '; name it: log_lineage(targets=...), or evaluator_config={"privacy_meter": {"targets": ...}}'
            )
        targets = rest[0]
    wanted = names_of(targets)
    features = [n for n in known or names if n not in wanted]
    labels = [names[name] for name in wanted]
    return frame[[names[n] for n in features]], frame[labels[0] if len(labels) == 1 else labels].to_numpy()


def _some(names: Any) -> str:
    shown = [repr(n) for n in names]
    return ", ".join(shown[:8]) + (f", … ({len(shown)} in all)" if len(shown) > 8 else "")


def _stacked(frame: Any) -> Any:
    """A single column of equally shaped arrays as one array; every other frame as it is."""
    if frame.shape[1] != 1 or getattr(frame.dtypes.iloc[0], "kind", "") != "O" or not len(frame):
        return frame
    column = frame.iloc[:, 0].to_numpy()
    if not all(isinstance(v, (list, tuple)) for v in column):
        return frame
    try:
        array = np.array(column.tolist())
    except ValueError:  # ragged
        return frame
    return frame if array.dtype.hasobject or array.dtype.kind not in "biuf" else array


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


def for_model(records: Records, native: Any, flavor: str, inputs: Sequence[str] | None) -> Records:
    """Features in the form that the model was trained on: columns by name, a plain matrix, or texts.

    A module takes numbers: a matrix of the type that its columns have, or the columns apart. An estimator that was
    fitted without column names takes a matrix, one that was fitted with names takes a frame; a text vectoriser takes
    the texts themselves.
    """
    x = records.x
    if hasattr(x, "iloc") and not inputs:
        x = _without_index(x, native, flavor)
    if hasattr(x, "iloc"):
        numeric = all(getattr(dtype, "kind", "O") in "biuf" for dtype in x.dtypes)
        if _takes_texts(native) and x.shape[1] == 1:
            x = x.iloc[:, 0].to_numpy(dtype=object)
        elif numeric and flavor == "pytorch":
            x = x if _wants_columns(native, x) else _matrix(x)
        elif numeric and flavor in ("sklearn", "xgboost", "lightgbm") and not _has_names(native):
            x = x.to_numpy()
    elif getattr(x, "ndim", 0) == 2:
        names = list(native.feature_names_in_) if _has_names(native) else list(inputs or [])
        named = _has_names(native) or flavor == "pyfunc"
        if named and len(names) == x.shape[1]:
            import pandas as pd

            x = pd.DataFrame(x, columns=names)
    return records if x is records.x else Records(x, records.y, records.row_ids)


def index_columns(frame: Any) -> list[Any]:
    """Columns that a file got for the index of a frame: named so, and whole numbers of which none occurs twice.

    >>> import pandas as pd
    >>> index_columns(pd.DataFrame({"Unnamed: 0": [4, 0], "x": [1, 2]}))
    ['Unnamed: 0']
    """
    named = [name for name in frame.columns if _INDEX.fullmatch(str(name))]
    return [
        name for name in named if getattr(frame[name].dtype, "kind", "O") in "iu" and not frame[name].duplicated().any()
    ]


def _without_index(frame: Any, native: Any, flavor: str) -> Any:
    """A frame without the columns that its file got for the index, unless the model takes just so many columns."""
    strays = index_columns(frame)
    if not strays or len(strays) == frame.shape[1]:
        return frame
    without = frame.drop(columns=strays)
    count = getattr(native, "n_features_in_", None)
    if count is not None:
        return without if count == without.shape[1] else frame
    if flavor == "pytorch" and all(getattr(dtype, "kind", "O") in "biuf" for dtype in frame.dtypes):
        from mlflow_privacy.trainers.torch.inputs import takes

        return without if takes(native, without) and not takes(native, frame) else frame
    return without


def _wants_columns(native: Any, frame: Any) -> bool:
    from mlflow_privacy.trainers.torch.inputs import wants_columns

    return len(frame) > 0 and wants_columns(native, frame)


def _matrix(frame: Any) -> np.ndarray:
    """Columns of whole numbers as int64, others as float32."""
    whole = all(getattr(dtype, "kind", "O") in "biu" for dtype in frame.dtypes)
    if whole and not frame.isna().to_numpy().any():
        return frame.to_numpy(np.int64)
    return frame.to_numpy(np.float32, na_value=np.nan)


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
