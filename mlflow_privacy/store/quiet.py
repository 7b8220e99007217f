"""Switches off MLflow's own progress bars and links, one for each artifact and run, among which ours would be lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_BARS = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
_LINKS_OFF = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"


@contextlib.contextmanager
def _switched(name: str, value: str) -> Iterator[None]:
    """Sets one of MLflow's switches, unless the user has set it either way."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def no_artifact_bars() -> contextlib.AbstractContextManager[None]:
    """Switches the bars off, unless the user has set MLflow's switch either way."""
    return _switched(_BARS, "false")


def no_run_links() -> contextlib.AbstractContextManager[None]:
    """Switches off the two lines that MLflow prints, and looks up, whenever a run on a server ends."""
    return _switched(_LINKS_OFF, "true")
