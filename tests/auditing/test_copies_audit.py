"""Audits of data in which records occur more than once, without a tracking server."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

OPTIONS = AuditOptions(
    num_ref_models=4, blind_baseline=False, progress=False, attacks=["rmia", "lira"], allow_unfamiliar_members=True
)


def make_target(rows, member, *, seed=0, n=300, features=80, honest=True, weight=1):
    """A logistic regression on `rows` of n records; `honest`: it saw the members, else other records, as often.

    One whose records weigh `weight` each is the model of records that occur so often.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2 * n, features)), rng.integers(2, size=2 * n)
    seen = rows[member] + (0 if honest else n)
    model = LogisticRegression(C=float(weight), max_iter=1000).fit(x[seen], y[seen])
    pool = Records(x[rows], y[rows], np.array([f"row:{i}:{k}" for k, i in enumerate(rows)]))
    audited = AuditedModel("memory", None, None, None, None, "sklearn", model)
    return AuditTarget(audited, pool, member, "classification", recipe=make_recipe(model, task="classification"))


def oversampled(times, n=300):
    """The first half are members, `times` each; the other half are held out."""
    rows = np.r_[np.repeat(np.arange(n // 2), times), np.arange(n // 2, n)]
    return rows, rows < n // 2


def auc(result, name):
    return next(a for a in result.attacks if a.name == name).metrics["auc"]


@pytest.mark.parametrize("times", [2, 10])
def test_members_that_were_copied_are_as_exposed_as_records_of_that_weight(times):
    """References that split copies between them know no record as one that they did not see: 0.76 for 0.82."""
    found, shown = [], []
    for seed in range(4):
        rows, member = oversampled(times)
        found.append(audit(make_target(rows, member, seed=seed), OPTIONS))
        alone, of_alone = oversampled(1)
        shown.append(audit(make_target(alone, of_alone, seed=seed, weight=times), OPTIONS))
    result = found[0]
    assert result.copies.basis == "distinct"
    assert (result.membership.sum(), (~result.membership).sum()) == (150, 150)
    assert result.references["n_pool"] == 150 * times + 150  # as logged, though held-out records train as often
    assert any(w.startswith(f"{150 * times:,} training records and 0 held-out ones") for w in result.warnings)
    for name in ("rmia", "lira"):
        mean, plain = (np.mean([auc(r, name).value for r in results]) for results in (found, shown))
        assert plain > 0.6
        assert abs(mean - plain) < 0.04
        assert all(auc(r, name).low > 0.5 for r in found)


def test_a_model_that_saw_none_of_them_shows_nothing_however_often_members_occur():
    """References that know copied members better than held-out records would make it 0.45 (RMIA)."""
    values = {"rmia": [], "lira": []}
    for seed in range(12):
        rows, member = oversampled(10)
        result = audit(make_target(rows, member, seed=seed, honest=False), OPTIONS)
        for name, collected in values.items():
            collected.append(auc(result, name).value)
    for name, collected in values.items():
        assert abs(np.mean(collected) - 0.5) < 0.03, name  # a standard error is 0.01


def mixed(seed=0, n=300):
    """Each record once, but 120 of them twice, before a random split."""
    rows = np.r_[np.arange(n), np.arange(120)]
    return rows, np.random.default_rng(seed).random(len(rows)) < 0.5


def test_records_that_occur_once_are_scored_and_the_others_trained_on_and_counted():
    rows, member = mixed()
    result = audit(make_target(rows, member), OPTIONS)
    scored = {int(row.split(":")[1]) for row in result.row_ids}
    assert scored == set(range(120, 300))
    assert result.copies.basis == "unique"
    assert (result.copies.members, result.copies.nonmembers) == (member[rows < 120].sum(), (~member)[rows < 120].sum())
    assert result.references["n_pool"] == 420
    trained = result.evidence.membership[1:]
    ids = np.array([int(row.split(":")[1]) for row in result.evidence.pool_ids])
    for row in trained:
        assert all(len(set(row[ids == i])) == 1 for i in range(120))
    assert auc(result, "rmia").low > 0.5


def test_repeated_records_are_scored_apart_when_that_is_asked_for():
    rows, member = mixed()
    plain, result = (
        audit(make_target(rows, member), OPTIONS.model_copy(update={"score_duplicates": asked}))
        for asked in (False, True)
    )
    assert plain.repeated is None
    for name in ("rmia", "lira"):  # nothing else changes
        assert auc(plain, name) == auc(result, name)
    inside = np.bincount(rows, member)[:120]
    assert 10 <= result.repeated.n_members <= (inside == 2).sum()
    assert 10 <= result.repeated.n_nonmembers <= (inside == 0).sum()
    shown = result.repeated.metrics["rmia"]["auc"]
    assert shown.value > 0.6
    assert result.metrics["privacy/rmia/repeated/auc"] == pytest.approx(shown.value, abs=1e-6)
    assert not any("repeated" in key for key in plain.metrics)


def test_repeated_records_of_a_model_that_saw_none_of_them_show_nothing():
    values = []
    for seed in range(8):
        rows, member = mixed(seed)
        options = OPTIONS.model_copy(update={"score_duplicates": True})
        result = audit(make_target(rows, member, seed=seed, honest=False), options)
        values += [result.repeated.metrics[name]["auc"].value for name in ("rmia", "lira")]
    assert abs(np.mean(values) - 0.5) < 0.06  # about 30 of either side: a standard error is 0.027


def test_the_option_changes_nothing_where_all_records_are_different():
    rows, member = oversampled(1)
    result = audit(make_target(rows, member), OPTIONS.model_copy(update={"score_duplicates": True}))
    assert result.copies is None
    assert result.repeated is None
    assert result.metrics == audit(make_target(rows, member), OPTIONS).metrics


def test_a_part_of_the_scored_records_can_be_audited():
    rows, member = mixed()
    result = audit(make_target(rows, member), OPTIONS.model_copy(update={"data_size": 60}))
    assert len(result.membership) == 60
    assert all(int(row.split(":")[1]) >= 120 for row in result.row_ids)


def test_the_order_of_a_pool_with_copies_changes_nothing():
    rows, member = mixed()
    target = make_target(rows, member)
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = dataclasses.replace(target, pool=target.pool.take(order), membership=member[order])
    first, second = audit(target, OPTIONS), audit(shuffled, OPTIONS)
    assert first.pool_digest == second.pool_digest
    assert first.metrics == second.metrics
