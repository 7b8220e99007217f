"""The literal call: what stands between `evaluate(uri, evaluators=["privacy_meter"])` and MLflow's own checks."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import inspect
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow_privacy.auditing.options import AuditOptions, parse_options
from mlflow_privacy.errors import ConfigError, DesignError, LineageError, RecipeError, SignalError
from mlflow_privacy.evaluators import EVALUATOR
from mlflow_privacy.store.mlflow_private import load_evaluators, quick_requirement_check, unlinked
from mlflow_privacy.store.quiet import no_artifact_bars
from mlflow_privacy.types import AuditResult, AuditTarget

if TYPE_CHECKING:
    from mlflow_privacy.evaluators.dataset import LineageDataset


@dataclasses.dataclass(frozen=True)
class Found:
    """What an audit found, and the run that holds it."""

    audit: AuditResult
    run_id: str
    experiment_id: str


@dataclasses.dataclass(frozen=True)
class Request:
    """One audit that was asked for by name: made before MLflow opens a run, so that bad input leaves nothing behind.

    dataset: the audited pool, hashed once for MLflow's input and for our metrics.
    own_run: whether MLflow will open a run for this call (then it is named and tagged as an audit).
    mlflow_logs: whether MLflow itself logs the returned metrics (it does when it knows the logged model).
    to_model: whether the logged model gets metrics, tags and report: not where that was not wanted, or is not allowed.
    opened: id and experiment of the run that was opened for this call.
    found: what the evaluator finds is put here, since what MLflow returns of an evaluation holds no arrays.
    """

    dataset: LineageDataset
    options: AuditOptions
    own_run: bool
    mlflow_logs: bool
    to_model: bool
    seconds: float
    found: list[Found] = dataclasses.field(default_factory=list)
    opened: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    @property
    def target(self) -> AuditTarget:
        return self.dataset.target


_logger = logging.getLogger(__name__)
# Called with each `AuditResult` in this process: what MLflow returns of an evaluation holds no arrays.
LISTENER: contextvars.ContextVar[Callable[[AuditResult], object] | None] = contextvars.ContextVar(
    "mlflow_privacy_listener", default=None
)
REQUEST: contextvars.ContextVar[Request | None] = contextvars.ContextVar("mlflow_privacy_request", default=None)


def privacy_config(evaluators: Any, evaluator_config: Any) -> Mapping[str, Any]:
    """This evaluator's part of `evaluator_config`, which MLflow takes flat or by evaluator name.

    >>> privacy_config("privacy_meter", {"num_ref_models": 4})
    {'num_ref_models': 4}
    >>> privacy_config(["privacy_meter"], {"privacy_meter": {"num_ref_models": 4}})
    {'num_ref_models': 4}
    """
    if evaluator_config is None:
        return {}
    if not isinstance(evaluator_config, Mapping):
        raise ConfigError(
            f"evaluator_config must be a mapping such as {{{EVALUATOR!r}: {{...}}}}, got {evaluator_config!r}."
        )
    nested = evaluator_config.get(EVALUATOR)
    if isinstance(nested, Mapping) or EVALUATOR in evaluator_config:
        return nested or {}
    return evaluator_config if evaluators == EVALUATOR else {}


def evaluate_privacy(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls MLflow's `evaluate` with what it wants filled in from the model's lineage.

    Raises:
      ConfigError: an option is unknown or wrong, or there is no model to audit.
      LineageError: the model does not load, or members or non-members cannot be found, loaded or verified. No run was
        opened.
    """
    load_evaluators()
    with _warnings_heard():
        return _evaluate(original, *args, **kwargs)


@contextlib.contextmanager
def _warnings_heard() -> Iterator[None]:
    """Inside, this package's warnings are logged even after MLflow has opened an SQL store.

    Alembic, which migrates it, sets the root logger's level to ERROR. Whoever gives this package's own logger a level
    keeps it. Ours is one below that of warnings, which is what a caller sets who wants no progress shown.
    """
    logger = logging.getLogger("mlflow_privacy")
    if logger.level != logging.NOTSET:
        yield
        return
    logger.setLevel(min(logger.getEffectiveLevel(), logging.WARNING - 1))
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)


def _evaluate(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`evaluate_privacy` itself."""
    import mlflow

    from mlflow_privacy.evaluators.about import check_people
    from mlflow_privacy.evaluators.dataset import LineageDataset
    from mlflow_privacy.games.game import make_game
    from mlflow_privacy.lineage import resolve_target
    from mlflow_privacy.lineage.loading import load_pyfunc
    from mlflow_privacy.report.dpia import check_texts
    from mlflow_privacy.store.experiments import home_of_audit, run_in
    from mlflow_privacy.store.turns import taking_turns

    started = time.perf_counter()
    call = inspect.signature(original).bind(*args, **kwargs).arguments
    evaluators, model = call["evaluators"], call.get("model")
    options = parse_options(privacy_config(evaluators, call.get("evaluator_config")))
    check_texts(options.dpia)
    game = make_game(options.game, options.game_options, options.setting)
    if model is None:
        raise ConfigError(
            "privacy_meter audits a model, and none was given: pass its URI, such as "
            'mlflow.evaluate("models:/NAME/VERSION", evaluators=["privacy_meter"]).'
        )
    if call.get("env_manager", "local") not in ("local", None):
        raise ConfigError(
            f"env_manager={call['env_manager']!r} serves the model from another process, where privacy_meter cannot "
            'read its weights. Use env_manager="local".'
        )
    bars = contextlib.nullcontext() if sys.stderr.isatty() else no_artifact_bars()
    with bars, quick_requirement_check():
        if isinstance(model, str):
            client, given = mlflow.MlflowClient(), call.pop("model_config", None)
            call["model"] = load_pyfunc(model, client=client, model_config=given)
        target = resolve_target(model, options, loaded=call["model"])
    _refuse_deleted(target)
    check_people(target, options.people)
    game.check(target, options.num_ref_models if target.recipe is not None else 0, None)
    dataset = LineageDataset(target)
    if evaluators in (EVALUATOR, [EVALUATOR]):
        if call.get("data") is None:
            call["data"] = dataset
        if call.get("model_type") is None:
            call["model_type"] = "privacy"
        call["evaluators"], call["evaluator_config"] = [EVALUATOR], None
    elif isinstance(call.get("evaluator_config"), Mapping):
        # Live data and callables stay out of what other evaluators see.
        call["evaluator_config"] = {k: v for k, v in call["evaluator_config"].items() if k != EVALUATOR}
    to_model = options.write_back and _may_write(mlflow.MlflowClient(), target)
    if not to_model:  # MLflow itself would link run and model, which takes the right to write on the model
        call["model_id"], call["model"] = None, unlinked(call["model"])
    elif call.get("model_id") is None and target.model.model_id is not None:
        call["model_id"] = target.model.model_id
    model_id = call.get("model_id") or mlflow.get_active_model_id()
    request = Request(
        dataset=dataset,
        options=options,
        own_run=mlflow.active_run() is None,
        mlflow_logs=model_id is not None,
        to_model=to_model,
        seconds=time.perf_counter() - started,
    )
    home = home_of_audit(mlflow.MlflowClient(), target.model, options.experiment)
    token = REQUEST.set(request)
    try:
        with taking_turns(), run_in(home, may_fall_back=options.experiment is None):
            result = original(**call)
    except (ConfigError, DesignError, LineageError, RecipeError, SignalError):
        _leave_nothing(mlflow.MlflowClient(), request)
        raise
    finally:
        REQUEST.reset(token)
    return _ended(result, request)


def _ended(result: Any, request: Request) -> Any:
    """What MLflow returns, shown well in a notebook; its last words go to the log, unless somebody listens."""
    from mlflow_privacy.evaluators.ending import shown_result, tell_ending

    for found in request.found:
        where = found.audit, found.run_id, found.experiment_id
        result = shown_result(result, *where)
        if LISTENER.get() is None:
            tell_ending(result, *where)
    return result


def _leave_nothing(client: Any, request: Request) -> None:
    """Deletes the run of an audit that could not be, unless it is the caller's own or reference models are below it."""
    from mlflow.exceptions import MlflowException

    for run_id, experiment_id in request.opened:
        try:
            children = client.search_runs([experiment_id], f"tags.mlflow.parentRunId = '{run_id}'", max_results=1)
            if not children:
                client.delete_run(run_id)
        except MlflowException as error:
            _logger.debug("Run %s stays, as a failed one: %s", run_id, error)


def _may_write(client: Any, target: AuditTarget) -> bool:
    """Whether this user may write on the logged model; says so if not."""
    from mlflow_privacy.store.experiments import may_write

    model_id = target.model.model_id
    if model_id is None or may_write(client, model_id):
        return True
    _logger.warning(
        "This user may not write on the logged model %s: the audit's metrics, tags and report are in its run alone.",
        model_id,
    )
    return False


def _refuse_deleted(target: AuditTarget) -> None:
    """Raises `LineageError` if the logged model was deleted, though its files load: MLflow evaluates none such."""
    import mlflow
    from mlflow.exceptions import MlflowException

    model_id = target.model.model_id
    if model_id is None:
        return
    try:
        mlflow.MlflowClient().get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # the audit itself will tell
            return
        raise LineageError(
            f"{target.model.uri} is the logged model {model_id}, which was deleted, though its files are there: MLflow "
            "evaluates no deleted model. Load it and log it again, in a run with its lineage."
        ) from error
