"""Signals of regressors whose targets have outliers, or are very small or large."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_privacy.attacks.population import attack_p
from mlflow_privacy.attacks.rmia import rmia
from mlflow_privacy.signals import residual_scale
from mlflow_privacy.signals.regression import gaussian_outputs
from mlflow_privacy.stats import mann_whitney


def _auc(score, member):
    return mann_whitney(score[member], score[~member])


def _residuals(n=1000):
    rng = np.random.default_rng(0)
    member = np.arange(n) % 2 == 0
    return rng.normal(size=n) * np.where(member, 0.5, 1.0), member


def _attack(residual, member):
    out = gaussian_outputs(np.zeros(len(residual)), residual)
    assert np.isfinite(out.signal).all()
    assert np.isfinite(out.loss).all()
    return _auc(attack_p(out.signal, out.signal[~member]).rank(), member), out


@pytest.mark.parametrize("outlier", [1e6, 1e20, 1e200])
def test_outliers_leave_the_order_of_the_residuals_and_the_scale(outlier):
    residual, member = _residuals()
    plain = residual_scale(gaussian_outputs(np.zeros(1000), residual))
    residual[::200] = outlier
    auc, out = _attack(residual, member)
    assert auc == pytest.approx(_auc(-np.abs(residual), member), abs=1e-6)
    assert auc > 0.65
    assert len(np.unique(out.signal)) > 990
    assert residual_scale(out) == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("unit", [1e-150, 1e-15, 1e-3, 1e3, 1e20, 1e140])
def test_figures_do_not_depend_on_the_unit_of_the_targets(unit):
    residual, member = _residuals()
    auc, out = _attack(residual * unit, member)
    base_auc, base = _attack(residual, member)
    assert auc == base_auc > 0.6
    np.testing.assert_allclose(out.signal + np.log(unit), base.signal, rtol=1e-9, atol=1e-9)
    assert residual_scale(out) == pytest.approx(unit * residual_scale(base), rel=1e-9)


def test_nothing_there_is_nothing_found():
    rng = np.random.default_rng(1)
    residual, member = rng.normal(size=4000), np.arange(4000) % 2 == 0
    residual[::400] = 1e9
    assert abs(_attack(residual, member)[0] - 0.5) < 0.03


def test_members_that_are_known_by_heart_are_no_measure_of_the_others():
    residual, member = _residuals()
    for small, expected in ((0.0, 1.0), (1e-9, 1 / 30)):
        known = np.where(member, small, residual)
        sigma, usual = residual_scale(gaussian_outputs(np.zeros(1000), known)), np.sqrt(np.mean(known**2))
        assert sigma == pytest.approx(expected * usual, rel=1e-9)


def test_normal_residuals_have_their_own_sigma():
    residual = 3 * np.random.default_rng(2).normal(size=100_000)
    assert residual_scale(gaussian_outputs(np.zeros(100_000), residual)) == pytest.approx(3, rel=0.01)


def test_rmia_loses_nothing_to_the_loss_where_members_are_nearly_known_by_heart():
    rng = np.random.default_rng(3)
    halves = rng.random((3, 600)) < 0.5
    in_row = np.concatenate([halves, ~halves[1:]])  # of a target and two pairs of references
    residual = rng.normal(size=(5, 600)) * np.where(in_row, 0.02, 1.0)
    signal = np.stack([gaussian_outputs(np.zeros(600), row).signal for row in residual])
    member, out = in_row[0], ~in_row[0]
    arrays = (signal[0], signal[1:].T, in_row[1:].T, signal[0][out], signal[1:].T[out])
    found = _auc(rmia(*arrays, in_row[1:].T[out], link="log").rank(), member)
    assert found > _auc(-np.abs(residual[0]), member) - 0.02 > 0.95


def test_several_outputs_share_one_scale_and_sum():
    rng = np.random.default_rng(0)
    residual = rng.normal(size=(200, 3)) * 1e20
    out = gaussian_outputs(np.zeros((200, 3)), residual)
    np.testing.assert_allclose(out.loss, (residual**2).mean(axis=1))
    sigma = residual_scale(out)
    naive = -0.5 * np.log(2 * np.pi * sigma**2) - residual**2 / (2 * sigma**2)
    np.testing.assert_allclose(out.signal, naive.sum(axis=1), rtol=1e-9)
