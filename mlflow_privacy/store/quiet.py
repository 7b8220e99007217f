"""MLflow's own progress bars, one per artifact, out of the way of ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_SWITCH = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


@contextlib.contextmanager
def no_artifact_bars() -> Iterator[None]:
    """Switches the bars off, unless the user has set MLflow's switch either way."""
    if _SWITCH in os.environ:
        yield
        return
    os.environ[_SWITCH] = "false"
    try:
        yield
    finally:
        os.environ.pop(_SWITCH, None)
