"""Keras models of one-hot labels, several labels and several amounts, through the one line."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import mlflow
import numpy as np
import pytest

import mlflow_privacy

keras = pytest.importorskip("keras", exc_type=ImportError)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 6)).astype(np.float32)
HOT = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, 160)]
MANY = (RNG.random((160, 3)) < 0.4).astype(np.float32)


@pytest.mark.parametrize(
    ("y", "activation", "loss", "task"),
    [
        (HOT, "softmax", "categorical_crossentropy", "classification"),
        (MANY, "sigmoid", "binary_crossentropy", "multilabel"),
        (MANY, None, "from_logits", "multilabel"),
        (X, None, "mse", "regression"),
    ],
    ids=["one-hot", "labels", "logits of labels", "autoencoder"],
)
def test_labels_and_amounts_of_keras_models(tracking, y, activation, loss, task):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(y.shape[1], activation)]
    model = keras.Sequential(layers)
    loss = keras.losses.BinaryCrossentropy(from_logits=True) if loss == "from_logits" else loss
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss=loss)
    model.fit(X[:80], y[:80], epochs=40, batch_size=40, verbose=0)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(
            train=(X[:80], y[:80]), holdout=(X[80:], y[80:]), recipe={"epochs": 40, "batch_size": 40}
        )
        uri = mlflow.keras.log_model(model, name="model", pip_requirements=[]).model_uri
    result = mlflow_privacy.evaluate(uri, num_ref_models=4, blind_baseline=False, progress=False)
    assert result.metrics["privacy/rmia/auc"] > 0.75
    audit = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/privacy/audit.json")
    assert (audit["task"], audit["references"]["n"]) == (task, 4)
