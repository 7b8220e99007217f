"""XGBoost and LightGBM through their scikit-learn API."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_privacy.errors import RecipeError, StoreError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.types import Records


def estimators(name, **options):
    library = pytest.importorskip(name)
    prefix = {"xgboost": "XGB", "lightgbm": "LGBM"}[name]
    quiet = {"verbosity": 0} if name == "xgboost" else {"verbose": -1, "min_child_samples": 2}
    options = {"n_estimators": 5, "n_jobs": 1, **quiet, **options}
    return getattr(library, f"{prefix}Classifier")(**options), getattr(library, f"{prefix}Regressor")(**options)


def blobs(classes=3, n=120, names=None):
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.normal(size=(classes, 4))[y] * 2 + rng.normal(size=(n, 4))
    return Records(x, y if names is None else np.array(names)[y], np.arange(n).astype(str))


def halves(n=120):
    row = np.zeros(n, bool)
    row[np.random.default_rng(0).permutation(n)[: n // 2]] = True
    return np.stack([row, ~row])


BOTH = pytest.mark.parametrize("library", ["xgboost", "lightgbm"])


@BOTH
@pytest.mark.parametrize("names", [None, ["a", "b", "c"]], ids=["indices", "names"])
@pytest.mark.parametrize("classes", [2, 3])
def test_save_and_load_give_the_same_outputs(tmp_path, library, names, classes):
    data = blobs(classes, names=None if names is None else names[:classes])
    recipe = make_recipe(estimators(library)[0], None, task="classification")
    trainer = trainer_for(recipe)
    model = next(trainer.train(recipe, data, halves(), [1, 2]))
    out = model_outputs(model, data, task="classification")
    assert out.correct.mean() > 0.8
    assert trainer.save(recipe, model, tmp_path)
    loaded = model_outputs(trainer.load(recipe, tmp_path), data, task="classification")
    np.testing.assert_allclose(loaded.signal, out.signal, rtol=1e-5)
    assert np.array_equal(loaded.correct, out.correct)


@BOTH
def test_class_missing_from_a_half_gets_the_floor(library):
    data = blobs(3)
    recipe = make_recipe(estimators(library)[0], None, task="classification")
    model = next(trainer_for(recipe).train(recipe, data, (data.y != 1)[None], [1]))
    out = model_outputs(model, data, task="classification", classes=np.arange(3))
    assert (out.signal[data.y == 1] < -30).all()
    assert out.correct[data.y != 1].mean() > 0.9


@BOTH
def test_raw_scores_are_used_where_probabilities_saturate(library):
    data = blobs(2)
    recipe = make_recipe(estimators(library, n_estimators=200, learning_rate=1.0)[0], None, task="classification")
    model = next(trainer_for(recipe).train(recipe, data, np.ones((1, 120), bool), [1]))
    p = model.predict_proba(data.x)
    naive = np.log(p[np.arange(120), data.y]) - np.log(p[np.arange(120), 1 - data.y])
    phi = model_outputs(model, data, task="classification").signal
    inside = np.abs(phi) < 8
    np.testing.assert_allclose(phi[inside], naive[inside], atol=1e-2)


@BOTH
def test_regressors(tmp_path, library):
    data = blobs(3)
    data = Records(data.x, data.x[:, 0] * 2, data.row_ids)
    recipe = make_recipe(estimators(library, n_estimators=50)[1], None, task="regression")
    trainer = trainer_for(recipe)
    model = next(trainer.train(recipe, data, halves(), [1, 2]))
    out = model_outputs(model, data, task="regression")
    assert out.loss.mean() < data.y.var() / 2
    assert trainer.save(recipe, model, tmp_path)
    loaded = model_outputs(trainer.load(recipe, tmp_path), data, task="regression")
    np.testing.assert_allclose(loaded.loss, out.loss, rtol=1e-4, atol=1e-6)


@BOTH
def test_fingerprint_covers_parameters_but_no_speed(library):
    a, b, c = (
        recipe_digest(make_recipe(estimators(library, **options)[0], None, task="classification"))
        for options in ({}, {"n_jobs": 2, "random_state": 3}, {"max_depth": 2})
    )
    assert a == b
    assert a != c


@BOTH
@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle"])
def test_damaged_file_is_refused(tmp_path, library, content):
    recipe = make_recipe(estimators(library)[0], None, task="classification")
    with pytest.raises(StoreError, match=r"holds no"):
        trainer_for(recipe).load(recipe, tmp_path)
    (tmp_path / {"xgboost": "model.ubj", "lightgbm": "model.txt"}[library]).write_bytes(content)
    with pytest.raises(StoreError, match=r"not a readable"):
        trainer_for(recipe).load(recipe, tmp_path)


@BOTH
def test_raw_booster_of_a_ranker_is_refused_with_the_lines_of_lineage_that_help(library):
    pytest.importorskip(library)
    data = blobs(2)
    if library == "xgboost":
        import xgboost

        train = xgboost.DMatrix(data.x, data.y)
        train.set_group([len(data)])
        booster = xgboost.train({"objective": "rank:ndcg"}, train, 2)
    else:
        import lightgbm

        train = lightgbm.Dataset(data.x, data.y, group=[len(data)])
        booster = lightgbm.train({"objective": "lambdarank", "verbose": -1}, train, 2)
    with pytest.raises(RecipeError, match=r"Booster cannot be trained.*log_lineage\(recipe=\{\"train_fn\".*allow_code"):
        make_recipe(booster, None, task="classification")


def stopped(library):
    """An estimator that a validation set has stopped, and the rounds that its predictions use."""
    data = blobs(2)
    rng = np.random.default_rng(1)
    y = np.where(rng.random(len(data)) < 0.3, 1 - data.y, data.y)
    early = {"early_stopping_rounds": 3, "n_estimators": 200, "learning_rate": 0.5}
    model = estimators(library, **early)[0]
    model.fit(data.x[:80], y[:80], eval_set=[(data.x[80:], y[80:])])
    return model, (model.best_iteration + 1 if library == "xgboost" else model.best_iteration_)


@BOTH
@pytest.mark.parametrize("within", [False, True], ids=["alone", "in a pipeline"])
def test_references_of_a_stopped_estimator_train_the_rounds_that_it_kept(library, within, caplog):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, rounds = stopped(library)
    assert 0 < rounds < 150
    data = blobs(2)
    with caplog.at_level("INFO"):
        recipe = make_recipe(make_pipeline(StandardScaler(), model) if within else model, task="classification")
    reference = next(trainer_for(recipe).train(recipe, data, halves(), [1, 2]))
    reference = reference.steps[-1][1] if within else reference
    made = reference.get_booster().num_boosted_rounds() if library == "xgboost" else reference.booster_.num_trees()
    assert made == rounds
    assert f"without an early stop, for {rounds} rounds" in recipe.source
    assert f"for {rounds} rounds" in caplog.text


def test_a_stop_by_callback_counts_too():
    lightgbm = pytest.importorskip("lightgbm")
    data = blobs(2)
    model = lightgbm.LGBMClassifier(n_estimators=300, learning_rate=0.5, verbose=-1, min_child_samples=2)
    stop = lightgbm.early_stopping(2, verbose=False)
    model.fit(data.x[:80], data.y[:80], eval_set=[(data.x[80:], data.y[80:])], callbacks=[stop])
    recipe = make_recipe(model, task="classification")
    assert recipe.spec["estimator"]["params"]["n_estimators"] == model.best_iteration_ < 300


@BOTH
def test_an_early_stop_of_unknown_rounds_is_named_and_can_be_said(library):
    model = estimators(library, early_stopping_rounds=3)[0]
    with pytest.raises(RecipeError, match=r"stops early \(early_stopping_rounds\).*recipe=\{\"n_estimators\": ...\}"):
        make_recipe(model, task="classification")
    recipe = make_recipe(model, {"n_estimators": 7}, task="classification")
    assert recipe.template.get_params()["n_estimators"] == 7
    next(trainer_for(recipe).train(recipe, blobs(2), halves(), [1, 2]))


@BOTH
def test_an_estimator_that_never_stops_keeps_its_recipe(library):
    model = estimators(library)[0]
    before = recipe_digest(make_recipe(model, task="classification"))
    data = blobs(2)
    fitted = model.fit(data.x, data.y)
    assert recipe_digest(make_recipe(fitted, task="classification")) == before


@BOTH
def test_at_the_end_of_a_pipeline(tmp_path, library):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = blobs(2)
    recipe = make_recipe(make_pipeline(StandardScaler(), estimators(library)[0]), None, task="classification")
    model = next(trainer_for(recipe).train(recipe, data, halves(), [1, 2]))
    assert model_outputs(model, data, task="classification").correct.mean() > 0.8
    assert trainer_for(recipe).save(recipe, model, tmp_path) is False
    assert list(tmp_path.iterdir()) == []
