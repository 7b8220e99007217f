"""Options of the game "usage"."""

from __future__ import annotations

from pydantic import Field

from mlflow_privacy.games.game import GameOptions


class UsageOptions(GameOptions):
    """Options of the game "usage".

    Attributes:
      confidence: of the interval. None: the audit's.
      threshold: of the signal, from which "member" is guessed. None: chosen on the references.
      correlation: bound on the correlation of two guesses under one model, see `usage_of_guesses`. None: by the number
        of records.
    """

    confidence: float | None = Field(None, gt=0.5, lt=1)
    threshold: float | None = None
    correlation: float | None = Field(None, ge=0, le=1)
