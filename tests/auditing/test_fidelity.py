"""Target and references side by side: by accuracy, R² and loss, and no word where chance explains it."""

import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge

from mlflow_privacy.auditing.fidelity import fidelity_of
from mlflow_privacy.auditing.findings import _fidelity_warnings
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.auditing.references import References
from mlflow_privacy.report.example import example_result
from mlflow_privacy.report.sections.checks import checks, unlike_references
from mlflow_privacy.trainers import make_recipe
from mlflow_privacy.types import AuditedModel, AuditTarget, Fidelity, ModelOutputs, Records

OPTIONS = AuditOptions(num_ref_models=8, blind_baseline=False, progress=False)


def regression(model, like, *, unit=1.0, k=None, seed=0):
    """A regressor whose references are trained as `like` is."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 4))
    y = unit * (x[:, 0] + rng.normal(size=200))
    y = y if k is None else np.stack([y] * k, axis=1)
    member = np.arange(200) < 100
    pool = Records(x, y, np.arange(200).astype(str))
    recipe = make_recipe(like, task="regression", data=pool)
    audited = AuditedModel("m", None, None, None, None, "sklearn", model.fit(x[member], y[member]))
    return AuditTarget(audited, pool, member, "regression", recipe=recipe)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_regressors_are_compared_by_r2_in_any_unit(unit):
    result = audit(regression(RandomForestRegressor(10, random_state=0), Ridge(), unit=unit), OPTIONS)
    own = result.fidelity.target
    residual = np.mean((result.y - result.y.mean()) ** 2)
    assert own["member_r2"] == pytest.approx(1 - own["member_loss"] / residual)
    (check,) = [check for check in checks(result) if check.name == "Recipe fidelity"]
    assert check.figure.startswith("R² on records not trained on: target")
    (said,) = [warning for warning in result.warnings if "on their own" in warning]
    assert said.startswith("Reference models reach R²")


@pytest.mark.parametrize("k", [None, 2])
def test_a_regressor_like_its_references_is_not_doubted(k):
    for seed in range(3):
        target = regression(RandomForestRegressor(10, random_state=seed), RandomForestRegressor(10), k=k, seed=seed)
        result = audit(target, OPTIONS)
        assert _fidelity_warnings(result) == []
        assert set(result.fidelity.target) == {f"{s}_{w}" for s in ("member", "nonmember") for w in ("loss", "r2")}


def alike(rng, *, n_out, n=200, m=4, apart=1.0):
    """A target and m references with heavy-tailed losses, the target's `apart` times theirs."""
    hard = rng.lognormal(-1, 1.2, n)

    def outputs(factor):
        loss = factor * hard * rng.lognormal(0, 0.5, n) * rng.lognormal(0, 0.1)
        return ModelOutputs(-loss, np.ones(n, bool), loss, "logit")

    member = np.arange(n) >= n_out
    rows = rng.random((n, m)) < 0.5
    references = References(rows, tuple(outputs(1) for _ in range(m)), (), ("r",) * m, 0, m, "f", rows.T)
    return fidelity_of(outputs(apart), member, references, np.zeros(n, int)), member


@pytest.mark.parametrize("n_out", [1, 2, 3, 5, 20, 100])
@pytest.mark.parametrize("m", [2, 4, 8])
def test_losses_of_one_recipe_are_not_called_unlike(n_out, m):
    rng, result, alarms = np.random.default_rng(n_out), example_result(n=100), 0
    for _ in range(100):
        fidelity, member = alike(rng, n_out=n_out, m=m)
        one = dataclasses.replace(result, fidelity=fidelity, membership=member)
        alarms += any(unlike_references(one, f"{side}_loss") for side in ("member", "nonmember"))
    assert alarms <= 2


def test_losses_far_apart_are_told_by_eight_references():
    rng, result = np.random.default_rng(0), example_result(n=100)
    fidelity, member = alike(rng, n_out=100, m=8, apart=4.0)
    assert min(fidelity.apart.values()) > 1
    warnings = _fidelity_warnings(dataclasses.replace(result, fidelity=fidelity, membership=member))
    assert warnings[0].startswith("Reference models reach a mean loss of")


def test_audits_without_a_measure_of_chance_are_judged_as_before():
    result = example_result(n=100)
    off = {**result.fidelity.target, "nonmember_loss": 6.0}
    fidelity = Fidelity(off, result.fidelity.reference, result.fidelity.reference_std)
    assert unlike_references(dataclasses.replace(result, fidelity=fidelity), "nonmember_loss")
    few = dataclasses.replace(result, fidelity=fidelity, membership=np.arange(200) >= 3)
    assert not unlike_references(few, "nonmember_loss")
