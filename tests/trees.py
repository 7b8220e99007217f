"""A registered decision tree: over-fitted unless it is told otherwise."""

import mlflow
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.tree import DecisionTreeClassifier

import mlflow_privacy

REQUIREMENTS = ["scikit-learn"]


def split(seed=0):
    data = load_breast_cancer(as_frame=True).frame
    order = np.random.default_rng(seed).permutation(len(data))
    return data.iloc[order[:280]].reset_index(drop=True), data.iloc[order[280:]].reset_index(drop=True)


def register(name="tree", *, max_depth=None, model=None, lineage=True, seed=0, **log):
    """Trains and registers a decision tree on half of the breast-cancer data; an unpruned one memorises."""
    train, holdout = split(seed)
    with mlflow.start_run() as run:
        model = model or DecisionTreeClassifier(max_depth=max_depth, random_state=0)
        model.fit(train.drop(columns="target"), train["target"])
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name=name,
            pip_requirements=REQUIREMENTS,
            serialization_format="cloudpickle",  # trees are no safe type for the default one
            **log,
        )
        if lineage:
            mlflow_privacy.log_lineage(train=train, holdout=holdout, targets="target")
    return run.info.run_id, info
