"""What a report says beside its figures, from the run; and what the controller filled in survives the next audit."""

import mlflow
import pytest
from trees import register

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.report.dpia import FIELDS

LIGHT = {"num_ref_models": 2, "blind_baseline": False, "progress": False}


def audit(uri="models:/tree/1", **options):
    config = {"privacy_meter": {**LIGHT, **options}}
    return mlflow.models.evaluate(uri, evaluators=["privacy_meter"], evaluator_config=config)


def page_of(result):
    return result.artifacts["privacy/report"].content


def test_what_was_filled_in_survives_the_next_audits_of_the_model(registered, tracking):
    assert "by the controller" not in page_of(audit())
    assert "Credit decisions." in page_of(audit(dpia={"purposes": "Credit decisions."}))
    assert "Credit decisions." in page_of(audit())
    assert "Credit decisions." not in tracking.get_run(register()[0]).data.tags.values()
    both = page_of(audit("models:/tree/2", dpia={"views": "The works council agrees."}))  # another version
    assert "Credit decisions." in both
    assert "The works council agrees." in both
    last = page_of(audit(dpia={"purposes": ""}))
    assert "Credit decisions." not in last
    assert "The works council agrees." in last


def test_the_form_lies_beside_the_report_and_names_every_field(registered, tracking):
    result = audit()
    path = tracking.download_artifacts(result.run_id, "privacy_dpia.yaml")
    text = open(path, encoding="utf-8").read()  # noqa: SIM115
    assert [line.partition(":")[0] for line in text.splitlines() if line and line[0].isalpha()] == [
        field.key for field in FIELDS
    ]


def test_the_auditor_is_mlflows_user_or_who_the_option_says(registered, tracking):
    result = audit()
    user = tracking.get_run(result.run_id).data.tags["mlflow.user"]
    assert f"audited by <bdi>{user}</bdi>" in page_of(result)
    assert "audited by <bdi>Data protection office</bdi>" in page_of(audit(auditor="Data protection office"))


def test_people_are_counted_by_a_column_or_given(registered, tracking):
    assert "120 in the training data (as the auditor says)" in page_of(audit(people=120))
    before = len(tracking.search_runs([tracking.get_run(registered[0]).info.experiment_id]))
    with pytest.raises(ConfigError, match="people names 'custmer', which is no column"):
        audit(people="custmer")
    with pytest.raises(ConfigError, match="did you mean 'purposes'"):
        audit(dpia={"purpose": "x"})
    assert len(tracking.search_runs([tracking.get_run(registered[0]).info.experiment_id])) == before
