"""Native boosters in the registry, through the one line."""

import mlflow
import numpy as np
import pandas as pd
import pytest

import mlflow_privacy
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.lineage.resolve import resolve_target

FAST = {"num_ref_models": 4, "blind_baseline": False}


@pytest.fixture
def halves():
    """Two tables of 300 records whose labels are three tenths noise, which a booster learns by heart."""
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(600, 5)), columns=list("abcde"))
    y = np.where(rng.random(600) < 0.3, rng.integers(0, 2, 600), x["a"] > 0).astype(int)
    table = x.assign(label=y)
    return table[:300], table[300:]


def split(table):
    return table[list("abcde")], table["label"]


def xgb(train, **params):
    xgboost = pytest.importorskip("xgboost")
    return xgboost.train(
        {"objective": "binary:logistic", "eta": 0.3, "max_depth": 6, **params}, xgboost.DMatrix(*train), 40
    )


def lgb(train):
    lightgbm = pytest.importorskip("lightgbm")
    params = {"objective": "binary", "learning_rate": 0.2, "min_data_in_leaf": 3, "verbose": -1}
    return lightgbm.train(params, lightgbm.Dataset(*train), 40)


def cat(train):
    catboost = pytest.importorskip("catboost")
    quiet = {"verbose": 0, "allow_writing_files": False, "thread_count": 1}
    return catboost.CatBoostClassifier(iterations=60, depth=6, learning_rate=0.3, **quiet).fit(*train)


def log(flavor, model, halves, params=None, **lineage):
    with mlflow.start_run():
        mlflow.log_params(params or {})
        getattr(mlflow, flavor).log_model(model, name="m", registered_model_name="m", pip_requirements=[])
        mlflow_privacy.log_lineage(train=halves[0], holdout=halves[1], targets="label", **lineage)


@pytest.mark.parametrize(("flavor", "fit"), [("xgboost", xgb), ("lightgbm", lgb), ("catboost", cat)])
def test_a_native_booster_is_audited_with_references(tracking, halves, flavor, fit):
    log(flavor, fit(split(halves[0])), halves)
    attacks = ["rmia", "population"]
    result = mlflow_privacy.evaluate("models:/m/1", attacks=attacks, **FAST)
    metrics = result.metrics
    assert metrics["privacy/rmia/auc"] > metrics["privacy/population/auc"] > 0.5
    assert metrics["privacy/rmia/auc"] > 0.6
    own, like = (metrics[f"privacy/fidelity/{who}_member_accuracy"] for who in ("target", "reference"))
    assert abs(own - like) < 0.05
    runs = mlflow.search_runs(search_all_experiments=True, filter_string="tags.mlflow.runName LIKE 'reference%'")
    assert len(runs) == 4
    again = mlflow_privacy.evaluate("models:/m/1", attacks=attacks, **FAST)
    assert again.metrics["privacy/rmia/auc"] == metrics["privacy/rmia/auc"]
    assert len(mlflow.search_runs(search_all_experiments=True)) == len(runs) + 3  # nothing was trained again


def test_parameters_of_the_run_complete_those_of_the_trees(tracking, halves):
    log("xgboost", xgb(split(halves[0]), subsample=0.5), halves, params={"eta": 0.3, "subsample": 0.5, "seed": 1})
    recipe = resolve_target("models:/m/1", LineageOptions()).recipe
    assert recipe.spec["params"]["subsample"] == 0.5
    assert recipe.spec["params"]["max_depth"] == 6
    assert "run parameters" in recipe.source


def test_an_estimator_that_xgboosts_file_has_emptied_is_not_trained_by_defaults(tracking, halves):
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=15, max_depth=2, learning_rate=0.1, n_jobs=1).fit(*split(halves[0]))
    log("xgboost", model, halves)
    target = resolve_target("models:/m/1", LineageOptions())
    assert target.model.native.get_params()["max_depth"] is None
    params = target.recipe.template.get_params()
    assert (params["n_estimators"], params["max_depth"]) == (15, 2)
    assert params["learning_rate"] == pytest.approx(0.1, rel=1e-2)
    assert params["base_score"] is None
    assert "XGBoost's defaults for subsample" in target.recipe.source


def test_what_cannot_be_trained_names_the_lines_of_lineage_that_help(tracking, halves):
    statsmodels = pytest.importorskip("statsmodels.api")
    x, y = split(halves[0])
    model = statsmodels.Logit(y, x).fit(disp=0)
    with mlflow.start_run():
        mlflow.statsmodels.log_model(model, name="m", registered_model_name="m", pip_requirements=[])
        mlflow_privacy.log_lineage(train=halves[0], holdout=halves[1], targets="label")
    problem = resolve_target("models:/m/1", LineageOptions()).recipe_problem
    assert 'log_lineage(recipe={"train_fn": "my_package.train"})' in problem
    assert "statsmodels" in problem
    assert "PyFuncModel" not in problem
