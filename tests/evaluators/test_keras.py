"""A Keras model in the registry, through the one line."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import mlflow
import numpy as np
import pytest

import mlflow_privacy
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.lineage.resolve import resolve_target

keras = pytest.importorskip("keras", exc_type=ImportError)


def test_a_keras_model_is_audited_with_references(tracking):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 20)).astype(np.float32)
    y = rng.integers(0, 2, 240)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x[:120], y[:120], epochs=8, batch_size=32, verbose=0)
    signature = mlflow.models.infer_signature(x[:2], model.predict(x[:2], verbose=0))
    with mlflow.start_run():
        mlflow.log_params({"epochs": 8, "batch_size": 32})
        mlflow.keras.log_model(model, name="m", registered_model_name="net", signature=signature, pip_requirements=[])
        mlflow_privacy.log_lineage(train=(x[:120], y[:120]), holdout=(x[120:], y[120:]))
    target = resolve_target("models:/net/1", LineageOptions())
    assert (target.model.flavor, target.task, target.recipe.kind) == ("keras", "classification", "keras")
    assert "run parameters" in target.recipe.source
    metrics = mlflow_privacy.evaluate("models:/net/1", num_ref_models=4, blind_baseline=False).metrics
    assert metrics["privacy/rmia/auc"] > 0.8
    own, like = (metrics[f"privacy/fidelity/{who}_member_accuracy"] for who in ("target", "reference"))
    assert abs(own - like) < 0.1


def test_references_train_as_many_epochs_as_early_stopping_left_the_model(tracking):
    """As `mlflow.tensorflow.autolog` logs it: the epochs that were planned, and the one that it stopped after."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    signature = mlflow.models.infer_signature(x[:2], model.predict(x[:2], verbose=0))
    with mlflow.start_run():
        mlflow.log_params({"epochs": 50, "batch_size": 16, "patience": 2})
        mlflow.log_metric("stopped_epoch", 5)
        mlflow.keras.log_model(model, name="m", registered_model_name="net", signature=signature, pip_requirements=[])
        mlflow_privacy.log_lineage(train=(x[:20], y[:20]), holdout=(x[20:], y[20:]))
    assert resolve_target("models:/net/1", LineageOptions()).recipe.spec["epochs"] == 6
