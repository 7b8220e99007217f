"""Measures fit the kind of model, and say no more of a guarantee than the rates that were resolved."""

import dataclasses
import re

import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.sections import build_document
from mlflow_privacy.report.sections.families import ADVICE, family_of
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import Estimate

FAMILIES = [
    (RandomForestClassifier(7), "forest"),
    (ExtraTreesRegressor(7), "forest"),
    (DecisionTreeClassifier(), "forest"),
    (BaggingClassifier(), "forest"),
    (make_pipeline(StandardScaler(), RandomForestClassifier(7, class_weight="balanced")), "forest"),
    (GradientBoostingClassifier(), "boosting"),
    (HistGradientBoostingRegressor(), "boosting"),
    (AdaBoostClassifier(), "boosting"),
    (LogisticRegression(C=3.5), "linear"),
    (LinearRegression(), "linear"),
    (RidgeClassifier(), "linear"),
    (SGDClassifier(), "linear"),
    (LinearSVC(), "linear"),
    (SVC(), "kernel"),
    (GaussianNB(), "bayes"),
    (LinearDiscriminantAnalysis(), "bayes"),
    (KNeighborsClassifier(1), "neighbours"),
    (make_pipeline(StandardScaler(), KNeighborsRegressor(1)), "neighbours"),
    (MLPClassifier(), "neural"),
    (CalibratedClassifierCV(RandomForestClassifier(7)), "forest"),
    (GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [1, 3]}), "neighbours"),
]


def with_recipe(result, estimator):
    recipe = make_recipe(estimator, task="classification")
    references = {**result.references, "recipe": {"kind": recipe.kind, "spec": recipe.spec}}
    return dataclasses.replace(result, references=references)


def words(result):
    return " ".join(f"{m.name}. {m.how} {m.evidence}" for m in build_document(result).measures)


@pytest.mark.parametrize(("estimator", "family"), FAMILIES, ids=lambda value: getattr(value, "steps", value).__str__())
def test_the_family_is_that_of_the_last_estimator_by_recipe_and_by_model(result, estimator, family):
    assert family_of(with_recipe(result, estimator)) == family
    audited = dataclasses.replace(result.model, native=estimator)
    assert family_of(dataclasses.replace(result, model=audited)) == family


@pytest.mark.parametrize(
    ("flavor", "task", "family"),
    [
        ("pytorch", "classification", "neural"),
        ("xgboost", "regression", "boosting"),
        ("lightgbm", "classification", "boosting"),
        ("transformers", "classification", "language"),
        ("pytorch", "language", "language"),
        ("pyfunc", "classification", "other"),
    ],
)
def test_without_a_recipe_the_flavor_tells(result, flavor, task, family):
    audited = dataclasses.replace(result.model, flavor=flavor)
    assert family_of(dataclasses.replace(result, model=audited, task=task)) == family


@pytest.mark.parametrize("family", [f for f in ADVICE if f not in ("neural", "language")])
def test_only_what_has_epochs_and_gradients_is_told_of_them(family):
    advice = ADVICE[family]
    said = " ".join(f"{step.name} {step.how}" for step in (*advice.steps, advice.private))
    assert not re.search(r"epoch|SGD|weight decay|augmentation", said)
    assert "differential privacy" in advice.private.name


def test_a_forest_is_told_of_leaves_and_of_its_class_weights(result):
    forest = RandomForestClassifier(7, min_samples_leaf=3, class_weight="balanced")
    said = words(with_recipe(result, make_pipeline(StandardScaler(), forest)))
    assert "min_samples_leaf = 3" in said
    assert "class_weight = balanced" in said
    assert "epochs" not in said
    assert "DP-SGD" not in said
    assert "n_neighbors = 1" in words(with_recipe(result, KNeighborsClassifier(1)))
    assert "C = 3.5" in words(with_recipe(result, LogisticRegression(C=3.5)))


def test_a_guarantee_is_compared_with_rates_that_resolve_alone(result):
    """19 % [0, 27.7] at 0.1 % false alarms were "a bound of 191.67 [0.00, 276.59]"; 10 % says less than 2."""
    joint = {"tpr_at_fpr_0.01": Estimate(0.05, 0.005, 0.09, 900), "tpr_at_fpr_0.1": Estimate(0.17, 0.15, 0.19, 900)}
    unresolved = {"tpr_at_fpr_0.001": Estimate(0.19167, 0.0, 0.27659, 900)}
    attack = dataclasses.replace(result.attacks[0], joint=joint, metrics={**result.attacks[0].metrics, **unresolved})
    said = words(dataclasses.replace(result, attacks=(attack,)))
    assert "191.67" not in said
    assert "At 10% false alarms it is 1.70 [1.50, 1.90] times that rate" in said
    assert "ε below 0.41" in said
    nothing = {"tpr_at_fpr_0.1": Estimate(0.11, 0.09, 0.13, 900)}
    assert "no ε is sure to lower it" in words(
        dataclasses.replace(result, attacks=(dataclasses.replace(attack, joint=nothing),))
    )
    assert "too small to compare" in words(example_result(n=40))


def test_measures_of_a_large_audit_use_the_rate_that_says_most():
    said = words(example_result(n=6000, separations=(2.0, 0.5, 0.5, 0.5)))
    assert "At 0.1% false alarms" in said
