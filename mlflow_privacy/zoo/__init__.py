"""Named data sets and models: two registries that anybody can add to with one function.

>>> from mlflow_privacy.zoo import dataset, model
>>> @dataset("two-points")
... def two_points():
...     return [[0.0], [1.0]], [0, 1]
>>> @model("line")
... def line(input_shape, num_outputs, *, bias=True):
...     import torch
...     return torch.nn.Linear(input_shape[0], num_outputs, bias=bias)
>>> len(load_dataset("two-points").records)
2
"""

from mlflow_privacy.zoo import alexnet as _alexnet  # these register the built-in names
from mlflow_privacy.zoo import datasets as _datasets
from mlflow_privacy.zoo import models as _models
from mlflow_privacy.zoo import speedyresnet as _speedyresnet
from mlflow_privacy.zoo.building import build_model, check_model, find_model
from mlflow_privacy.zoo.data import DataSet, image_statistics, make_dataset, make_text_dataset
from mlflow_privacy.zoo.estimators import find_estimator
from mlflow_privacy.zoo.families import model_family, model_inputs
from mlflow_privacy.zoo.loading import check_dataset, load_dataset
from mlflow_privacy.zoo.models import rescaled
from mlflow_privacy.zoo.registry import DATASETS, MODELS, ModelEntry, dataset, model

__all__ = [
    "DATASETS",
    "MODELS",
    "DataSet",
    "ModelEntry",
    "build_model",
    "check_dataset",
    "check_model",
    "dataset",
    "find_estimator",
    "find_model",
    "image_statistics",
    "load_dataset",
    "make_dataset",
    "make_text_dataset",
    "model",
    "model_family",
    "model_inputs",
    "rescaled",
]

del _alexnet, _datasets, _models, _speedyresnet
