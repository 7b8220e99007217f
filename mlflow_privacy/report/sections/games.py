"""Games beside membership, in whatever shape their results come: a title, a sentence, rows with intervals, a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_privacy.errors import DesignError
from mlflow_privacy.report.document import GameRow, GameView
from mlflow_privacy.types import AuditResult, to_json


def game_views(result: AuditResult) -> tuple[GameView, ...]:
    """The games of `result.games`: a `types.GameResult` each, or a mapping with the same keys.

    Needed are `title`, `sentence` and `rows` (pairs of label and `Estimate`). `figure` is optional: lists `x` and `y`
    of one length, and beside them `low` and `high`, `x_label` and `y_label`, `label` of the curve, `series` (further
    curves by name), `lines` (horizontal ones by name) and `diagonal`.

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
    return GameView(
        name,
        str(_get(game, "title")),
        str(_get(game, "sentence")),
        str(_get(game, "assumption") or ""),
        rows,
        None if figure is None else _figure(name, to_json(figure)),
    )


def _figure(name: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    """All keys of a figure, checked."""
    series = {str(label): list(values) for label, values in (figure.get("series") or {}).items()}
    columns = {key: figure.get(key) for key in ("x", "y", "low", "high")}
    lengths = {key: len(values) for key, values in {**columns, **series}.items() if values is not None}
    if {"x", "y"} - set(lengths) or len(set(lengths.values())) != 1 or not lengths["x"]:
        raise DesignError(f"games[{name!r}].figure needs x and y of one length, got {lengths}.")
    words = {key: str(figure.get(key) or "") for key in ("x_label", "y_label", "label")}
    lines = {str(label): value for label, value in (figure.get("lines") or {}).items()}
    return {**columns, **words, "series": series, "lines": lines, "diagonal": bool(figure.get("diagonal"))}


def _get(game: Any, key: str) -> Any:
    return game.get(key) if isinstance(game, Mapping) else getattr(game, key, None)
