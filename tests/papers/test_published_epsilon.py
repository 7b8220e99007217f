"""Figures of one-run audits that jax_privacy's own tests state (`auditing_test.py`), recomputed.

The facts: 10,000 canaries in and 10,000 out, their scores the mid-quantiles of N(s, 1) and N(0, 1); δ = 1e-6, level
0.05; guesses "in" only, at every vertex of the ROC's concave hull, the level divided by the number of vertices. (The
vertices depend on who is a member, so this division is not a proof; `games.one_run` therefore takes other candidates.)
"""

import numpy as np
import pytest
from scipy.special import ndtri

from mlflow_privacy.metrics.epsilon import gaussian_epsilon, one_run_epsilon, one_run_fdp_mu

N = 10_000


def hull_vertices(shift):
    """(tp, fp) counts at the vertices of the concave hull, both ends included."""
    outside = ndtri((np.arange(N) + 0.5) / N)
    inside = outside + shift
    levels = np.append(np.union1d(inside, outside), np.inf)
    points = np.stack([N - np.searchsorted(outside, levels), N - np.searchsorted(inside, levels)], axis=1)[::-1]
    hull: list = []
    for fp, tp in points.tolist():
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (x1 - x0) * (tp - y0) < (y1 - y0) * (fp - x0):
                break
            hull.pop()
        hull.append((fp, tp))
    return [(tp, fp) for fp, tp in hull]


def best(shift, bound):
    vertices, strength = hull_vertices(shift), 0.0
    # High precision first: later vertices are then dismissed after one evaluation each.
    for tp, fp in sorted(vertices, key=lambda v: -v[0] / (v[0] + v[1] + 100)):
        if tp > fp:
            strength = bound(tp, tp + fp, 2 * N, significance=0.05 / len(vertices), above=strength)
    return strength


@pytest.mark.parametrize(("shift", "wanted"), [(0, 0.0), (1, 1.13346), (2, 2.311945), (4, 4.395568)])
def test_one_run(shift, wanted):
    got = best(shift, lambda *counts, **options: one_run_epsilon(*counts, delta=1e-6, **options))
    assert got == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("shift", "wanted"), [(0, 0.0), (1, 2.164749), (2, 4.7218075), (4, 9.133752)])
def test_one_run_f_dp(shift, wanted):
    assert gaussian_epsilon(best(shift, one_run_fdp_mu), 1e-6) == pytest.approx(wanted, abs=1e-4)
