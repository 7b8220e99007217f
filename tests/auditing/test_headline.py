"""headline="auto": the attack that is strongest on the references, whatever the target says."""

import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from mlflow_privacy.auditing.headline import _on_references, headline_of, worse_of
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.auditing.scores import measured
from mlflow_privacy.design import Design
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.metrics import auc
from mlflow_privacy.report.sections.checks import checks
from mlflow_privacy.report.text import verdict
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Estimate, Records, Signals, to_json

ALL = ("rmia", "lira", "bavaria", "learned", "rmia_offline", "population")
AUTO = AuditOptions(headline="auto", attacks=list(ALL))


def signals_of(seed, *, n=600, m=8, leak=1.0, fraction=0.5):
    rng = np.random.default_rng(seed)
    member = Design(f"{seed:064x}", n, seed=seed, fraction=fraction).rows(range(m)).T
    truth = rng.random(n) < 0.5
    spread, mean = np.sqrt(3 / rng.chisquare(6, n)), rng.normal(0, 3, n)
    gain = leak * np.abs(rng.normal(size=n))
    reference = mean[:, None] + gain[:, None] * member + spread[:, None] * rng.normal(size=(n, m))
    target = mean + gain * truth + spread * rng.normal(size=n)
    out = ~truth
    return Signals(target, reference, member, target[out], reference[out], member[out]), truth


def test_the_strongest_on_the_references_is_taken_and_all_are_shown():
    signals, _ = signals_of(0, n=3000)
    name, choice = headline_of(ALL, signals, AUTO)
    assert (name, choice.name, choice.metric) == ("learned", "learned", "tpr_at_fpr_0.01")
    assert {row.name for row in choice.table} == set(ALL)
    assert [row.mean for row in choice.table] == sorted((row.mean for row in choice.table), reverse=True)
    assert all(row.n == 8 for row in choice.table)  # four groups of two


def test_the_target_changes_nothing():
    signals, _ = signals_of(1)
    other = Signals(
        -signals.target, signals.reference, signals.member, -signals.population, *(
            signals.population_reference, signals.population_member
        )
    )  # fmt: skip
    assert headline_of(ALL, signals, AUTO) == headline_of(ALL, other, AUTO)


def test_attacks_that_the_references_do_not_tell_apart_give_way_to_the_simplest():
    """Of models that leak nothing all find chance alone; LiRA and BaVarIA differ by less than an error."""
    signals, _ = signals_of(2, leak=0.0)
    simpler = ["rmia_offline", "bavaria", "learned"]
    name, _ = headline_of(tuple(simpler[::-1]), signals, AUTO)
    near = simpler
    found = _on_references(simpler, signals, AUTO)
    for k in (1, 0):  # the TPR, then the AUC of those that are left
        columns = {name: np.array([found[name][j][k] for j in sorted(found[name])]) for name in near}
        best = max(columns.values(), key=np.mean)
        behind = {name: best - column for name, column in columns.items()}
        near = [n for n, gap in behind.items() if gap.mean() <= gap.std(ddof=1) / np.sqrt(len(gap))]
    assert name == min(near, key=simpler.index)


def by_column(**figures):
    return lambda *_: {name: dict(enumerate(zip(*columns))) for name, columns in figures.items()}


def test_an_attack_that_is_ahead_on_every_reference_is_no_tie_however_much_references_differ(monkeypatch):
    auc, tpr = 0.9 + np.linspace(0, 0.05, 8), 0.3 + np.linspace(0, 0.2, 8)
    found = by_column(rmia=(auc, tpr), learned=(auc + 0.002, tpr + 0.01))
    monkeypatch.setattr("mlflow_privacy.auditing.headline._on_references", found)
    assert headline_of(("rmia", "learned"), signals_of(2)[0], AUTO)[0] == "learned"


def test_attacks_that_the_tpr_does_not_tell_apart_are_told_apart_by_the_auc(monkeypatch):
    """The TPR at 1 % is a few records; alone it would take the simplest of attacks of which one is plainly stronger."""
    one, two = np.array([[-0.1, 0.1, 0.1, -0.1], [-0.1, -0.1, 0.1, 0.1]])
    found = by_column(
        rmia=(0.80 + 0.02 * one, 0.30 + one),
        lira=(0.90 - 0.02 * one, 0.31 - one),
        bavaria=(0.901 + 0.02 * two, 0.32 + two),
        learned=(0.95 + 0.02 * one, 0.10 + one),
    )
    monkeypatch.setattr("mlflow_privacy.auditing.headline._on_references", found)
    signals, _ = signals_of(2)
    name, choice = headline_of(("rmia", "lira", "bavaria", "learned"), signals, AUTO)
    assert name == "lira"  # learned is surely worse by the TPR, RMIA by the AUC, BaVarIA as good and less simple
    assert [row.name for row in choice.table] == ["bavaria", "lira", "rmia", "learned"]
    assert choice.metric == "tpr_at_fpr_0.01"


def test_small_pools_are_compared_by_their_auc_and_windows_whole():
    signals, _ = signals_of(3, n=150, m=10, fraction=0.8)
    name, choice = headline_of(ALL, signals, AUTO)
    assert choice.metric == "auc"
    assert name in ALL
    assert {row.n for row in choice.table} == {10}  # two windows of five


def first_references(signals, m):
    return Signals(
        signals.target, signals.reference[:, :m], signals.member[:, :m], signals.population,
        signals.population_reference[:, :m], signals.population_member[:, :m],
    )  # fmt: skip


def test_without_references_or_by_name_nothing_is_compared():
    signals, _ = signals_of(4, m=8)
    assert headline_of(("rmia", "lira"), first_references(signals, 0), AUTO) == ("rmia", None)
    assert headline_of(("rmia", "lira"), signals, AuditOptions(headline=None)) == ("rmia", None)
    assert headline_of(("rmia", "lira"), signals, AuditOptions(headline="lira")) == ("lira", None)


@pytest.mark.parametrize("better", ["rmia", "lira"])
def test_with_one_group_the_worse_of_rmia_and_lira_counts_at_intervals_that_hold_together(better):
    """What RMIA and LiRA find is exchanged by exchanging their scores: whichever is worse counts, the widths stay."""
    signals, truth = signals_of(5, n=1500, m=2)
    names = ("bavaria", "rmia", "lira")
    attacks, named, choice = measured(names, signals, truth, {}, AuditOptions(attacks=list(names)))
    assert named == "rmia"
    assert choice.pair == ("rmia", "lira")
    assert choice.table == ()
    found = {attack.name: attack for attack in attacks}
    assert choice.name == max(choice.pair, key=lambda name: found[name].metrics["tpr_at_fpr_0.01"].value)
    assert {name: attack.metrics["auc"].confidence for name, attack in found.items()} == {
        "bavaria": 0.95, "rmia": pytest.approx(0.975), "lira": pytest.approx(0.975),
    }  # fmt: skip
    assert found["lira"].joint["tpr_at_fpr_0.01"].confidence == pytest.approx(0.9875)
    weak, strong = Estimate(0.1, 0.0, 0.2, 9), Estimate(0.3, 0.2, 0.4, 9)
    by_hand = [
        dataclasses.replace(found[name], metrics={choice.metric: strong if name == better else weak})
        for name in choice.pair
    ]
    assert worse_of(choice, by_hand).name == better


def test_where_one_of_the_pair_does_not_run_the_first_attack_stays():
    signals = first_references(signals_of(4)[0], 2)
    assert headline_of(("bavaria", "lira"), signals, AUTO) == ("bavaria", None)


def test_the_worse_of_a_pair_finds_nothing_where_nothing_is():
    """400 targets that leak nothing: at corrected intervals the worse of the two lies off one half in at most 5 %."""
    off = 0
    for seed in range(400):
        signals, truth = signals_of(seed, n=160, m=2, leak=0.0)
        attacks, _, choice = measured(("rmia", "lira"), signals, truth, {}, AuditOptions())
        auc_of_worse = next(attack for attack in attacks if attack.name == choice.name).metrics["auc"]
        off += not auc_of_worse.low <= 0.5 <= auc_of_worse.high
    assert off <= 26  # 5 % and 1.5 standard deviations


def test_the_chosen_attack_finds_nothing_where_nothing_is():
    """400 targets that leak nothing: the chosen attack's interval lies above one half in at most 5 %."""
    names, above = ("rmia", "lira", "bavaria", "rmia_offline"), 0
    from mlflow_privacy.attacks import run_attack

    for seed in range(400):
        signals, truth = signals_of(seed, n=160, m=4, leak=0.0)
        name, _ = headline_of(names, signals, AUTO)
        above += auc(run_attack(name, signals)[0].rank(), truth).low > 0.5
    assert above <= 20


def test_an_audit_says_how_it_chose():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 6))
    y = (x[:, 0] + rng.normal(size=600) > 0).astype(int)
    model = RandomForestClassifier(10, random_state=0).fit(x[:300], y[:300])
    pool = Records(x, y, np.arange(600).astype(str))
    named = AuditedModel("memory", None, None, None, None, "sklearn", model)
    target = AuditTarget(
        named, pool, np.arange(600) < 300, "classification", recipe=make_recipe(model, task="classification")
    )
    options = {"num_ref_models": 4, "progress": False, "blind_baseline": False, "device": "cpu", "n_workers": 1}
    result = audit(target, AuditOptions(headline="auto", attacks=["rmia", "lira", "population"], **options))
    assert result.headline == result.choice.name
    row = next(check for check in checks(result) if check.name == "Choice of the attack")
    assert "before the target was scored, by the TPR at 1 % FPR" in row.figure
    assert to_json(result)["choice"]["table"][0]["n"] == 4
    assert audit(target, AuditOptions(attacks=["rmia", "lira"], headline="lira", **options)).choice is None
    assert [attack.name for attack in audit(target, AuditOptions(**options)).attacks] == list(ALL[:5])
    one_group = audit(target, AuditOptions(**{**options, "num_ref_models": 2}))
    assert "learned" not in [attack.name for attack in one_group.attacks]
    assert one_group.choice.pair == ("rmia", "lira")
    assert "(95 % confidence)" in verdict(one_group)
    row = next(check for check in checks(one_group) if check.name == "Choice of the attack")
    assert row.figure.startswith("the worse of RMIA and LiRA counts: ")
    assert to_json(one_group)["choice"]["pair"] == ["rmia", "lira"]
    shown = one_group.metrics
    assert shown["privacy/headline/auc_low"] == shown[f"privacy/{one_group.headline}/auc_low"]
    with pytest.raises(ConfigError, match="headline='learnt' is not among the attacks"):
        audit(target, AuditOptions(headline="learnt", **options))
