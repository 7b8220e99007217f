"""References of Keras models: their architecture anew, and never code from a config."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.errors import RecipeError, StoreError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.keras.model import architecture, fresh, keras_net
from mlflow_privacy.trainers.keras.trainer import settings_from_params
from mlflow_privacy.types import Records

keras = pytest.importorskip("keras", exc_type=ImportError)

N = 160
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4)).astype(np.float32)
Y = (X[:, 0] + 0.3 * RNG.normal(size=N) > 0).astype(int)
DATA = Records(X, Y, np.arange(N).astype(str))
REGRESSION = Records(X, X[:, 0], DATA.row_ids)
EPOCHS = {"epochs": 4, "batch_size": 32}


def net(width=2, activation="softmax", loss="sparse_categorical_crossentropy", layers=(), rate=0.03, units=16):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            *layers,
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(width, activation=activation),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss, metrics=["mae"])
    return model


def trained(recipe, data, seeds=(1,)):
    return list(trainer_for(recipe).train(recipe, data, np.ones((len(seeds), N), bool), list(seeds)))


KINDS = {
    "softmax": (lambda: net(), DATA),
    "sigmoid": (lambda: net(1, "sigmoid", "binary_crossentropy"), DATA),
    "logits": (lambda: net(2, None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)), DATA),
    "one-hot": (lambda: net(2, "softmax", "categorical_crossentropy"), DATA),
    "two sigmoids": (lambda: net(2, "sigmoid", "binary_crossentropy"), DATA),
    "regression": (lambda: net(1, None, "mse"), REGRESSION),
}


@pytest.mark.parametrize("kind", KINDS)
def test_references_learn_differ_by_seed_and_come_back_from_their_file(kind, tmp_path):
    make, data = KINDS[kind]
    task = "regression" if kind == "regression" else "classification"
    recipe = make_recipe(make(), EPOCHS, task=task, data=data)
    assert recipe.kind == "keras"
    first, same, other = trained(recipe, data, (1, 1, 2))
    signals = [model_outputs(model, data, task=task).signal for model in (first, same, other)]
    np.testing.assert_allclose(signals[0], signals[1], rtol=1e-4, atol=1e-5)
    assert np.abs(signals[0] - signals[2]).max() > 1e-3
    out = model_outputs(first, data, task=task)
    assert out.loss.mean() < (0.4 * data.y.var() if task == "regression" else 0.5)
    trainer = trainer_for(recipe)
    assert trainer.save(recipe, first, tmp_path)
    again = model_outputs(trainer.load(recipe, tmp_path), data, task=task)
    np.testing.assert_allclose(again.signal, signals[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "logits"), [("softmax", 2), ("sigmoid", 1), ("logits", 2)])
def test_signals_come_from_the_logits_and_leave_the_model_as_it_was(kind, logits):
    model = KINDS[kind][0]()
    last = model.layers[-1]
    # A hundred times as sure: probabilities in float32 saturate, logits do not.
    last.set_weights([100 * value for value in last.get_weights()])
    before = keras.ops.convert_to_numpy(model(X))
    out = model_outputs(model, DATA, task="classification")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(X)), before)
    hidden = keras.ops.convert_to_numpy(keras.Model(model.inputs, model.layers[-2].output)(X)).astype(float)
    weights, bias = last.get_weights()
    z = hidden @ weights + bias
    z = z if logits == 2 else np.concatenate([np.zeros_like(z), z], axis=1)
    expected = z[np.arange(N), Y] - z[np.arange(N), 1 - Y]
    np.testing.assert_allclose(out.signal, expected, rtol=1e-3, atol=1e-2)
    assert np.array_equal(out.correct, z.argmax(axis=1) == Y)


def test_the_fingerprint_is_of_the_training_and_of_nothing_else():
    def key(model, **settings):
        return recipe_digest(make_recipe(model, {**EPOCHS, **settings}, task="classification", data=DATA))

    one = key(net())
    assert key(net()) == one  # other weights
    seeded = keras.layers.Dense(4, kernel_initializer=keras.initializers.HeNormal(seed=3))
    unseeded = keras.layers.Dense(4, kernel_initializer=keras.initializers.HeNormal())
    seeded.name = unseeded.name = "first"
    assert key(net(layers=[seeded])) == key(net(layers=[unseeded]))
    others = [key(net(units=17)), key(net(rate=0.01)), key(net(), epochs=5), key(net(), batch_size=16)]
    others += [key(net(), learning_rate=0.5), key(net(activation=None)), key(net(loss="categorical_crossentropy"))]
    assert len({one, *others}) == 1 + len(others)


def test_a_recipe_without_epochs_says_where_they_go_with_all_other_faults():
    with pytest.raises(
        RecipeError, match=r"'optimiser' is no key of it, did you mean 'optimizer'.*epochs are missing.*log_"
    ):
        make_recipe(net(), {"optimiser": "adam"}, task="classification", data=DATA)
    bare = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    with pytest.raises(RecipeError, match="not compiled, so name its optimizer and loss"):
        make_recipe(bare, EPOCHS, task="classification", data=DATA)
    told = {**EPOCHS, "optimizer": "adam", "loss": "sparse_categorical_crossentropy", "learning_rate": 0.05}
    (model,) = trained(make_recipe(bare, told, task="classification", data=DATA), DATA)
    assert float(model.model.optimizer.learning_rate) == pytest.approx(0.05)
    assert model_outputs(model, DATA, task="classification").correct.mean() > 0.8


def test_epochs_that_autologging_has_logged_are_read():
    logged = {"epochs": "7", "batch_size": "None", "opt_learning_rate": "0.001", "shuffle": "True"}
    assert settings_from_params(logged) == {"epochs": 7}
    assert settings_from_params({**logged, "opt_name": "adam_3"}, keras_net(net()))["optimizer"]["name"] == "adam"
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.compile("sgd", "mse")
    assert settings_from_params({**logged, "opt_name": "adam_3"}, keras_net(other)) == {"epochs": 7}
    assert "default batch size of 32" in make_recipe(net(), {"epochs": 7}, task="classification", data=DATA).source


def test_an_optimizer_that_its_file_lost_is_asked_for_or_taken_from_the_run(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=1, verbose=0)
    whole = make_recipe(model, EPOCHS, task="classification", data=DATA)
    model.save(tmp_path / "checkpoint.h5")  # as a checkpoint does: the live model's config loses its optimizer
    model.save(tmp_path / "model.keras")
    lost = keras.models.load_model(tmp_path / "model.keras")
    assert type(lost.optimizer).__name__ == "RMSprop"
    with pytest.raises(RecipeError, match=r"holds no optimizer.*\.h5.*Name it in the recipe"):
        make_recipe(lost, EPOCHS, task="classification", data=DATA)
    logged = {f"opt_{key}": str(value) for key, value in model.optimizer.get_config().items()}
    told = settings_from_params({**logged, "epochs": "4", "batch_size": "32"}, keras_net(lost))
    assert recipe_digest(make_recipe(lost, told, task="classification", data=DATA)) == recipe_digest(whole)
    named = {**EPOCHS, "optimizer": {"name": "adam", "learning_rate": 0.05}}
    assert recipe_digest(make_recipe(lost, named, task="classification", data=DATA)) == recipe_digest(whole)


def test_faults_of_an_optimizer_are_named():
    faults = {
        r"no optimizer 'adm'.*did you mean 'adam'": "adm",
        r"sgd has no 'momentun', did you mean 'momentum'": {"name": "sgd", "momentun": 0.9},
        r"must be a name that Keras knows": 3,
        r"sgd does not take": {"name": "sgd", "momentum": 7},
    }
    for said, optimizer in faults.items():
        with pytest.raises(RecipeError, match=said):
            make_recipe(net(), {**EPOCHS, "optimizer": optimizer}, task="classification", data=DATA)


def test_lambdas_and_layers_of_ones_own_are_named_and_never_built():
    @keras.saving.register_keras_serializable(package="mine")
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    models = {
        r"'shift' is of keras\.layers\.Lambda": net(layers=[keras.layers.Lambda(lambda x: x + 1, name="shift")]),
        r"'own' is of .*Own": net(layers=[Own(name="own")]),
    }
    for said, model in models.items():
        with pytest.raises(RecipeError, match=said + r".*train_fn.*allow_code"):
            make_recipe(model, EPOCHS, task="classification", data=DATA)


def test_an_architecture_that_names_other_code_builds_nothing(monkeypatch):
    config = architecture(net())
    assert isinstance(fresh(config), keras.Model)
    called = []
    monkeypatch.setattr(os, "getpid", lambda *args, **kwargs: called.append(1))
    config["config"]["layers"][1] = {"module": "os", "class_name": "getpid", "config": {}, "registered_name": None}
    with pytest.raises(RecipeError, match=r"names os\.getpid"):
        fresh(config)
    assert not called


def test_frozen_and_adapted_layers_are_refused_by_name():
    frozen = net()
    frozen.layers[0].trainable = False
    adapted = keras.layers.Normalization(name="scaling")
    adapted.adapt(X)
    for said, model in {"is frozen": frozen, r"'scaling' \(Normalization\) was adapted": net(layers=[adapted])}.items():
        with pytest.raises(RecipeError, match=said):
            make_recipe(model, EPOCHS, task="classification", data=DATA)


def test_tables_and_whole_numbers_are_taken():
    frame = pd.DataFrame(X, columns=list("abcd"))
    recipe = make_recipe(net(), EPOCHS, task="classification", data=DATA)
    (model,) = trained(recipe, Records(frame, Y, DATA.row_ids))
    plain = model_outputs(model, DATA, task="classification").signal
    table = model_outputs(model, Records(frame, Y, DATA.row_ids), task="classification").signal
    np.testing.assert_allclose(table, plain)
    words = RNG.integers(0, 9, size=(N, 3))
    embedded = keras.Sequential(
        [
            keras.Input((3,), dtype="int64"),
            keras.layers.Embedding(9, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    embedded.compile("adam", "binary_crossentropy")
    data = Records(pd.DataFrame(words), (words[:, 0] > 4).astype(int), DATA.row_ids)
    (model,) = trained(make_recipe(embedded, EPOCHS, task="classification", data=data), data)
    assert np.isfinite(model_outputs(model, data, task="classification").signal).all()


def test_a_damaged_file_is_an_error_of_the_store(tmp_path):
    recipe = make_recipe(net(), EPOCHS, task="classification", data=DATA)
    trainer = trainer_for(recipe)
    with pytest.raises(StoreError, match=r"holds no weights\.safetensors"):
        trainer.load(recipe, tmp_path)
    trainer.save(recipe, keras_net(net(units=3)), tmp_path)
    with pytest.raises(StoreError, match="does not hold the weights of this architecture"):
        trainer.load(recipe, tmp_path)


def test_models_of_several_outputs_stay_what_they_were():
    inputs = keras.Input((4,))
    both = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(1)(inputs)])
    assert keras_net(both) is None
    assert keras_net(keras.layers.Dense(2)) is None


def test_functional_models_keep_their_graph_whatever_their_layers_are_called():
    def make(*names):
        inputs = keras.Input((4,), name=names[0])
        hidden = keras.layers.Dense(8, activation="relu", name=names[1])(inputs)
        joined = keras.layers.Concatenate(name=names[2])([hidden, inputs])
        model = keras.Model(inputs, keras.layers.Dense(2, name=names[3])(joined))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    one, other = (
        make_recipe(make(*names), EPOCHS, task="classification", data=DATA)
        for names in (("relu", "hidden", "joined", "out"), ("a", "b", "c", "d"))
    )
    assert recipe_digest(one) == recipe_digest(other)
    (model,) = trained(one, DATA)
    assert model.model.count_params() == make("a", "b", "c", "d").count_params()
    assert model.model.layers[1].activation.__name__ == "relu"
