"""Which references are written, and what finding that out costs."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, StackingClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlflow_privacy.trainers import make_recipe, persistence, trainer_for
from mlflow_privacy.types import Records

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)
FOREST = RandomForestClassifier(3)


@pytest.mark.parametrize(
    "estimator",
    [
        FOREST,
        HistGradientBoostingClassifier(max_iter=2),
        KNeighborsClassifier(algorithm="kd_tree"),
        make_pipeline(StandardScaler(), FOREST),
        StackingClassifier([("forest", FOREST)]),
    ],
    ids=["forest", "boosting", "neighbours", "pipeline", "stacking"],
)
def test_parts_that_are_never_trusted_are_found_as_skops_finds_them(estimator, tmp_path):
    model = estimator.fit(X, Y)
    assert persistence.never_trusted(model)
    assert not persistence._save(model, tmp_path)  # skops, asked without the short cut
    assert not persistence.save_estimator(model, tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_can_be_trusted_is_still_written(tmp_path):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    assert persistence.never_trusted(model) == ""
    assert persistence.save_estimator(model, tmp_path, recipe="a")
    assert np.array_equal(persistence.load_estimator(tmp_path).predict(X), model.predict(X))


def test_a_recipe_that_skops_has_refused_is_not_asked_again(tmp_path, monkeypatch):
    recipe = make_recipe(GaussianProcessClassifier(), task="classification")
    trainer = trainer_for(recipe)
    rows = np.arange(60)[None] % np.array([[2], [3], [4]]) > 0
    asked = []
    monkeypatch.setattr(persistence, "_save", lambda model, folder: bool(asked.append(model)))
    data = Records(X, Y, np.arange(60).astype(str))
    for model in trainer.train(recipe, data, rows, [1, 2, 3]):
        assert not trainer.save(recipe, model, tmp_path)
    assert len(asked) == 1


def test_a_forest_is_kept_without_importing_skops_and_torch():
    code = (
        "import sys, pathlib, numpy as np;"
        "from sklearn.ensemble import RandomForestClassifier;"
        "from mlflow_privacy.trainers import make_recipe, trainer_for;"
        "x = np.random.default_rng(0).normal(size=(40, 2)); y = (x[:, 0] > 0).astype(int);"
        "model = RandomForestClassifier(3).fit(x, y); recipe = make_recipe(model, task='classification');"
        "saved = trainer_for(recipe).save(recipe, model, pathlib.Path('.'));"
        "print(saved, sorted({'skops', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split(maxsplit=1) == ["False", "[]\n"]
