"""References of estimators with torch modules start fresh; those that never saw a category can be asked about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from torch import nn

from mlflow_privacy.errors import RecipeError, SignalError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.types import Records

N = 60
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 6)).astype(np.float32)
Y = RNG.integers(0, 2, N)
IDS = np.arange(N).astype(str)
HALF = np.arange(N) < N // 2


class Holder(ClassifierMixin, BaseEstimator):
    """An estimator around a live module, which fit trains in place, as skorch does."""

    def __init__(self, net=None, nets=None, n_steps=0):
        self.net, self.nets, self.n_steps = net, nets, n_steps

    def fit(self, x, y):
        x, y = torch.as_tensor(np.asarray(x)), torch.as_tensor(np.asarray(y))
        self.classes_ = np.unique(y.numpy())
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)
        for _ in range(self.n_steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.net(x), y).backward()
            optimizer.step()
        return self

    def predict_proba(self, x):
        with torch.no_grad():
            return torch.softmax(self.net(torch.as_tensor(np.asarray(x))), 1).numpy()

    def predict(self, x):
        return self.predict_proba(x).argmax(1)


def net():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))


def target(*before):
    torch.manual_seed(0)
    fitted = make_pipeline(*before, Holder(net(), n_steps=300)) if before else Holder(net(), n_steps=300)
    return fitted.fit(X[HALF], Y[HALF])


def of_reference(model):
    return model[-1] if hasattr(model, "steps") else model


def references(estimator, x=X, y=Y, seeds=(1, 2)):
    data = Records(x, y, np.arange(len(y)).astype(str))
    recipe = make_recipe(estimator, None, task="classification", data=data)
    rows = np.tile(np.arange(len(y)) >= len(y) // 2, (len(seeds), 1))
    return list(trainer_for(recipe).train(recipe, data, rows, list(seeds)))


@pytest.mark.parametrize("nested", [False, True])
def test_references_never_start_from_the_weights_of_the_target(nested):
    trained = target(StandardScaler()) if nested else target()
    assert trained.score(X[HALF], Y[HALF]) == 1.0
    untrained = clone(trained).set_params(**{"holder__n_steps" if nested else "n_steps": 0})
    assert of_reference(untrained).net[0].weight.equal(of_reference(trained).net[0].weight)  # so clone does
    models = references(untrained)
    assert all(model.score(X[HALF], Y[HALF]) < 0.85 for model in models)
    first, second = (of_reference(model).net[0].weight for model in models)
    assert not first.equal(second)
    assert of_reference(references(untrained, seeds=(1,))[0]).net[0].weight.equal(first)
    assert trained.score(X[HALF], Y[HALF]) == 1.0  # the target is as it was


def test_the_key_does_not_depend_on_what_the_target_learned():
    other = Holder(net(), n_steps=300).fit(X[~HALF], Y[~HALF])
    keys = {recipe_digest(make_recipe(one, None, task="classification")) for one in (target(), other)}
    assert len(keys) == 1
    wider = Holder(nn.Sequential(nn.Linear(6, 33), nn.ReLU(), nn.Linear(33, 2)), n_steps=300)
    assert recipe_digest(make_recipe(wider, None, task="classification")) not in keys


def test_modules_that_cannot_be_made_fresh_are_refused_in_words():
    with pytest.raises(RecipeError, match="'nets' holds torch modules in a list"):
        make_recipe(Holder(net(), nets=[net()]), None, task="classification")

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, 2))

        def forward(self, x):
            return x @ self.weight

    with pytest.raises(RecipeError, match="The parameter 'holder__net'.*(?s:.)*reset_parameters"):
        make_recipe(make_pipeline(StandardScaler(), Holder(Bare())), None, task="classification")

    class Keras:  # as a live model of it looks
        def get_weights(self):
            return [np.ones(3)]

    Keras.__module__ = "keras.src.models.model"
    with pytest.raises(RecipeError, match="'nets' is a live Keras model"):
        make_recipe(Holder(net(), nets=Keras()), None, task="classification")

    class Carried(Holder):
        def __init__(self, n_steps=0):
            super().__init__(n_steps=n_steps)
            self.inner = net()

    with pytest.raises(RecipeError, match="it keeps torch modules in 'inner'"):
        make_recipe(Carried(), None, task="classification")


@pytest.mark.parametrize("x", [X.astype(np.float64), pd.DataFrame(X.astype(np.float64))], ids=["array", "frame"])
def test_a_module_inside_an_estimator_gets_records_in_its_own_type(x):
    trained = target()
    out = model_outputs(trained, Records(x, Y, IDS), task="classification")
    assert np.array_equal(out.correct, trained.predict(X) == Y)
    assert len(references(trained, x)) == 2


def test_what_a_module_inside_an_estimator_does_not_take_is_said():
    with pytest.raises(SignalError, match="The module inside Holder does not take the records"):
        model_outputs(target(), Records(X[:, :5], Y, IDS), task="classification")
    with pytest.raises(RecipeError, match="The module inside Holder does not take the records"):
        references(target(), X[:, :5])


def test_a_model_with_tensors_has_no_safe_form_and_is_trained_again(tmp_path):
    recipe = make_recipe(target(), None, task="classification")
    assert trainer_for(recipe).save(recipe, target(), tmp_path) is False
    assert list(tmp_path.iterdir()) == []


def test_skorch_around_a_module():
    skorch = pytest.importorskip("skorch")
    options = {"criterion": nn.CrossEntropyLoss, "lr": 0.3, "verbose": 0, "train_split": None, "batch_size": 10}
    torch.manual_seed(0)
    trained = skorch.NeuralNetClassifier(net(), max_epochs=150, **options).fit(X[HALF], Y[HALF])
    assert trained.score(X[HALF], Y[HALF]) == 1.0
    records = Records(X.astype(np.float64), Y, IDS)
    recipe = make_recipe(trained, {"max_epochs": 0}, task="classification")
    model = next(trainer_for(recipe).train(recipe, records, np.ones((1, N), bool), [1]))
    assert model.score(X[HALF], Y[HALF]) < 0.85
    assert model_outputs(trained, records, task="classification").correct[HALF].all()
    from skorch.callbacks import LoadInitState, TrainEndCheckpoint

    loads = skorch.NeuralNetClassifier(
        net(), callbacks=[("load", LoadInitState(TrainEndCheckpoint(dirname="nowhere")))], **options
    )
    with pytest.raises(RecipeError, match="LoadInitState, which loads weights before training"):
        make_recipe(loads, None, task="classification")


# --- categories --------------------------------------------------------------------------------------------------


def people(rare="astronaut"):
    """A table in which one member alone has a category."""
    jobs = np.array(["clerk", "nurse", "cook"])[np.arange(N) % 3].astype(object)
    jobs[3] = rare
    return pd.DataFrame({"job": jobs, "age": X[:, 0]})


def pipeline(encoder, model):
    return make_pipeline(make_column_transformer((encoder, ["job"]), remainder="passthrough"), model)


@pytest.mark.parametrize(
    "estimator",
    [
        pipeline(OneHotEncoder(), LogisticRegression()),
        pipeline(OneHotEncoder(drop="first"), LogisticRegression()),
        pipeline(OneHotEncoder(max_categories=3), LogisticRegression()),
        pipeline(OrdinalEncoder(), RandomForestClassifier(5)),
        GridSearchCV(pipeline(OneHotEncoder(), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=2),
    ],
    ids=["one-hot", "drop", "rare ones", "ordinal", "search"],
)
def test_a_reference_that_never_saw_a_category_can_be_asked_about_it(estimator):
    table = people()
    fitted = clone(estimator).fit(table, Y)
    model = references(fitted, table, seeds=(1,))[0]  # trained on the second half: no astronaut
    out = model_outputs(model, Records(table, Y, IDS), task="classification")
    assert np.isfinite(out.signal).all()
    if "RandomForest" in str(estimator):
        return  # draws of its own
    known = table.iloc[30:]
    same = clone(estimator).fit(known, Y[30:])
    plain = model_outputs(same, Records(known, Y[30:], IDS[30:]), task="classification")
    np.testing.assert_allclose(out.signal[30:], plain.signal, rtol=1e-5)  # what it learned is the same


def test_the_report_is_told_and_the_key_stays():
    strict = pipeline(OneHotEncoder(), LogisticRegression())
    recipe = make_recipe(strict, None, task="classification", source="the model")
    assert "a category that a reference never saw counts as none" in recipe.source
    assert "OneHotEncoder at 'columntransformer__onehotencoder'" in recipe.source
    assert recipe.template.get_params()["columntransformer__onehotencoder__handle_unknown"] == "error"
    lenient = pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    assert make_recipe(lenient, None, task="classification", source="the model").source == "the model"


def test_a_target_that_refuses_a_category_is_told_by_step_and_remedy():
    fitted = pipeline(OneHotEncoder(), LogisticRegression()).fit(people().iloc[30:], Y[30:])
    wanted = r"OneHotEncoder at 'columntransformer__onehotencoder'.*astronaut.*handle_unknown=\"ignore\""
    with pytest.raises(SignalError, match=wanted):
        model_outputs(fitted, Records(people(), Y, IDS), task="classification")
