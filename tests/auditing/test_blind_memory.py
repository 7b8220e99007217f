"""The blind baseline of an earlier audit is taken only where it would come out the same."""

import dataclasses

import mlflow
import numpy as np
import pytest

from mlflow_privacy.auditing import blind
from mlflow_privacy.auditing.blind_memory import NAME, baseline_key, estimate_from, remembered_baseline
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.store.references import ReferenceStore
from mlflow_privacy.types import Records


class Memory(dict):
    def recall(self, name, key):
        return self.get((name, key))

    def remember(self, name, key, values):
        self[name, key] = values


@pytest.fixture
def counted(monkeypatch):
    calls = []
    original = blind.blind_baseline
    monkeypatch.setattr(blind, "blind_baseline", lambda *a, **kw: calls.append(1) or original(*a, **kw))
    return calls


def pool(seed=0):
    rng = np.random.default_rng(seed)
    return Records(rng.normal(size=(200, 3)), rng.integers(2, size=200), np.arange(200).astype(str))


MEMBER = np.arange(200) % 2 == 0


def ask(memory, records=None, member=MEMBER, seed=0, confidence=0.95):
    records = records or pool()
    return remembered_baseline(
        records, member, data_digest=data_digest(records), seed=seed, confidence=confidence, memory=memory
    )


def test_the_second_audit_of_the_same_records_computes_nothing_and_finds_the_same(counted):
    memory = Memory()
    first = ask(memory)
    assert ask(memory) == first == blind.blind_baseline(pool(), MEMBER, seed=0, confidence=0.95)
    assert len(counted) == 2  # the first, and the one in this test
    assert len(memory) == 1


CHANGES = [{"records": pool(1)}, {"member": ~MEMBER}, {"seed": 1}, {"confidence": 0.9}]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_other_records_members_seed_or_confidence_are_computed_anew(counted, changes):
    memory = Memory()
    ask(memory)
    ask(memory, **changes)
    assert len(counted) == len(memory) == 2


def test_another_code_of_the_baseline_is_another_key(monkeypatch):
    key = baseline_key(MEMBER, data_digest="a" * 64, seed=0, confidence=0.95)
    monkeypatch.setattr("inspect.getsource", lambda module: "other code")
    assert baseline_key(MEMBER, data_digest="a" * 64, seed=0, confidence=0.95) != key


@pytest.mark.parametrize(
    "values",
    [
        {"value": 0.5},
        {"value": 0.5, "low": 0.6, "high": 0.7, "n": 4},
        {"value": 7, "low": 0, "high": 9, "n": 4},
        {"value": float("nan"), "low": 0, "high": 1, "n": 4},
        {"value": "0.5; import os", "low": 0, "high": 1, "n": 4},
        {"value": 0.5, "low": 0, "high": 1, "n": 0},
        "0.5",
        7,
    ],
)
def test_what_is_no_estimate_is_computed_anew(counted, values):
    memory = Memory()
    memory[NAME, baseline_key(MEMBER, data_digest=data_digest(pool()), seed=0, confidence=0.95)] = values
    assert estimate_from(values, 0.95) is None
    ask(memory)
    assert len(counted) == 1


def test_the_store_keeps_it_with_the_audit_and_finds_it_from_any_experiment(tracking, counted):
    with mlflow.start_run() as run, ReferenceStore(tracking, run.info.experiment_id, run.info.run_id) as store:
        assert store.recall(NAME, "0" * 64) is None
        first = ask(store)
    elsewhere = tracking.create_experiment("another")
    with ReferenceStore(tracking, elsewhere, tracking.create_run(elsewhere).info.run_id) as store:
        assert ask(store) == first
        assert len(counted) == 1
    tags = tracking.get_run(run.info.run_id).data.tags
    tracking.set_tag(run.info.run_id, "privacy.z_blind", '{"key": not json')
    with ReferenceStore(tracking, elsewhere, tracking.create_run(elsewhere).info.run_id) as store:
        assert ask(store) == first
    assert len(counted) == 2
    assert [tag for tag in tags if tag.startswith("privacy.")] == ["privacy.z_blind"]
    assert dataclasses.asdict(first)["n"] == 200
