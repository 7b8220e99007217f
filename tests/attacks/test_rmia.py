"""RMIA equals its pairwise definition, whatever the numbers, and finds what is there."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlflow_privacy.attacks.rmia import dominance, log_average, rmia, rmia_offline, tune_a
from mlflow_privacy.errors import DesignError
from mlflow_privacy.stats import mann_whitney, sigmoid
from mlflow_privacy.types import Scores


def pairs(rng, n, m):
    """Complementary pairs: every record has an IN and an OUT reference."""
    half = rng.random((n, m // 2)) < 0.5
    return np.stack([half, ~half], axis=2).reshape(n, m)


def case(rng, n=60, z=40, m=6, scale=3.0):
    member = pairs(rng, n, m)
    return (
        rng.normal(0, scale, n),
        rng.normal(0, scale, (n, m)),
        member,
        rng.normal(0, scale, z),
        rng.normal(0, scale, (z, m)),
    )


def naive_average(reference, member, a=None):
    """p̄ by the book, in plain probabilities."""
    p = sigmoid(reference)
    out = np.array([row[~inside].mean() for row, inside in zip(p, member)])
    if a is not None:
        return 0.5 * ((1 + a) * out + 1 - a)
    return np.array([0.5 * (row[k].mean() + row[~k].mean()) if k.any() else row.mean() for row, k in zip(p, member)])


ties = st.sampled_from([-3.0, -1.0, -0.1, 0.0, 0.1, 1.0, math.log(2), 3.0])
anything = st.one_of(ties, st.floats(-1e3, 1e3), st.floats(-1e-300, 1e-300))


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 12), elements=anything),
    hnp.arrays(np.float64, st.integers(1, 12), elements=anything),
    st.sampled_from([1.0, 2.0, 0.5, math.exp(0.1), 1 + 1e-15, 10.0]),
    st.booleans(),
)
def test_dominance_equals_the_pairwise_predicate_also_in_ties(x, z, gamma, strict):
    gap = x[:, None] - z
    wanted = (gap > math.log(gamma) if strict else gap >= math.log(gamma)).mean(axis=1)
    assert (dominance(x, z, gamma=gamma, strict=strict) == wanted).all()


def test_searched_boundary_is_corrected_where_rounding_puts_it_elsewhere():
    """x − log γ rounds differently from x − z ≥ log γ; without the correction these differ."""
    rng = np.random.default_rng(0)
    gamma = math.exp(0.1)
    x = rng.normal(size=2000)
    z = np.concatenate([np.nextafter(x - 0.1, side) for side in (-9, 9)] + [x - 0.1])
    wanted = np.stack([(value - z >= math.log(gamma)).mean() for value in x])
    assert (dominance(x, z, gamma=gamma) == wanted).all()
    plain = np.searchsorted(np.sort(z), x - math.log(gamma), side="right") / len(z)
    assert (plain != wanted).any()


@pytest.mark.parametrize("gamma", [1.0, 2.0, 0.7])
@pytest.mark.parametrize("a", [None, 0.0, 0.3, 1.0])
def test_scores_equal_the_definition_in_plain_probabilities(gamma, a):
    rng = np.random.default_rng(1)
    target, reference, member, population, population_reference = case(rng)
    none = np.zeros_like(population_reference, bool)
    ratio_x = sigmoid(target) / naive_average(reference, member, a)
    ratio_z = sigmoid(population) / naive_average(population_reference, none, a)
    wanted = np.array([np.mean([rx / rz >= gamma for rz in ratio_z]) for rx in ratio_x])
    arrays = (target, reference, member, population, population_reference)
    scores = rmia(*arrays, gamma=gamma) if a is None else rmia_offline(*arrays, a=a, gamma=gamma)
    np.testing.assert_array_equal(scores.value, wanted)
    np.testing.assert_allclose(scores.tie, np.log(ratio_x), rtol=1e-10, atol=1e-12)


def test_a_population_that_some_references_trained_on_is_averaged_like_the_pool():
    rng = np.random.default_rng(2)
    reference, member = rng.normal(size=(5, 4)), pairs(rng, 5, 4)
    member[0] = False
    got = np.exp(log_average(reference, member, online=True))
    np.testing.assert_allclose(got, naive_average(reference, member), rtol=1e-12)


def test_densities_use_the_plain_out_mean_and_ignore_a():
    rng = np.random.default_rng(3)
    target, reference, member, population, population_reference = case(rng, scale=1.0)
    out = np.array([np.log(np.exp(row[~k]).mean()) for row, k in zip(reference, member)])
    arrays = (target, reference, member, population, population_reference)
    low, high = (rmia_offline(*arrays, a=a, link="log") for a in (0.0, 1.0))
    np.testing.assert_allclose(low.tie, target - out, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(low.value, high.value)


@pytest.mark.parametrize("size", [80.0, 1e4])
def test_huge_signals_give_finite_ratios_that_still_differ(size):
    rng = np.random.default_rng(4)
    target, reference, member, population, population_reference = case(rng)
    signs = np.where(rng.random(target.shape) < 0.5, -1, 1)
    target = signs * (size + rng.random(target.shape))
    reference = np.sign(reference) * size
    for scores in (
        rmia(target, reference, member, population, population_reference),
        rmia_offline(target, reference, member, population, population_reference, a=1.0),
    ):
        assert np.isfinite(scores.tie).all()
        assert np.isfinite(scores.value).all()
        assert len(np.unique(scores.tie[signs < 0])) == (signs < 0).sum()


def test_confident_members_are_told_apart_where_probabilities_round_to_one():
    target = np.array([38.0, 45.0, 60.0])
    member = np.tile([True, False], (3, 1))
    reference = np.tile([40.0, 36.5], (3, 1))
    scores = rmia(target, reference, member, np.zeros(5), np.zeros((5, 2)))
    assert (sigmoid(target) == 1).all()
    assert (np.diff(scores.tie) > 0).all()


def test_order_of_records_references_and_population_does_not_matter():
    rng = np.random.default_rng(5)
    target, reference, member, population, population_reference = case(rng)
    base = rmia(target, reference, member, population, population_reference)
    rows, columns, points = rng.permutation(60), rng.permutation(6), rng.permutation(40)
    moved = rmia(
        target[rows],
        reference[rows][:, columns],
        member[rows][:, columns],
        population[points],
        population_reference[points][:, columns],
    )
    np.testing.assert_allclose(moved.tie, base.tie[rows], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(moved.value, base.value[rows])


def test_scores_do_not_depend_on_the_chunks(monkeypatch):
    from mlflow_privacy.attacks import _arrays

    arrays = case(np.random.default_rng(6))
    whole = rmia(*arrays)
    monkeypatch.setattr(_arrays, "_CHUNK_CPU", 13)
    parts = rmia(*arrays)
    np.testing.assert_allclose(parts.tie, whole.tie, rtol=1e-13)
    np.testing.assert_array_equal(parts.value, whole.value)


def test_ties_at_the_top_do_not_destroy_the_ranking():
    rng = np.random.default_rng(7)
    target = rng.normal(5, 1, 100)
    reference, member = np.zeros((100, 2)), np.tile([True, False], (100, 1))
    scores = rmia(target, reference, member, np.zeros(3), np.zeros((3, 2)))
    assert (scores.value == 1).all()
    assert (np.argsort(scores.rank()) == np.argsort(target)).all()


def test_strict_and_weak_comparison_rank_alike():
    arrays = case(np.random.default_rng(8))
    assert (rmia(*arrays).rank() == rmia(*arrays, strict=True).rank()).all()


def test_null_reference_and_target_from_one_distribution_give_auc_one_half():
    rng = np.random.default_rng(9)
    aucs = []
    for _ in range(40):
        arrays = case(rng, n=400)
        truth = rng.random(400) < 0.5
        scores = rmia(*arrays)
        aucs.append(mann_whitney(scores.rank()[truth], scores.rank()[~truth]))
    assert abs(np.mean(aucs) - 0.5) < 4 * 0.029 / math.sqrt(40)


def test_tuning_finds_the_a_that_was_planted():
    """p_IN = a·p_OUT + 1 − a exactly, for a = 0.2 and for a near 1: the tuned values must follow."""
    rng = np.random.default_rng(10)
    tuned = []
    for a in (0.1, 0.9):
        member = pairs(rng, 4000, 8)
        out = rng.beta(2, 2, (4000, 1)) * np.ones((1, 8))
        p = np.where(member, a * out + 1 - a, out)
        p = np.clip(p + rng.normal(0, 0.03, p.shape), 1e-3, 1 - 1e-3)
        tuned.append(tune_a(np.log(p / (1 - p)), member))
    assert tuned[0] < tuned[1]


def test_tuned_a_has_the_best_auc_on_the_stand_ins():
    """Naive twin: the same choice through `rmia_offline` itself, one stand-in at a time."""
    rng = np.random.default_rng(11)
    n, m = 300, 6
    member = pairs(rng, n, m)
    reference = rng.normal(1, 2, (n, 1)) + 1.0 * member + rng.normal(0, 0.7, (n, m))
    grid = [0.0, 0.3, 0.6, 1.0]
    mean_auc = np.zeros(len(grid))
    for j in range(m):
        others = [k for k in range(m) if k not in (j, j ^ 1)]
        usable = (~member[:, others]).any(axis=1)
        for i, a in enumerate(grid):
            scores = rmia_offline(
                reference[usable, j],
                reference[usable][:, others],
                member[usable][:, others],
                rng.normal(size=9),
                rng.normal(size=(9, len(others))),
                a=a,
            )
            truth = member[usable, j]
            mean_auc[i] += mann_whitney(scores.rank()[truth], scores.rank()[~truth])
    assert tune_a(reference, member, grid=grid) == grid[int(np.argmax(mean_auc))]


def test_one_pair_of_references_cannot_tune_a():
    rng = np.random.default_rng(12)
    assert tune_a(rng.normal(size=(50, 2)), pairs(rng, 50, 2)) is None
    assert tune_a(rng.normal(size=(50, 1)), pairs(rng, 50, 2)[:, :1], rng.normal(size=(50, 1))) is None


def test_one_pair_is_tuned_with_a_population_that_nobody_trained_on():
    """Naive twin: each model's members against the population, with the other model as the OUT reference of both."""
    rng = np.random.default_rng(21)
    grid = [0.0, 0.3, 0.6, 1.0]
    chosen = []
    for gain in (0.5, 4.0):
        member = pairs(rng, 400, 2)
        reference = rng.normal(1, 2, (400, 1)) + gain * member + rng.normal(0, 0.7, (400, 2))
        population = rng.normal(1, 2, (300, 1)) + rng.normal(0, 0.7, (300, 2))
        mean_auc = np.zeros(len(grid))
        for j in (0, 1):
            mine = member[:, j]
            signal = np.concatenate([reference[mine], population])
            truth = np.arange(len(signal)) < mine.sum()
            for i, a in enumerate(grid):
                out = signal[:, [1 - j]]
                scores = rmia_offline(
                    signal[:, j], out, np.zeros(out.shape, bool), rng.normal(size=9), rng.normal(size=(9, 1)), a=a
                )
                mean_auc[i] += mann_whitney(scores.rank()[truth], scores.rank()[~truth])
        chosen.append(grid[int(np.argmax(mean_auc))])
        assert tune_a(reference, member, population, grid=grid) == chosen[-1]
    assert chosen[0] != chosen[1]


def test_records_without_in_or_out_are_counted_and_the_remedy_named():
    rng = np.random.default_rng(13)
    target, reference, member, population, population_reference = case(rng)
    member[:7] = True
    with pytest.raises(DesignError, match=r"7 of 60 records have no OUT reference.*num_ref_models"):
        rmia(target, reference, member, population, population_reference)
    with pytest.raises(DesignError, match="7 of 60"):
        rmia_offline(target, reference, member, population, population_reference)


def test_all_faults_of_a_call_are_reported_together():
    rng = np.random.default_rng(14)
    target, reference, member, population, population_reference = case(rng)
    target[3] = np.nan
    with pytest.raises(DesignError) as caught:
        rmia(target, reference, member[:-1], population, population_reference[:, :2])
    assert "target has 1 values that are NaN" in str(caught.value)
    assert "member must have shape (n, m) = (60, 6), got (59, 6)" in str(caught.value)
    assert "population_reference must have shape (z, m) = (40, 6), got (40, 2)" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": 0.0}, "gamma must be > 0, got 0.0"), ({"link": "label"}, 'got link "label"')],
)
def test_bad_options_are_named_with_their_value(options, message):
    with pytest.raises(DesignError, match=message):
        rmia(*case(np.random.default_rng(15)), **options)


def test_torch_tensors_give_the_numbers_of_numpy_and_stay_tensors():
    torch = pytest.importorskip("torch")
    arrays = tuple(a.astype(np.float32) if a.dtype.kind == "f" else a for a in case(np.random.default_rng(16), scale=9))
    for attack, options in ((rmia, {"gamma": 1.5}), (rmia, {}), (rmia_offline, {"a": 0.4}), (rmia, {"link": "log"})):
        wanted = attack(*arrays, **options)
        got = attack(*map(torch.from_numpy, arrays), **options)
        assert isinstance(got.value, torch.Tensor)
        np.testing.assert_allclose(got.tie.numpy(), wanted.tie, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(got.value.numpy(), wanted.value)
    assert tune_a(torch.from_numpy(arrays[1]), torch.from_numpy(arrays[2])) == tune_a(arrays[1], arrays[2])


def test_many_references_do_not_blow_up_memory():
    """float64 copies of everything would be 64 MB here; chunks keep it to a few vectors of n."""
    import tracemalloc

    rng = np.random.default_rng(17)
    n, m = 50_000, 160
    reference = rng.standard_normal((n, m), np.float32)
    member = np.tile(np.arange(m) % 2 == 0, (n, 1))
    target, z = np.zeros(n, np.float32), np.zeros(10, np.float32)
    tracemalloc.start()
    rmia(target, reference, member, z, np.zeros((10, m), np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6


def test_scores_are_a_frozen_record():
    assert isinstance(rmia(*case(np.random.default_rng(18))), Scores)
