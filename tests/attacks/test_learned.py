"""The learned attack: references as stand-in targets, their whole group left out, the target never looked at."""

import numpy as np
import pytest

from mlflow_privacy.attacks import available, lira, rmia, run_attack
from mlflow_privacy.attacks import learned as module_function
from mlflow_privacy.attacks.bavaria import bavaria
from mlflow_privacy.attacks.learned import FEATURES, _Rest, learned
from mlflow_privacy.attacks.rmia import log_average
from mlflow_privacy.attacks.stand_ins import groups_of
from mlflow_privacy.design import Design
from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import auc
from mlflow_privacy.stats import log_sigmoid, mann_whitney
from mlflow_privacy.types import Signals


def case(seed, *, n=400, m=4, fraction=0.5, leak=1.0):
    """Records of many difficulties and gains under models of the design; (target, reference, member) and the truth."""
    rng = np.random.default_rng(seed)
    member = Design(f"{seed:064x}", n, seed=seed, fraction=fraction).rows(range(m)).T
    spread = np.sqrt(0.5 * 6 / rng.chisquare(6, n))
    mean, gain, truth = rng.normal(0, 3, n), leak * np.abs(rng.normal(size=n)), rng.random(n) < 0.5
    reference = mean[:, None] + gain[:, None] * member + spread[:, None] * rng.normal(size=(n, m))
    return (mean + gain * truth + spread * rng.normal(size=n), reference, member), truth


def strength(scores, truth):
    return mann_whitney(scores.rank()[truth], scores.rank()[~truth])


@pytest.mark.parametrize(("m", "fraction"), [(4, 0.5), (10, 0.8)])
def test_a_planted_leak_is_found_better_than_by_any_single_attack(m, fraction):
    """Mean of three sets of 3,000 records."""
    found = np.zeros(3)
    for seed in range(3):
        (target, reference, member), truth = case(seed, n=3000, m=m, fraction=fraction)
        none = np.zeros((1, m), bool)
        singles = [lira(target, reference, member), bavaria(target, reference, member)]
        singles.append(rmia(target, reference, member, np.zeros(1), np.zeros((1, m)), none))
        own = strength(learned(target, reference, member), truth)
        found += [own, max(strength(s, truth) for s in singles), own > 0.65]
    assert found[0] / 3 > found[1] / 3 + 0.005
    assert found[2] == 3


@pytest.mark.parametrize(("m", "fraction"), [(4, 0.5), pytest.param(10, 0.8, marks=pytest.mark.slow)])
def test_nothing_there_nothing_found(m, fraction):
    """400 targets whose signals do not depend on membership: the interval lies above one half in at most 5 %."""
    above = 0
    for seed in range(400):
        arrays, truth = case(seed, n=120, m=m, fraction=fraction, leak=0.0)
        above += auc(learned(*arrays, learner="logistic").rank(), truth).low > 0.5
    assert above <= 20


@pytest.mark.slow
def test_nothing_there_nothing_found_by_the_better_learner():
    above = 0
    for seed in range(400):
        arrays, truth = case(seed, n=240, m=8, leak=0.0)
        above += auc(learned(*arrays).rank(), truth).low > 0.5
    assert above <= 20


def test_the_group_of_a_stand_in_would_give_its_membership_away():
    """Of models that leak nothing: with its complement among the references a stand-in's membership is plain."""
    (_, reference, member), _ = case(0, n=1000, m=4, leak=0.0)
    spread = FEATURES.index("spread_in")
    found = {}
    for name, group in (("alone", np.array([0])), ("with its complement", np.array([0, 1]))):
        x, y = _Rest(reference, member, group, "logit").stand_ins(np.arange(1000))
        found[name] = abs(mann_whitney(x[y, spread], x[~y, spread]) - 0.5)
    assert found["alone"] > 0.4
    assert found["with its complement"] < 0.05


def test_groups_are_pairs_windows_and_what_is_correlated():
    def at(fraction, m):
        return [g.tolist() for g in groups_of(Design("11" * 32, 401, seed=0, fraction=fraction).rows(range(m)).T)]

    assert at(0.5, 6) == [[0, 1], [2, 3], [4, 5]]
    assert at(0.8, 10) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert at(0.8, 5) == [[0, 1, 2, 3, 4]]
    assert at(0.25, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    coins = np.random.default_rng(0).random((500, 5)) < 0.5
    assert [g.tolist() for g in groups_of(coins)] == [[0], [1], [2], [3], [4]]
    shuffled = np.concatenate([coins, ~coins], axis=1)[:, [0, 6, 2, 5, 1, 7]]  # pairs, but not side by side
    assert sorted(g.tolist() for g in groups_of(shuffled)) == [[0, 3], [1, 4], [2, 5]]


def test_features_are_what_the_other_attacks_make_of_the_same_references():
    (target, reference, member), _ = case(1, n=50, m=6)
    rest, others = _Rest(reference, member, np.array([2, 3]), "logit"), [0, 1, 4, 5]
    x = dict(zip(FEATURES, rest.features(target, slice(None)).T))
    kept, inside = reference[:, others], member[:, others]
    out = np.array([row[~k].mean() for row, k in zip(kept, inside)])
    np.testing.assert_allclose(x["above_out"], target - out)
    np.testing.assert_allclose(x["spread_in"], [row[k].std(ddof=1) for row, k in zip(kept, inside)])
    np.testing.assert_allclose(x["lira"], lira(target, kept, inside, variance="global").value)
    np.testing.assert_allclose(x["bavaria"], bavaria(target, kept, inside).value)
    np.testing.assert_allclose(x["rmia"], log_sigmoid(target) - log_average(kept, inside, online=True))


def test_the_target_is_scored_record_by_record():
    """What the target says of other records, and so their membership, changes nothing."""
    (target, reference, member), _ = case(2, n=200)
    whole = learned(target, reference, member).value
    other = np.concatenate([target[:100], target[100:] + 50])
    np.testing.assert_allclose(learned(other, reference, member).value[:100], whole[:100], rtol=1e-12)
    again = learned(target, reference, member)
    np.testing.assert_array_equal(again.value, whole)
    assert module_function is learned


def test_densities_and_labels_of_bad_options():
    (target, reference, member), truth = case(3, n=400)
    assert strength(learned(-abs(target), -abs(reference), member, link="log"), truth) > 0
    with pytest.raises(DesignError, match=r"learner must be .* got 'forest'"):
        learned(target, reference, member, learner="forest")


def test_one_group_is_not_enough_and_the_reason_is_said_before():
    (target, reference, member), _ = case(4, n=100, m=2)
    with pytest.raises(DesignError, match=r"needs two groups of references.*num_ref_models=4"):
        learned(target, reference, member)
    signals = Signals(target, reference, member, target, reference, member)
    assert "num_ref_models=4" in available("learned", signals)
    with pytest.raises(DesignError, match="num_ref_models=4"):
        run_attack("learned", signals)
    (target, reference, member), _ = case(4, n=100, m=4)
    assert available("learned", Signals(target, reference, member, target, reference, member)) == ""


def test_an_audit_with_one_group_says_so_before_it_trains(monkeypatch):
    from sklearn.linear_model import LogisticRegression

    from mlflow_privacy.auditing.options import AuditOptions
    from mlflow_privacy.auditing.pipeline import audit
    from mlflow_privacy.errors import ConfigError
    from mlflow_privacy.trainers import make_recipe
    from mlflow_privacy.types import AuditedModel, AuditTarget, Records

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 5)), rng.integers(0, 2, 120)
    model = LogisticRegression().fit(x[:60], y[:60])
    pool = Records(x, y, np.arange(120).astype(str))
    named = AuditedModel("memory", None, None, None, None, "sklearn", model)
    target = AuditTarget(
        named, pool, np.arange(120) < 60, "classification", recipe=make_recipe(model, task="classification")
    )
    options = {"attacks": ["learned", "rmia"], "progress": False, "blind_baseline": False, "device": "cpu"}
    with pytest.raises(ConfigError, match="needs two groups"):
        audit(target, AuditOptions(num_ref_models=2, **options))
    result = audit(target, AuditOptions(num_ref_models=4, **options))
    assert [attack.name for attack in result.attacks] == ["learned", "rmia"]


def test_the_choice_of_the_verdict_and_the_attack_compare_learners_once(monkeypatch):
    import importlib

    module = importlib.import_module("mlflow_privacy.attacks.learned")
    compared, made = module._compared, []
    monkeypatch.setattr(module, "_compared", lambda stand_ins: made.append(1) or compared(stand_ins))
    (target, reference, member), _ = case(5, n=100)
    signals = Signals(target, reference, member, target, reference, member)
    module._last.clear()
    before = module.learned_on_references(signals)
    scores = learned(target, reference, member)
    assert len(made) == 1
    module._last.clear()
    np.testing.assert_array_equal(learned(target, reference, member).value, scores.value)
    module.learned_on_references(Signals(target, reference + 1, member, target, reference, member))
    again = module.learned_on_references(signals)
    assert len(made) == 4
    np.testing.assert_array_equal(again[0][1].value, before[0][1].value)
