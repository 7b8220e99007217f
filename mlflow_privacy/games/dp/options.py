"""Options of the game "dp"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from mlflow_privacy.games.dp.bounds import Selection
from mlflow_privacy.games.dp.guesses import Sides
from mlflow_privacy.games.game import GameOptions

Method = Literal["one_run", "one_run_fdp"]


class DpOptions(GameOptions):
    """Options of the game "dp".

    Attributes:
      delta: δ of the bound. None: the δ of the claim if there is one, else 1e-5.
      confidence: one-sided. None: the audit's.
      selection, sides: how guesses are chosen, see `one_run`.
      methods: the bounds shown.
      canaries: "lineage": those that `log_lineage(canaries=...)` named; "all": every audited record, each of which was
        trained on by an independent fair coin. Only the caller can know that.
      claimed_epsilon: the ε to hold the bound against. None: what the training run logged.
      attack: whose scores are taken. None: the headline's.
    """

    delta: float | None = Field(None, ge=0, lt=1)
    confidence: float | None = Field(None, gt=0.5, lt=1)
    selection: Selection = "auto"
    sides: Sides = "any"
    methods: Annotated[Sequence[Method], Field(min_length=1)] = ("one_run", "one_run_fdp")
    canaries: Literal["lineage", "all"] = "lineage"
    claimed_epsilon: float | None = Field(None, ge=0)
    attack: str | None = None
