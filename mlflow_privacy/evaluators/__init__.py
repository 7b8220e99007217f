"""MLflow's side of the door: the hook in front of `mlflow.evaluate`, and the evaluator behind it."""

# The name that callers give in `evaluators` and `evaluator_config`. It stands here because the hook and what lies
# behind it both need it, and this package is all that the hook may load while MLflow itself is being imported.
EVALUATOR = "privacy_meter"
