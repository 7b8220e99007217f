"""Signals of any model with `predict`: MLflow's pyfunc, a Python object, a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.classification import (
    are_probabilities,
    columns_of,
    outputs_from_labels,
    outputs_from_phi,
    phi_from_logits,
    phi_from_probabilities,
)
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.types import ModelOutputs, Records, Task

FLOOR = 1e-7  # most served probabilities have been float32; its rounding of 1 - p is 6e-8
_FORMS = (
    "A classifier's predict must give probabilities (n, classes), in the order of the sorted labels or in columns "
    "named after them, or (n,) labels or probabilities of the second class"
)


def prediction_outputs(
    model: Any,
    records: Records,
    *,
    task: Task,
    classes: np.ndarray | None = None,
    batch_size: int = 1024,
    scale: float | None = None,
) -> ModelOutputs:
    """Outputs of a model that is only known by its predictions.

    What a classifier gives is told apart over all records: (n, c) distributions are probabilities, (n, c) numbers
    outside [0, 1] are logits; (n,) values are labels if they are whole numbers, names or booleans, else the
    probability of the second of two classes.

    Raises:
      SignalError: anything else, naming shape and dtype.
    """
    predict = getattr(model, "predict", model)
    values, columns = _predict_all(predict, records.x, _input_form(model), batch_size)
    if len(values) != len(records):
        raise SignalError(f"The model gives {len(values)} predictions for {len(records)} records.")
    if task == "regression":
        return gaussian_outputs(values, records.y, scale=scale)
    pool = np.unique(records.y) if classes is None else np.asarray(classes)
    if columns is not None and values.shape[1] > 1:
        values, columns = _class_columns(values, columns, pool)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 1:
        return _from_vector(values, records.y, pool)
    known = pool if columns is None else np.asarray(columns)
    if values.ndim != 2 or values.dtype.kind not in "biuf" or values.shape[1] != len(known):
        raise SignalError(
            f"The model gives an array of shape {values.shape} and dtype {values.dtype} for {len(pool)} classes. "
            f"{_FORMS}."
        )
    index = columns_of(records.y, known, pool)
    if are_probabilities(values):
        phi = phi_from_probabilities(values, index, floor=FLOOR)
    elif np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all():
        raise SignalError(
            f"The model gives an array of shape {values.shape} with values in [0, 1] whose rows do not sum to 1: "
            f"neither probabilities of one label nor logits. {_FORMS}."
        )
    else:
        phi = phi_from_logits(values, index)
        phi = np.where(index < 0, np.log(FLOOR), phi)
    return outputs_from_phi(phi, values.argmax(axis=1) == index)


def _from_vector(values: np.ndarray, y: np.ndarray, pool: np.ndarray) -> ModelOutputs:
    """One value per record: a label, or the probability of the second of two classes."""
    index = columns_of(y, pool, pool)
    whole = values.dtype.kind != "f" or (np.isfinite(values).all() and (values == np.round(values)).all())
    if whole:
        return outputs_from_labels((places(values, pool) == index) & (index >= 0))
    if len(pool) == 2 and ((values >= 0) & (values <= 1)).all():
        p = np.stack([1 - values.astype(np.float64), values.astype(np.float64)], axis=1)
        return outputs_from_phi(phi_from_probabilities(p, index, floor=FLOOR), p.argmax(axis=1) == index)
    nan = int(np.isnan(values).sum())
    raise SignalError(
        f"The model gives an array of shape {values.shape} and dtype {values.dtype}, {nan} of them NaN, with values "
        f"such as {values[:3].tolist()} for {len(pool)} classes. {_FORMS}. A regressor's task is regression."
    )


def places(labels: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(n,) place of each predicted label among the pool's classes, -1 where it is none of them.

    Labels are matched by value, else as text; whole numbers 0..k-1 that match none of k classes are places already.

    >>> places(np.array([1, 0]), np.array(["a", "b"])).tolist()
    [1, 0]
    """
    given, known = labels.tolist(), pool.tolist()
    for read in (lambda value: value, str):
        place = {read(value): i for i, value in enumerate(known)}
        found = [place.get(read(value), -1) for value in given]
        if max(found) >= 0:
            return np.array(found, np.int64)
    if labels.dtype.kind in "iuf" and labels.min() >= 0 and labels.max() < len(pool):
        return labels.astype(np.int64)
    raise SignalError(
        f"The model predicts labels such as {given[:3]}, none of which is a class of the pool ({known[:5]}). Give the "
        "pool's labels as the model predicts them."
    )


def _class_columns(values: np.ndarray, columns: list, pool: np.ndarray) -> tuple[np.ndarray, list | None]:
    """The columns that are named after the pool's classes; all of them, in their order, if none is."""
    names = {str(name): i for i, name in enumerate(columns)}
    named = [label for label in pool.tolist() if str(label) in names]
    if len(named) == len(pool) or (named and len(named) == values.shape[1]):
        picked = values[:, [names[str(label)] for label in named]]
        return picked.astype(np.float64) if picked.dtype.hasobject and _all_numbers(picked) else picked, named
    return values, None


def _all_numbers(values: np.ndarray) -> bool:
    return all(isinstance(value, (int, float, np.number)) for value in values.flat)


def _predict_all(
    predict: Callable[[Any], Any], x: Any, form: Callable[[Any], Any], batch_size: int
) -> tuple[np.ndarray, list | None]:
    """All predictions as one array, and the column names if they came as a DataFrame."""
    parts: list[np.ndarray] = []
    columns: list | None = None
    for start in range(0, len(x), batch_size):
        part = x.iloc[start : start + batch_size] if hasattr(x, "iloc") else x[start : start + batch_size]
        output = predict(form(part))
        if hasattr(output, "columns"):
            columns = list(output.columns)
        elif isinstance(output, dict):
            raise SignalError(f"The model's predict gives a dict with the keys {sorted(output)}. {_FORMS}.")
        if hasattr(output, "detach"):
            output = output.detach().cpu()
        try:
            parts.append(np.asarray(output))
        except ValueError as error:
            raise SignalError(
                f"The model's predict gives a {type(output).__name__} of unequal rows. {_FORMS}."
            ) from error
        if parts[-1].ndim == 0:
            raise SignalError(f"The model's predict gives a {type(output).__name__} for {len(part)} records. {_FORMS}.")
    values = np.concatenate(parts)
    return values.astype(np.float64) if values.dtype.hasobject and _all_numbers(values) else values, columns


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
