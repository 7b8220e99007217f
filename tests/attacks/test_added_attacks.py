"""Attacks that others add: by a decorator, and from installed packages."""

import dataclasses
import re
import sys

import numpy as np
import pytest
from packages import as_new, install

from mlflow_privacy.attacks import ATTACKS, attack, available, default_attacks, loadable_attacks, run_attack
from mlflow_privacy.attacks.own import OWN
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.types import Scores, Signals

WORDS = {"title": "Mine", "threat_model": "Black box.", "paper": "Nobody"}
SOURCE = '''
from mlflow_privacy.attacks import attack

@attack("acme", title="Acme's own", threat_model="Black box.", paper="Acme, https://acme.example/paper",
        inputs=("target", "reference", "member"), needs=("reference", "out"))
def acme(target, reference, member, *, scale=1.0):
    """Scores by the distance from the mean of the models that did not see the record."""
    return scale * (target - (reference * ~member).sum(axis=1) / (~member).sum(axis=1))

def unmarked(target):
    return target
'''


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    as_new(monkeypatch, ATTACKS)


@pytest.fixture
def acme(tmp_path, monkeypatch):
    entries = {"acme": "acme_attack:acme", "other_name": "acme_attack:unmarked", "gone": "acme_attack:gone"}
    install(tmp_path, monkeypatch, "acme_attack", SOURCE, attacks=entries)
    yield
    sys.modules.pop("acme_attack", None)


def make_signals(n=60, z=20, m=4):
    rng = np.random.default_rng(0)
    half = rng.random((n, m // 2)) < 0.5
    member = np.stack([half, ~half], axis=2).reshape(n, m)
    population = rng.normal(size=z), rng.normal(size=(z, m)), np.zeros((z, m), bool)
    return Signals(rng.normal(size=n), rng.normal(size=(n, m)), member, *population)


def test_a_decorated_function_is_an_attack_and_stays_a_function():
    @attack("mine", **WORDS)
    def mine(target, *, power=1):
        return target**power

    assert mine(np.array([2.0]), power=3).tolist() == [8.0]
    signals = make_signals()
    scores, used = run_attack("mine", signals, power=3)
    np.testing.assert_array_equal(scores.value, signals.target**3)
    assert used == {"power": 3}
    assert ATTACKS["mine"].title == "Mine"
    assert available("mine", dataclasses.replace(signals, link="label")).startswith("Attack mine needs confidences")


def test_without_a_link_confidences_are_needed_and_with_one_that_link():
    attack("usual", **WORDS)(lambda target: target)
    attack("labels", **WORDS, needs=("link:label",))(lambda target: target)
    attack("both", **WORDS, needs=("link:label", "link:logit"))(lambda target, *, link: target)
    assert ATTACKS["usual"].needs == {"link:logit", "link:log"}
    assert [ATTACKS[name].labels_only for name in ("usual", "labels", "both")] == [False, True, False]
    assert ATTACKS["both"].options == {}


def test_a_tie_break_is_kept():
    attack("tied", **WORDS)(lambda target: Scores(np.zeros_like(target), target))
    signals = make_signals()
    scores, _ = run_attack("tied", signals)
    np.testing.assert_array_equal(scores.tie, signals.target)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda target: target[:3], r"value of its scores has shape \(3,\)"),
        (lambda target: target * np.nan, "60 are not numbers"),
        (lambda target: np.array(["a"] * len(target)), "60 are not numbers"),
        (lambda target: 0.5, r"shape \(\)"),
        (lambda target: Scores(target, target[:, None]), r"tie of its scores has shape \(60, 1\)"),
    ],
)
def test_scores_that_are_none_are_refused_by_the_attacks_name(function, words):
    attack("bad", **WORDS)(function)
    with pytest.raises(DesignError, match=f"Attack bad must give one number for each of the 60 records.*{words}"):
        run_attack("bad", make_signals())


def test_all_faults_of_an_attack_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        attack("b-d", title="", threat_model="Black box.", paper=3, inputs=("targt",), needs=("refrence",))(print)
    for words in (
        "a name is of letters",
        "title must be a text",
        "paper must be a text, got 3",
        "'targt', did you mean 'target'",
        "'refrence', did you mean 'reference'",
    ):
        assert words in str(caught.value)
    assert "b-d" not in ATTACKS


@pytest.mark.parametrize("name", ["rmia", "loss"])
def test_no_attack_of_ours_is_replaced(name):
    with pytest.raises(ConfigError, match="one of our own"):
        attack(name, **WORDS)
    assert ATTACKS[name] is OWN[name]


@pytest.mark.parametrize("name", ["blind", "fidelity", "dp"])
def test_names_of_other_figures_are_refused(name):
    with pytest.raises(ConfigError, match="none of blind, dp, fidelity"):
        attack(name, **WORDS)(lambda target: target)


def test_an_installed_attack_is_known_by_name_before_its_package_is_imported(acme):
    assert "acme" in ATTACKS
    assert list(ATTACKS)[: len(OWN)] == list(OWN)
    assert "acme_attack" not in sys.modules
    scores, used = run_attack("acme", make_signals(), scale=2.0)
    assert used == {"scale": 2.0}
    assert scores.value.shape == (60,)
    assert ATTACKS["acme"].title == "Acme's own"
    assert sys.modules["acme_attack"].acme(np.ones(1), np.zeros((1, 1)), np.zeros((1, 1), bool)).tolist() == [1.0]


def test_default_sets_hold_our_own_attacks_alone(acme):
    for link in ("logit", "log", "label"):
        for references in (True, False):
            assert set(default_attacks(references, link)) <= set(OWN)


def test_an_entry_that_is_no_attack_says_what_is_missing(acme):
    with pytest.raises(ConfigError, match=r"'other_name' is a function, not an Attack. Put @mlflow_privacy.*attack"):
        ATTACKS["other_name"]
    with pytest.raises(ConfigError, match=r"'gone' of acme_attack.*cannot be imported from acme_attack:gone"):
        run_attack("gone", make_signals())


def test_config_files_take_an_installed_attack_with_its_options(acme):
    from mlflow_privacy.experiment.load import _attack_faults

    audit = {"algorithm": "acme", "attacks": ["acme", "rmia"], "attack_options": {"acme": {"scale": 2.0}}}
    assert _attack_faults(audit) == []
    (fault,) = _attack_faults({"attack_options": {"acme": {"scal": 2.0}}})
    assert "did you mean scale" in fault
    (fault,) = _attack_faults({"algorithm": "acm"})
    assert "did you mean acme" in fault
    unknown, broken = _attack_faults({"attacks": ["rmai", "gone"], "attack_options": {"acme": {"scale": 2.0}}})
    assert "did you mean rmia" in unknown
    assert "audit.attacks: 'gone' of acme_attack" in broken


def test_lists_of_attacks_leave_out_those_that_cannot_be_had(acme):
    assert list(loadable_attacks()) == [*OWN, "acme"]


def test_the_command_lists_installed_attacks_and_names_those_that_cannot_be_had(acme):
    from click.testing import CliRunner

    from mlflow_privacy.cli import main

    done = CliRunner().invoke(main, ["attacks"])
    assert done.exit_code == 0, done.output
    assert re.search(r"^acme: Acme's own$", done.output, re.MULTILINE)
    assert "options: scale=1.0" in done.output
    assert re.search(r"^gone: .*cannot be imported", done.output, re.MULTILINE)
    assert done.output.index("rmia:") < done.output.index("acme:")


def test_an_audit_runs_an_installed_attack_and_its_report_shows_it(acme):
    from sklearn.tree import DecisionTreeClassifier

    from mlflow_privacy.auditing.options import AuditOptions
    from mlflow_privacy.auditing.pipeline import audit
    from mlflow_privacy.report.document import ReportOptions
    from mlflow_privacy.report.html import html_report, markdown_report
    from mlflow_privacy.trainers import make_recipe
    from mlflow_privacy.types import AuditedModel, AuditTarget, Records

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = (x[:, 0] + rng.normal(size=200) > 0).astype(int)
    member = np.arange(200) < 100
    model = DecisionTreeClassifier(random_state=0).fit(x[member], y[member])
    target = AuditTarget(
        AuditedModel("models:/tree/1", "tree", "1", None, None, "sklearn", model),
        Records(x, y, np.array([f"r:{i}" for i in range(200)])),
        member,
        "classification",
        recipe=make_recipe(model, task="classification"),
    )
    options = AuditOptions(
        progress=False,
        num_ref_models=2,
        attacks=["acme", "reference"],
        attack_options={"acme": {"scale": 2.0}, "reference": {"method": "difference"}},
        thresholds={"acme/auc": 0.5},
        headline="acme",
    )
    result = audit(target, options)
    assert result.metrics["privacy/acme/auc"] == result.metrics["privacy/reference/auc"]  # the same score, twice as big
    assert result.metrics["privacy/acme/auc"] > 0.5
    for page in (html_report(result, ReportOptions(thresholds=options.thresholds)), markdown_report(result)):
        assert "Acme" in page
        assert "https://acme.example/paper" in page
