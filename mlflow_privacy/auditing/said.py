"""Lines for whoever waits for an audit, heard in plain scripts too: of other libraries these show warnings alone."""

from __future__ import annotations

import logging

# MLflow shows the lines of its own evaluators from INFO on, those of another library only from WARNING on.
_shown = logging.getLogger("mlflow.privacy_meter")


def told_quiet() -> bool:
    """Whether this package was told to log nothing but warnings, by its logger's level or `-q`."""
    return logging.getLogger("mlflow_privacy").level >= logging.WARNING


def tell(logger: logging.Logger, level: int, line: str) -> None:
    """Logs a line once, by whichever logger is heard: `logger`, or that of MLflow's evaluators."""
    (logger if logger.isEnabledFor(level) else _shown).log(level, "%s", line)


def tell_progress(logger: logging.Logger, line: str) -> None:
    """Tells how far an audit is, unless this package was told to be quiet."""
    if told_quiet():
        logger.info("%s", line)
    else:
        tell(logger, logging.INFO, line)
