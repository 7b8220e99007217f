"""Where an audit's run lies, and the parameters by which it compares with others in the list of runs."""

import mlflow
import pytest

from mlflow_privacy.errors import ConfigError, PrivacyAuditError

LIGHT = {"num_ref_models": 2, "blind_baseline": False, "progress": False}


def audit(**options):
    config = {"privacy_meter": {**LIGHT, **options}}
    return mlflow.models.evaluate("models:/tree/1", evaluators=["privacy_meter"], evaluator_config=config)


def experiment_of(client, run_id):
    return client.get_run(run_id).info.experiment_id


def test_where_nobody_chose_an_experiment_it_is_that_of_the_model(registered, tracking):
    home = experiment_of(tracking, registered[0])
    mlflow.set_experiment(experiment_id="0")
    result = audit()
    assert experiment_of(tracking, result.run_id) == home
    assert mlflow.active_run() is None
    children = tracking.search_runs([home], f"tags.mlflow.parentRunId = '{result.run_id}'")
    assert len(children) == 2
    run = tracking.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "privacy audit of tree v1"


def test_an_experiment_that_the_caller_set_is_used(registered, tracking, tmp_path):
    chosen = tracking.create_experiment("mine", artifact_location=str(tmp_path / "mine"))
    mlflow.set_experiment(experiment_id=chosen)
    assert experiment_of(tracking, audit().run_id) == chosen


def test_the_option_wins_and_makes_an_experiment_that_is_not_there(registered, tracking):
    before = experiment_of(tracking, audit().run_id)
    found = audit(experiment="audits")
    assert tracking.get_experiment(experiment_of(tracking, found.run_id)).name == "audits"
    assert experiment_of(tracking, audit(experiment="audits").run_id) == experiment_of(tracking, found.run_id)
    assert experiment_of(tracking, audit().run_id) == before  # nothing is set for later


def test_an_experiment_cannot_be_chosen_for_a_run_that_is_open_nor_a_deleted_one(registered, tracking):
    with mlflow.start_run(), pytest.raises(ConfigError, match="experiment='audits' has no effect"):
        audit(experiment="audits")
    tracking.delete_experiment(tracking.create_experiment("gone"))
    with pytest.raises(ConfigError, match="the experiment 'gone' was deleted"):
        audit(experiment="gone")


def test_an_audit_that_fails_leaves_no_open_run(registered, tracking, monkeypatch):
    def fail(*args, **kwargs):
        raise PrivacyAuditError("no.")

    monkeypatch.setattr("mlflow_privacy.evaluators.run.audit", fail)
    mlflow.set_experiment(experiment_id="0")
    with pytest.raises(PrivacyAuditError):
        audit()
    assert mlflow.active_run() is None
    (run,) = tracking.search_runs([experiment_of(tracking, registered[0])], "tags.`privacy.role` = 'audit'")
    assert run.info.status == "FAILED"


def test_what_an_audit_ran_with_are_parameters_of_its_run(registered, tracking):
    params = tracking.get_run(audit(random_seed=3, attacks=["rmia", "population"]).run_id).data.params
    assert params == {
        "privacy/references": "2",
        "privacy/reference_fraction": "0.5",
        "privacy/random_seed": "3",
        "privacy/attacks": "rmia, population",
        "privacy/members": "280",
        "privacy/nonmembers": "289",
        "privacy/game": "membership",
    }


def test_a_second_audit_in_one_run_is_no_error_and_changes_no_parameter(registered, tracking):
    with mlflow.start_run() as run:
        audit(random_seed=3)
        audit(random_seed=4)
    assert tracking.get_run(run.info.run_id).data.params["privacy/random_seed"] == "3"
    assert tracking.get_run(run.info.run_id).info.status == "FINISHED"
