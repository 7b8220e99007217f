"""The pipeline as a plain function, without a tracking server."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.auditing.questions import in_canonical_order
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.report.text import headline_attack
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

OPTIONS = AuditOptions(num_ref_models=4, blind_baseline=False, progress=False)


def make_target(*, n=200, features=60, seed=0):
    """A logistic regression with nearly as many weights as records: it leaks."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, features)), rng.integers(2, size=n)
    member = rng.permutation(n) < n // 2
    model = LogisticRegression(C=1e3, max_iter=1000).fit(x[member], y[member])
    pool = Records(x, y, np.array([f"row:{i}" for i in range(n)]))
    recipe = make_recipe(model, task="classification")
    audited = AuditedModel("memory", None, None, None, None, "sklearn", model)
    return AuditTarget(audited, pool, member, "classification", recipe=recipe)


def test_a_planted_leak_is_found_without_a_tracking_server():
    result = audit(make_target(), OPTIONS)
    assert result.headline == result.choice.name
    assert headline_attack(result).metrics["auc"].low > 0.6
    assert result.references["n_trained"] == 4
    assert result.references["run_ids"] == [""] * 4


def test_the_order_of_the_pool_changes_nothing():
    target = make_target()
    order = np.random.default_rng(1).permutation(len(target.pool))
    shuffled = dataclasses.replace(target, pool=target.pool.take(order), membership=target.membership[order])
    first, second = audit(target, OPTIONS), audit(shuffled, OPTIONS)
    assert first.metrics == second.metrics
    assert first.pool_digest == second.pool_digest
    assert first.row_ids.tolist() == second.row_ids.tolist()


def test_membership_travels_with_its_records():
    target = make_target()
    ordered = in_canonical_order(target)
    before = dict(zip(target.pool.row_ids, target.membership))
    assert dict(zip(ordered.pool.row_ids, ordered.membership)) == before


def test_batch_size_and_device_change_nothing():
    slow = dataclasses.replace(make_target())
    small = audit(slow, OPTIONS.model_copy(update={"batch_size": 7, "device": "cpu"}))
    assert small.metrics == audit(slow, OPTIONS).metrics


def test_a_real_population_stands_apart_from_the_pool():
    target = make_target()
    rng = np.random.default_rng(9)
    population = Records(rng.normal(size=(50, 60)), rng.integers(2, size=50), np.array([f"p:{i}" for i in range(50)]))
    result = audit(dataclasses.replace(target, population=population), OPTIONS)
    assert (result.n_population, result.population_is_nonmembers) == (50, False)
    assert not any("stand in" in warning for warning in result.warnings)


def test_a_pool_of_another_distribution_is_named_first():
    target = make_target()
    shifted = target.pool.x + 1.5 * target.membership[:, None]
    moved = dataclasses.replace(target, pool=dataclasses.replace(target.pool, x=shifted))
    result = audit(moved, OPTIONS.model_copy(update={"blind_baseline": True}))
    assert result.warnings[0].startswith("Members and non-members differ without the model")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reference_fraction": 0.5, "num_ref_models": 1}, DesignError, "num_ref_models=1"),
        ({"reference_fraction": 0.9, "num_ref_models": 4}, DesignError, "use 10 or more"),
        ({"attacks": ["gap"]}, ConfigError, "gap"),
        ({"attacks": []}, ConfigError, "nothing to run"),
        ({"attacks": ["rmai"], "headline": "loss"}, ConfigError, "(?s)rmia.*headline='loss'"),
        ({"thresholds": {"rmia/acu": 0.6}}, ConfigError, "rmia/acu.*rmia/auc"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_trained(changes, error, message, monkeypatch):
    monkeypatch.setattr("mlflow_privacy.auditing.references.ensure", lambda *args, **kwargs: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        audit(make_target(), OPTIONS.model_copy(update=changes))


def test_a_part_of_the_pool_is_audited_while_all_of_it_trains():
    target = make_target()
    options = OPTIONS.model_copy(update={"attacks": ["rmia", "reference"]})
    whole, part = audit(target, options), audit(target, options.model_copy(update={"data_size": 120}))
    assert (len(part.membership), part.references["n_pool"]) == (120, 200)
    assert part.references["fingerprint"] == whole.references["fingerprint"]
    # The same references asked about fewer records: Attack-R's score of a record depends on nothing else.
    place = {row: i for i, row in enumerate(whole.row_ids)}
    rows = [place[row] for row in part.row_ids]
    assert whole.membership[rows].tolist() == part.membership.tolist()
    np.testing.assert_array_equal(whole.attacks[1].scores.value[rows], part.attacks[1].scores.value)
    assert part.attacks[0].metrics["auc"].low > 0.5


def test_models_of_one_pool_are_audited_on_the_same_records():
    target = make_target()
    options = OPTIONS.model_copy(update={"data_size": 50})
    other = dataclasses.replace(target, membership=~target.membership)
    first, second = audit(target, options), audit(other, options)
    assert first.row_ids.tolist() == second.row_ids.tolist()
    assert (first.membership ^ second.membership).all()


def test_asking_about_more_records_than_there_are_is_refused():
    with pytest.raises(DesignError, match="data_size=500 records are to be audited, but the pool has 200"):
        audit(make_target(), OPTIONS.model_copy(update={"data_size": 500}))


def test_queries_have_no_effect_on_tables():
    target = make_target()
    assert audit(target, OPTIONS).metrics == audit(target, OPTIONS.model_copy(update={"num_queries": 9})).metrics


def test_of_a_large_pool_a_part_is_audited_unless_the_caller_says_all(monkeypatch, caplog):
    from mlflow_privacy.auditing import findings, options, questions

    for module in (findings, options):
        monkeypatch.setattr(module, "MOST_AUDITED", 120)
    target = make_target()
    with caplog.at_level("INFO", logger="mlflow_privacy"):
        result = audit(target, OPTIONS)
    said = [warning for warning in result.warnings if "were audited, drawn at random" in warning]
    assert len(result.y) == 120 < len(target.pool)
    assert len(said) == 1
    assert f"120 of the pool's {len(target.pool)} records" in said[0]
    assert "120 of the 200 records that can be audited are" in caplog.text
    for size, expected in (("all", 200), (None, 200), (150, 150)):
        other = audit(target, OPTIONS.model_copy(update={"data_size": size}))
        assert len(other.y) == expected
        assert not [warning for warning in other.warnings if "were audited, drawn" in warning]
    assert questions.AuditOptions().records_audited(120) is None


def test_data_size_takes_a_number_or_a_word():
    from mlflow_privacy.auditing.options import parse_options

    assert parse_options({}).data_size == "auto"
    assert parse_options({"data_size": "all"}).records_audited(10**6) is None
    assert parse_options({"data_size": 99}).records_audited(10**6) == 99
    with pytest.raises(ConfigError, match="data_size"):
        parse_options({"data_size": "most"})
