"""A `PythonModel` of somebody's own, inside MLflow's wrapper: what registered trainers and signals are asked about."""

import numpy as np
import pytest

from mlflow_privacy.trainers.registry import others_model


class Mine:
    """Stands for a subclass of `mlflow.pyfunc.PythonModel`."""


class Wrapper:
    """Stands for `mlflow.pyfunc.PyFuncModel` around one, which has no raw model."""

    loader_module = "mlflow.pyfunc.model"

    def __init__(self, python_model):
        self.python_model = python_model

    def get_raw_model(self):
        raise NotImplementedError

    def unwrap_python_model(self):
        if self.python_model is None:
            raise RuntimeError("Unable to retrieve base model object from pyfunc.")
        return self.python_model


Wrapper.__module__ = "mlflow.pyfunc"


@pytest.mark.parametrize("other", [Mine(), np.zeros(3), None])
def test_what_is_no_wrapper_stays_as_it_is(other):
    assert others_model(other) is other


def test_the_python_model_is_taken_out_and_where_there_is_none_the_wrapper_stays():
    mine = Mine()
    assert others_model(Wrapper(mine)) is mine
    empty = Wrapper(None)
    assert others_model(empty) is empty
