"""Signals of any model with `predict`: MLflow's pyfunc, a Python object, a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import PrivacyAuditError, SignalError
from mlflow_privacy.signals.classification import (
    are_probabilities,
    columns_of,
    each_phi,
    outputs_from_labels,
    outputs_from_phi,
    outputs_of_many,
    phi_from_logits,
    phi_from_probabilities,
    require_finite,
    require_labels,
)
from mlflow_privacy.signals.predictions import Table, joined, predictions, table_of
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.types import ModelOutputs, Reading, Records, Task

FLOOR = 1e-7  # most served probabilities have been float32; its rounding of 1 - p is 6e-8
_FORMS = (
    "A classifier's predict must give probabilities (n, classes), in the order of the sorted labels or in columns "
    "named after them, or (n,) labels or probabilities of the second class"
)
_SAY = (
    'If the outputs are logits, say output="logits"; if some of its columns or keys hold the probabilities, name them '
    'in the order of the labels, output=["...", ...]'
)


def prediction_outputs(
    model: Any,
    records: Records,
    *,
    task: Task,
    classes: np.ndarray | None = None,
    batch_size: int = 1024,
    scale: float | None = None,
    reading: Reading | None = None,
    columns: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
) -> ModelOutputs:
    """Outputs of a model that is only known by its predictions.

    What a classifier gives is told apart over all records: (n, c) distributions are probabilities, (n, c) numbers
    outside [0, 1] are logits; (n,) values are labels if they are whole numbers, names or booleans, else the
    probability of the second of two classes. Of label and score together, see `predictions`.

    Args:
      reading: what numbers are, where the caller says it.
      columns: names of the outputs that count, in the order of the labels.
      params: for an MLflow model's `predict`.

    Raises:
      SignalError: anything else, naming shape and dtype; or what `predict` raises.
    """
    pool = np.unique(records.y) if classes is None and task == "classification" else classes
    values, names = _predict_all(_predictor(model, params), records.x, _input_form(model), batch_size, columns, pool)
    if len(values) != len(records):
        raise SignalError(f"The model gives {len(values)} predictions for {len(records)} records.")
    if task == "regression":
        return gaussian_outputs(_amounts(values, names, records.y), records.y, scale=scale)
    if task == "multilabel":
        return _several(values, records.y, reading)
    pool = np.asarray(pool)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 1:
        return _from_vector(values, records.y, pool, reading)
    known = pool if names is None or columns else np.asarray(names)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or values.shape[1] != len(known):
        raise SignalError(
            f"The model gives an array of shape {values.shape} and dtype {values.dtype} for {len(pool)} classes"
            f"{_shown(names)}. {_FORMS}. {_SAY}."
        )
    index = columns_of(records.y, known, pool)
    if reading != "logits" and are_probabilities(values):
        phi = phi_from_probabilities(values, index, floor=FLOOR)
    elif reading != "logits" and np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all():
        raise SignalError(
            f"The model gives an array of shape {values.shape} with values in [0, 1] whose rows do not sum to 1: "
            f"neither probabilities of one label nor logits. {_FORMS}. {_SAY}."
        )
    elif reading == "probabilities":
        raise SignalError(
            f'output="probabilities" was said, but the model gives values from {values.min():.4g} to '
            f"{values.max():.4g} whose rows do not sum to 1."
        )
    else:
        phi = phi_from_logits(values, index)
        phi = np.where(index < 0, np.log(FLOOR), phi)
    return outputs_from_phi(phi, values.argmax(axis=1) == index)


def _from_vector(values: np.ndarray, y: np.ndarray, pool: np.ndarray, reading: Reading | None) -> ModelOutputs:
    """One value per record: a label, or the probability or logit of the second of two classes."""
    index = columns_of(y, pool, pool)
    finite = values.dtype.kind == "f" and bool(np.isfinite(values).all())
    if reading == "logits" and len(pool) == 2 and values.dtype.kind in "iuf":
        logits = np.stack([np.zeros(len(values)), values.astype(np.float64)], axis=1)
        return outputs_from_phi(phi_from_logits(logits, index), logits.argmax(axis=1) == index)
    whole = values.dtype.kind != "f" or (finite and (values == np.round(values)).all())
    if whole and reading is None:
        return outputs_from_labels((places(values, pool) == index) & (index >= 0))
    if len(pool) == 2 and values.dtype.kind in "biuf" and ((values >= 0) & (values <= 1)).all():
        p = np.stack([1 - values.astype(np.float64), values.astype(np.float64)], axis=1)
        return outputs_from_phi(phi_from_probabilities(p, index, floor=FLOOR), p.argmax(axis=1) == index)
    nan = int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0
    raise SignalError(
        f"The model gives an array of shape {values.shape} and dtype {values.dtype}, {nan} of them NaN, with values "
        f"such as {values[:3].tolist()} for {len(pool)} classes. {_FORMS}. {_SAY}. A regressor's task is regression: "
        'say task="regression" if the labels are amounts.'
    )


def _several(values: np.ndarray, y: np.ndarray, reading: Reading | None) -> ModelOutputs:
    """(n, k) predictions of several labels of a record: zeros and ones, probabilities or logits."""
    require_labels(y, values.shape)
    if values.dtype.kind not in "biuf":
        raise SignalError(f"The model gives {values.dtype} for several labels of a record: it must give numbers.")
    require_finite(values)
    if reading is None and ((values == 0) | (values == 1)).all():
        return outputs_from_labels((values == y).all(axis=1))
    if reading is None:
        reading = "probabilities" if ((values >= 0) & (values <= 1)).all() else "logits"
    return outputs_of_many(each_phi(values, y, reading=reading, floor=FLOOR))


def _amounts(values: np.ndarray, names: list | None, y: np.ndarray) -> np.ndarray:
    """A regressor's predictions (n, k); of a wider table the error names its columns."""
    if names is not None and values.ndim == 2 and values.size != y.size:
        raise SignalError(
            f"The model gives the columns {names[:20]} for {y.size // len(y)} target(s) a record. Name those that "
            'predict the targets: output=["..."].'
        )
    return values


def places(labels: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(n,) place of each predicted label among the pool's classes.

    Labels are matched by value, else as text; whole numbers 0..k-1 that match none of k classes are places already.

    Raises:
      SignalError: a prediction is no class of the pool. Numbers of which only some are equal to a label, such as a
        cluster, a score or the ±1 of a search for outliers, are no predictions of labels.

    >>> places(np.array([1, 0]), np.array(["a", "b"])).tolist()
    [1, 0]
    """
    given, known = labels.tolist(), pool.tolist()
    best = [-1] * len(given)
    for read in (lambda value: value, str):
        place = {read(value): i for i, value in enumerate(known)}
        found = [place.get(read(value), -1) for value in given]
        if min(found) >= 0:
            return np.array(found, np.int64)
        best = max(best, found, key=lambda one: sum(value >= 0 for value in one))
    if max(best) < 0 and labels.dtype.kind in "iuf" and labels.min() >= 0 and labels.max() < len(pool):
        return labels.astype(np.int64)
    stray = [value for value, place in zip(given, best) if place < 0]
    if max(best) < 0:
        raise SignalError(
            f"The model predicts labels such as {given[:3]}, none of which is a class of the pool ({known[:5]}). Give "
            f"the pool's labels as the model predicts them. {_OTHERWISE}"
        )
    raise SignalError(
        f"{len(stray)} of {len(given)} predictions of the model are no class of the pool ({known[:5]}), such as "
        f"{list(dict.fromkeys(stray))[:3]}: these may be no labels at all, but scores or clusters. If the model knows "
        f"more classes than the data, name them all, classes=[...]. {_OTHERWISE}"
    )


_OTHERWISE = (
    'If they are amounts, say task="regression"; if they are scores, have predict give probabilities, or say which of '
    "its outputs are: output."
)


def _predictor(model: Any, params: Mapping[str, Any] | None) -> Callable[[Any], Any]:
    """The model's `predict`; what it raises of its own becomes one error that says so."""
    predict = getattr(model, "predict", model)
    served = hasattr(model, "metadata")  # an MLflow pyfunc model
    if params and served:
        predict = functools.partial(predict, params=dict(params))

    def call(x: Any) -> Any:
        try:
            return predict(x)
        except PrivacyAuditError:
            raise
        except Exception as error:  # code of the model's author: anything may come
            remedy = "Give the records as the model was trained on them"
            if served and not params:
                remedy += '; if its predict needs parameters, pass them: params={"...": ...}'
            raise SignalError(
                f"The model's predict fails on records of {_described(x)}: {type(error).__name__}: {error}. {remedy}."
            ) from error

    return call


def _described(x: Any) -> str:
    if hasattr(x, "columns"):
        return f"the columns {', '.join(map(str, list(x.columns)[:8]))}{', …' if len(x.columns) > 8 else ''}"
    if isinstance(x, dict):
        return f"the tensors {', '.join(map(str, x))}"
    return f"shape {np.shape(x)[1:]} and type {getattr(x, 'dtype', type(x).__name__)}"


def _shown(names: list | None) -> str:
    return "" if names is None else f", in the columns {names[:20]}"


def _predict_all(
    predict: Callable[[Any], Any],
    x: Any,
    form: Callable[[Any], Any],
    batch_size: int,
    columns: Sequence[str],
    pool: np.ndarray | None,
) -> tuple[np.ndarray, list | None]:
    """All predictions as one array, and the names of its columns if they are known."""
    parts: list[Table] = []
    for start in range(0, len(x), batch_size):
        part = x.iloc[start : start + batch_size] if hasattr(x, "iloc") else x[start : start + batch_size]
        parts.append(table_of(predict(form(part)), len(part)))
    return predictions(joined(parts), columns, pool)


def _input_form(model: Any) -> Callable[[Any], Any]:
    """Turns features into what the signature of an MLflow model asks for; without one they stay as they are."""
    schema = (
        model.metadata.get_input_schema() if hasattr(getattr(model, "metadata", None), "get_input_schema") else None
    )
    if schema is None:
        return lambda x: x
    if schema.is_tensor_spec():
        spec = schema.inputs[0]
        if len(schema.inputs) > 1:
            names = ", ".join(map(str, schema.input_names()))
            raise SignalError(f"The model takes several tensors ({names}); wrap it in a pyfunc that takes one.")

        def as_tensor(x: Any) -> Any:
            array = (x.to_numpy() if hasattr(x, "iloc") else np.asarray(x)).astype(spec.type, copy=False)
            return {spec.name: array} if spec.name else array

        return as_tensor
    return lambda x: _as_columns(x, schema)


def _as_columns(x: Any, schema: Any) -> Any:
    """A DataFrame of the schema's columns in the schema's types."""
    import pandas as pd

    names = schema.input_names() if schema.has_input_names() else None
    if not hasattr(x, "iloc"):
        x = np.asarray(x)
        width = len(schema.inputs)
        if x.ndim != 2 or x.shape[1] != width:
            raise SignalError(f"The model's signature has {width} columns, but the records have shape {x.shape[1:]}.")
        x = pd.DataFrame(x, columns=names)
    if names is None:
        return x
    required = set(schema.required_input_names())
    missing = [str(name) for name in names if name not in x.columns and name in required]
    if missing:
        raise SignalError(f"The model's signature asks for columns that the records lack: {', '.join(missing)}.")
    x = x[[name for name in names if name in x.columns]]
    types = dict(zip(names, schema.numpy_types()))
    # MLflow refuses to narrow numbers by itself; the pool may have been stored wider than it was.
    narrowed = {
        name: types[name]
        for name in x.columns
        if np.dtype(types[name]).kind in "iuf"
        and getattr(x[name].dtype, "kind", "O") in "iuf"
        and x[name].dtype != types[name]
        and (np.dtype(types[name]).kind == "f" or (x[name] == np.round(x[name])).all())
    }
    return x.astype(narrowed) if narrowed else x
