"""Two versions of a registered scikit-learn model, one that memorises and one that does not, each audited in one line.

    python examples/audit_sklearn.py && mlflow ui

Data: scikit-learn's breast-cancer records (569 patients), half of them for training.
"""

import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import mlflow_privacy

MODELS = {
    "memorises": RandomForestClassifier(n_estimators=100, random_state=0),
    "generalises": RandomForestClassifier(n_estimators=100, max_depth=3, min_samples_leaf=20, random_state=0),
}


def main() -> dict[str, float]:
    """Registers and audits both versions; returns the AUC of RMIA by name."""
    train, holdout = train_test_split(load_breast_cancer(as_frame=True).frame, test_size=0.5, random_state=0)
    mlflow.set_experiment("tumours")
    aucs = {}
    for name, model in MODELS.items():
        with mlflow.start_run(run_name=name):
            model.fit(train.drop(columns="target"), train["target"])
            # What an audit needs to know: who was in the training data, and who was not.
            mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="target")
            info = mlflow.sklearn.log_model(
                model,
                name="model",
                registered_model_name="tumour-classifier",
                serialization_format="cloudpickle",
                pip_requirements=["scikit-learn"],
            )
        version = info.registered_model_version
        result = mlflow.evaluate(f"models:/tumour-classifier/{version}", evaluators=["privacy_meter"])
        aucs[name] = result.metrics["privacy/rmia/auc"]
        low, high = (result.metrics[f"privacy/rmia/auc_{end}"] for end in ("low", "high"))
        print(f"version {version} ({name}): AUC {aucs[name]:.3f} [{low:.3f}, {high:.3f}]")
    return aucs


if __name__ == "__main__":
    main()
