"""The game "membership": was this record in the training data? The attacks themselves are the answer."""

from __future__ import annotations

from mlflow_privacy.games.game import Game, GameEvidence
from mlflow_privacy.types import GameResult


class MembershipGame(Game):
    """Asks nothing further: each attack's scores, ROC and intervals are what is wanted."""

    name = "membership"

    def answer(self, evidence: GameEvidence) -> GameResult | None:
        return None
