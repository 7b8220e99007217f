"""Keras models as TensorFlow's flavor of MLflow logs them, through the one line."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import mlflow
import numpy as np
import pytest

import mlflow_privacy
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.lineage.resolve import resolve_target

tf = pytest.importorskip("tensorflow", exc_type=ImportError)
pytest.importorskip("tensorboard", exc_type=ImportError)  # without which TensorFlow's autologging does not train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 20)).astype(np.float32)
Y = RNG.integers(0, 2, 200)
AMOUNT = (X[:, 0] + RNG.normal(size=200)).astype(np.float32)


def net(width, activation, loss):
    layers = [tf.keras.Input((20,)), tf.keras.layers.Dense(64, "relu"), tf.keras.layers.Dense(width, activation)]
    model = tf.keras.Sequential(layers)
    model.compile(tf.keras.optimizers.Adam(0.02), loss)
    return model


def audit(uri):
    return mlflow_privacy.evaluate(uri, num_ref_models=4, blind_baseline=False, progress=False)


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_a_model_of_tensorflow_is_audited_with_references(tracking, kind):
    tf.keras.utils.set_random_seed(0)
    y = Y if kind == "classifier" else AMOUNT
    model = net(2, "softmax", "sparse_categorical_crossentropy") if kind == "classifier" else net(1, None, "mse")
    model.fit(X[:100], y[:100], epochs=15, batch_size=25, verbose=0)
    with mlflow.start_run():
        mlflow.log_params({"epochs": 15, "batch_size": 25})
        uri = mlflow.tensorflow.log_model(model, name="model", pip_requirements=[]).model_uri
        mlflow_privacy.log_lineage(train=(X[:100], y[:100]), holdout=(X[100:], y[100:]))
    result = audit(uri)
    found = mlflow.artifacts.load_dict(f"runs:/{result.run_id}/privacy/audit.json")
    assert (found["task"], found["references"]["n"]) == ({"classifier": "classification"}.get(kind, "regression"), 4)
    assert result.metrics["privacy/rmia/auc"] > 0.7


def test_autologging_tells_epochs_and_the_optimizer_that_its_checkpoints_took_from_the_model(tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")
    tf.keras.utils.set_random_seed(0)
    mlflow.tensorflow.autolog()
    try:
        with mlflow.start_run() as run:
            model = net(2, "softmax", "sparse_categorical_crossentropy")
            model.fit(X[:100], Y[:100], epochs=15, batch_size=25, validation_data=(X[100:], Y[100:]), verbose=0)
            mlflow_privacy.log_lineage(train=(X[:100], Y[:100]), holdout=(X[100:], Y[100:]))
    finally:
        mlflow.tensorflow.autolog(disable=True)
    uri = f"models:/{mlflow.get_run(run.info.run_id).outputs.model_outputs[0].model_id}"
    spec = resolve_target(uri, LineageOptions()).recipe.spec
    optimizer = spec["architecture"]["compile_config"]["optimizer"]
    assert (spec["epochs"], spec["batch_size"], optimizer["class_name"]) == (15, 25, "Adam")
    assert optimizer["config"]["learning_rate"] == pytest.approx(0.02)


def test_a_bare_module_is_audited_by_its_predictions(tracking):
    model = net(2, "softmax", "sparse_categorical_crossentropy")
    model.fit(X[:100], Y[:100], epochs=15, batch_size=25, verbose=0)

    class Served(tf.Module):
        def __init__(self):
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec([None, 20], tf.float32)])
        def __call__(self, x):
            return self.model(x)

    signature = mlflow.models.infer_signature(X[:2], model.predict(X[:2], verbose=0))
    with mlflow.start_run():
        options = {"name": "model", "signature": signature, "pip_requirements": []}
        uri = mlflow.tensorflow.log_model(Served(), **options).model_uri
        mlflow_privacy.log_lineage(train=(X[:100], Y[:100]), holdout=(X[100:], Y[100:]))
    metrics = audit(uri).metrics
    assert metrics["privacy/population/auc"] > 0.7
    assert metrics["privacy/fidelity/target_member_accuracy"] > 0.9
