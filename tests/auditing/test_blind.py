"""The blind baseline finds a shift that is there and none that is not."""

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.auditing.blind import (
    _delong_of_copies,
    _folds,
    _folds_of_copies,
    _same,
    _standardise,
    _subsample,
    blind_baseline,
)
from mlflow_privacy.errors import DesignError
from mlflow_privacy.types import Records


def make(x, y=None):
    n = len(x)
    y = np.random.default_rng(99).integers(0, 3, n) if y is None else y
    return Records(x, y, np.arange(n).astype(str))


def half(n):
    return np.random.default_rng(5).permutation(n) < n // 2


def test_null_interval_covers_one_half():
    """40 pools without a shift; the measured coverage is 97 to 98 %, so fewer than 35 would be 4 s.e. off."""
    rng = np.random.default_rng(0)
    estimates = [blind_baseline(make(rng.normal(size=(80, 3))), half(80), seed=i) for i in range(40)]
    assert sum(e.low <= 0.5 <= e.high for e in estimates) >= 35
    assert abs(np.mean([e.value for e in estimates]) - 0.5) < 4 * 0.1 / np.sqrt(40)
    assert sum(e.low > 0.5 for e in estimates) <= 5  # alarms: at 5 % more with probability 1.4 %, measured are 2 %


@pytest.mark.parametrize("times", [2, 10])
def test_a_record_that_was_copied_is_not_recognised_by_its_copy(times):
    """Members occur several times, non-members once; a classifier that is tested on copies finds 0.7 and 0.8."""
    estimates = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(200, 4)), rng.integers(0, 2, 200)
        rows = np.r_[np.repeat(np.arange(100), times), np.arange(100, 200)]
        estimates.append(blind_baseline(make(x[rows], y[rows]), rows < 100, seed=seed))
    assert abs(np.mean([e.value for e in estimates]) - 0.5) < 0.06
    assert sum(e.low > 0.5 for e in estimates) <= 1


def test_copies_lie_in_one_fold_and_the_folds_are_even():
    rng = np.random.default_rng(0)
    same = np.r_[np.repeat(np.arange(60), 3), np.arange(60, 160), np.arange(60, 80)]
    truth = np.r_[np.ones(200, bool), np.zeros(80, bool), np.ones(20, bool)]
    truth[180:200] = rng.random(20) < 0.5
    fold = _folds_of_copies(truth, same, 5, rng)
    assert all(len(set(fold[same == name])) == 1 for name in np.unique(same))
    assert np.bincount(fold[truth], minlength=5).std() < 4
    assert np.bincount(fold[~truth], minlength=5).std() < 4


def test_copies_say_nothing_new_about_the_auc():
    """Every record k times: neither the AUC nor its variance changes."""
    from mlflow_privacy.metrics.delong import delong
    from mlflow_privacy.metrics.roc import tally

    rng = np.random.default_rng(0)
    truth = np.arange(60) < 25
    scores = truth + rng.normal(size=60)
    value, parts = delong(tally(scores, truth))
    for times in (1, 4):
        rows = np.repeat(np.arange(60), times)
        found, found_parts = _delong_of_copies(scores[rows], truth[rows], rows)
        assert found == pytest.approx(value)
        assert found_parts == pytest.approx(parts)


def test_a_value_that_fills_more_than_a_fold_is_a_category_and_no_record():
    x = np.r_[np.zeros(70), np.arange(30)][:, None]
    assert _same(make(x, np.zeros(100))) is None
    x[70:74] = 99
    same = _same(make(x, np.zeros(100)))
    assert len(set(same[:70])) == 70
    assert len(set(same[70:74])) == 1


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    n = 800
    return pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "letter": rng.choice(list("abc"), n),
            "kind": pd.Categorical(rng.choice(["x", "y"], n)),
            "flag": rng.random(n) < 0.5,
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 1000, n), "D"),
            "text": [" ".join(rng.choice(["red", "green", "blue", f"w{i}"], 5)) for i in range(n)],
        }
    )


def test_mixed_columns_without_a_shift_raise_no_alarm(frame):
    """6 random memberships of the same records; each may alarm with 2.5 %, three of six with 0.03 %."""
    records = make(frame, np.random.default_rng(2).choice(["cat", "dog"], len(frame)))
    memberships = (np.random.default_rng(seed).permutation(800) < 400 for seed in range(6))
    assert sum(blind_baseline(records, m, seed=0).low > 0.5 for m in memberships) <= 2


def shifted(frame, member, column):
    frame, rng = frame.copy(), np.random.default_rng(3)
    some = member & (rng.random(len(frame)) < 0.7)
    if column == "number":
        frame.loc[member, "number"] += 1
    elif column == "missing":
        frame.loc[some, "number"] = np.nan
    elif column == "letter":
        frame.loc[some, "letter"] = "a"
    elif column == "kind":
        frame["kind"] = frame["kind"].where(~some, "x")
    elif column == "day":
        frame["day"] += pd.to_timedelta(np.where(member, 500, 0), "D")
    elif column == "day as text":
        frame["day"] = (frame["day"] + pd.to_timedelta(np.where(member, 500, 0), "D")).dt.strftime("%Y-%m-%d")
    elif column == "text":
        frame["text"] = [f"{t} secret" if s else t for t, s in zip(frame["text"], some)]
    return frame


@pytest.mark.parametrize("column", ["number", "missing", "letter", "kind", "day", "day as text", "text"])
def test_a_shift_in_any_kind_of_column_is_found(frame, column):
    member = half(800)
    got = blind_baseline(make(shifted(frame, member, column)), member, seed=0)
    assert got.low > 0.55


def test_a_shift_of_labels_alone_is_found():
    member = half(600)
    y = np.where(member & (np.arange(600) % 2 == 0), "rare", "common")
    assert blind_baseline(make(np.zeros((600, 2)), y), member, seed=0).low > 0.6


def test_one_shifted_column_of_many_is_found():
    rng = np.random.default_rng(4)
    member, x = half(1000), rng.normal(size=(1000, 300)).astype(np.float32)
    x[member, 123] += 1.0
    assert blind_baseline(make(x), member, seed=0).low > 0.6


def test_a_shift_spread_thinly_over_many_columns_is_found():
    rng = np.random.default_rng(5)
    member = half(3000)
    x = (rng.random((3000, 300)) < np.where(member, 0.32, 0.3)[:, None]).astype(np.float32)
    assert blind_baseline(make(x), member, seed=0).low > 0.52


def test_a_shift_of_the_spread_alone_is_found():
    rng = np.random.default_rng(5)
    member = half(2000)
    x = rng.normal(size=(2000, 60)) * np.where(member, 1.1, 1.0)[:, None]
    assert blind_baseline(make(x), member, seed=0).low > 0.52


@pytest.mark.parametrize("kind", ["plain", "far from zero", "heavy", "huge", "bytes", "missing"])
def test_standardised_columns_are_those_of_float64(kind):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(500, 4)).astype(np.float32)
    if kind == "far from zero":
        x = (1e5 + 100 * x).astype(np.float32)
    elif kind == "heavy":
        x = rng.standard_cauchy((500, 4)).astype(np.float32)
    elif kind == "huge":
        x = (x * 1e38 / 4).astype(np.float32)
    elif kind == "bytes":
        x = rng.integers(0, 256, (500, 4)).astype(np.uint8)
    elif kind == "missing":
        x[::3, 1] = np.nan
    wide = np.where(np.isfinite(x), x, np.nan).astype(np.float64)
    wide = np.where(np.isnan(wide), np.nanmean(wide, 0), wide)
    wanted = (wide - wide.mean(0)) / wide.std(0)
    found = _standardise(np.c_[x, np.full(500, 7, x.dtype)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :4], wanted, atol=2e-3, rtol=2e-3)
    assert not found[:, 4].any()  # constant


def test_brighter_images_are_found_and_equal_ones_are_not():
    rng = np.random.default_rng(6)
    member, images = half(400), rng.integers(20, 230, (400, 3, 12, 12)).astype(np.uint8)
    quiet = blind_baseline(make(images), member, seed=0)
    assert quiet.low < 0.5 < quiet.high
    images[member] += 10
    assert blind_baseline(make(images), member, seed=0).low > 0.8


def test_missing_infinite_constant_and_array_cells_are_read():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(60, 4))
    x[3, 0], x[4, 1], x[:, 2], x[:, 3] = np.inf, np.nan, 1.0, np.nan
    cells = pd.DataFrame(
        {"image": [rng.normal(size=(4, 4)) for _ in range(60)], "thing": [object() for _ in range(60)]}
    )
    for records in (make(x), make(cells), make(pd.DataFrame(index=range(60))), make(rng.choice(["u", "v"], 60))):
        got = blind_baseline(records, half(60), seed=0)
        assert 0 <= got.low <= got.value <= got.high <= 1


def test_live_objects_do_not_leak_their_memory_address():
    """Members made first lie at lower addresses; that is no property of a record."""
    member = np.arange(200) < 100
    things = pd.DataFrame({"thing": [object() for _ in range(200)]})
    assert blind_baseline(make(things, np.zeros(200)), member, seed=0).value == pytest.approx(0.5, abs=1e-9)


def test_few_members_are_not_resolvable_or_wide():
    rng = np.random.default_rng(8)
    x, nine, ten = rng.normal(size=(500, 2)), np.arange(500) < 9, np.arange(500) < 10
    assert not blind_baseline(make(x), nine, seed=0).resolvable
    got = blind_baseline(make(x), ten, seed=0)
    assert got.resolvable
    assert got.high - got.low > 0.2


def test_same_seed_same_figure_and_only_max_records_are_used():
    rng = np.random.default_rng(9)
    records, member = make(rng.normal(size=(900, 2))), half(900)
    first, second = (blind_baseline(records, member, seed=3, max_records=300) for _ in range(2))
    assert first == second
    assert first.n == 300


def test_subsample_keeps_as_many_of_the_smaller_class_as_it_can():
    rng = np.random.default_rng(10)
    membership = np.arange(1000) < 80
    kept = _subsample(membership, 200, rng)
    assert len(kept) == 200
    assert membership[kept].sum() == 80
    assert membership[_subsample(half(1000), 200, rng)].mean() != 0


def test_folds_hold_both_classes():
    truth = np.arange(60) < 10
    fold = _folds(truth, 5, np.random.default_rng(11))
    assert all((fold[truth] == k).sum() == 2 for k in range(5))
    assert all((fold[~truth] == k).sum() == 10 for k in range(5))


def test_faults_are_named():
    with pytest.raises(DesignError, match=r"membership must have shape \(5,\), got \(4,\)"):
        blind_baseline(make(np.zeros((5, 1))), np.zeros(4, bool), seed=0)
    with pytest.raises(DesignError, match="all 5 records are non-members"):
        blind_baseline(make(np.zeros((5, 1))), np.zeros(5, bool), seed=0)
