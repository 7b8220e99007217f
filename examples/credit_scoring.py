"""Credit scoring: two versions of a scikit-learn pipeline audited, compared, and held against a privacy policy.

    python examples/credit_scoring.py && mlflow ui

Data: 1,200 made-up applications, half of them for training. One version memorises applicants, the other does not.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import mlflow_privacy
from mlflow_privacy.decide.compare import compare
from mlflow_privacy.decide.compare_text import comparison_lines
from mlflow_privacy.decide.comparison import Comparison
from mlflow_privacy.decide.gate import check_policy, read_facts
from mlflow_privacy.decide.policy import parse_policy

FORESTS = {
    "memorises": RandomForestClassifier(n_estimators=60, random_state=0),
    "generalises": RandomForestClassifier(n_estimators=60, max_depth=4, min_samples_leaf=20, random_state=0),
}
# Usually a YAML file, such as examples/github_actions/privacy_policy.yaml; here in Python.
POLICY = parse_policy(
    {
        "rules": [
            {"metric": "headline/auc", "max": 0.7, "end": "upper"},
            {"metric": "fidelity/target_nonmember_accuracy", "min": 0.6},
        ],
        "min_nonmembers": 500,
        "required_references": 8,
    }
)


def applications(n: int = 1200, seed: int = 0) -> pd.DataFrame:
    """Made-up loan applications; whether one is repaid depends on income, age and amount, and on luck."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "income": rng.lognormal(10.4, 0.5, n).round(-2),
            "age": rng.integers(18, 80, n),
            "amount": rng.lognormal(9.2, 0.6, n).round(-2),
            "home": rng.choice(["rent", "own", "mortgage"], n),
            "purpose": rng.choice(["car", "education", "house", "other"], n),
        }
    )
    odds = 1.2 * np.log(frame["income"] / frame["amount"]) + 0.02 * (frame["age"] - 40) - 0.8
    frame["repaid"] = np.where(rng.random(n) < 1 / (1 + np.exp(-odds)), "yes", "no")
    return frame


def register(name: str, forest: Any, train: pd.DataFrame, holdout: pd.DataFrame) -> str:
    """Trains one pipeline, registers it with its lineage, and returns its URI."""
    encode = make_column_transformer((OneHotEncoder(sparse_output=False), ["home", "purpose"]), remainder="passthrough")
    model = make_pipeline(encode, forest)
    with mlflow.start_run(run_name=name):
        model.fit(train.drop(columns="repaid"), train["repaid"])
        # What an audit needs to know: who was in the training data, and who was not.
        mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="repaid")
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name="credit-scorer",
            serialization_format="cloudpickle",
            pip_requirements=["scikit-learn"],
        )
    return f"models:/credit-scorer/{info.registered_model_version}"


def main() -> tuple[Comparison, dict[str, list[str]]]:
    """Returns the comparison, the careless version being the baseline, and what breaks the policy by version."""
    train, holdout = train_test_split(applications(), test_size=0.5, random_state=0)
    mlflow.set_experiment("credit")
    uris = {name: register(name, forest, train, holdout) for name, forest in FORESTS.items()}
    for name, uri in uris.items():
        result = mlflow.evaluate(uri, evaluators=["privacy_meter"])
        auc, low, high = (result.metrics[f"privacy/headline/auc{end}"] for end in ("", "_low", "_high"))
        print(f"{uri} ({name}): AUC {auc:.3f} [{low:.3f}, {high:.3f}]")
    comparison = compare(list(uris.values()))
    print("\n".join(comparison_lines(comparison)))
    breaches = {}
    for name, uri in uris.items():
        metrics, facts = read_facts(uri)
        breaches[name] = [breach.line for breach in check_policy(metrics, POLICY, facts=facts)]
        print(f"{uri} ({name}):", "; ".join(breaches[name]) or "keeps the policy")
    return comparison, breaches


if __name__ == "__main__":
    main()
