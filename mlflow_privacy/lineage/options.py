"""What the caller gives in place of lineage, or allows of it: the part of an audit's options that lineage reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mlflow_privacy.lineage.tables import Targets, one_or_many


class LineageOptions(BaseModel):
    """Data, recipe and permissions; every key is optional, and each wins over what the lineage says."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)

    train: Any = None
    holdout: Any = None
    population: Any = None
    targets: Annotated[Targets | None, BeforeValidator(one_or_many)] = None
    classes: Sequence[Any] | None = None
    task: Literal["classification", "regression"] | None = None
    recipe: Mapping[str, Any] | None = None
    train_fn: Callable[..., Any] | None = None
    population_size: int | None = Field(default=None, ge=1)
    random_seed: int = 0
    # What the caller explicitly allows.
    allow_digest_mismatch: bool = False
    allow_code: Sequence[str] = ()
