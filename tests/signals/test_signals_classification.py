"""φ: closed forms, naive twins, clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals import model_outputs, residual_scale
from mlflow_privacy.signals.classification import (
    are_probabilities,
    columns_of,
    phi_from_logits,
    phi_from_probabilities,
    softplus,
)
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.signals.torch import _phi
from mlflow_privacy.types import Records


def test_phi_of_two_classes_is_the_difference_of_logits():
    logits = np.array([[1.5, -0.5], [200.0, -200.0], [-200.0, 200.0]])
    assert phi_from_logits(logits, np.array([0, 0, 0])).tolist() == [2.0, 400.0, -400.0]


def test_phi_of_three_classes_by_hand():
    logits = np.log([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(phi_from_logits(logits, np.array([0])), np.log(0.7 / 0.3))
    np.testing.assert_allclose(phi_from_logits(logits + 123.0, np.array([2])), np.log(0.1 / 0.9))


def test_saturated_logits_keep_what_the_softmax_loses():
    logits = np.array([[200.0, -200.0, -200.0], [60.0, 0.0, 0.0]])
    phi = phi_from_logits(logits, np.array([0, 0]))
    np.testing.assert_allclose(phi, [400 - np.log(2), 60 - np.log(2)])
    p = torch.softmax(torch.tensor(logits, dtype=torch.float32), 1)
    assert (1 - p[:, 0] == 0).all()  # the naive way would give infinity


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000), st.sampled_from([0.1, 3.0, 60.0]))
def test_phi_equals_the_naive_twin_and_the_twin_on_the_device(c, seed, size):
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(size=(7, c)) * size, rng.integers(0, c, 7)
    naive = [
        row[k] - np.log(sum(np.exp(v - row.max()) for j, v in enumerate(row) if j != k)) - row.max()
        for row, k in zip(logits.astype(np.longdouble), y)
    ]
    if size < 60:
        np.testing.assert_allclose(phi_from_logits(logits, y), np.array(naive, float), rtol=1e-9, atol=1e-9)
    on_device = _phi(torch.from_numpy(logits), torch.from_numpy(y))
    np.testing.assert_allclose(on_device.logit.numpy(), phi_from_logits(logits, y), rtol=1e-12, atol=1e-12)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    both = _phi(torch.from_numpy(p), torch.from_numpy(y))
    assert both.distribution.all()
    np.testing.assert_allclose(
        both.probability.numpy(), phi_from_probabilities(p, y, floor=1e-30), rtol=1e-9, atol=1e-9
    )
    if size < 60:
        np.testing.assert_allclose(phi_from_probabilities(p, y, floor=1e-30), phi_from_logits(logits, y), rtol=1e-6)


def test_log_probabilities_give_the_phi_of_their_logits():
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 5
    log_p = torch.log_softmax(torch.from_numpy(logits), 1).numpy()
    y = np.arange(50) % 4
    np.testing.assert_allclose(phi_from_logits(log_p, y), phi_from_logits(logits, y))


def test_clip_is_symmetric_and_monotone():
    p1 = np.array([0.0, 1e-9, 1e-6, 0.3, 0.5, 0.7, 1 - 1e-6, 1 - 1e-9, 1.0])
    phi = phi_from_probabilities(np.stack([1 - p1, p1], 1), np.ones(9, int), floor=1e-7)
    np.testing.assert_allclose(phi, -phi[::-1], rtol=1e-6)
    assert (np.diff(phi) >= 0).all()
    np.testing.assert_allclose(phi[0], np.log(1e-7 / (1 - 1e-7)))


def test_unknown_class_has_the_floor():
    phi = phi_from_probabilities(np.array([[0.5, 0.5]]), np.array([-1]), floor=1e-7)
    np.testing.assert_allclose(phi, np.log(1e-7) - np.log1p(-1e-7))
    assert np.isnan(phi_from_logits(np.array([[1.0, 2.0]]), np.array([-1]))).all()


def test_softplus_is_the_cross_entropy_of_phi():
    phi = np.array([-400.0, -1.0, 0.0, 3.0, 400.0])
    np.testing.assert_allclose(softplus(-phi)[1:4], -np.log(1 / (1 + np.exp(-phi[1:4]))))
    assert softplus(-phi)[0] == 400.0
    assert softplus(-phi)[4] < 1e-100


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.5, 0.5], [1.0, 0.0]], True),
        ([[0.5, 0.4], [1.0, 0.0]], False),
        ([[1.2, -0.2]], False),
        ([[0.3334, 0.3333, 0.3334]], True),
        ([[np.nan, 1.0]], False),
    ],
)
def test_distributions_are_recognised(values, expected):
    assert are_probabilities(np.array(values)) is expected


def test_labels_are_matched_by_value_then_text_then_place():
    y = np.array(["b", "a", "z"])
    assert columns_of(y, np.array(["a", "b"]), np.array(["a", "b", "z"])).tolist() == [1, 0, -1]
    assert columns_of(np.array([2, 1]), np.array(["1", "2"]), np.array([1, 2])).tolist() == [1, 0]
    assert columns_of(np.array([1.0, 0.0]), np.array([0, 1]), np.array([0.0, 1.0])).tolist() == [1, 0]
    assert columns_of(np.array([True, False]), np.array([0, 1]), np.array([False, True])).tolist() == [1, 0]
    assert columns_of(np.array(["x", "w"]), np.array([0, 1]), np.array(["w", "x"])).tolist() == [1, 0]
    with pytest.raises(SignalError, match=r"classes \('p', 'q', 'r'\) have nothing in common .*\('w', 'x'\)"):
        columns_of(np.array(["x", "w"]), np.array(["p", "q", "r"]), np.array(["w", "x"]))


def test_gaussian_log_likelihood_in_closed_form():
    rng = np.random.default_rng(0)
    y, prediction = rng.normal(size=50) * 3, rng.normal(size=50)
    from scipy.stats import norm

    out = gaussian_outputs(prediction, y, scale=1.7)
    np.testing.assert_allclose(out.signal, norm.logpdf(y, prediction, 1.7), rtol=1e-5)
    assert out.link == "log"
    assert out.correct is None
    np.testing.assert_allclose(out.loss, (y - prediction) ** 2, rtol=1e-5)


def test_scale_is_the_most_likely_one_and_can_be_passed_on():
    rng = np.random.default_rng(0)
    y, prediction = rng.normal(size=200), np.zeros(200)
    own = gaussian_outputs(prediction, y)
    sigma = residual_scale(own)
    assert sigma == pytest.approx(np.sqrt((y**2).mean()), rel=1e-5)
    np.testing.assert_allclose(gaussian_outputs(prediction, y, scale=sigma).signal, own.signal, rtol=1e-4, atol=1e-5)
    for other in (0.9 * sigma, 1.1 * sigma):
        assert gaussian_outputs(prediction, y, scale=other).signal.sum() < own.signal.sum()


def test_several_outputs_add_their_log_likelihoods():
    rng = np.random.default_rng(0)
    y, prediction = rng.normal(size=(30, 2)), rng.normal(size=(30, 2))
    both = gaussian_outputs(prediction, y, scale=1.3).signal
    parts = [gaussian_outputs(prediction[:, k], y[:, k], scale=1.3).signal for k in range(2)]
    np.testing.assert_allclose(both, parts[0] + parts[1], rtol=1e-5)
    sigma = residual_scale(gaussian_outputs(prediction, y))
    assert sigma == pytest.approx(np.sqrt(((y - prediction) ** 2).mean()), rel=1e-5)


def test_perfect_regressor_gives_finite_signals():
    out = gaussian_outputs(np.ones(5), np.ones(5))
    assert np.isfinite(out.signal).all()
    assert residual_scale(out) > 0


@pytest.mark.parametrize(
    ("prediction", "y", "scale", "match"),
    [
        (np.zeros((4, 3)), np.zeros(4), None, r"array of shape \(4, 3\) for targets of shape \(4,\)"),
        (np.array(["a"] * 4), np.zeros(4), None, "must be numbers, got dtypes <U1"),
        (np.array([0.0, np.nan, np.inf, 1.0]), np.zeros(4), None, "2 of 4 records, the first at position 1"),
        (np.zeros(4), np.zeros(4), 0.0, "scale must be positive, got 0.0"),
    ],
)
def test_regression_faults_name_what_came(prediction, y, scale, match):
    with pytest.raises(SignalError, match=match):
        gaussian_outputs(prediction, y, scale=scale)


def test_no_records_and_no_model_are_named():
    empty = Records(np.zeros((0, 2)), np.zeros(0), np.zeros(0).astype(str))
    with pytest.raises(SignalError, match="no records"):
        model_outputs(lambda x: x, empty, task="regression")
    one = Records(np.zeros((1, 2)), np.zeros(1), np.array(["0"]))
    with pytest.raises(SignalError, match=r"builtins\.int cannot be asked for predictions.*flavor"):
        model_outputs(3, one, task="regression")
    with pytest.raises(SignalError, match="batch_size must be at least 1, got 0"):
        model_outputs(lambda x: x, one, task="regression", batch_size=0)
