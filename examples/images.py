"""Images: a registered PyTorch network with a recipe, audited with one line.

    python examples/images.py && mlflow ui

Data: scikit-learn's 1,797 handwritten digits, 8 × 8 pixels, half of them for training.
"""

import mlflow
import numpy as np
import torch
from sklearn.datasets import load_digits

import mlflow_privacy

# The recipe is data: reference models like the target are trained from it, and it is part of their fingerprint.
RECIPE = {"optimizer": "adam", "learning_rate": 0.003, "batch_size": 64, "epochs": 20, "loss": "cross_entropy"}


def network() -> torch.nn.Module:
    """Two convolutions and a linear layer, for images (n, 1, 8, 8)."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 4 * 4, 10),
    )


def train_target(x: np.ndarray, y: np.ndarray) -> torch.nn.Module:
    """The network, trained by the recipe above."""
    torch.manual_seed(0)
    model = network()
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
    x, y = (digits.images / 16).astype(np.float32)[:, None], digits.target
    train = np.random.default_rng(0).permutation(len(y))[: len(y) // 2]
    mlflow.set_experiment("digits")
    with mlflow.start_run():
        model = train_target(x[train], y[train])
        # One array and a mask, instead of two arrays: the records keep their names when the split changes.
        mlflow_privacy.log_lineage(train=(x, y), mask=np.isin(np.arange(len(y)), train), recipe=RECIPE)
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            registered_model_name="digits",
            pip_requirements=["torch"],
            input_example=x[:2],
        )
    uri = f"models:/digits/{info.registered_model_version}"
    result = mlflow.evaluate(uri, evaluators=["privacy_meter"])
    auc, tpr = (result.metrics[f"privacy/headline/{name}"] for name in ("auc", "tpr_at_fpr_0.1"))
    print(f"{uri}: AUC {auc:.3f}, TPR at 10 % FPR {tpr:.3f}")
    return auc


if __name__ == "__main__":
    main()
