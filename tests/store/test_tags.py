"""Tags for people come first; what only this package reads is one tag, and runs from before it are read as ever."""

import json

import mlflow
import pytest
from mlflow.entities import RunTag

import mlflow_privacy
from mlflow_privacy.store.audits import read_audit
from mlflow_privacy.store.references import ReferenceStore, process_tag, sweep_dead_runs
from mlflow_privacy.store.results import audited_at, latest_audit
from mlflow_privacy.store.tags import RECORD, memory_tag, own_record, record_of, record_tag

FINDINGS = {"value": 0.5}


def as_of_before(tracking, run_id):
    """Rewrites the tags of a run to how 0.1 wrote them: one for each entry, what is remembered apart from its key."""
    tags = tracking.get_run(run_id).data.tags
    old = {f"privacy.{key}": json.dumps(value).strip('"') for key, value in own_record(tags).items()}
    gone = [RECORD]
    if memory_tag("blind") in tags:
        kept = json.loads(tags[memory_tag("blind")])
        old |= {"privacy.blind_key": kept["key"], "privacy.blind_value": json.dumps(kept["value"])}
        gone.append(memory_tag("blind"))
    for key in gone:
        tracking.delete_tag(run_id, key)
    tracking.log_batch(run_id, tags=[RunTag(key, value) for key, value in old.items()])
    return old


def ours(run):
    return sorted(key for key in run.data.tags if key.startswith("privacy."))


@pytest.fixture
def audited(tracking):
    """The run of an audit of a registered tree, those of its two references, and what audits again."""
    from trees import register

    register()
    options = {"num_ref_models": 2, "attacks": ["rmia"], "headline": None}

    def audit():
        return tracking.get_run(mlflow_privacy.evaluate("models:/tree/1", **options).run_id)

    run = audit()
    references = tracking.search_runs([run.info.experiment_id], "tags.`privacy.role` = 'reference'")
    return run, references, audit


def test_runs_say_what_they_are_first_and_a_store_of_before_is_found_and_read(audited, tracking, monkeypatch):
    run, references, audit = audited
    assert ours(run) == [
        *("privacy.attack", "privacy.headline", "privacy.model", "privacy.model_id", "privacy.model_name"),
        *("privacy.model_version", "privacy.role", "privacy.z_blind", "privacy.z_record"),
    ]
    for reference in references:
        assert ours(reference) == ["privacy.fingerprint", "privacy.recipe", "privacy.role", "privacy.z_record"]

    ended, findings = audited_at(run), latest_audit("models:/tree/1")
    for one in (run, *references):
        as_of_before(tracking, one.info.run_id)
    old = tracking.get_run(run.info.run_id)
    assert len(ours(old)) > 12
    assert audited_at(old) == ended
    assert latest_audit("models:/tree/1") == findings
    assert read_audit("models:/tree/1").audited_at == ended
    monkeypatch.setattr("mlflow_privacy.auditing.blind.blind_baseline", None)  # whoever calls it fails
    again = audit()
    assert len(tracking.search_runs([run.info.experiment_id], "tags.`privacy.role` = 'reference'")) == 2
    assert own_record(again.data.tags)["fingerprint"] == record_of(old.data.tags)["fingerprint"]
    assert latest_audit("models:/tree/1")[0] == again.info.run_id


def test_an_audit_of_before_whose_process_is_gone_is_closed(tracking):
    (experiment,) = (e.experiment_id for e in tracking.search_experiments() if e.name == "test")

    host, pid, _ = process_tag().split(":")
    tags = {"privacy.role": "audit", "privacy.process": f"{host}:{pid}:1"}
    run_id = tracking.create_run(experiment, tags=tags).info.run_id
    assert sweep_dead_runs(tracking, [experiment]) == [run_id]


def test_what_is_remembered_under_another_key_is_not_taken(tracking):
    with mlflow.start_run() as run, ReferenceStore(tracking, run.info.experiment_id, run.info.run_id) as store:
        store.remember("blind", "a" * 64, FINDINGS)
        store.remember("blind", "b" * 64, {"value": 0.7})
        assert store.recall("blind", "a" * 64) is None
        assert store.recall("blind", "b" * 64) == {"value": 0.7}
        tracking.set_tag(run.info.run_id, "privacy.blind_key", "c" * 64)
        tracking.set_tag(run.info.run_id, "privacy.blind_value", json.dumps(FINDINGS))
        assert store.recall("blind", "c" * 64) == FINDINGS
        assert store.recall("blind", "b" * 64) == {"value": 0.7}


def test_the_record_wins_over_tags_of_before():
    tags = {"privacy.train_seed": "7", "privacy.weights": "true", **record_tag({"train_seed": 8})}
    assert record_of(tags) == {"train_seed": 8, "weights": "true"}
    assert record_of({RECORD: "[1]", "other": "x"}) == {}
