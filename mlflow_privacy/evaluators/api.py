"""The audit as a plain function."""

from __future__ import annotations

from typing import Any

from mlflow_privacy.evaluators import EVALUATOR


def evaluate(model_uri: Any, **options: Any) -> Any:
    """Audits a registered model: `mlflow.evaluate(model_uri, evaluators=["privacy_meter"])` as a plain function.

    Args:
      model_uri: "models:/name/version", "models:/name@alias", "runs:/…/model", "models:/m-…", or a loaded pyfunc model.
      **options: see `mlflow_privacy.AuditOptions`.

    Returns:
      MLflow's `EvaluationResult`: `.metrics` (`privacy/<attack>/<metric>`), `.artifacts`, `.run_id`.

    Raises:
      ConfigError: an option is unknown or wrong; all faults at once.
      LineageError: members or non-members cannot be found, loaded or verified.
      RecipeError: the recipe or `train_fn` that was given cannot train a reference model.
    """
    from mlflow_privacy.evaluators.hook import install_privacy_meter_hook
    from mlflow_privacy.store.mlflow_private import evaluation_module

    base = evaluation_module()
    install_privacy_meter_hook(base)  # also where MLflow did not load the plugin's entry points
    return base.evaluate(model_uri, evaluators=[EVALUATOR], evaluator_config={EVALUATOR: options})
