"""Plays the three games of docs/games.md on a small model, prints the answers, and draws docs/images/games/*.png.

    python docs/game_figures.py

A logistic regression with 150 weights: 600 records, on half of which it trains, for usage and ranges; 600 canaries with
a fair coin each and 100 ordinary records for the bound on ε. Half a minute on one core; a store of its own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "images" / "games"
FEATURES = 150


def register(name: str, x: np.ndarray, y: np.ndarray, is_in: np.ndarray, **lineage: object) -> str:
    """Trains on the records that are in, logs who that was, registers the model; returns its URI."""
    import mlflow
    from sklearn.linear_model import LogisticRegression

    import mlflow_privacy

    with mlflow.start_run():
        model = LogisticRegression(C=1e3, max_iter=500).fit(x[is_in], y[is_in])
        mlflow.sklearn.log_model(model, name="model", registered_model_name=name, pip_requirements=["scikit-learn"])
        mlflow_privacy.log_lineage(train=(x[is_in], y[is_in]), holdout=(x[~is_in], y[~is_in]), **lineage)
    return f"models:/{name}/1"


def main() -> None:
    import mlflow
    from mlflow import MlflowClient

    from mlflow_privacy import evaluate
    from mlflow_privacy.games import canary_coins

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(700, FEATURES)), rng.integers(2, size=700)
    coins = canary_coins(600, seed=0)
    is_in = np.r_[coins, np.ones(100, bool)]
    canaries = np.arange(is_in.sum()) < coins.sum()
    scorer = register("scorer", x, y, is_in, canaries=canaries, recipe={"epsilon": 0.5})
    half = register("half", x[:600], y[:600], rng.permutation(600) < 300)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for uri, game, options in (
        (scorer, "dp", {"delta": 1e-5}),
        (half, "range", {"function": "l2", "n_samples": 20}),
        (half, "usage", {}),
    ):
        result = evaluate(uri, game=game, game_options=options, num_ref_models=8, progress=False)
        found = MlflowClient().download_artifacts(result.run_id, f"privacy/game_{game}.png", tempfile.mkdtemp())
        shutil.copy(found, FOLDER / f"{game}.png")
        record = MlflowClient().download_artifacts(result.run_id, "privacy/metrics.json", tempfile.mkdtemp())
        answer = json.loads(Path(record).read_text(encoding="utf-8"))["games"][game]
        print(f"\n{game}: {answer['sentence']}")
        for label, estimate in answer["rows"]:
            print(f"  {label}: {estimate['value']:.4g} [{estimate['low']}, {estimate['high']}]")
    mlflow.end_run()


if __name__ == "__main__":
    import mlflow

    with tempfile.TemporaryDirectory() as store:
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
        mlflow.set_experiment(
            experiment_id=mlflow.MlflowClient().create_experiment("games", artifact_location=f"{store}/artifacts")
        )
        main()
