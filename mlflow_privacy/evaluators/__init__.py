"""MLflow's side of the door: the hook in front of `mlflow.evaluate`, and the evaluator behind it."""
