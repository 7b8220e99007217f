"""A registered PyTorch model with a recipe, audited with one line.

    python examples/audit_torch.py && mlflow ui

Data: scikit-learn's 1,797 handwritten digits, half of them for training.
"""

import mlflow
import numpy as np
import torch
from sklearn.datasets import load_digits

import mlflow_privacy

# The recipe is data: reference models like the target are trained from it, and it is part of their fingerprint.
RECIPE = {"optimizer": "adam", "learning_rate": 0.003, "batch_size": 64, "epochs": 40, "loss": "cross_entropy"}


def train_target(x: np.ndarray, y: np.ndarray) -> torch.nn.Module:
    """An MLP, trained by the recipe above."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=RECIPE["learning_rate"])
    inputs, labels = torch.as_tensor(x), torch.as_tensor(y)
    for _ in range(RECIPE["epochs"]):
        for batch in torch.randperm(len(inputs)).split(RECIPE["batch_size"]):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def main() -> float:
    """Registers and audits the model; returns the AUC of RMIA."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    order = np.random.default_rng(0).permutation(len(y))
    train, holdout = order[: len(y) // 2], order[len(y) // 2 :]
    mlflow.set_experiment("digits")
    with mlflow.start_run():
        model = train_target(x[train], y[train])
        mlflow_privacy.log_lineage(train=(x[train], y[train]), holdout=(x[holdout], y[holdout]), recipe=RECIPE)
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            registered_model_name="digits",
            pip_requirements=["torch"],
            input_example=x[:2],
        )
    result = mlflow.evaluate(f"models:/digits/{info.registered_model_version}", evaluators=["privacy_meter"])
    auc, tpr = (result.metrics[f"privacy/rmia/{name}"] for name in ("auc", "tpr_at_fpr_0.01"))
    print(f"AUC {auc:.3f}, TPR at 1 % FPR {tpr:.3f}")
    return auc


if __name__ == "__main__":
    main()
