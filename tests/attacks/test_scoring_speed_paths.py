"""What makes scoring fast changes no number: pairs, threads, chunks, bounds and tables against their plain twins."""

import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlflow_privacy.attacks import _arrays, run_attack, tuning
from mlflow_privacy.attacks.averages import log_average
from mlflow_privacy.attacks.lira import lira, lira_offline
from mlflow_privacy.attacks.reference import attack_r
from mlflow_privacy.attacks.rmia import rmia, rmia_offline, tune_a
from mlflow_privacy.stats import mann_whitney, positions
from mlflow_privacy.types import Scores, Signals

numbers = st.one_of(st.sampled_from([-3.0, 0.0, 1e-300, 2.0]), st.floats(-1e308, 1e308, allow_subnormal=False))


def signals(rng, n=400, m=16, z=60, scale=3.0):
    """Pairs side by side, as the design makes them."""
    half = rng.random((n, m // 2)) < 0.5
    member = np.stack([half, ~half], axis=2).reshape(n, m)
    draw = lambda *shape: rng.normal(0, scale, shape).astype(np.float32)
    return draw(n), draw(n, m), member, draw(z), draw(z, m)


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(0, 30), elements=numbers),
    hnp.arrays(np.float64, st.integers(1, 30), elements=numbers),
    st.sampled_from(["left", "right"]),
)
def test_positions_are_those_of_searchsorted(values, queries, side):
    ordered = np.sort(values)
    many = np.tile(np.concatenate([queries, ordered, [np.inf, -np.inf]]), 2_100 // (len(queries) + len(values)) + 1)
    np.testing.assert_array_equal(positions(ordered, many, side), np.searchsorted(ordered, many, side))


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "lumps"])
def test_positions_hold_for_any_distribution(draw):
    rng = np.random.default_rng(0)
    make = (lambda k: rng.integers(0, 9, k) * 1.0) if draw == "lumps" else (lambda k: getattr(rng, draw)(size=k))
    ordered, queries = np.sort(make(3_000)), make(50_000)
    for side in ("left", "right"):
        np.testing.assert_array_equal(positions(ordered, queries, side), np.searchsorted(ordered, queries, side))


@pytest.mark.parametrize("scale", [3.0, 60.0])
@pytest.mark.parametrize("online", [True, False])
def test_mean_over_designed_pairs_is_that_of_any_other_order_and_layout(online, scale):
    """Designed pairs take a path of their own; pulled apart, or stored the other way, they do not."""
    rng = np.random.default_rng(1)
    _, reference, member, *_ = signals(rng, scale=scale)
    apart = rng.permutation(member.shape[1])
    wanted = log_average(reference[:, apart].astype(np.float64), member[:, apart], online=online)
    for r, k in ((reference, member), (np.asfortranarray(reference), np.asfortranarray(member))):
        np.testing.assert_allclose(log_average(r, k, online=online), wanted, rtol=1e-12, atol=1e-300)


def test_one_record_that_breaks_the_pairs_is_averaged_over_its_own_out_models():
    rng = np.random.default_rng(2)
    _, reference, member, *_ = signals(rng)
    member[7, :2] = False  # both of a pair are OUT
    p = 1 / (1 + np.exp(-reference[7].astype(np.float64)))
    got = log_average(reference, member, online=False, a=1.0)[7]
    assert got == pytest.approx(np.log(p[~member[7]].mean()), rel=1e-12)


def test_a_population_without_membership_is_one_that_nobody_trained_on():
    rng = np.random.default_rng(3)
    target, reference, member, population, population_reference = signals(rng)
    none = np.zeros(population_reference.shape, bool)
    for attack in (rmia, rmia_offline):
        given_none = attack(target, reference, member, population, population_reference)
        np.testing.assert_array_equal(
            given_none.value, attack(target, reference, member, population, population_reference, none).value
        )


@pytest.mark.parametrize("threads", ["1", "3"])
def test_threads_change_no_bit(threads, monkeypatch):
    rng = np.random.default_rng(4)
    arrays = signals(rng)
    s = Signals(*arrays, np.zeros(arrays[4].shape, bool))
    names = ("rmia", "rmia_offline", "lira", "lira_offline", "reference")
    monkeypatch.setattr(_arrays, "_CHUNK_CPU", 16 * 20)
    plain = {name: run_attack(name, s)[0] for name in names}
    monkeypatch.setattr(_arrays, "_THREADED", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    for name in names:
        np.testing.assert_array_equal(run_attack(name, s)[0].value, plain[name].value)


def test_torch_tensors_give_the_numbers_of_numpy_in_every_attack_of_references():
    torch = pytest.importorskip("torch")
    target, reference, member, *_ = signals(np.random.default_rng(5))
    for attack, options in ((lira, {"variance": "per_record"}), (lira_offline, {}), (attack_r, {})):
        wanted = attack(target, reference, member, **options)
        got = attack(*map(torch.from_numpy, (target, reference, member)), **options)
        assert isinstance(got.value, torch.Tensor)
        np.testing.assert_allclose(got.value.numpy(), wanted.value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("decimals", [1, 12])
@pytest.mark.parametrize("scale", [1.0, 12.0, 400.0])
def test_bounds_on_the_auc_hold_the_auc(scale, decimals):
    """Also where most ratios are equal (one decimal), and where probabilities underflow."""
    _, reference, member, *_ = signals(np.random.default_rng(6), n=3_000, m=8)
    reference = np.round(reference * scale + 2 * member, decimals)
    stand_ins = tuning._stand_ins(reference, member, np.arange(8))
    assert len(stand_ins) == 8
    for one in stand_ins:
        for a in (0.0, 0.3, 0.9, 1.0):
            exact = one.auc(a)
            for low, high in (one.rough_bounds(a), one.auc_bounds(a)):
                assert low - 1e-12 <= exact <= high + 1e-12
            if (scale, decimals) == (1.0, 12):  # nothing is equal: the bounds are tight
                assert np.diff(one.auc_bounds(a)) < 1e-5
                assert np.diff(one.rough_bounds(a)) < 1e-2


@pytest.mark.parametrize("scale", [0.3, 2.0, 15.0])
def test_the_tuned_a_is_the_one_that_exact_aucs_choose(scale):
    for seed in range(4):
        rng = np.random.default_rng((7, seed))
        _, reference, member, *_ = signals(rng, n=1_000, m=8)
        reference = (reference * scale + (0.5 + scale) * member).round(1 if seed % 2 else 9)
        stand_ins = tuning._stand_ins(reference, member, np.arange(8))
        exact = np.mean([[one.auc(a) for a in tuning._GRID] for one in stand_ins], axis=0)
        assert tune_a(reference, member) == tuning._GRID[int(np.argmax(exact.round(12)))]


def test_auc_of_a_stand_in_is_that_of_offline_rmia_where_probabilities_underflow():
    _, reference, member, *_ = signals(np.random.default_rng(8), n=500, m=6)
    reference = (reference * 300 + 100 * member).astype(np.float64)
    one = tuning._stand_ins(reference, member, np.array([0]))[0]
    others = [2, 3, 4, 5]
    scores = rmia_offline(
        reference[:, 0], reference[:, others], member[:, others], np.zeros(5), np.zeros((5, 4)), a=1.0
    )
    truth = member[:, 0]
    assert one.auc(1.0) == pytest.approx(mann_whitney(scores.rank()[truth], scores.rank()[~truth]), abs=1e-12)


def test_ranks_of_scores_whose_tie_does_not_follow_them_need_both_keys():
    rng = np.random.default_rng(9)
    value, tie = rng.integers(0, 5, 300) * 1.0, rng.integers(0, 5, 300) * 1.0
    pairs = sorted(set(zip(value, tie)))
    for v, t in ((value, tie), (value, value + tie / 9), (np.floor(tie / 2), tie)):
        pairs = sorted(set(zip(v, t)))
        wanted = [pairs.index(pair) for pair in zip(v, t)]
        assert Scores(v, t).rank().tolist() == wanted


@pytest.mark.parametrize("name", ["rmia", "rmia_offline", "lira", "reference"])
def test_memory_grows_by_a_few_vectors_and_not_with_copies_of_the_signals(name):
    """One float64 copy of the signals would grow by 8 bytes a value; vectors of n are 8 / m bytes a value each."""
    peaks, m = [], 64
    for n in (20_000, 40_000):
        target, reference, member, *of_population = signals(np.random.default_rng(10), n=n, m=m)
        s = Signals(target, reference, member, *of_population, np.zeros(of_population[1].shape, bool))
        options = {"a": 0.3} if name == "rmia_offline" else {}
        run_attack(name, s, **options)
        tracemalloc.start()
        run_attack(name, s, **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (20_000 * m) < 2


def test_columns_side_by_side_are_a_stack():
    rng = np.random.default_rng(11)
    columns = [rng.random(1_000).astype(np.float32) for _ in range(7)]
    got = _arrays.side_by_side(columns)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, np.stack(columns, axis=1))


@pytest.mark.parametrize("name", ["exp", "log"])
def test_exp_and_log_are_those_of_numpy_with_torch_and_without(name, monkeypatch):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 300, 40_000), [0.0, np.inf, 5e-324, 709.7, 710.0]])
    x = np.concatenate([x, -x, [np.nan]]) if name == "exp" else np.concatenate([abs(x), np.exp(-abs(x))])
    x = x.astype(np.float32)
    with np.errstate(over="ignore", divide="ignore"):
        wanted = getattr(np, name)(x, dtype=np.float64)
    given = x.copy()
    by_torch = getattr(_arrays, name)(x)
    monkeypatch.setitem(sys.modules, "torch", None)
    for found in (by_torch, getattr(_arrays, name)(x)):
        assert found.dtype == np.float64
        np.testing.assert_array_max_ulp(found[np.isfinite(found)], wanted[np.isfinite(wanted)], maxulp=2)
        np.testing.assert_array_equal(found[~np.isfinite(found)], wanted[~np.isfinite(wanted)])
    np.testing.assert_array_equal(x, given)


def test_equal_values_have_equal_exponentials_wherever_they_stand():
    pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(0, 5, (3, 101))
    turned = np.asfortranarray(x[:, ::-1])
    np.testing.assert_array_equal(_arrays.exp(x)[:, ::-1], _arrays.exp(turned))
    alone = np.array([[_arrays.exp(np.array([v]))[0] for v in row] for row in x])
    np.testing.assert_array_equal(_arrays.exp(x), alone)
