"""Games beside membership, in whatever shape their results come: a title, a sentence, rows with intervals, a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_privacy.errors import DesignError
from mlflow_privacy.report.document import GameRow, GameView
from mlflow_privacy.types import AuditResult, to_json


def game_views(result: AuditResult) -> tuple[GameView, ...]:
    """The games of `result.games`, a mapping from name to a mapping or record, if there is one.

    Of each: `title`, `sentence`, `rows` (pairs of label and `Estimate`), and optionally `figure`: a mapping with
    lists `x` and `y` of one length, optionally `low` and `high`, and the words `x_label`, `y_label`.

    Raises: DesignError: a game lacks one of them.
    """
    games: Mapping[str, Any] = getattr(result, "games", None) or {}
    return tuple(_view(str(name), game) for name, game in games.items())


def _view(name: str, game: Any) -> GameView:
    missing = [key for key in ("title", "sentence", "rows") if _get(game, key) is None]
    if missing:
        raise DesignError(f"games[{name!r}] lacks {', '.join(missing)}; the report needs title, sentence and rows.")
    rows = tuple(GameRow(str(label), estimate) for label, estimate in _get(game, "rows"))
    figure = _get(game, "figure")
    if figure is not None:
        figure = to_json(figure)
        lengths = {key: len(figure[key]) for key in ("x", "y", "low", "high") if figure.get(key) is not None}
        if {"x", "y"} - set(lengths) or len(set(lengths.values())) != 1 or not lengths["x"]:
            raise DesignError(f"games[{name!r}].figure needs x and y of one length, got {lengths}.")
    return GameView(name, str(_get(game, "title")), str(_get(game, "sentence")), rows, figure)


def _get(game: Any, key: str) -> Any:
    return game.get(key) if isinstance(game, Mapping) else getattr(game, key, None)
