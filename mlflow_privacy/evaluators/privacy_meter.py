"""The evaluator that MLflow calls. It loads on everybody's first `evaluate`, so nothing heavy is imported here."""

from __future__ import annotations

from typing import Any

from mlflow.models.evaluation import EvaluationResult, ModelEvaluator


class PrivacyMeterEvaluator(ModelEvaluator):
    """Audits a registered model with membership inference; registered as the evaluator "privacy_meter"."""

    @classmethod
    def can_evaluate(cls, *, model_type: str | None, evaluator_config: dict[str, Any] | None, **kwargs: Any) -> bool:
        """True only where the caller named this evaluator: with `evaluators=None` it never runs by itself."""
        from mlflow_privacy.evaluators.call import REQUEST

        return REQUEST.get() is not None

    def evaluate(self, *, run_id: str, **kwargs: Any) -> EvaluationResult:
        """Runs the audit that `mlflow_privacy.evaluators.call.evaluate_privacy` prepared, into the run `run_id`."""
        from mlflow_privacy.evaluators.call import REQUEST
        from mlflow_privacy.evaluators.run import audit_into_run

        request = REQUEST.get()
        if request is None:  # MLflow asks `can_evaluate` first
            raise RuntimeError(
                "privacy_meter was called without a request; use mlflow.evaluate or mlflow_privacy.evaluate."
            )
        return audit_into_run(request, run_id)
