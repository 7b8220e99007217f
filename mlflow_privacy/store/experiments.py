"""How MLflow's pages open an experiment, and which run is open."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient

_logger = logging.getLogger(__name__)
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"


def active_run_of(run_id: str) -> ActiveRun | None:
    """The run if it is the active one of this thread, whose info needs no request; else None."""
    active = mlflow.active_run()
    return active if active is not None and active.info.run_id == run_id else None


def open_as_training(client: MlflowClient, experiment_id: str) -> None:
    """Tags an experiment whose kind nobody chose as one of model training.

    Without the tag the pages open it as if it were about generative AI, where models and metrics are hard to find.
    Where it is not allowed, the audit goes on.
    """
    experiment = client.get_experiment(experiment_id)
    if not experiment.tags.get(_KIND_TAG, "inferred").endswith("inferred"):
        return
    try:
        client.set_experiment_tag(experiment.experiment_id, _KIND_TAG, _KIND)
    except MlflowException as error:
        _logger.info("Experiment %s keeps its kind: %s", experiment.name, error)
