"""A plan says what an audit would do and cost, as the audit then does it; it trains nothing and writes nothing."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from trees import register, split

import mlflow_privacy
from mlflow_privacy.auditing.outline import AuditPlan
from mlflow_privacy.cli import main
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.store.references import ReferenceStore

QUIET = {"blind_baseline": False, "progress": False}


def everything(folder):
    """Files of tracking store, registry and artifacts with their content, but the note that MLflow's loading makes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "registered_model_meta"]
    return {path: path.read_bytes() for path in files}


@pytest.fixture
def nothing_trains(monkeypatch):
    def trained(*args, **kwargs):
        pytest.fail("a plan trained a model")

    monkeypatch.setattr("mlflow_privacy.trainers.sklearn.SklearnTrainer.train", trained)
    for name in ("create_run", "log_batch", "set_tag", "log_artifacts", "create_experiment"):
        monkeypatch.setattr(f"mlflow.MlflowClient.{name}", lambda *args, **kwargs: pytest.fail("a plan wrote"))


def test_a_plan_trains_nothing_and_writes_nothing(registered, tracking, tmp_path, nothing_trains):
    before = everything(tmp_path)
    plan = mlflow_privacy.plan("models:/tree/1")
    assert everything(tmp_path) == before
    assert isinstance(plan, AuditPlan)
    assert (plan.n_members, plan.n_nonmembers, plan.fraction, plan.group) == (280, 289, 0.5, 2)
    assert (plan.price.found, plan.price.missing, plan.price.seconds) == (0, 8, None)
    for part in ("models:/tree/1", "280 members", "289 non-members", "DecisionTreeClassifier", "8 to train", "kB"):
        assert part in str(plan)
    assert "told once the first one is trained" in str(plan)


def test_a_plan_is_what_the_audit_then_does(registered, tracking):
    options = {"num_ref_models": 4, "random_seed": 5, **QUIET}
    plan = mlflow_privacy.plan("models:/tree/1", **options)
    result = mlflow_privacy.evaluate("models:/tree/1", **options)
    ran = {key.split("/")[1] for key in result.metrics if key.endswith("/auc")} - {"headline"}
    assert ran == set(plan.attacks)
    references = tracking.search_runs(
        [tracking.get_run(result.run_id).info.experiment_id], "tags.`privacy.role` = 'reference'"
    )
    assert len(references) == plan.price.missing == 4
    on_disk = sum(len(content) for run in references for content in everything(run.info.artifact_uri).values())
    assert on_disk == pytest.approx(plan.price.size, rel=0.5)
    after = mlflow_privacy.plan("models:/tree/1", **options)
    assert (after.price.found, after.price.missing) == (4, 0)
    assert "found in the store, none to train" in str(after)


def test_a_plan_tells_the_time_by_references_that_are_found_or_by_the_same_recipe_on_other_data(registered, tracking):
    mlflow_privacy.evaluate("models:/tree/1", num_ref_models=2, **QUIET)
    experiment = tracking.get_experiment_by_name("test").experiment_id
    for run in tracking.search_runs([experiment], "tags.`privacy.role` = 'reference'"):
        tracking.log_metric(run.info.run_id, "train_seconds", 40.0)
    more = mlflow_privacy.plan("models:/tree/1", num_ref_models=8, n_workers=1)
    assert (more.price.found, more.price.missing, more.price.seconds) == (2, 6, 240.0)
    assert "About 4 min, by those found" in str(more)
    train, holdout = split(seed=3)
    other = mlflow_privacy.plan(
        "models:/tree/1", train=train[:140], holdout=holdout[:145], targets="target", num_ref_models=4, n_workers=1
    )
    assert (other.price.found, other.price.missing) == (0, 4)
    assert other.price.seconds == pytest.approx(4 * 40 * 142 / 284, rel=0.02)  # half of the records
    assert "by models of this recipe on other data" in str(other)
    fits = mlflow_privacy.plan("models:/tree/1", num_ref_models=8, n_workers=1, time_budget="100 s")
    assert "about 2 of the 6 missing ones fit" in str(fits)
    assert "all of them fit" in str(mlflow_privacy.plan("models:/tree/1", n_workers=1, time_budget="1 h"))


def test_another_recipes_seconds_tell_nothing(registered, tracking):
    mlflow_privacy.evaluate("models:/tree/1", num_ref_models=2, **QUIET)
    register("stump", max_depth=1)
    assert mlflow_privacy.plan("models:/stump/1").price.seconds is None


def test_the_store_finds_a_recipes_seconds_scaled_by_its_records(registered, tracking):
    mlflow_privacy.evaluate("models:/tree/1", num_ref_models=2, **QUIET)
    (experiment,) = tracking.search_experiments(filter_string="name = 'test'")
    with ReferenceStore(tracking, "", "") as store:
        assert store.pace_of({"kind": "sklearn", "spec": {}}, 100) is None
    (run, _) = tracking.search_runs([experiment.experiment_id], "tags.`privacy.role` = 'reference'")
    assert len(run.data.tags["privacy.recipe"]) == 64


def test_a_plan_tells_what_would_keep_the_audit_from_running(registered):
    with pytest.raises(ConfigError, match="learned"):
        mlflow_privacy.plan("models:/tree/1", attacks=["learned"], num_ref_models=2)
    with pytest.raises(ConfigError, match="time_budget"):
        mlflow_privacy.plan("models:/tree/1", time_budget="soon")


def test_a_plan_without_references_says_so(registered):
    plan = mlflow_privacy.plan("models:/tree/1", num_ref_models=0)
    assert plan.price is None
    assert "References  none" in str(plan)


def test_the_command_prints_the_plan_and_audits_nothing(registered, tmp_path, monkeypatch):
    monkeypatch.setattr("mlflow_privacy.evaluate", lambda *args, **kwargs: pytest.fail("audited"), raising=False)
    before = everything(tmp_path)
    result = CliRunner().invoke(main, ["audit", "models:/tree/1", "--dry-run", "--num-ref-models", "4"])
    assert result.exit_code == 0, result.output
    assert "4 reference models: 0 found in the store, 4 to train" in result.output
    assert "Nothing was trained, and nothing was written." in result.output
    assert everything(tmp_path) == before
