"""MLflow's artifact objects of an audit's files, loaded when first asked for."""

from __future__ import annotations

from typing import Any

from mlflow.models.evaluation import artifacts

from mlflow_privacy.store.mlflow_private import LoadedFirst


class Image(LoadedFirst, artifacts.ImageEvaluationArtifact):
    """A figure; its content is a PIL image."""


class Csv(LoadedFirst, artifacts.CsvEvaluationArtifact):
    """A table; its content is a DataFrame."""


class Parquet(LoadedFirst, artifacts.ParquetEvaluationArtifact):
    """A table; its content is a DataFrame."""


class Text(LoadedFirst, artifacts.TextEvaluationArtifact):
    """A page or a text; its content is a string."""


class Json(LoadedFirst, artifacts.JsonEvaluationArtifact):
    """A document; its content is a dictionary."""


# Kind and name in `EvaluationResult.artifacts` of each file that an audit writes.
KINDS: dict[str, tuple[str, Any]] = {
    "roc.png": ("privacy/roc", Image),
    "scores_histogram.png": ("privacy/scores_histogram", Image),
    "game_dp.png": ("privacy/game_dp", Image),
    "game_range.png": ("privacy/game_range", Image),
    "game_usage.png": ("privacy/game_usage", Image),
    "metrics.json": ("privacy/metrics", Json),
    "audit.json": ("privacy/audit", Json),
    "roc.csv": ("privacy/roc_data", Csv),
    "privacy_report.html": ("privacy/report", Text),
    "privacy_report.md": ("privacy/report_text", Text),
    "privacy_result.json": ("privacy/result", Json),
    "scores.parquet": ("privacy/scores", Parquet),
}
