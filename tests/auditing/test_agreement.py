"""A stored reference that is trained again agrees with itself, and with nothing else."""

import dataclasses
import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlflow_privacy.auditing.agreement import ROUNDING, disagreement, distance, is_due
from mlflow_privacy.auditing.references import NoStore, ensure
from mlflow_privacy.design import Design
from mlflow_privacy.fingerprint import data_digest
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.store.keys import StoredReference
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import Records

N = 400


def references(rng, count=8, shift=0.0, noise=0.5):
    """Signals of `count` references: the records' own part, a part for members, and what the seed does."""
    hard = np.random.default_rng(0).normal(0, 2, N)
    rows = {i: np.random.default_rng(100 + i).random(N) < 0.5 for i in range(count)}
    return {i: (hard + (1 + shift) * rows[i] + rng.normal(0, noise, N)).astype(np.float32) for i in rows}, rows


def check(stored, rows, retrain, seed=0):
    asked = []

    def counted(index, reseed):
        asked.append((index, reseed))
        return retrain(index, reseed)

    return disagreement(stored, rows, counted, fingerprint="f", seed=seed), asked


def test_rounding_agrees_and_costs_one_training():
    stored, rows = references(np.random.default_rng(1))
    rounded = {i: s + np.random.default_rng(i).normal(0, 1e-4, N).astype(np.float32) for i, s in stored.items()}
    problem, asked = check(stored, rows, lambda index, reseed: rounded[index])
    assert problem == ""
    assert [reseed for _, reseed in asked] == [False]


def test_training_that_is_another_does_not_agree():
    """More regularisation: what a seed does is small beside it."""
    stored, rows = references(np.random.default_rng(1), noise=0.05)
    other, _ = references(np.random.default_rng(2), shift=2.0, noise=0.05)
    problem, asked = check(stored, rows, lambda index, reseed: other[index])
    assert "trained again, differs by" in problem
    assert [reseed for _, reseed in asked] == [False, True]


def test_training_without_chance_that_changed_a_little_does_not_agree():
    stored, rows = references(np.random.default_rng(1))
    problem, _ = check(stored, rows, lambda index, reseed: stored[index] * 1.05)
    assert "another seed changes 0" in problem


@pytest.mark.parametrize("seed", range(5))
def test_training_that_never_repeats_itself_agrees(seed):
    """On another machine, rounding does to a sensitive training what another seed does."""
    stored, rows = references(np.random.default_rng(1))
    rng = np.random.default_rng(seed)
    problem, _ = check(stored, rows, lambda index, reseed: references(rng)[0][index], seed=seed)
    assert problem == ""


@pytest.mark.parametrize("seed", range(5))
def test_a_shift_of_all_members_is_found_under_the_noise_of_seeds(seed):
    """Each record moves by less than a seed moves it, all of them the same way."""
    stored, rows = references(np.random.default_rng(1))
    rng = np.random.default_rng(seed)
    problem, _ = check(stored, rows, lambda index, reseed: references(rng, shift=0.6)[0][index], seed=seed)
    assert problem


def test_which_one_is_trained_again_is_drawn_from_seed_and_fingerprint():
    stored, rows = references(np.random.default_rng(1))
    drawn = [check(stored, rows, lambda index, reseed: stored[index], seed=seed)[1][0][0] for seed in range(30)]
    again = [check(stored, rows, lambda index, reseed: stored[index], seed=seed)[1][0][0] for seed in range(30)]
    assert drawn == again
    assert len(set(drawn)) > 4


def test_distance_is_infinite_where_one_alone_is_finite_and_zero_for_equals():
    one = np.array([1.0, -np.inf, 3.0])
    assert distance(one, one.copy(), 1.0) == 0.0
    assert distance(one, np.array([1.0, 2.0, 3.0]), 1.0) == np.inf
    assert distance(one, one[:2], 1.0) == np.inf
    assert distance(np.array([1.0, 2.0]), np.array([1.0, 4.0]), 2.0) == pytest.approx(np.sqrt(2) / 2)
    assert distance(np.ones(3), np.ones(3), 0.0) == 0.0
    assert distance(np.ones(3), np.zeros(3), 0.0) == np.inf
    assert 1e-6 < ROUNDING < 0.1


@pytest.mark.parametrize(
    ("verify", "own", "due"), [("auto", True, True), ("auto", False, False), (True, False, True), (False, True, False)]
)
def test_a_check_is_due_where_the_recipe_runs_own_code_or_somebody_asks(verify, own, due):
    assert is_due(verify, own) is due


# Within an audit.


@dataclasses.dataclass
class Shelf(NoStore):
    """Keeps references in memory; of doubles the oldest is found, as in the store in MLflow."""

    kept: list = dataclasses.field(default_factory=list)
    retired: set = dataclasses.field(default_factory=set)

    def find(self, fingerprint):
        found = {}
        for one, _ in self.kept:
            if one.key.fingerprint == fingerprint and one.run_id not in self.retired:
                found.setdefault(one.key.index, one)
        return found

    def save(self, key, members, *, outputs, **kwargs):
        reference = StoredReference(key, f"run-{len(self.kept)}")
        self.kept.append((reference, outputs))
        return reference

    def read(self, reference, data_digest):
        return dict((one.run_id, outputs) for one, outputs in self.kept)[reference.run_id].get(data_digest)

    def retire(self, reference):
        self.retired.add(reference.run_id)


def reading(x, y, seed):
    return LogisticRegression(C=float(open("strength.txt").read())).fit(x, y)


@pytest.fixture
def run(tmp_path, monkeypatch, caplog):
    """Gives `ensure` on one pool and shelf: (loaded, trained, notes)."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "mlflow_privacy")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 10))
    pool = Records(x, (x[:, 0] + rng.normal(size=120) > 0).astype(int), np.arange(120).astype(str))
    design, shelf = Design(data_digest(pool), len(pool), 3, 0.5, None), Shelf()

    def call(recipe, strength="1.0", count=4, **options):
        (tmp_path / "strength.txt").write_text(strength)
        found = ensure(
            pool, recipe, design, count, data_digests=["pool"], store=shelf, device="cpu", executor="local",
            outputs=lambda model: (model_outputs(model, pool, task="classification"),), **options,
        )  # fmt: skip
        return found.n_loaded, found.n_trained, found.notes

    call.shelf, call.log = shelf, caplog
    return call


def own(train_fn=reading):
    return make_recipe(None, {}, train_fn=train_fn, task="classification")


def test_stored_references_of_the_same_training_are_used_after_a_look_at_one(run):
    assert run(own()) == (0, 4, ())
    assert run(own()) == (4, 0, ())
    assert "trained again, agrees with the stored one" in run.log.text


def test_a_file_that_changed_sets_all_stored_references_aside_doubles_too(run):
    run(own(), count=6)
    run.shelf.kept.append((StoredReference(run.shelf.kept[0][0].key, "double"), run.shelf.kept[0][1]))
    loaded, trained, (note,) = run(own(), "0.0001")
    assert (loaded, trained) == (0, 4)
    assert "4 stored reference models are of another training" in note
    assert run.shelf.retired == {"double", *(f"run-{i}" for i in range(6))}
    assert run(own(), "0.0001") == (4, 0, ())


def test_whoever_switches_the_check_off_gets_what_is_stored(run):
    run(own())
    assert run(own(), "0.0001", verify=False) == (4, 0, ())
    assert "trained again" not in run.log.text


def test_references_of_a_library_are_checked_only_where_asked(run):
    recipe = make_recipe(LogisticRegression(), None, task="classification")
    run(recipe)
    assert run(recipe) == (4, 0, ())
    assert "trained again" not in run.log.text
    assert run(recipe, verify=True) == (4, 0, ())
    assert "trained again, agrees with the stored one" in run.log.text


def test_what_cannot_be_told_is_trained_for_each_audit_alone_and_named(run):
    live = open("strength.txt", "w")  # noqa: SIM115

    def over_a_live_object(x, y, seed):
        return LogisticRegression(C=2.0 if live.closed else 1.0).fit(x, y)

    assert run(own(over_a_live_object)) == (0, 4, ())
    assert run(own(over_a_live_object)) == (0, 4, ())
    live.close()
    assert "No other audit finds these reference models: what they depend on cannot be told. 'live'," in run.log.text
    assert "TextIOWrapper" in run.log.text
