"""Options of an audit and YAML of an experiment, as pydantic models. Config ends at the door: nothing below sees it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.fields import Duration, no_bool
from mlflow_privacy.games.game import Setting, game_name
from mlflow_privacy.lineage.options import LineageOptions
from mlflow_privacy.metrics import DEFAULT_FPRS
from mlflow_privacy.types import Reading

# Those that ship with joblib or register with it, and ours.
EXECUTORS = ("auto", "local", "loky", "threading", "multiprocessing", "dask", "ray")
READINGS = get_args(Reading)


def executor_name(value: Any) -> Any:
    """The name of an executor: one of ours, or a backend that the caller has registered with joblib by now."""
    registered = getattr(sys.modules.get("joblib.parallel"), "BACKENDS", {})
    if isinstance(value, str) and (value in EXECUTORS or value in registered):
        return value
    hint = nearest(value, EXECUTORS)
    raise ValueError(f"must be {', '.join(EXECUTORS)}, or a backend registered with joblib{hint}")


def output_said(value: Any) -> Any:
    """What the outputs of a model are, or which of them count: one of the words, or a list of names."""
    if value in (None, *READINGS):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ValueError(f"must be {', '.join(READINGS)}, or a list of the outputs' names{nearest(value, READINGS)}")


# Records that are audited of a larger pool unless the caller says otherwise: 10,000 non-members resolve a TPR at 0.01 %
# false alarms, and intervals get no narrower than a model's own fluctuation.
MOST_AUDITED = 50_000


class AuditOptions(LineageOptions):
    """What `evaluator_config={"privacy_meter": {...}}` may hold. Every key is optional."""

    # What the attacker of a language model has besides it.
    base: Any = None
    masked: Any = None
    prefix: Sequence[str] = ()
    # How the model is asked.
    output: Annotated[Any, BeforeValidator(output_said)] = None
    params: Mapping[str, Any] = Field(default_factory=dict)
    # How to audit.
    attacks: Sequence[str] | None = None
    attack_options: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    num_ref_models: int = Field(default=8, ge=0)
    reference_fraction: Literal["auto"] | Annotated[float, Field(gt=0.0, lt=1.0)] = "auto"
    verify_references: bool | Literal["auto"] = "auto"
    fprs: Sequence[Annotated[float, Field(ge=0.0, le=1.0)]] = DEFAULT_FPRS
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    blind_baseline: bool = True
    score_duplicates: bool = False
    data_size: Literal["auto", "all"] | Annotated[int, Field(ge=4)] | None = "auto"
    num_queries: int = Field(default=2, ge=1)
    # The question asked; the attacks run for every one of them. See docs/games.md.
    game: Annotated[str, BeforeValidator(game_name)] = "membership"
    game_options: Mapping[str, Any] = Field(default_factory=dict)
    # How fast; never in a fingerprint.
    device: str = "auto"
    batch_size: int = Field(default=1024, ge=1)
    executor: Annotated[str, BeforeValidator(executor_name)] = "auto"
    n_workers: Annotated[int | None, Field(ge=1), no_bool("a whole number")] = None
    time_budget: Duration = None
    progress: bool | Literal["auto"] = "auto"
    # What the caller explicitly allows; more of it in `LineageOptions`.
    allow_unfamiliar_members: bool = False
    # What the report shows.
    thresholds: Mapping[str, float] = Field(default_factory=dict)
    slices: Sequence[str] = ()
    show_records: bool = False
    auditor: str | None = None
    people: Annotated[int | str | None, no_bool("a number or a column")] = None
    dpia: Mapping[str, str | None] = Field(default_factory=dict)
    # Where results go.
    write_back: bool = True
    experiment: str | None = None
    headline: str | None = "auto"

    def records_audited(self, available: int) -> int | None:
        """How many of the records that can be audited are; None for all."""
        if self.data_size == "auto":
            return MOST_AUDITED if available > MOST_AUDITED else None
        return self.data_size if isinstance(self.data_size, int) else None

    @property
    def setting(self) -> Setting:
        """What a game may know of these options."""
        return Setting(self.random_seed, self.confidence, self.fprs, self.device, self.attack_options, self.masked)


def parse_options(values: Mapping[str, Any]) -> AuditOptions:
    """Checks options and reports every fault at once, each with the nearest valid key.

    Raises:
      ConfigError: an option is unknown or its value is not allowed.
    """
    try:
        return AuditOptions(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise ConfigError(
            "privacy_meter cannot run with these options:\n" + "\n".join(faults(error, AuditOptions))
        ) from None


def faults(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per fault of a pydantic error: the key, the value, and the nearest valid key or what is allowed."""
    lines = []
    for fault in error.errors():
        path = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(f"  got an unexpected option {path!r}{nearest(path, model.model_fields, listed=True)}")
        else:
            said = fault["msg"].lower().removeprefix("value error, ")
            lines.append(f"  {path}: {said}, got {fault['input']!r}.")
    return lines
