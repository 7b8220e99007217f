"""Trains a scorecard, registers it, and audits it with everything that `privacy_example` adds.

pip install -e examples/plugin && python examples/plugin/audit_scorecard.py && mlflow ui
"""

import mlflow
import numpy as np
from privacy_example import fit

import mlflow_privacy


def main() -> dict[str, float]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 16))
    y = (x[:, 0] + rng.normal(size=400) > 0).astype(int)
    with mlflow.start_run():
        model = fit(x[:200], y[:200])
        mlflow.pyfunc.log_model(
            name="model", python_model=model, registered_model_name="scorecard", pip_requirements=["privacy-example"]
        )
        mlflow_privacy.log_lineage(train=(x[:200], y[:200]), holdout=(x[200:], y[200:]), recipe={"strength": 100.0})
    result = mlflow_privacy.evaluate(
        "models:/scorecard/1",
        attacks=["rmia", "beats_all"],
        attack_options={"beats_all": {"share": 0.75}},
        game="blurred",
        game_options={"noise": 0.1},
        num_ref_models=8,
        progress=False,
    )
    for key in ("rmia/auc", "beats_all/auc", "blurred/auc"):
        print(f"{key}: {result.metrics[f'privacy/{key}']:.3f}")
    return result.metrics


if __name__ == "__main__":
    main()
