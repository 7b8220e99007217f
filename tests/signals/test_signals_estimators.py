"""Signals of scikit-learn estimators."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.signals.sklearn import raw_scores, resolution
from mlflow_privacy.types import Records


def blobs(classes=3, n=90, names=None, spread=1.0):
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.normal(size=(classes, 4))[y] * 2 + spread * rng.normal(size=(n, 4))
    return Records(x, y if names is None else np.array(names)[y], np.arange(n).astype(str))


def outputs(model, records, task="classification", **options):
    return model_outputs(model, records, task=task, **options)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GradientBoostingClassifier(n_estimators=5),
        HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3),
        GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2),
        OneVsRestClassifier(LogisticRegression()),
        MLPClassifier((8,), max_iter=30),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_phi_equals_the_log_odds_of_predict_proba_where_it_does_not_saturate(estimator, classes):
    data = blobs(classes, names=list("cab")[:classes])
    estimator.fit(data.x, data.y)
    out = outputs(estimator, data)
    p = estimator.predict_proba(data.x)[np.arange(90), np.searchsorted(estimator.classes_, data.y)]
    keep = np.abs(out.signal) < 15
    assert keep.sum() > 45
    np.testing.assert_allclose(out.signal[keep], np.log(p / (1 - p))[keep], rtol=1e-4, atol=1e-5)
    assert np.array_equal(out.correct, estimator.predict(data.x) == data.y)
    np.testing.assert_allclose(out.loss, np.logaddexp(0, -out.signal), rtol=1e-4, atol=1e-6)


def test_raw_scores_do_not_saturate_where_probabilities_do():
    data = blobs(2)
    model = LogisticRegression(C=1e6).fit(data.x, data.y)
    far = Records(data.x * 100, data.y, data.row_ids)
    assert (model.predict_proba(far.x).max(1) == 1).any()
    d = model.decision_function(far.x)
    np.testing.assert_allclose(outputs(model, far).signal, np.where(data.y == 1, d, -d), rtol=1e-6)


def test_raw_scores_are_used_only_where_they_are_the_logits():
    data = blobs(3)
    platt = SVC(probability=True, random_state=0).fit(data.x, data.y)
    assert raw_scores(platt, data.x) is None
    rest = OneVsRestClassifier(LogisticRegression()).fit(data.x, data.y)
    assert raw_scores(rest, data.x) is None
    assert raw_scores(LogisticRegression().fit(data.x, data.y), data.x) is not None


@pytest.mark.parametrize("estimator", [LinearSVC(), SVC(), RidgeClassifier()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("classes", [2, 3])
def test_margins_stand_in_for_logits_where_there_are_no_probabilities(estimator, classes):
    data = blobs(classes)
    estimator.fit(data.x, data.y)
    out = outputs(estimator, data)
    assert out.link == "logit"
    if classes == 2:
        d = estimator.decision_function(data.x)
        np.testing.assert_allclose(out.signal, np.where(data.y == 1, d, -d), rtol=1e-5)
    assert np.array_equal(out.correct, estimator.predict(data.x) == data.y)


class LabelsOnly:
    """An estimator without scores."""

    classes_ = np.array([0, 1, 2])

    def get_params(self, deep=True):
        return {}

    def fit(self, x, y):
        return self

    def predict(self, x):
        return np.zeros(len(x), int)


def test_labels_alone_give_correctness():
    data = blobs(3)
    out = outputs(LabelsOnly(), data)
    assert out.link == "label"
    assert np.array_equal(out.signal, (data.y == 0).astype(np.float32))
    assert np.array_equal(out.loss, (data.y != 0).astype(np.float32))


def test_votes_are_clipped_at_what_they_can_resolve():
    data = blobs(2, spread=3.0)
    forest = RandomForestClassifier(9, random_state=0).fit(data.x, data.y)
    floor = 1 / 20
    assert resolution(forest) == floor
    assert resolution(make_pipeline(StandardScaler(), forest)) == floor
    assert resolution(KNeighborsClassifier(4)) == 0.1
    assert resolution(DecisionTreeClassifier()) == 0.25
    out = outputs(forest, data)
    assert out.signal.max() == pytest.approx(np.log((1 - floor) / floor), rel=1e-6)
    p = forest.predict_proba(data.x)[np.arange(90), data.y]
    inner = p[(p > 0) & (p < 1)]
    np.testing.assert_allclose(out.signal[(p > 0) & (p < 1)], np.log(inner / (1 - inner)), rtol=1e-5, atol=1e-6)


def test_batch_size_does_not_matter(monkeypatch):
    data = blobs(3)
    for model in (LogisticRegression(), RandomForestClassifier(5, random_state=0)):
        model.fit(data.x, data.y)
        whole = outputs(model, data)
        monkeypatch.setattr("mlflow_privacy.signals.sklearn._CHUNK", 1)
        for size in (1, 7):
            part = outputs(model, data, batch_size=size)
            np.testing.assert_allclose(part.signal, whole.signal, rtol=1e-6)
            assert np.array_equal(part.correct, whole.correct)
        monkeypatch.undo()


@pytest.mark.filterwarnings("error::UserWarning")
def test_features_come_in_the_form_of_the_fit():
    data = blobs(3)
    frame = pd.DataFrame(data.x, columns=list("abcd"))
    of_frame = LogisticRegression().fit(frame, data.y)
    of_array = LogisticRegression().fit(data.x, data.y)
    framed = Records(frame[list("dcba")].assign(extra=1), data.y, data.row_ids)
    expected = outputs(of_array, data).signal
    for model, records in ((of_frame, framed), (of_frame, data), (of_array, Records(frame, data.y, data.row_ids))):
        np.testing.assert_allclose(outputs(model, records).signal, expected, rtol=1e-5)


def test_model_of_encoded_labels_is_matched_with_the_names_of_the_pool():
    named, encoded = blobs(3, names=["ant", "bee", "cat"]), blobs(3)
    model = LogisticRegression().fit(encoded.x, encoded.y)
    assert np.array_equal(outputs(model, named).signal, outputs(model, encoded).signal)


def test_regressor():
    data = blobs(3)
    y = data.x @ [1.0, 2.0, 3.0, 4.0] + np.random.default_rng(1).normal(size=90)
    records = Records(data.x, y, data.row_ids)
    model = LinearRegression().fit(data.x, y)
    out = outputs(model, records, task="regression")
    np.testing.assert_allclose(out.loss, (model.predict(data.x) - y) ** 2, rtol=1e-4)
    assert out.link == "log"


def test_several_targets_at_once_are_refused():
    data = blobs(3)
    model = DecisionTreeClassifier().fit(data.x, np.stack([data.y, data.y], 1))
    with pytest.raises(SignalError, match="2 targets at once"):
        outputs(model, data)


def test_probabilities_of_mixed_leaves_are_not_clipped_away():
    # A pruned tree says 0.9 of one leaf and 0.97 of another: both must stay apart.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 2))
    y = (x[:, 0] + 0.5 * rng.normal(size=2000) > 0).astype(int)
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(x, y)
    outputs = model_outputs(tree, Records(x, y, np.arange(2000).astype(str)), task="classification")
    p = tree.predict_proba(x)[np.arange(2000), y]
    inside = (p > 0) & (p < 1)
    np.testing.assert_allclose(outputs.signal[inside], np.log(p[inside]) - np.log1p(-p[inside]), rtol=1e-4)
    assert np.isfinite(outputs.signal).all()
