"""Games through MLflow's own call: canaries by lineage, metrics, tags, figures, the gate, and shared references."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

import mlflow_privacy
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.cli import main
from mlflow_privacy.errors import ConfigError, LineageError
from mlflow_privacy.games import canary_coins
from mlflow_privacy.lineage import resolve_target
from mlflow_privacy.lineage.recipe import claimed_privacy

OPTIONS = {"num_ref_models": 4, "blind_baseline": False, "progress": False}


def frame(x, y):
    return pd.DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])]).assign(label=y)


def register(*, canaries, n=300, ordinary=60, features=100, seed=0, **lineage):
    """An over-fitted model of some ordinary records and the canaries whose coin said so."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n + ordinary, features)), rng.integers(2, size=n + ordinary)
    coins = canary_coins(n, seed)
    if not canaries:  # a share is estimated of a target that trained on as many records as its references
        coins = np.random.default_rng(seed).permutation(n) < n // 2
    is_in = np.r_[coins, np.ones(ordinary, bool)]
    with mlflow.start_run() as run:
        model = LogisticRegression(C=1e3, max_iter=300).fit(frame(x, y)[is_in].drop(columns="label"), y[is_in])
        mlflow.sklearn.log_model(model, name="model", registered_model_name="scorer", pip_requirements=["scikit-learn"])
        train, holdout = frame(x, y)[is_in].reset_index(drop=True), frame(x, y)[~is_in].reset_index(drop=True)
        rows = np.arange(len(train)) < coins.sum() if canaries else None
        mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="label", canaries=rows, **lineage)
    return run.info.run_id, coins


def reference_runs(tracking):
    experiments = [e.experiment_id for e in tracking.search_experiments()]
    return len(tracking.search_runs(experiments, "tags.`privacy.role` = 'reference'"))


def test_dp_by_lineage_through_evaluator_tags_figures_and_gate(tracking):
    _, coins = register(canaries=True, recipe={"epsilon": 0.01})
    target = resolve_target("models:/scorer/1", AuditOptions())
    assert target.always.sum() == 60
    assert target.claims == {"epsilon": 0.01, "delta": None, "source": "the lineage"}
    result = mlflow_privacy.evaluate("models:/scorer/1", game="dp", game_options={"delta": 1e-6}, **OPTIONS)
    bound = result.metrics["privacy/dp/epsilon"]
    assert bound > 0.05
    assert result.metrics["privacy/dp/contradicted"] == 1
    assert "privacy/rmia/auc" in result.metrics  # a claim in the recipe is no parameter of the estimator
    logged = tracking.get_run(result.run_id).data.metrics
    assert logged["privacy/dp/epsilon"] == pytest.approx(bound)
    assert result.artifacts["privacy/game_dp"].content.size[0] == 1400
    version = tracking.get_model_version("scorer", "1")
    assert version.tags["privacy.epsilon"].startswith("ε ≥ ")
    assert "Lower bound on ε" in version.description
    assert "is contradicted" in version.description
    report = tracking.download_artifacts(result.run_id, "privacy_report.md")
    assert "Lower bound on ε" in Path(report).read_text(encoding="utf-8")
    file = tracking.download_artifacts(result.run_id, "privacy/metrics.json")
    record = json.loads(Path(file).read_text(encoding="utf-8"))
    assert record["games"]["dp"]["metrics"]["epsilon"]["value"] == pytest.approx(bound, abs=1e-6)
    assert f"of {len(coins)} canaries" in record["games"]["dp"]["sentence"]
    for limit, code in ((bound / 2, 1), (bound * 2, 0)):
        assert CliRunner().invoke(main, ["gate", "models:/scorer/1", "--max", f"dp/epsilon={limit}"]).exit_code == code


def test_usage_and_range_share_the_references_of_the_membership_game(tracking):
    _, coins = register(canaries=False, ordinary=0)
    mlflow_privacy.evaluate("models:/scorer/1", **OPTIONS)
    assert reference_runs(tracking) == 4
    usage = mlflow_privacy.evaluate("models:/scorer/1", game="usage", **OPTIONS)
    ranges = mlflow_privacy.evaluate("models:/scorer/1", game="range", game_options={"n_samples": 3}, **OPTIONS)
    again = mlflow_privacy.evaluate("models:/scorer/1", game="range", game_options={"n_samples": 3}, **OPTIONS)
    assert reference_runs(tracking) == 4  # nothing was trained again
    assert usage.metrics["privacy/usage/share_low"] <= coins.mean() <= usage.metrics["privacy/usage/share_high"]
    assert ranges.metrics["privacy/range/auc"] > 0.55
    shared = {k: v for k, v in ranges.metrics.items() if "/range/" in k}
    assert shared == {k: v for k, v in again.metrics.items() if "/range/" in k}
    tags = tracking.get_model_version("scorer", "1").tags
    assert tags["privacy.range"].startswith("AUC 0.")
    assert "privacy.usage" in tags
    assert {"privacy/game_range"} <= set(ranges.artifacts)


def test_the_command_line_plays_games(tracking):
    register(canaries=True)
    arguments = ["audit", "models:/scorer/1", "--num-ref-models", "2", "--game", "dp", "--game-option", "delta=1e-4"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "Lower bound on ε" in result.output
    wrong = CliRunner().invoke(main, [*arguments, "--game-option", "dleta=1"])
    assert wrong.exit_code == 2
    assert "did you mean 'delta'" in wrong.output


def test_unknown_options_leave_no_run_behind(tracking):
    register(canaries=True)
    before = len(tracking.search_runs([tracking.get_experiment_by_name("test").experiment_id]))
    with pytest.raises(ConfigError, match="did you mean 'delta'"):
        mlflow_privacy.evaluate("models:/scorer/1", game="dp", game_options={"detla": 1}, **OPTIONS)
    assert len(tracking.search_runs([tracking.get_experiment_by_name("test").experiment_id])) == before


def test_a_whole_data_set_with_a_mask_names_canaries_of_both_kinds(tracking):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 4)), rng.integers(2, size=120)
    canary, coins = np.arange(120) < 60, rng.random(120) < 0.5
    is_in = np.where(canary, coins, np.arange(120) < 100)
    with mlflow.start_run():
        model = LogisticRegression().fit(x[is_in], y[is_in])
        mlflow.sklearn.log_model(model, name="model", registered_model_name="masked", pip_requirements=["scikit-learn"])
        mlflow_privacy.log_lineage(train=(x, y), mask=is_in, canaries=canary)
    target = resolve_target("models:/masked/1", AuditOptions())
    assert (~target.membership).sum() == (canary & ~coins).sum()  # 20 rows are neither trained on nor canaries
    assert target.always.sum() == 40
    assert target.membership[~target.always].sum() == (canary & coins).sum()


@pytest.mark.parametrize(
    ("canaries", "message"),
    [
        (np.ones(3, bool), "must be 10 booleans"),
        ([11], "reach from 11 to 11, but train has 10 rows"),
        ([0.5], "booleans or whole numbers"),
        ([], "booleans or whole numbers|names no row"),
    ],
)
def test_canaries_that_are_no_rows_are_refused(tracking, canaries, message):
    with mlflow.start_run(), pytest.raises(LineageError, match=message):
        mlflow_privacy.log_lineage(train=(np.zeros((10, 2)), np.arange(10)), canaries=canaries)


def test_an_optimizers_epsilon_is_no_claim():
    assert claimed_privacy(None, {"epsilon": "1e-07"}, {}) == {}
    assert claimed_privacy(None, {"epsilon": "1e-07"}, {"dp/epsilon": 4.0})["epsilon"] == 4.0
    assert claimed_privacy({"dp": {"epsilon": 2.0, "delta": 1e-6}}, {}, {"dp/epsilon": 4.0})["epsilon"] == 2.0
