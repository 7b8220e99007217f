"""The attacks by name: what they need, which options they have, what they say when they cannot run."""

import dataclasses
import logging

import numpy as np
import pytest

from mlflow_privacy.attacks import ATTACKS, available, default_attacks, run_attack
from mlflow_privacy.attacks.own import OWN
from mlflow_privacy.attacks.rmia import DEFAULT_A, rmia_offline, tune_a
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.types import Signals


def make_signals(n=80, z=30, m=8, link="logit", seed=0):
    rng = np.random.default_rng(seed)
    half = rng.random((n, m // 2)) < 0.5
    member = np.stack([half, ~half], axis=2).reshape(n, m)
    signal = rng.random(n) < 0.8 if link == "label" else rng.normal(2, 2, n)
    return Signals(
        signal.astype(np.float32),
        (rng.normal(2, 2, (n, m)) + member).astype(np.float32),
        member,
        rng.normal(2, 2, z).astype(np.float32),
        rng.normal(2, 2, (z, m)).astype(np.float32),
        np.zeros((z, m), bool),
        link,
    )


ON_PHI = sorted(name for name, attack in OWN.items() if name != "gap" and not attack.extras)


@pytest.mark.parametrize("name", ON_PHI)
@pytest.mark.parametrize("link", ["logit", "log"])
def test_every_attack_runs_and_reports_all_options_in_use(name, link):
    signals = make_signals(link=link)
    assert available(name, signals) == ""
    scores, used = run_attack(name, signals)
    assert scores.value.shape == (80,)
    assert isinstance(scores.value, np.ndarray)
    assert set(used) >= set(ATTACKS[name].options)
    np.testing.assert_array_equal(ATTACKS[name](signals).value, scores.value)


def test_every_attack_states_paper_and_threat_model():
    for name, attack in OWN.items():
        assert attack.name == name
        assert "https://arxiv.org/abs/" in attack.paper
        assert attack.threat_model.endswith(".")
        assert attack.paper.split("https://")[1] in (attack.function.__doc__ or "")
        assert "Threat model" in attack.function.__doc__
        assert attack.labels_only == (attack.needs == {"link:label"})


def test_offline_a_is_tuned_on_references_and_said_so():
    signals = make_signals()
    scores, used = run_attack("rmia_offline", signals)
    assert used["a_tuned"] is True
    assert used["a"] == tune_a(signals.reference, signals.member)
    arrays = [getattr(signals, field) for field in ATTACKS["rmia_offline"].inputs]
    np.testing.assert_array_equal(scores.value, rmia_offline(*arrays, a=used["a"]).value)


def test_tuning_never_looks_at_the_target():
    signals = make_signals()
    other = dataclasses.replace(signals, target=-signals.target)
    assert run_attack("rmia_offline", signals)[1] == run_attack("rmia_offline", other)[1]


def test_given_a_is_kept_and_too_few_references_fall_back(caplog):
    assert run_attack("rmia_offline", make_signals(), a=0.7)[1] == {
        "a": 0.7,
        "gamma": 1.0,
        "strict": False,
        "a_tuned": False,
    }
    with caplog.at_level(logging.INFO, logger="mlflow_privacy.attacks.own"):
        pair = make_signals(m=2)
        pool = {"population_reference": pair.reference, "population_member": pair.member, "population": pair.target}
        used = run_attack("rmia_offline", dataclasses.replace(pair, **pool))[1]  # non-members stand in for a population
    assert used["a"] == DEFAULT_A
    assert used["a_tuned"] is False
    assert "2 reference models are too few" in caplog.text


def test_one_pair_of_references_is_tuned_where_there_is_a_population():
    pair = make_signals(m=2)
    used = run_attack("rmia_offline", pair)[1]
    assert used["a_tuned"] is True
    assert used["a"] == tune_a(pair.reference, pair.member, pair.population_reference)


def test_defaults_exist_and_can_run():
    signals = make_signals()
    for name in default_attacks(True, "logit"):
        assert available(name, signals) == ""
    bare = dataclasses.replace(
        signals, reference=np.zeros((80, 0)), member=np.zeros((80, 0), bool), population_reference=np.zeros((30, 0))
    )
    for name in default_attacks(False, "logit"):
        assert available(name, bare) == ""
        assert run_attack(name, bare)[0].value.shape == (80,)
    assert available("gap", make_signals(link="label")) == ""


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("rmia", {"link": "label"}, 'needs confidences (link log or logit), this model gives "label"'),
        ("gap", {}, "works on predicted labels only"),
        ("lira", {"member": np.ones((80, 8), bool)}, "80 of 80 records have no OUT reference"),
        ("population", {"population": np.zeros(0)}, "needs population records"),
        ("rmia", {"population": np.zeros(0)}, "needs population records"),
        ("reference", {"member": np.zeros((80, 0), bool)}, "There are no reference models"),
    ],
)
def test_what_is_missing_is_said_before_and_during_the_run(name, changes, reason):
    signals = dataclasses.replace(make_signals(), **changes)
    assert reason in available(name, signals)
    with pytest.raises(DesignError) as caught:
        run_attack(name, signals)
    assert reason in str(caught.value)
    assert f"Attack {name} cannot run" in str(caught.value)


def test_unknown_names_and_options_come_with_the_nearest():
    with pytest.raises(ConfigError, match="no attack 'rmai', did you mean 'rmia'"):
        run_attack("rmai", make_signals())
    with pytest.raises(ConfigError) as caught:
        run_attack("rmia", make_signals(), gama=2.0, stric=True)
    assert "did you mean 'gamma'" in str(caught.value)
    assert "did you mean 'strict'" in str(caught.value)


def test_torch_signals_come_back_as_numpy_scores():
    torch = pytest.importorskip("torch")
    signals = make_signals()
    fields = {f.name: getattr(signals, f.name) for f in dataclasses.fields(signals) if f.name not in ("link", "extra")}
    tensors = Signals(**{k: torch.from_numpy(v) for k, v in fields.items()})
    for name in ON_PHI:
        got, wanted = run_attack(name, tensors)[0], run_attack(name, signals)[0]
        assert isinstance(got.value, np.ndarray)
        np.testing.assert_allclose(got.value, wanted.value, rtol=1e-9, atol=1e-12)
