"""What an audit of a registered model would do and cost, as a plain function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_privacy.auditing.outline import AuditPlan


def plan(model_uri: Any, **options: Any) -> AuditPlan:
    """What `evaluate(model_uri, **options)` would do: data, recipe, design, attacks, time and place on the store.

    Nothing is trained, and nothing is written: no run, no experiment, no tag.

    Args:
      model_uri: as of `mlflow_privacy.evaluate`.
      **options: see `mlflow_privacy.AuditOptions`.

    Returns:
      A frozen record; `print` it.

    Raises:
      ConfigError, LineageError, RecipeError, DesignError: what would keep the audit from running.
    """
    import mlflow

    from mlflow_privacy.auditing.options import parse_options
    from mlflow_privacy.auditing.outline import plan_audit
    from mlflow_privacy.lineage import resolve_target
    from mlflow_privacy.store.mlflow_private import quick_requirement_check
    from mlflow_privacy.store.quiet import no_artifact_bars
    from mlflow_privacy.store.references import ReferenceStore

    checked, client = parse_options(options), mlflow.MlflowClient()
    with no_artifact_bars(), quick_requirement_check():
        target = resolve_target(model_uri, checked, client=client)
        with ReferenceStore(client, experiment_id="", parent_run_id="") as store:  # which is only read
            return plan_audit(target, checked, store)
