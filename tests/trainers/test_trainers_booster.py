"""Native boosters of XGBoost, LightGBM and CatBoost: what their files tell of a training, and training anew."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.errors import RecipeError, SignalError, StoreError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.booster.lost import lost_parameters
from mlflow_privacy.trainers.booster.trainer import boosted_of
from mlflow_privacy.trainers.labels import label_index
from mlflow_privacy.types import Records

EACH = pytest.mark.parametrize("library", ["xgboost", "lightgbm", "catboost"])
N = 200


def data_of(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 4))
    noisy = x[:, 0] + 0.5 * rng.normal(size=N)
    y = {"binary": (noisy > 0).astype(int), "multi": np.digitize(noisy, [-0.5, 0.5]), "regression": noisy}[kind]
    return Records(x, y, np.arange(N).astype(str))


def fitted(library, kind, data=None, rounds=8, **params):
    """A booster as its users train one, after a round trip through its own file."""
    module = pytest.importorskip(library)
    data = data_of(kind) if data is None else data
    if library == "xgboost":
        loss = {"binary": "binary:logistic", "multi": "multi:softprob", "regression": "reg:squarederror"}[kind]
        params = {"objective": loss, "nthread": 1, **({"num_class": 3} if kind == "multi" else {}), **params}
        model = module.train(params, module.DMatrix(data.x, data.y), rounds)
        return module.Booster(model_file=bytearray(model.save_raw("ubj")))
    if library == "lightgbm":
        loss = {"binary": "binary", "multi": "multiclass", "regression": "regression"}[kind]
        params = {"objective": loss, "num_threads": 1, "verbose": -1, "min_data_in_leaf": 3, **params}
        params |= {"num_class": 3} if kind == "multi" else {}
        model = module.train(params, module.Dataset(data.x, data.y), rounds)
        return module.Booster(model_str=model.model_to_string())
    make = module.CatBoostRegressor if kind == "regression" else module.CatBoostClassifier
    how = {"iterations": rounds, "verbose": 0, "thread_count": 1, "allow_writing_files": False, **params}
    return make(**how).fit(data.x, data.y)


def halves():
    row = np.zeros(N, bool)
    row[np.random.default_rng(0).permutation(N)[: N // 2]] = True
    return np.stack([row, ~row])


def task_of(kind):
    return "regression" if kind == "regression" else "classification"


def recipe_of(model, data, kind, settings=None):
    return make_recipe(model, settings, task=task_of(kind), data=data)


@EACH
@pytest.mark.parametrize("kind", ["binary", "multi", "regression"])
def test_a_reference_is_like_the_target_and_comes_back_from_its_file(tmp_path, library, kind):
    data = data_of(kind)
    target = fitted(library, kind, data)
    recipe = recipe_of(target, data, kind)
    trainer = trainer_for(recipe)
    model = next(trainer.train(recipe, data, np.ones((1, N), bool), [7]))
    own, like = (model_outputs(each, data, task=task_of(kind)) for each in (target, model))
    # Nothing but CatBoost draws at random here: trained on all of the target's records, the same model comes.
    if library == "catboost":
        assert np.corrcoef(own.signal, like.signal)[0, 1] > 0.85
    else:
        np.testing.assert_allclose(like.signal, own.signal, rtol=2e-2, atol=2e-2)
    assert trainer.save(recipe, model, tmp_path)
    again = model_outputs(trainer.load(recipe, tmp_path), data, task=task_of(kind))
    np.testing.assert_allclose(again.signal, like.signal, rtol=1e-5, atol=1e-6)


@EACH
@pytest.mark.parametrize("kind", ["binary", "multi"])
def test_signals_are_the_log_odds_of_the_librarys_own_probabilities(library, kind):
    data = data_of(kind)
    target = fitted(library, kind, data)
    if library == "xgboost":
        import xgboost

        p = target.predict(xgboost.DMatrix(data.x))
    else:
        p = target.predict_proba(data.x) if library == "catboost" else target.predict(data.x)
    p = np.stack([1 - p, p], axis=1) if p.ndim == 1 else p
    py = p[np.arange(N), data.y].astype(float)
    out = model_outputs(target, data, task="classification")
    np.testing.assert_allclose(out.signal, np.log(py) - np.log1p(-py), rtol=1e-3, atol=1e-3)
    assert np.array_equal(out.correct, p.argmax(axis=1) == data.y)


@EACH
def test_labels_by_name_and_a_class_that_a_half_has_not(library):
    data = data_of("multi")
    names = np.array(["low", "mid", "top"])[data.y]
    named = Records(data.x, names, data.row_ids)
    # CatBoost learns names itself; for the others their users number them.
    target = fitted(library, "multi", named if library == "catboost" else data)
    recipe = recipe_of(target, named, "multi")
    assert recipe.spec["classes"] == ["low", "mid", "top"]
    model = next(trainer_for(recipe).train(recipe, named, (names != "mid")[None], [1]))
    out = model_outputs(model, named, task="classification", classes=np.array(recipe.spec["classes"]))
    assert out.correct[names != "mid"].mean() > 0.8
    assert out.signal[names == "mid"].max() < out.signal[names != "mid"].mean()


@EACH
def test_seed_decides_the_model_and_parameters_the_fingerprint(library):
    data = data_of("binary")
    random = {"xgboost": {"subsample": 0.5}, "lightgbm": {"bagging_fraction": 0.5, "bagging_freq": 1}, "catboost": {}}

    def recipe(**params):
        return recipe_of(fitted(library, "binary", data, **params), data, "binary", random[library])

    one = recipe()
    train = trainer_for(one).train
    signals = [
        model_outputs(next(train(one, data, halves()[:1], [seed])), data, task="classification").signal
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(signals[0], signals[1])
    assert not np.array_equal(signals[0], signals[2])
    assert recipe_digest(recipe()) == recipe_digest(one)
    assert recipe_digest(recipe(rounds=9)) != recipe_digest(one)
    assert recipe_digest(recipe(learning_rate=0.01)) != recipe_digest(one)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"eta": 0.17, "max_depth": 3, "reg_lambda": 2.5, "reg_alpha": 0.3, "subsample": 0.8}, {}),
        ({"eta": 0.05, "max_depth": 2, "reg_lambda": 0.0, "min_child_weight": 0.0}, {}),
        ({"eta": 0.3, "max_depth": 1}, {"reg_lambda": 1.0}),
        ({"eta": 0.2, "num_parallel_tree": 3, "max_depth": 3}, {}),
        ({"eta": 0.2, "max_depth": 0, "max_leaves": 12, "grow_policy": "lossguide", "base_score": 0.2}, {}),
    ],
    ids=["penalties", "no penalty", "stumps", "forests", "leaves"],
)
def test_trees_of_xgboost_tell_the_parameters_that_its_file_has_lost(params, told):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5))
    y = (x[:, 0] + x[:, 1] + rng.normal(size=600) > 0).astype(int)
    data = Records(x, y, np.arange(600).astype(str))
    recipe = recipe_of(fitted("xgboost", "binary", data, 25, **params), data, "binary")
    found = recipe.spec["params"]
    assert found["learning_rate"] == pytest.approx(params["eta"], rel=5e-3)
    for key, value in {**params, **told}.items():
        if key not in ("eta", "subsample", "min_child_weight"):
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-2, abs=1e-3)
            assert found[key] == expected, key
    assert found["rounds"] == 25
    assert "defaults for subsample" in recipe.source


def test_parameters_that_a_run_has_logged_fill_what_the_trees_cannot_tell():
    data = data_of("binary")
    target = boosted_of(fitted("xgboost", "binary", data, eta=0.2))
    logged = {"eta": "0.2", "subsample": "0.7", "num_boost_round": "8", "verbose_eval": "True", "seed": "3"}
    layers = lost_parameters(target, logged)
    assert dict(layers)["run parameters"] == {"learning_rate": 0.2, "subsample": 0.7}
    of_another = lost_parameters(target, {"learning_rate": "0.5", "subsample": "0.1"})
    assert dict(of_another)["run parameters"] == {}


def test_an_estimator_of_xgboost_that_lost_its_parameters_gets_them_back(tmp_path):
    xgboost = pytest.importorskip("xgboost")
    data = data_of("multi")
    model = xgboost.XGBClassifier(n_estimators=12, max_depth=2, learning_rate=0.15, n_jobs=1).fit(data.x, data.y)
    assert lost_parameters(model, {}) == []  # it still has them
    model.save_model(tmp_path / "model.ubj")
    loaded = xgboost.XGBClassifier()
    loaded.load_model(tmp_path / "model.ubj")
    assert loaded.get_params()["max_depth"] is None
    told = dict(lost_parameters(loaded, {"subsample": "0.9", "max_depth": "2"}))
    assert told["the model's trees"]["n_estimators"] == 12
    assert told["the model's trees"]["max_depth"] == 2
    assert told["the model's trees"]["learning_rate"] == pytest.approx(0.15, rel=1e-2)
    assert told["the model's trees"]["base_score"] is None
    assert told["run parameters"] == {"subsample": 0.9, "max_depth": 2}


def test_a_recipe_of_another_training_is_refused():
    data = data_of("binary")
    target = fitted("xgboost", "binary", data, eta=0.1)
    with pytest.raises(RecipeError, match=r"learned with learning_rate 0\.1, but the recipe says 0\.5"):
        recipe_of(target, data, "binary", {"eta": 0.5})
    with pytest.raises(RecipeError, match="did you mean 'subsample'"):
        recipe_of(target, data, "binary", {"subsampel": 0.5})


def test_a_linear_booster_needs_its_parameters_named():
    data = data_of("binary")
    target = fitted("xgboost", "binary", data, booster="gblinear")
    with pytest.raises(RecipeError, match=r"gblinear booster cannot be read.*log_lineage\(recipe="):
        recipe_of(target, data, "binary")
    recipe = recipe_of(target, data, "binary", {"reg_lambda": 0.5})
    assert recipe.spec["params"]["booster"] == "gblinear"
    next(trainer_for(recipe).train(recipe, data, halves(), [1, 2]))


@EACH
def test_tables_are_asked_by_the_columns_that_the_model_knows(library):
    module = pytest.importorskip(library)
    data = data_of("binary")
    frame = pd.DataFrame(data.x, columns=list("abcd"))
    named = Records(frame, data.y, data.row_ids)
    if library == "catboost":
        target = fitted(library, "binary", named)
    elif library == "xgboost":
        target = module.train({"objective": "binary:logistic"}, module.DMatrix(frame, data.y), 5)
    else:
        params = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 3}
        target = module.train(params, module.Dataset(frame, data.y), 5)
    out = model_outputs(target, named, task="classification")
    turned = Records(frame[list("dcba")], data.y, data.row_ids)
    assert np.array_equal(model_outputs(target, turned, task="classification").signal, out.signal)
    assert np.array_equal(model_outputs(target, data, task="classification").signal, out.signal)
    recipe = recipe_of(target, named, "binary")
    model = next(trainer_for(recipe).train(recipe, named, halves(), [1, 2]))
    assert model_outputs(model, turned, task="classification").correct.mean() > 0.7


def test_one_against_all_takes_the_logit_of_the_label_alone():
    lightgbm = pytest.importorskip("lightgbm")
    data = data_of("multi")
    params = {"objective": "multiclassova", "num_class": 3, "verbose": -1, "min_data_in_leaf": 3, "sigmoid": 2.0}
    target = lightgbm.train(params, lightgbm.Dataset(data.x, data.y), 5)
    raw = target.predict(data.x, raw_score=True)
    out = model_outputs(target, data, task="classification")
    np.testing.assert_allclose(out.signal, 2 * raw[np.arange(N), data.y], rtol=1e-5)


def test_lightgbm_knows_its_categories_again():
    lightgbm = pytest.importorskip("lightgbm")
    data = data_of("binary")
    cities = np.where(data.x[:, 1] > 0, "Ulm", "Bern")
    frame = pd.DataFrame(data.x[:, :1], columns=["a"]).assign(city=cities)
    table = frame.assign(city=pd.Categorical(cities, categories=["Ulm", "Bern"]))
    params = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 3}
    target = lightgbm.train(params, lightgbm.Dataset(table, data.y), 5)
    records = Records(frame, data.y, data.row_ids)  # a pool keeps texts
    out = model_outputs(target, records, task="classification")
    expected = target.predict(table, raw_score=True) * np.where(data.y == 1, 1, -1)
    np.testing.assert_allclose(out.signal, expected, rtol=1e-5)
    recipe = recipe_of(target, records, "binary")
    model = next(trainer_for(recipe).train(recipe, records, halves(), [1, 2]))
    assert model_outputs(model, records, task="classification").correct.mean() > 0.6


@EACH
def test_a_damaged_file_is_an_error_of_the_store(tmp_path, library):
    data = data_of("binary")
    recipe = recipe_of(fitted(library, "binary", data), data, "binary")
    trainer = trainer_for(recipe)
    with pytest.raises(StoreError, match="holds no booster"):
        trainer.load(recipe, tmp_path)
    assert trainer.save(recipe, next(trainer.train(recipe, data, halves(), [1, 2])), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"no model")
    with pytest.raises(StoreError, match="not a readable"):
        trainer.load(recipe, tmp_path)


def test_regression_is_no_classification():
    data = data_of("regression")
    target = fitted("xgboost", "regression", data)
    assert boosted_of(target)._estimator_type == "regressor"
    classes = dataclasses.replace(data, y=(data.y > 0).astype(int))
    with pytest.raises(RecipeError, match="loss of a regression"):
        recipe_of(target, classes, "binary")
    with pytest.raises(SignalError, match="that of a regression"):
        model_outputs(target, classes, task="classification")


def test_labels_that_fit_no_output_ask_for_their_names():
    with pytest.raises(SignalError, match=r"3 classes and the pool 2 \('a', 'b'\).*classes="):
        label_index(np.array(["a", "b"]), ["a", "b"], 3)
    assert label_index(np.array([1, 2]), [1, 2], 2).tolist() == [0, 1]
    assert label_index(np.array(["1", "0"]), ["0", "1"], 2, [0, 1]).tolist() == [1, 0]


@pytest.mark.parametrize("loss", ["Poisson", "Tweedie:variance_power=1.5", "LogLinQuantile"])
def test_a_plain_catboost_of_logarithms_is_asked_for_amounts(loss, tmp_path):
    catboost = pytest.importorskip("catboost")
    x = data_of("regression").x
    data = Records(x, np.exp(x[:, 0] / 2 + 3), np.arange(N).astype(str))
    params = {"loss_function": loss, "iterations": 20, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
    catboost.CatBoost(params).fit(x, data.y).save_model(str(tmp_path / "m.cbm"))
    target = catboost.CatBoost().load_model(str(tmp_path / "m.cbm"))
    recipe = recipe_of(target, data, "regression")
    reference = next(trainer_for(recipe).train(recipe, data, halves(), [1, 2]))
    for model in (target, reference.model):
        raw = model.predict(x, prediction_type="RawFormulaVal")
        loss = model_outputs(boosted_of(model), data, task="regression").loss
        np.testing.assert_allclose(loss, (data.y - np.exp(raw)) ** 2, rtol=1e-9)


def test_xgboost_knows_its_categories_again():
    xgboost = pytest.importorskip("xgboost", "3.1")
    data = data_of("binary")
    cities = np.random.default_rng(1).choice(["Bern", "Ulm", "Wien"], N)
    y = np.where(cities == "Ulm", 1 - data.y, data.y)
    frame = pd.DataFrame({"a": data.x[:, 0], "city": cities, "zone": np.arange(N) % 7})
    table = frame.assign(city=pd.Categorical(cities, ["Wien", "Ulm", "Bern"]), zone=frame["zone"].astype("category"))
    params = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.2, "nthread": 1}
    target = xgboost.train(params, xgboost.DMatrix(table, y, enable_categorical=True), 8)
    loaded = xgboost.Booster(model_file=bytearray(target.save_raw("ubj")))
    records = Records(frame, y, data.row_ids)  # a pool keeps texts and numbers
    expected = target.predict(xgboost.DMatrix(table, enable_categorical=True), output_margin=True)
    out = model_outputs(loaded, records, task="classification")
    np.testing.assert_allclose(out.signal, expected * np.where(y == 1, 1, -1), rtol=1e-5)
    recipe = recipe_of(loaded, records, "binary")
    assert "max_cat_threshold, which its file does not keep" in recipe.source
    (model,) = trainer_for(recipe).train(recipe, records, np.ones((1, N), bool), [1])
    np.testing.assert_allclose(model_outputs(model, records, task="classification").signal, out.signal, rtol=1e-3)
    without = np.array([cities != "Ulm"])  # a reference that never saw a city
    (model,) = trainer_for(recipe).train(recipe, records, without, [1])
    assert np.isfinite(model_outputs(model, records, task="classification").signal).all()


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_xgboost_of_several_outputs_is_trained_again(strategy):
    xgboost = pytest.importorskip("xgboost")
    x = data_of("regression").x
    data = Records(x, x[:, :2] + np.random.default_rng(1).normal(size=(N, 2)), np.arange(N).astype(str))
    how = {"learning_rate": 0.2, "max_depth": 4, "reg_lambda": 2.0, "min_child_weight": 3}
    params = {**how, "objective": "reg:squarederror", "multi_strategy": strategy, "nthread": 1}
    target = xgboost.train(params, xgboost.DMatrix(x, data.y), 8)
    loaded = xgboost.Booster(model_file=bytearray(target.save_raw("ubj")))
    if strategy == "multi_output_tree":  # leaves of several weights tell nothing of the training
        with pytest.raises(RecipeError, match=r"multi_output_tree booster cannot be read.*log_lineage\(recipe="):
            recipe_of(loaded, data, "regression")
    recipe = recipe_of(loaded, data, "regression", how if strategy == "multi_output_tree" else None)
    (model,) = trainer_for(recipe).train(recipe, data, np.ones((1, N), bool), [1])
    out = model_outputs(model, data, task="regression")
    np.testing.assert_allclose(out.loss, ((target.predict(xgboost.DMatrix(x)) - data.y) ** 2).mean(axis=1), rtol=1e-4)


def test_catboost_stopped_early_trains_the_rounds_that_it_kept():
    catboost = pytest.importorskip("catboost")
    data = data_of("binary")
    quiet = {"verbose": 0, "thread_count": 1, "allow_writing_files": False}
    model = catboost.CatBoostClassifier(iterations=300, early_stopping_rounds=3, use_best_model=True, **quiet)
    model.fit(data.x[:150], data.y[:150], eval_set=(data.x[150:], data.y[150:]))
    recipe = recipe_of(model, data, "binary")
    reference = next(trainer_for(recipe).train(recipe, data, halves(), [1, 2]))
    assert reference.model.tree_count_ == model.tree_count_ < 300
    assert recipe.spec["params"]["learning_rate"] == pytest.approx(model.get_all_params()["learning_rate"], rel=1e-4)
