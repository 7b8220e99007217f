"""Which output means which label: said by the caller, by the lineage, or by the model's own config."""

import types

import mlflow
import numpy as np
import pytest

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.lineage import log_lineage, resolve_target
from mlflow_privacy.lineage.classes import output_classes


def config_of(names):
    return types.SimpleNamespace(config=types.SimpleNamespace(id2label=names))


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        ({0: "neg", 1: "pos"}, ["pos", "neg"], ("neg", "pos")),
        ({"1": "a", "0": "z"}, ["a", "z"], ("z", "a")),  # keys of a JSON file
        ({0: "NEGATIVE", 1: "POSITIVE"}, ["positive", "negative"], ("negative", "positive")),
        ({0: "c", 1: "a", 2: "b"}, ["a", "b"], ("c", "a", "b")),  # a class that the data does not have
        ({0: "LABEL_0", 1: "LABEL_1"}, ["a", "b"], None),
        ({0: "a", 1: "b"}, [0, 1], None),  # numbers are the outputs already
    ],
)
def test_the_names_in_a_models_config_are_taken(names, labels, expected):
    assert output_classes(config_of(names), None, np.array(labels)) == expected


def test_what_is_said_wins_over_the_config():
    assert output_classes(config_of({0: "a", 1: "b"}), ["b", "a"], np.array(["a", "b"])) == ("b", "a")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["a", "c"], "does not name the label 'b'"),
        (["a", "b", "b"], "names a label twice"),
        ("ab", "must be a list of labels"),
        ([{}, "b"], "must be a list of labels"),
    ],
)
def test_classes_that_do_not_fit_are_refused(said, message):
    with pytest.raises(ConfigError, match=message):
        output_classes(None, said, np.array(["a", "b"]))


def test_classes_come_from_whoever_says_them_first(log_model, train, holdout):
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout, targets="label", recipe={"classes": [0, 1], "C": 2.0})
        info = log_model()
    target = resolve_target(info.model_uri)
    assert target.classes == (0, 1)
    assert target.recipe.spec["estimator"]["params"]["C"] == 2.0  # "classes" is no parameter of the estimator
    with mlflow.start_run(run_id=info.run_id):
        log_lineage(classes=np.array([1, 0]))
    assert resolve_target(info.model_uri).classes == (1, 0)
    assert resolve_target(info.model_uri, AuditOptions(classes=["0", "1"])).classes == (0, 1)
