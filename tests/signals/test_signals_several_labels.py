"""Several labels of a record at once: one φ for all, whatever the model gives them by."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neural_network import MLPClassifier

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.signals.classification import each_phi, joint_phi
from mlflow_privacy.signals.sklearn import resolution
from mlflow_privacy.types import Records

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4))
Y = (X[:, :3] + RNG.normal(size=(80, 3)) > 0).astype(int)
LOGITS = RNG.normal(size=(80, 3)) * 3
P = 1 / (1 + np.exp(-LOGITS))


def records(y=Y, x=X):
    return Records(x, y, np.arange(len(y)).astype(str))


def outputs(model, y=Y, x=X, **options):
    return model_outputs(model, records(y, x), task="multilabel", **options)


def naive(p, y):
    """Log-odds of the product of the labels' probabilities."""
    right = np.where(y == 1, p, 1 - p).prod(axis=1)
    return np.log(right) - np.log(1 - right)


def test_joint_phi_is_the_log_odds_of_all_labels():
    each = each_phi(LOGITS, Y, reading="logits", floor=1e-7)
    np.testing.assert_allclose(joint_phi(each), naive(P, Y), rtol=1e-9)
    np.testing.assert_allclose(joint_phi(each[:, :1])[:], each[:, 0], rtol=1e-12)


@pytest.mark.parametrize("at", [30.0, 36.0, 36.5, 40.0, 700.0])
def test_joint_phi_neither_jumps_nor_saturates(at):
    near = joint_phi(np.array([[at, at + 1]]))[0]
    np.testing.assert_allclose(near, -np.logaddexp(-at, -at - 1), rtol=1e-4)
    assert joint_phi(np.array([[at + 1, at + 2]]))[0] > near


def test_loss_is_the_sum_of_the_cross_entropies_and_right_is_who_has_all_right():
    out = outputs(lambda x: LOGITS, reading="logits")
    losses = -np.log(np.where(Y == 1, P, 1 - P)).sum(axis=1)
    np.testing.assert_allclose(out.loss, losses, rtol=1e-5)
    assert out.link == "logit"
    assert np.array_equal(out.correct, ((LOGITS > 0) == Y).all(axis=1))


@pytest.mark.parametrize("give", ["logits", "probabilities", "frame"])
def test_a_model_known_by_its_predictions(give):
    import pandas as pd

    values = {"logits": LOGITS, "probabilities": P, "frame": pd.DataFrame(P, columns=["a", "b", "c"])}[give]
    np.testing.assert_allclose(outputs(lambda x: values).signal, naive(P, Y), rtol=1e-4)


def test_zeros_and_ones_are_labels():
    out = outputs(lambda x: (LOGITS > 0).astype(int))
    assert out.link == "label"
    assert np.array_equal(out.correct, ((LOGITS > 0) == Y).all(axis=1))


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(10, random_state=0),
        MultiOutputClassifier(LogisticRegression()),
        OneVsRestClassifier(LogisticRegression()),
        ClassifierChain(LogisticRegression()),
        MLPClassifier((8,), max_iter=20, random_state=0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_estimators_by_their_own_probabilities(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, Y)
    given = estimator.predict_proba(X)
    p = np.stack([one[:, 1] for one in given], axis=1) if isinstance(given, list) else given
    floor = resolution(estimator)
    expected = joint_phi(each_phi(p, Y, reading="probabilities", floor=floor))
    np.testing.assert_allclose(outputs(estimator).signal, expected, rtol=1e-5)


def test_an_estimator_with_scores_alone():
    ridge = RidgeClassifier().fit(X, Y)
    expected = joint_phi(np.where(Y == 1, 1, -1) * ridge.decision_function(X))
    np.testing.assert_allclose(outputs(ridge).signal, expected, rtol=1e-5)


def test_targets_with_classes_of_their_own_and_a_class_that_was_never_seen():
    y = np.stack([np.arange(80) % 3, np.arange(80) % 2], axis=1)
    seen = y[:, 0] < 2
    forest = RandomForestClassifier(10, random_state=0).fit(X[seen], y[seen])
    out = outputs(forest, y)
    assert np.isfinite(out.signal).all()
    assert not out.correct[~seen].any()
    assert out.signal[~seen].max() < np.median(out.signal[seen])


def test_a_label_that_is_always_off_in_a_reference():
    y = Y.copy()
    y[:40, 0] = 0
    for model in (RandomForestClassifier(5), OneVsRestClassifier(LogisticRegression())):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.isfinite(outputs(model.fit(X[:40], y[:40]), y).signal).all()


@pytest.mark.parametrize(
    ("model", "y", "match"),
    [
        (lambda x: P[:, :2], Y, r"shape \(2,\) a record, which has 3 labels"),
        (lambda x: P, Y + 1, "must be zeros and ones"),
        (lambda x: np.where(np.arange(80)[:, None] == 3, np.nan, P), Y, "NaN or infinite outputs for 1 of 80"),
    ],
)
def test_what_does_not_fit_is_one_error(model, y, match):
    with pytest.raises(SignalError, match=match):
        outputs(model, y)


class TestModules:
    torch = pytest.importorskip("torch")

    def module(self, *, sigmoid):
        torch = self.torch
        torch.manual_seed(0)
        linear = torch.nn.Linear(4, 3)
        return torch.nn.Sequential(linear, torch.nn.Sigmoid()) if sigmoid else linear

    def test_logits_and_probabilities_of_one_net_agree(self):
        from mlflow_privacy.signals import outputs_reading

        x = X.astype(np.float32)
        both = []
        for sigmoid, reading in ((False, "logits"), (True, "probabilities")):
            module = self.module(sigmoid=sigmoid)
            assert outputs_reading(module, [records(x=x)], task="multilabel") == reading
            both.append(outputs(module, x=x, device="cpu").signal)
        np.testing.assert_allclose(*both, rtol=1e-4)
        with self.torch.no_grad():
            p = self.module(sigmoid=True)(self.torch.tensor(x)).double().numpy()
        np.testing.assert_allclose(both[0], naive(p, Y), rtol=1e-4)

    def test_outputs_that_are_too_few(self):
        with pytest.raises(SignalError, match=r"shape \(3,\) a record, which has 2 labels"):
            outputs(self.module(sigmoid=False), Y[:, :2], X.astype(np.float32))
