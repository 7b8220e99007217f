"""Signals of models that are only known by their predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.signals.classification import phi_from_logits, phi_from_probabilities
from mlflow_privacy.signals.pyfunc import FLOOR
from mlflow_privacy.types import Records

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(30, 3)) * 2
P = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
Y = np.arange(30) % 3
NAMES = np.array(["ant", "bee", "cat"])
PHI = phi_from_probabilities(P, Y, floor=FLOOR)


class Model:
    """Predicts what `read` makes of the records' positions."""

    def __init__(self, read):
        self.read = read

    def predict(self, x):
        return self.read(np.asarray(x)[:, 0].astype(int))


def records(y=Y):
    return Records(np.stack([np.arange(30.0), np.zeros(30)], 1), y, np.arange(30).astype(str))


def outputs(read, y=Y, task="classification", **options):
    return model_outputs(Model(read), records(y), task=task, batch_size=7, **options)


@pytest.mark.parametrize(
    ("read", "y"),
    [
        (lambda i: P[i], Y),
        (lambda i: P[i].tolist(), NAMES[Y]),
        (lambda i: pd.DataFrame(P[i]), Y),
        (lambda i: pd.DataFrame(P[i], columns=NAMES), NAMES[Y]),
        (lambda i: pd.DataFrame(P[i], columns=NAMES)[["cat", "ant", "bee"]], NAMES[Y]),
        (lambda i: pd.DataFrame(P[i][:, [2, 0, 1]], columns=["2", "0", "1"]), Y),
        (lambda i: pd.DataFrame(P[i], columns=NAMES).assign(label="ant", id=i), NAMES[Y]),
        (lambda i: P[i].astype(np.float32), Y + 1),
    ],
    ids=["array", "lists", "frame", "named", "reordered", "text", "wider", "float32"],
)
def test_probabilities_in_every_form(read, y):
    out = outputs(read, y)
    np.testing.assert_allclose(out.signal, PHI, rtol=1e-4, atol=1e-5)
    assert np.array_equal(out.correct, P.argmax(1) == Y)
    assert out.link == "logit"


def test_logits_are_taken_as_such():
    np.testing.assert_allclose(outputs(lambda i: LOGITS[i]).signal, phi_from_logits(LOGITS, Y), rtol=1e-5)


@pytest.mark.parametrize(
    ("read", "y"),
    [
        (lambda i: P[i].argmax(1), Y),
        (lambda i: P[i].argmax(1).astype(float), Y),
        (lambda i: P[i].argmax(1)[:, None], Y),
        (lambda i: pd.Series(NAMES[P[i].argmax(1)]), NAMES[Y]),
        (lambda i: NAMES[P[i].argmax(1)].astype(object), NAMES[Y]),
        (lambda i: pd.DataFrame({"prediction": P[i].argmax(1)}), Y),
        (lambda i: P[i].argmax(1).astype(str), Y),
        (lambda i: P[i].argmax(1), NAMES[Y]),
        (lambda i: [int(k) for k in P[i].argmax(1)], Y),
    ],
    ids=["ints", "floats", "column", "series", "objects", "frame", "text", "places", "list"],
)
def test_labels_in_every_form(read, y):
    out = outputs(read, y)
    assert out.link == "label"
    assert np.array_equal(out.correct, P.argmax(1) == Y)
    assert np.array_equal(out.signal, out.correct.astype(np.float32))
    assert np.array_equal(out.loss, 1 - out.signal)


@pytest.mark.parametrize("names", [None, np.array(["no", "yes"])])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_probability_is_that_of_the_second_class(names, shape):
    p, y = P[:, 0], Y % 2
    out = outputs(lambda i: p[i].reshape(shape), y if names is None else names[y])
    own = np.where(y == 1, p, 1 - p)
    np.testing.assert_allclose(out.signal, np.log(own / (1 - own)), rtol=1e-4, atol=1e-5)


def test_batches_of_whole_probabilities_are_no_labels():
    """A saturated model whose first batch is all 0.0 and 1.0."""
    p = np.concatenate([np.tile([0.0, 1.0], 7)[:14], np.linspace(0.1, 0.9, 16)])
    assert outputs(lambda i: p[i], Y % 2).link == "logit"


def test_hard_probabilities_are_clipped():
    one_hot = np.eye(3)[P.argmax(1)]
    out = outputs(lambda i: one_hot[i])
    assert set(np.round(np.abs(out.signal), 3)) == {np.float32(np.round(-np.log(FLOOR), 3))}


@pytest.mark.parametrize(
    ("read", "match"),
    [
        (lambda i: P[i][:, :2], r"array of shape \(30, 2\) and dtype float64 for 3 classes"),
        (lambda i: P[i][:, None], r"shape \(30, 1, 3\)"),
        (lambda i: 0.9 * P[i], r"values in \[0, 1\] whose rows do not sum to 1"),
        (lambda i: P[i][:, 0], r"shape \(30,\) and dtype float64, 0 of them NaN"),
        (lambda i: {"a": 1}, r"dict with the keys \['a'\]"),
        (lambda i: P[i][:3], r"predictions for 30 records"),
        (lambda i: 3, "gives a int for 7 records"),
        (lambda i: [[1], [2, 3], *[[1]] * (len(i) - 2)], "list of unequal rows"),
        (lambda i: np.full(len(i), "yak"), r"labels such as \['yak', .*none of which is a class"),
        (lambda i: np.where(i[:, None] == 4, np.nan, P[i]), "NaN or infinite outputs for 1 of 30 records"),
    ],
    ids=["columns", "shape", "sums", "vector", "dict", "length", "scalar", "ragged", "label", "nan"],
)
def test_anything_else_is_an_error_that_says_what_came(read, match):
    with pytest.raises(SignalError, match=match):
        outputs(read)


def test_regression():
    y = LOGITS[:, 0]
    for read in (lambda i: y[i] + 1, lambda i: pd.DataFrame({"y": y[i] + 1}), lambda i: (y[i] + 1)[:, None]):
        np.testing.assert_allclose(outputs(read, y, task="regression").loss, 1.0, rtol=1e-5)


def test_a_function_is_a_model():
    out = model_outputs(lambda x: P[x[:, 0].astype(int)], records(), task="classification")
    np.testing.assert_allclose(out.signal, PHI, rtol=1e-4, atol=1e-5)


# MLflow's pyfunc models


@pytest.fixture(scope="module")
def iris():
    from sklearn.datasets import load_iris

    data = load_iris(as_frame=True)
    return data.data, data.target.to_numpy()


def pyfunc(tmp_path, model, flavor="sklearn", **options):
    import mlflow

    path = str(tmp_path / "model")
    if flavor == "sklearn":
        mlflow.sklearn.save_model(model, path, pip_requirements=[], **options)
    else:
        mlflow.pyfunc.save_model(path, python_model=model, pip_requirements=[], **options)
    return mlflow.pyfunc.load_model(path)


def test_native_estimator_of_a_pyfunc_model_is_asked_for_probabilities(tmp_path, iris):
    x, y = iris
    estimator = LogisticRegression(max_iter=500).fit(x, y)
    data = Records(x, y, np.arange(150).astype(str))
    out = model_outputs(pyfunc(tmp_path, estimator), data, task="classification")
    assert out.link == "logit"
    np.testing.assert_allclose(out.signal, model_outputs(estimator, data, task="classification").signal, rtol=1e-6)


@pytest.mark.parametrize("kind", ["float32 columns", "tensor", "none"])
def test_features_come_in_the_form_of_the_signature(tmp_path, iris, kind):
    import mlflow

    x, y = iris
    estimator = LogisticRegression(max_iter=500).fit(x.to_numpy(), y)

    class Probabilities(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return estimator.predict_proba(np.asarray(model_input))

    sample = {"float32 columns": x.astype(np.float32), "tensor": x.to_numpy(np.float32), "none": None}[kind]
    options = {} if sample is None else {"signature": mlflow.models.infer_signature(sample)}
    model = pyfunc(tmp_path, Probabilities(), "pyfunc", **options)
    expected = model_outputs(estimator, Records(x.to_numpy(), y, np.arange(150).astype(str)), task="classification")
    shuffled = x[list(x.columns[::-1])] if kind == "float32 columns" else x
    for features in (shuffled, x.to_numpy(), x.to_numpy(np.float32)):
        out = model_outputs(model, Records(features, y, np.arange(150).astype(str)), task="classification")
        np.testing.assert_allclose(out.signal, expected.signal, rtol=1e-3, atol=1e-3)
    if kind == "float32 columns":
        lacking = x.drop(columns="petal length (cm)")
        with pytest.raises(SignalError, match=r"asks for columns that the records lack: petal length \(cm\)"):
            model_outputs(model, Records(lacking, y, np.arange(150).astype(str)), task="classification")
        with pytest.raises(SignalError, match=r"signature has 4 columns, but the records have shape \(3,\)"):
            model_outputs(model, Records(x.to_numpy()[:, :3], y, np.arange(150).astype(str)), task="classification")
