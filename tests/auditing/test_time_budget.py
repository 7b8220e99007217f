"""A time budget trains whole groups of references, as many as fit; the rest is trained later; no test waits."""

import dataclasses
import functools
import threading

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing import pipeline, references, training
from mlflow_privacy.auditing.bar import Pace
from mlflow_privacy.auditing.options import AuditOptions, parse_options
from mlflow_privacy.auditing.price import Price, left_out
from mlflow_privacy.design import Design
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.executor import Trained
from mlflow_privacy.executor.plan import Work
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.store.keys import StoredReference
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

SECONDS = 10.0  # that one reference takes, by the clock of these tests


class Clock:
    """Stands still until a model is trained."""

    def __init__(self):
        self.now, self.trained, self._lock = 0.0, 0, threading.Lock()

    def __call__(self):
        return self.now

    def fit(self, x, y, seed):
        with self._lock:
            self.now, self.trained = self.now + SECONDS, self.trained + 1
        return LogisticRegression(C=1e3, max_iter=1000).fit(x, y)


class Kept(references.NoStore):
    """A store in memory that finds again what it kept, with the seconds that it took."""

    def __init__(self, seconds=SECONDS):
        self.seconds, self.outputs, self.references = seconds, {}, {}

    def save(self, key, members, *, outputs, **kwargs):
        reference = StoredReference(key, f"run-{key.index}", self.seconds)
        self.references[key.index], self.outputs[key.index] = reference, outputs
        return reference

    def find(self, fingerprint):
        return {i: one for i, one in self.references.items() if one.key.fingerprint == fingerprint}

    def read(self, reference, data_digest):
        return self.outputs[reference.key.index][data_digest]


def pool(n=60, seed=0):
    rng = np.random.default_rng(seed)
    return Records(rng.normal(size=(n, 20)), np.arange(n) % 2, np.array([f"row:{i}" for i in range(n)]))


def ensure(clock, budget, *, store=None, count=8, fraction=0.5, recipe=None, **options):
    records = pool()
    outputs = functools.partial(model_outputs, records=records, task="classification")
    return references.ensure(
        records,
        recipe or make_recipe(None, train_fn=clock.fit, task="classification"),
        Design(data_digest(records), len(records), 3, fraction),
        count,
        data_digests=["pool"],
        outputs=lambda model: (outputs(model),),
        store=store or references.NoStore(),
        progress=False,
        verify=False,
        time_budget=budget,
        clock=clock,
        **options,
    )


@pytest.mark.parametrize(
    ("budget", "least", "expected"),
    [(None, 1, 8), (80.0, 1, 8), (79.0, 1, 6), (59.0, 1, 4), (39.0, 1, 2), (1.0, 1, 2), (1.0, 2, 4), (1.0, 9, 8)],
)
def test_so_many_whole_groups_as_fit_and_at_least_so_many_are_trained(budget, least, expected):
    clock = Clock()
    found = ensure(clock, budget, least=least)
    assert (len(found.run_ids), found.n_trained, clock.trained, found.n_wanted) == (expected, expected, expected, 8)
    assert len(found.notes) == (expected < 8)


def test_windows_of_another_share_are_trained_as_whole_groups_too():
    for budget, expected in ((120.0, 10), (60.0, 5), (99.0, 5)):
        found = ensure(Clock(), budget, count=10, fraction=0.8)
        assert len(found.run_ids) == expected
        assert (found.member.any(axis=1) & ~found.member.all(axis=1)).all()


def test_a_call_with_more_time_trains_the_missing_ones_alone_and_ends_where_one_without_a_budget_does():
    store, straight = Kept(), ensure(Clock(), None)
    first, second = Clock(), Clock()
    assert ensure(first, 45.0, store=store).n_trained == 4
    whole = ensure(second, 1000.0, store=store)
    assert (whole.n_loaded, whole.n_trained, second.trained, whole.notes) == (4, 4, 4, ())
    assert whole.fingerprint == straight.fingerprint  # a budget is in no key
    np.testing.assert_array_equal(whole.member, straight.member)
    for one, other in zip(whole.pool, straight.pool, strict=True):
        np.testing.assert_array_equal(one.signal, other.signal)


def test_what_is_found_counts_so_that_a_short_budget_adds_nothing_and_a_fitting_one_goes_on():
    store = Kept()
    ensure(Clock(), None, store=store, count=2)
    idle, busy = Clock(), Clock()
    assert len(ensure(idle, 15.0, store=store).run_ids) == 2  # by their seconds another pair does not fit
    assert idle.trained == 0
    assert len(ensure(busy, 25.0, store=store).run_ids) == 4
    assert busy.trained == 2


def test_half_a_group_that_was_stored_before_is_completed_or_left_out():
    store = Kept()
    ensure(Clock(), None, store=store, count=4)
    del store.references[3]
    short, longer = Clock(), Clock()
    assert len(ensure(short, 5.0, store=store).run_ids) == 2
    assert short.trained == 0
    assert len(ensure(longer, 15.0, store=store).run_ids) == 4  # the other half of the second pair
    assert longer.trained == 1


CLOCK = Clock()


class Slow(ClassifierMixin, BaseEstimator):
    """An estimator that takes its time by `CLOCK`."""

    def fit(self, x, y):
        self.model_ = CLOCK.fit(x, y, 0)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, x):
        return self.model_.predict_proba(x)

    def predict(self, x):
        return self.model_.predict(x)


@pytest.mark.parametrize(("budget", "expected"), [(1.0, 2), (45.0, 4), (200.0, 8)])
def test_workers_get_whole_groups_too(budget, expected):
    CLOCK.now = 0.0
    recipe = make_recipe(Slow(), task="classification")
    found = ensure(CLOCK, budget, recipe=recipe, executor="threading", n_workers=2)
    assert len(found.run_ids) == expected
    np.testing.assert_array_equal(found.member, ensure(CLOCK, None, recipe=recipe, count=expected).member)


def test_stacks_grow_to_what_fits_by_the_last_one(monkeypatch):
    """A stack of n takes 10 + n seconds: a pair 12, then as many as fit at 6 a model, which take less, and so on."""
    clock, sizes = Clock(), []

    def train_missing(job, plan, **kwargs):
        sizes.append(len(job.keys))
        clock.now += 10 + len(job.keys)
        for position in range(len(job.keys)):
            outputs = model_outputs(LogisticRegression().fit(job.pool.x, job.pool.y), pool(), task="classification")
            yield Trained(position, (outputs,), f"run-{job.keys[position].index}", 0.0, 1.0)

    monkeypatch.setattr(training, "train_missing", train_missing)
    monkeypatch.setattr(training, "describe_work", lambda recipe, pool, n, device: Work("torch", n, together=n))
    found = ensure(clock, 90.0, count=40)
    assert sizes == [2, 12, 26]  # 12 s, then 78 / 6 = 13 → 12; 22 s; then 56 / (22 / 12) = 30 → all that are left
    assert len(found.run_ids) == 40
    sizes.clear()
    clock.now = 0.0
    assert len(ensure(clock, 31.0, count=40).run_ids) == 4
    assert sizes == [2, 2]
    assert clock.now <= 31


def make_target(n=240, seed=0, train_fn=None):
    rng = np.random.default_rng(seed)
    records = Records(rng.normal(size=(n, 60)), rng.integers(2, size=n), np.array([f"row:{i}" for i in range(n)]))
    member = rng.permutation(n) < n // 2
    model = LogisticRegression(C=1e3, max_iter=1000).fit(records.x[member], records.y[member])
    recipe = make_recipe(None, train_fn=train_fn, task="classification")
    return AuditTarget(
        AuditedModel("memory", None, None, None, None, "sklearn", model),
        records,
        member,
        "classification",
        recipe=recipe,
    )


@pytest.fixture
def audit(monkeypatch):
    """An audit by the clock of these tests."""
    clock = Clock()
    monkeypatch.setattr(references, "ensure", functools.partial(references.ensure, clock=clock))

    def run(**options):
        clock.now, clock.trained = 0.0, 0
        target = make_target(train_fn=clock.fit)
        given = {"num_ref_models": 8, "blind_baseline": False, "progress": False, "verify_references": False, **options}
        return pipeline.audit(target, AuditOptions(**given)), clock

    return run


def test_an_audit_with_a_budget_is_the_one_with_so_many_references(audit):
    short, clock = audit(time_budget=25.0)
    assert clock.trained == short.references["n"] == 2
    assert short.references["n_wanted"] == 8
    few, _ = audit(num_ref_models=2)
    assert short.metrics == few.metrics
    assert (short.headline, [one.name for one in short.attacks]) == (few.headline, [one.name for one in few.attacks])
    dropped = [line for line in short.warnings if "Attack learned is left out" in line]
    assert len(dropped) == 1
    said = [line for line in short.warnings if "was enough for 2 of the 8 reference models" in line]
    assert len(said) == 1
    assert not any("Only 2 reference models" in line for line in short.warnings)  # its remedy would be another one
    whole, _ = audit(time_budget=1000.0)
    straight, _ = audit()
    assert whole.metrics == straight.metrics
    assert not any("time budget" in line for line in whole.warnings)


@pytest.mark.parametrize(
    "named",
    [{"attacks": ["learned"]}, {"headline": "learned"}, {"thresholds": {"learned/auc": 0.6}}],
)
def test_an_attack_that_was_named_gets_the_groups_that_it_needs(audit, named):
    result, clock = audit(time_budget=1.0, **named)
    assert clock.trained == 4
    assert "learned" in [one.name for one in result.attacks]


def test_an_attack_that_was_named_is_refused_before_training_only_where_the_references_asked_for_are_too_few(audit):
    with pytest.raises(ConfigError, match="learned"):
        audit(attacks=["learned"], num_ref_models=2, time_budget=1000.0)


@pytest.mark.parametrize(
    ("given", "seconds"), [(600, 600.0), ("10 min", 600.0), ("2 h", 7200.0), ("90 s", 90.0), ("90", 90.0), (None, None)]
)
def test_a_budget_is_seconds_or_a_text(given, seconds):
    assert parse_options({"time_budget": given}).time_budget == seconds


@pytest.mark.parametrize("given", [0, -5, "10 parsecs", "soon", "", True, float("nan"), float("inf"), "1.2.3 s", [60]])
def test_a_wrong_budget_is_one_clear_error(given):
    with pytest.raises(ConfigError) as caught:
        parse_options({"time_budget": given})
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "time_budget: must be more than 0 seconds" in lines[1]
    assert '"10 min"' in lines[1]
    assert repr(given) in lines[1]


def test_one_line_says_what_is_missing_before_anything_is_trained_and_the_time_after_the_first(caplog):
    clock = Clock()
    caplog.clear()
    with caplog.at_level("INFO", logger="mlflow_privacy"):
        ensure(clock, None, size=70_000)
    told = [line for line in caplog.messages if line.startswith(("8 reference models", "Reference models:"))]
    assert told[0].startswith("8 reference models: 0 found in the store, 8 to train.")
    assert "about 560 kB on the store" in told[0]
    assert told[1] == "Reference models: 12 % done in 10 s, about 70 s left."
    assert len(told) == 2  # it was right, so that nothing is to be corrected
    order = [i for i, line in enumerate(caplog.messages) if line == told[0] or line.startswith("Training 8 reference")]
    assert caplog.messages[order[0]] == told[0]


def test_the_log_says_when_the_budget_ends_before_the_references_do(caplog):
    with caplog.at_level("INFO", logger="mlflow_privacy"):
        ensure(Clock(), 45.0)
    assert "Reference models: 12 % done in 10 s, about 70 s left; the time budget ends in 35 s." in caplog.messages
    assert "The time budget ends here, with 4 of 8 reference models." in caplog.messages


def test_those_found_tell_the_time_before_any_other_is_trained(caplog):
    store = Kept(seconds=30.0)
    ensure(Clock(), None, store=store, count=4)
    caplog.clear()
    with caplog.at_level("INFO", logger="mlflow_privacy"):
        ensure(Clock(), None, store=store)
    told = [line for line in caplog.messages if line.startswith(("8 reference models", "Reference models:"))]
    assert told[0] == "8 reference models: 4 found in the store, 4 to train. About 2 min, by those found."
    assert told[1:] == ["Reference models: 25 % done in 10 s, about 30 s left."]  # they take 10 s here: corrected


def test_the_outlook_is_told_once_and_again_only_where_it_was_wrong():
    now, lines = [0.0], []
    pace = Pace(10, clock=lambda: now[0])
    outlook = training.Outlook(10, pace, tell=lines.append)
    for second, done in [(5, 0.5), (10, 1), (20, 2), (31, 3), (90, 4), (95, 4.1), (150, 5), (300, 10)]:
        now[0] = float(second)
        pace.move(done)
        outlook.look()
    assert [line.partition(",")[0] for line in lines] == [
        "Reference models: 10 % done in 10 s",  # from the first one on
        "Reference models: 40 % done in 1.5 min",  # much slower than it had been
        "Reference models: 50 % done in 2.5 min",
    ]


def test_the_time_left_is_known_from_the_start_where_something_was_expected_and_ends_with_the_budget():
    now = [0.0]
    pace = Pace(8, clock=lambda: now[0], expected=80.0, most=lambda: 50.0 - now[0])
    seen = []
    for second in range(0, 30, 5):
        now[0] = float(second)
        seen.append(pace.left)
    assert seen == [50.0, 45.0, 40.0, 35.0, 30.0, 25.0]
    assert Pace(8, clock=lambda: now[0], expected=80.0).left == 80.0


def test_the_figures_of_what_more_references_are_worth_are_those_of_the_page(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "attacks.md").read_text()
    assert "| model | attack | 2 | 4 | 8 | 16 |" in page
    line = next(line for line in page.splitlines() if line.startswith("| MLP that memorises | **auto** |"))
    rates = [float(cell.split("/")[1]) for cell in line.split("|")[3:7]]  # TPR at 1 % FPR
    text = left_out(4, 8, 600)
    for count, rate in zip((2, 4, 8, 16), rates, strict=True):
        what = "references recognised" if count == 2 else "of them"
        assert f"{count} {what} {100 * rate:.0f} %" in text
    assert "4 of the 8 reference models" in text
    assert "other 4" in text


def test_nothing_is_said_of_training_where_nothing_is_missing():
    assert str(Price(8, 0)) == "8 reference models: found in the store, none to train."


def test_every_field_of_the_price_is_told():
    price = Price(2, 6, 90.0, "those found", 3_000_000)
    for part in ("8 reference models", "2 found", "6 to train", "1.5 min", "3 MB"):
        assert part in str(price)
    assert dataclasses.replace(price, size=None) != price
