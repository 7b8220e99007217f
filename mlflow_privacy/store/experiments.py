"""How MLflow's pages open an experiment, and which run is open."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import mlflow
from mlflow.exceptions import MlflowException

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.store.mlflow_private import nobody_chose_an_experiment
from mlflow_privacy.types import AuditedModel

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient

_logger = logging.getLogger(__name__)
_KIND_TAG, _KIND = "mlflow.experimentKind", "custom_model_development"


def active_run_of(run_id: str) -> ActiveRun | None:
    """The run if it is the active one of this thread, whose info needs no request; else None."""
    active = mlflow.active_run()
    return active if active is not None and active.info.run_id == run_id else None


def experiment_named(client: MlflowClient, name: str) -> str:
    """The id of the experiment of this name, which is created if there is none; the active one stays what it is.

    Raises: ConfigError: it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # somebody else has created it in between
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(f"the experiment {name!r} was deleted. Restore it, or choose another.")
    return found.experiment_id


def home_of_audit(client: MlflowClient, model: AuditedModel, chosen: str | None) -> str | None:
    """The experiment that an audit's run goes to; None for the active one.

    What the option says, else what the caller has set in MLflow, else the experiment of the run that trained the model:
    there people look for it, rather than in "Default".

    Raises: ConfigError: an experiment was chosen while a run is open, or it was deleted.
    """
    if mlflow.active_run() is not None:
        if chosen is not None:
            raise ConfigError(f"experiment={chosen!r} has no effect on the run that is open; leave it out, or end it.")
        return None
    if chosen is not None:
        return experiment_named(client, chosen)
    if model.run_id is None or os.environ.get("MLFLOW_RUN_ID") or not nobody_chose_an_experiment():
        return None
    try:
        experiment = client.get_experiment(client.get_run(model.run_id).info.experiment_id)
    except MlflowException as error:
        _logger.debug("The experiment of %s is not known: %s", model.label, error)
        return None
    return experiment.experiment_id if experiment.lifecycle_stage == "active" else None


@contextlib.contextmanager
def run_in(experiment_id: str | None, *, may_fall_back: bool) -> Iterator[None]:
    """Inside, a run in this experiment is open; None opens none.

    Args:
      may_fall_back: where no run may be opened there, go on as without; else that is an error.
    """
    if experiment_id is None:
        yield
        return
    try:
        run = mlflow.start_run(experiment_id=experiment_id)
    except MlflowException as error:
        if not may_fall_back or not is_forbidden(error):
            raise
        _logger.info("The audit is no run of the model's own experiment, where this user may open none: %s", error)
        yield
        return
    with run:
        yield


def may_write(client: MlflowClient, model_id: str) -> bool:
    """Whether this user may write on a logged model; asked by setting none of its tags."""
    try:
        client.set_logged_model_tags(model_id, {})
    except MlflowException as error:
        return not is_forbidden(error)
    return True


def is_forbidden(error: MlflowException) -> bool:
    """Whether a server refused because of who asked."""
    status = error.get_http_status_code() if hasattr(error, "get_http_status_code") else None
    return error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or status in (401, 403)


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
