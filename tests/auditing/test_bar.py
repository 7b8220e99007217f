"""The progress bar: log lines stand whole above it, and the time left never grows while nothing moves."""

import contextlib
import io
import itertools
import logging
import re
import sys

import pytest

from mlflow_privacy.auditing.bar import Pace, model_bar


def screen(written):
    """Lines as a terminal of one column of lines shows them: a carriage return writes over what stands there."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


@contextlib.contextmanager
def console(level=logging.INFO):
    """Stands in for the terminal, with a console handler of its own. No fixture: pytest has a stderr per phase."""
    stream, before, logger = io.StringIO(), sys.stderr, logging.getLogger("mlflow_privacy")
    stream.isatty = lambda: True
    handler, old = logging.StreamHandler(stream), logger.level
    sys.stderr = stream
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield stream
    finally:
        sys.stderr = before
        logger.removeHandler(handler)
        logger.setLevel(old)


def test_log_lines_stand_whole_above_the_bar():
    with console() as stream, model_bar(3, True) as move:
        for i in range(3):
            move(i + 1)
            logging.getLogger("mlflow_privacy.anything").info("Reference %d trained.", i)
    lines = [line for line in screen(stream.getvalue()) if line]
    assert lines[:3] == ["Reference 0 trained.", "Reference 1 trained.", "Reference 2 trained."]
    assert re.fullmatch(r"reference models: 100%\|.*\| 3/3 \[\d\d:\d\d\]", lines[3])
    assert len(lines) == 4


def test_handlers_are_as_before_after_the_bar():
    with console():
        handler = logging.getLogger("mlflow_privacy").handlers[-1]
        with model_bar(1, True):
            assert "emit" in vars(handler)
        assert "emit" not in vars(handler)


@pytest.mark.parametrize(("level", "shown"), [(logging.WARNING, False), (logging.INFO, True)])
def test_no_bar_where_only_warnings_are_wanted(level, shown):
    with console(level) as stream, model_bar(2, "auto") as move:
        move(1)
    assert ("reference models" in stream.getvalue()) == shown


def test_time_left_runs_down_while_workers_start_and_is_right_afterwards():
    now = [0.0]
    pace = Pace(9, clock=lambda: now[0])
    assert pace.left is None
    now[0] = 2.0
    pace.move(1)
    seen = [pace.left]
    for second in range(3, 40):  # workers start, longer than anybody thought; the same number again is no move
        now[0] = float(second)
        pace.move(1)
        seen.append(pace.left)
    assert seen[0] == 16.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(seen))
    assert seen[-1] == 0.0
    now[0] = 40.0
    pace.move(5)
    assert pace.left == pytest.approx(40 / 5 * 4)
    pace.move(9)
    assert pace.left == 0.0
