"""The published schema is the records' own, and real results keep it."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.schema import result_json, result_schema, schema_text
from mlflow_privacy.types import Estimate, Fidelity

jsonschema = pytest.importorskip("jsonschema")
PUBLISHED = Path(__file__).parents[2] / "docs" / "schema.json"


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(PUBLISHED.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_published_schema_is_the_one_that_the_records_give():
    assert PUBLISHED.read_text() == schema_text()


def test_results_are_valid(validator):
    base = example_result(n=300)
    tiny = example_result(n=4)
    for result in (
        base,
        tiny,
        dataclasses.replace(base, blind=None, fidelity=Fidelity({}, {}, {}), references={"n": 0}, sources=()),
        dataclasses.replace(base, task="regression", y=np.linspace(0, 1, 600)),
    ):
        validator.validate(json.loads(result_json(result)))
    options = ReportOptions(thresholds={"rmia/auc": 0.6}, slices={"half": np.arange(600) % 2}, content={"train:1": "x"})
    validator.validate(json.loads(result_json(base, options)))
    validator.validate(json.loads(result_json(base, ReportOptions(top=0))))


def test_an_audit_of_a_real_model_is_valid(validator):
    from sklearn.tree import DecisionTreeClassifier

    from mlflow_privacy.auditing.options import AuditOptions
    from mlflow_privacy.auditing.pipeline import audit
    from mlflow_privacy.report.html import html_report
    from mlflow_privacy.types import AuditedModel, AuditTarget, Records

    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 4))
    y = (x[:, 0] + rng.normal(size=240) > 0).astype(int)
    member = np.arange(240) < 120
    model = DecisionTreeClassifier(random_state=0).fit(x[member], y[member])
    target = AuditTarget(
        AuditedModel("models:/tree/1", "tree", "1", None, None, "sklearn", model),
        Records(x, y, np.array([f"r:{i}" for i in range(240)])),
        member,
        "classification",
    )
    result = audit(target, AuditOptions(progress=False, num_ref_models=4))
    validator.validate(json.loads(result_json(result)))
    assert "tree v1" in html_report(result)


@pytest.mark.parametrize("fault", ["extra key", "missing key", "wrong state", "text for a number"])
def test_what_is_not_a_result_is_refused(validator, fault):
    document = copy.deepcopy(json.loads(result_json(example_result(n=50))))
    if fault == "extra key":
        document["finding"]["colour"] = "green"
    elif fault == "missing key":
        del document["exposure"]
    elif fault == "wrong state":
        document["checks"][0]["status"] = "great"
    else:
        document["attacks"][0]["metrics"]["auc"]["value"] = "0.6"
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document)


def test_every_record_is_described_and_closed():
    for name, definition in result_schema()["$defs"].items():
        assert definition["description"], name
        if name != "number":
            assert definition["additionalProperties"] is False
            assert set(definition["required"]) == set(definition["properties"])


def test_infinite_and_undefined_numbers_pass(validator):
    result = dataclasses.replace(example_result(n=60), blind=Estimate(float("nan"), float("-inf"), float("inf"), 9))
    validator.validate(json.loads(result_json(result)))
