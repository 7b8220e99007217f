"""Ranges: scored as ranges, tuned on references only, sampled where they should be."""

import inspect

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.games.range import functions as range_functions
from mlflow_privacy.games.range.functions import RANGE_FUNCTIONS, perturbed_centres, range_function, sample_range
from mlflow_privacy.games.range.membership import (
    RANGE_SCORES,
    Trim,
    evaluate_ranges,
    range_members,
    range_membership,
    trimmed_mean,
    tune_trim,
)
from mlflow_privacy.types import Records, Scores


def naive_trimmed_mean(row, ratio, direction):
    kept, drop = sorted(row), min(int(ratio * len(row) + 1e-9), len(row) - 1)
    for turn in range(drop if direction != "both" else drop // 2 * 2):
        kept.pop(0 if direction == "low" or (direction == "both" and turn % 2) else -1)
    return sum(kept) / len(kept)


@pytest.mark.parametrize("direction", ["low", "high", "both"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.9, 0.99])
def test_trimmed_mean_equals_its_naive_twin(ratio, direction):
    samples = np.random.default_rng(0).normal(size=(20, 10))
    wanted = [naive_trimmed_mean(row, ratio, direction) for row in samples]
    assert trimmed_mean(samples, ratio, direction) == pytest.approx(wanted)


def test_trimmed_mean_runs_from_mean_to_maximum():
    samples = np.random.default_rng(1).normal(size=(9, 10))
    assert trimmed_mean(samples, 0.0) == pytest.approx(RANGE_SCORES["mean"](samples))
    assert trimmed_mean(samples, 0.95, "low") == pytest.approx(RANGE_SCORES["max"](samples))


def planted(rng, n_ranges, n_samples, models, share, effect=3.0):
    """Scores of samples of which a share lies near the training point; (r, s, models), (r, models)."""
    member = rng.random((n_ranges, models)) < 0.5
    member[:2] = [[True], [False]]
    near = rng.random((n_ranges, n_samples, 1)) < share
    noise = rng.normal(size=(n_ranges, n_samples, models)) + 0.3 * rng.normal(size=(n_ranges, 1, models))
    return noise + effect * near * member[:, None, :], member


def test_tuned_trim_beats_the_mean_where_few_samples_carry_the_evidence():
    samples, member = planted(np.random.default_rng(2), 400, 20, 5, share=0.15)
    scores, trim = range_membership(samples[..., 0], samples[..., 1:], member[:, 1:])
    assert trim.direction == "low"
    assert trim.ratio >= 0.5
    tuned = evaluate_ranges(scores, member[:, 0])[1]["auc"]
    plain = evaluate_ranges(range_membership(samples[..., 0], how="mean")[0], member[:, 0])[1]["auc"]
    assert tuned.value > plain.value + 0.03


def test_unit_of_evaluation_is_the_range():
    """500 ranges of 20 samples are 500 observations; sample scores would pretend to be 10,000 (and give less AUC)."""
    samples, member = planted(np.random.default_rng(3), 500, 20, 1, share=0.3)
    target, truth = samples[..., 0], member[:, 0]
    by_range = evaluate_ranges(range_membership(target, how="mean")[0], truth)[1]["auc"]
    by_sample = evaluate_ranges(Scores(target.ravel()), np.repeat(truth, 20))[1]["auc"]
    assert by_range.n == 500
    assert by_sample.n == 10_000
    assert by_range.value > by_sample.value + 0.05


def test_interval_of_ranges_covers_one_half_under_the_null():
    covered = 0
    for trial in range(60):
        samples, member = planted(np.random.default_rng(trial), 100, 8, 3, share=0.5, effect=0.0)
        scores, _ = range_membership(samples[..., 0], samples[..., 1:], member[:, 1:])
        estimate = evaluate_ranges(scores, member[:, 0])[1]["auc"]
        covered += estimate.low <= 0.5 <= estimate.high
    assert covered >= 51  # fewer with probability 1e-3 at 95 %


def test_target_cannot_influence_the_tuning():
    assert "target" not in inspect.signature(tune_trim).parameters
    samples, member = planted(np.random.default_rng(4), 200, 10, 4, share=0.2)
    _, one = range_membership(samples[..., 0], samples[..., 1:], member[:, 1:])
    _, other = range_membership(-(samples[..., 0] ** 3), samples[..., 1:], member[:, 1:])
    assert one == other == tune_trim(samples[..., 1:], member[:, 1:])
    assert list(inspect.signature(range_membership).parameters) == ["target", "reference", "member", "how", "trim"]


def test_without_signal_nothing_is_trimmed():
    samples = np.zeros((20, 5, 2))
    member = np.arange(20)[:, None] % 2 == np.arange(2)
    assert tune_trim(samples, member) == Trim(0.0, "low", 0.5)


def test_range_is_a_member_if_any_point_is():
    got = range_members(np.array([0, 0, 2, 2]), np.array([False, True, False, False]), 4)
    assert got.tolist() == [True, False, False, False]


def test_bad_range_input_names_thing_value_remedy():
    with pytest.raises(ConfigError, match="how must be one of"):
        range_membership(np.zeros((2, 2)), how="median")
    with pytest.raises(DesignError, match="tuned on reference models"):
        range_membership(np.zeros((2, 2)))
    with pytest.raises(DesignError, match="n_ranges, n_samples"):
        trimmed_mean(np.zeros(3))
    with pytest.raises(DesignError, match="NaN"):
        trimmed_mean(np.full((1, 2), np.nan))
    with pytest.raises(ConfigError, match="ratio must be in"):
        trimmed_mean(np.zeros((1, 2)), 1.0)
    with pytest.raises(DesignError, match="member and non-member ranges"):
        tune_trim(np.zeros((3, 2, 1)), np.ones((3, 1), bool))


def records(x):
    return Records(x, np.arange(len(x)) % 2, np.array([f"train:{i}" for i in range(len(x))]))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_samples_keep_label_and_origin(rng):
    drawn = sample_range("l2", records(np.zeros((3, 2))), 4, rng, radius=1.0)
    assert drawn.range_index.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert drawn.records.y.tolist() == [0] * 4 + [1] * 4 + [0] * 4
    assert drawn.records.row_ids[5] == "train:1#1"


def test_l2_samples_are_uniform_in_the_ball(rng):
    """The share within half of the radius is 2^−d."""
    drawn = sample_range("l2", records(np.full((1, 3), 5.0)), 20_000, rng, radius=2.0).records.x - 5.0
    length = np.linalg.norm(drawn, axis=1)
    assert length.max() <= 2.0
    assert np.mean(length < 1.0) == pytest.approx(1 / 8, abs=4 * np.sqrt(7 / 64 / 20_000))
    assert np.abs(drawn.mean(0)).max() < 0.05


def test_l2_keeps_image_shape_clip_and_frame_columns(rng):
    images = records(np.ones((2, 4, 4, 3), np.float32))
    drawn = sample_range("l2", images, 5, rng, radius=3.0, clip=(0, 1)).records.x
    assert drawn.shape == (10, 4, 4, 3)
    assert drawn.dtype == np.float32
    assert drawn.max() <= 1
    frame = records(pd.DataFrame({"a": [0.0, 1.0], "b": [2.0, 3.0]}))
    assert list(sample_range("l2", frame, 2, rng, radius=0.1).records.x.columns) == ["a", "b"]


@pytest.mark.parametrize("channels", ["last", "first"])
def test_geometric_moves_pixels_and_invents_none(rng, channels):
    image = np.zeros((1, 8, 8, 2) if channels == "last" else (1, 2, 8, 8), np.uint8)
    image[(slice(None), slice(2, 6), slice(2, 6)) if channels == "last" else (..., slice(2, 6), slice(2, 6))] = 200
    drawn = sample_range("geometric", records(image), 30, rng, channels=channels).records.x
    assert drawn.shape == (30, *image.shape[1:])
    assert drawn.dtype == np.uint8
    assert len(np.unique(drawn.reshape(30, -1), axis=0)) > 10
    assert drawn.max() <= 200


def test_geometric_shift_is_a_shift_and_rotation_by_nothing_changes_nothing(rng):
    image = rng.random((1, 6, 6))
    same = sample_range("geometric", records(image), 3, rng, flip=False, rotate=0, shift=0).records.x
    assert (same == image).all()
    for moved in sample_range("geometric", records(image), 20, rng, flip=False, rotate=0, shift=1).records.x:
        inner = moved[1:-1, 1:-1]
        assert any(
            np.array_equal(inner, image[0, 1 + a : 5 + a, 1 + b : 5 + b]) for a in (-1, 0, 1) for b in (-1, 0, 1)
        )


def test_missing_values_are_drawn_from_the_marginal_and_the_rest_stays(rng):
    population = pd.DataFrame({"age": [20, 30, 30, 30], "city": ["a", "b", "b", None], "x": [1.0, 2, 3, 4]})
    x = pd.DataFrame({"age": [50, 60], "city": ["z", "y"], "x": [0.5, 0.6]})
    got = sample_range("missing_values", records(x), 4000, rng, columns=["age", "city"], population=population)
    drawn = got.records.x
    assert set(drawn["age"]) == {20, 30}
    assert np.mean(drawn["age"] == 30) == pytest.approx(0.75, abs=0.03)
    assert np.mean(drawn["city"] == "b") == pytest.approx(2 / 3, abs=0.03)
    assert drawn["age"].dtype == x["age"].dtype
    assert drawn["x"].tolist() == [0.5] * 4000 + [0.6] * 4000


def test_missing_values_are_found_where_they_are(rng):
    x = np.array([[np.nan, 1.0, 2.0], [3.0, np.nan, np.nan]])
    population = np.array([[10.0, 20.0, 30.0]])
    drawn = sample_range("missing_values", records(x), 2, rng, population=population).records.x
    assert drawn.tolist() == [[10, 1, 2]] * 2 + [[3, 20, 30]] * 2
    assert np.isnan(x[0, 0])  # the caller's array is left alone


def test_column_ranges_numeric_and_categorical(rng):
    x = pd.DataFrame({"n": [1, 1], "f": [0.0, 0.0], "c": pd.Categorical(["u", "v"])})
    got = sample_range(
        "missing_values",
        records(x),
        500,
        rng,
        columns=["n", "f", "c"],
        col_ranges={"n": (2, 4), "f": (-1.0, 1.0), "c": ["u", "v"]},
    ).records.x
    assert set(got["n"]) == {2, 3, 4}
    assert got["f"].between(-1, 1).all()
    assert got["f"].std() == pytest.approx(2 / np.sqrt(12), rel=0.1)
    assert isinstance(got["c"].dtype, pd.CategoricalDtype)
    assert set(got["c"]) == {"u", "v"}


def test_words_are_replaced_by_the_callers_model(rng):
    seen = []

    def fill(words, position, rng):
        seen.append((words, position))
        return "W"

    texts = records(np.array(["one two three four five six seven eight nine ten", ""]))
    drawn = sample_range("word_replace", texts, 3, rng, fill=fill, share=0.2).records.x
    assert [t.split().count("W") for t in drawn] == [2, 2, 2, 0, 0, 0]
    assert len(seen) == 6
    assert "W" in seen[1][0]  # the second word is filled with the first one already replaced


def test_perturbed_centres_differ_from_the_records_and_stay_near(rng):
    x = rng.normal(size=(50, 4))
    moved = perturbed_centres("l2", records(x), rng, radius=0.5)
    distance = np.linalg.norm(moved.x - x, axis=1)
    assert (distance > 0).all()
    assert (distance <= 0.5).all()
    assert moved.row_ids[3] == "train:3"


@pytest.mark.parametrize("name", ["l2", "geometric", "missing_values", "word_replace"])
def test_same_seed_same_samples(name):
    x = {
        "l2": np.ones((2, 3)),
        "geometric": np.random.default_rng(1).random((2, 5, 5)),
        "missing_values": np.array([[1.0, np.nan], [np.nan, 2.0]]),
        "word_replace": np.array(["a b c d", "e f"]),
    }[name]
    options = {
        "l2": {"radius": 1.0},
        "missing_values": {"population": np.arange(20.0).reshape(10, 2)},
        "word_replace": {"fill": lambda words, i, rng: str(rng.integers(1000))},
    }.get(name, {})
    one, two, other = (
        sample_range(name, records(x), 4, np.random.default_rng(s), **options).records.x for s in (0, 0, 1)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_registry_takes_a_new_function_and_names_the_nearest(rng, monkeypatch):
    monkeypatch.setattr(range_functions, "RANGE_FUNCTIONS", dict(RANGE_FUNCTIONS))
    same = range_function("identity")(lambda records, n_samples, rng: range_functions._samples(records, records.x, 1))
    assert sample_range("identity", records(np.zeros((2, 1))), 1, rng).records.x.shape == (2, 1)
    assert range_functions.RANGE_FUNCTIONS["identity"] is same
    with pytest.raises(ConfigError, match='did you mean "geometric"'):
        sample_range("geometrical", records(np.zeros((2, 1))), 1, rng)


def test_bad_options_name_thing_value_remedy(rng):
    table = records(np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="radius must be positive, got 0"):
        sample_range("l2", table, 1, rng, radius=0)
    with pytest.raises(ConfigError, match="numeric features"):
        sample_range("l2", records(np.array(["a", "b"])), 1, rng, radius=1)
    with pytest.raises(ConfigError, match=r"images.*channels.*>= 0"):
        sample_range("geometric", table, 1, rng, channels="middle", shift=-1)
    with pytest.raises(DesignError, match="no cell is missing"):
        sample_range("missing_values", table, 1, rng)
    with pytest.raises(ConfigError, match="No such columns"):
        sample_range("missing_values", table, 1, rng, columns=["age"])
    with pytest.raises(ConfigError, match="need col_ranges, or a population"):
        sample_range("missing_values", table, 1, rng, columns=[0])
    with pytest.raises(ConfigError, match="low <= high"):
        sample_range("missing_values", table, 1, rng, columns=[0], col_ranges={0: (2, 1)})
    with pytest.raises(ConfigError, match="share must be in"):
        sample_range("word_replace", table, 1, rng, fill=lambda w, i, r: "", share=0)
    with pytest.raises(ConfigError, match="n_samples"):
        sample_range("l2", table, 0, rng, radius=1)
