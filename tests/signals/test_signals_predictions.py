"""What `predict` gives in whatever form: the probabilities are found, or the error asks for `output`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.signals.classification import phi_from_probabilities
from mlflow_privacy.signals.pyfunc import FLOOR
from mlflow_privacy.types import Records

RNG = np.random.default_rng(0)
SECOND = RNG.random(40) * 0.98 + 0.01
P = np.stack([1 - SECOND, SECOND], axis=1)
Y = RNG.integers(0, 2, 40)
NAMES = np.array(["no", "yes"])
LABEL = NAMES[P.argmax(1)]
PHI = phi_from_probabilities(P, Y, floor=FLOOR)
ORDERS = {"dict": dict, "frame": pd.DataFrame}


def outputs(read, y=NAMES[Y], task="classification", **options):
    records = Records(np.arange(40.0)[:, None], y, np.arange(40).astype(str))

    class Model:
        def predict(self, x):
            return read(x[:, 0].astype(int))

    return model_outputs(Model(), records, task=task, batch_size=7, **options)


@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(
    "columns",
    [
        lambda i: {"label": LABEL[i], "prob_no": P[i, 0], "prob_yes": P[i, 1]},
        lambda i: {"p(yes)": P[i, 1], "p(no)": P[i, 0], "id": i},
        lambda i: {"yes": P[i, 1], "no": P[i, 0]},
        lambda i: {"label": LABEL[i], "score": P[i].max(1)},
        lambda i: {"prediction": LABEL[i], "probability": P[i, 1]},
    ],
    ids=["prefix", "around", "names", "of the label", "of the second"],
)
def test_label_and_probability_together(form, columns):
    np.testing.assert_allclose(outputs(lambda i: form(columns(i))).signal, PHI, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "read",
    [
        lambda i: {"label": LABEL[i], "probabilities": [dict(zip(NAMES, row)) for row in P[i]]},
        lambda i: {"label": LABEL[i], "probabilities": P[i].astype(np.float32)},
        lambda i: {"dense": P[i]},
        lambda i: (LABEL[i], P[i]),
        lambda i: pd.DataFrame({"label": LABEL[i], "probabilities": list(P[i])}),
        lambda i: [dict(zip(NAMES, row)) for row in P[i]],
        lambda i: [{"label": name, "score": row.max()} for name, row in zip(LABEL[i], P[i])],
    ],
    ids=["zipmap", "array", "one", "tuple", "cells", "mappings", "pipeline"],
)
def test_probabilities_within_a_dict_or_list(read):
    np.testing.assert_allclose(outputs(read).signal, PHI, rtol=1e-4, atol=1e-5)


def test_columns_that_the_caller_names_count():
    def read(i):
        return pd.DataFrame({"a": P[i, 1], "b": P[i, 0], "c": i})

    with pytest.raises(
        SignalError, match=r"'a', 'b', 'c' are the probabilities of the labels 'no', 'yes' is not clear"
    ):
        outputs(read)
    for columns in (("b", "a"), ("a",)):
        np.testing.assert_allclose(outputs(read, columns=columns).signal, PHI, rtol=1e-4, atol=1e-5)
    with pytest.raises(SignalError, match=r"output names 'A', which is none of the model's outputs, did you mean 'a'"):
        outputs(read, columns=("A",))


@pytest.mark.parametrize("shape", [1, 2])
def test_logits_where_the_caller_says_so(shape):
    """Small logits lie in [0, 1], and those of two classes stand in one column."""
    logits = np.log(P) + 3.5 if shape == 2 else np.log(SECOND / (1 - SECOND))
    if shape == 1:
        with pytest.raises(SignalError, match='say output="logits"'):
            outputs(lambda i: logits[i])
    out = outputs(lambda i: logits[i], reading="logits")
    np.testing.assert_allclose(out.signal, PHI, rtol=1e-4, atol=1e-5)
    assert np.array_equal(out.correct, P.argmax(1) == Y)
    with pytest.raises(SignalError):
        outputs(lambda i: 10 * logits[i], reading="probabilities")


def test_small_logits_are_no_probabilities():
    logits = RNG.random((40, 2))
    with pytest.raises(SignalError, match='say output="logits"'):
        outputs(lambda i: logits[i])
    expected = np.where(Y == 1, 1, -1) * (logits[:, 1] - logits[:, 0])
    np.testing.assert_allclose(outputs(lambda i: logits[i], reading="logits").signal, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "y", "match"),
    [
        (np.where(SECOND > 0.3, 1, -1), Y, r"predictions of the model are no class of the pool \(\[0, 1\]\)"),
        (np.round(1000 * SECOND), Y, "if they are scores, have predict give probabilities"),
        (np.append(np.zeros(39), 1000), Y, "1 of 40 predictions"),
        (np.arange(40) % 4, Y, r"name them all, classes=\[\.\.\.\]"),
    ],
    ids=["outliers", "scores", "one score", "more classes"],
)
def test_numbers_of_which_some_equal_a_label_are_no_labels(values, y, match):
    with pytest.raises(SignalError, match=match):
        outputs(lambda i: values[i], y)


def test_more_classes_than_the_data_has_are_named():
    values = np.arange(40) % 4
    out = outputs(lambda i: values[i], Y, classes=np.arange(4))
    assert out.link == "label"
    assert np.array_equal(out.correct, values == Y)


def test_a_forecast_or_frame_of_amounts_asks_for_its_column():
    y = RNG.normal(size=40)

    def read(i):
        return pd.DataFrame({"yhat": y[i] + 1, "lower": y[i], "upper": y[i] + 2})

    with pytest.raises(SignalError, match=r"gives the columns \['yhat', 'lower', 'upper'\] for 1 target"):
        outputs(read, y, task="regression")
    np.testing.assert_allclose(outputs(read, y, task="regression", columns=("yhat",)).loss, 1.0)


def test_what_predict_raises_is_said_with_the_remedy():
    def read(i):
        raise KeyError("kind")

    with pytest.raises(
        SignalError, match=r"predict fails on records of shape \(1,\) and type float64: KeyError: 'kind'"
    ):
        outputs(read)


def test_parameters_reach_the_predict_of_an_mlflow_model(tmp_path):
    import mlflow

    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            p = P[np.asarray(model_input)[:, 0].astype(int)]
            return p if params["give"] == "probabilities" else NAMES[p.argmax(1)]

    sample = np.zeros((1, 1))
    signature = mlflow.models.infer_signature(sample, P[:1], {"give": "labels"})
    mlflow.pyfunc.save_model(str(tmp_path / "m"), python_model=Model(), signature=signature, pip_requirements=[])
    model = mlflow.pyfunc.load_model(str(tmp_path / "m"))
    records = Records(np.arange(40.0)[:, None], NAMES[Y], np.arange(40).astype(str))
    assert model_outputs(model, records, task="classification").link == "label"
    out = model_outputs(model, records, task="classification", params={"give": "probabilities"})
    np.testing.assert_allclose(out.signal, PHI, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zipmap", [True, False])
def test_onnx_classifiers(tmp_path, zipmap):
    """MLflow's pyfunc of one gives a dict of labels and of probabilities, as mappings or as an array."""
    skl2onnx = pytest.importorskip("skl2onnx")
    pytest.importorskip("onnxruntime")
    import mlflow
    from sklearn.ensemble import RandomForestClassifier

    x = RNG.normal(size=(40, 3)).astype(np.float32)
    forest = RandomForestClassifier(8, random_state=0).fit(x, NAMES[Y])
    onnx = skl2onnx.to_onnx(forest, x[:1], options={"zipmap": zipmap}, target_opset=15)
    mlflow.onnx.save_model(onnx, str(tmp_path / "m"), pip_requirements=[])
    records = Records(x, NAMES[Y], np.arange(40).astype(str))
    out = model_outputs(mlflow.pyfunc.load_model(str(tmp_path / "m")), records, task="classification")
    expected = phi_from_probabilities(forest.predict_proba(x), Y, floor=FLOOR)
    np.testing.assert_allclose(out.signal, expected, rtol=1e-3, atol=1e-4)
