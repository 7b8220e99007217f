"""Every block of docs/extending.md runs as it stands, and the entry points it shows are the example's."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from packages import as_new

from mlflow_privacy.attacks import ATTACKS
from mlflow_privacy.games import GAMES
from mlflow_privacy.report.added import SECTIONS
from mlflow_privacy.report.html import markdown_report
from mlflow_privacy.signals import SIGNALS
from mlflow_privacy.trainers import TRAINERS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture(autouse=True)
def own_tables(monkeypatch):
    for registry in (ATTACKS, GAMES, SECTIONS, SIGNALS, TRAINERS):
        as_new(monkeypatch, registry)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_each_door_opens_as_the_page_shows():
    code, printed, space = "\n".join(blocks("python")), io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), space)
    assert printed.getvalue().splitlines() == re.findall(r"^# (.+)$", code, re.MULTILINE)
    result = space["result"]
    assert result.metrics["privacy/surest/auc_low"] > 0.5  # a model that remembers everything is found out
    assert result.references["n_trained"] == 4
    report = markdown_report(result)
    assert "## Records by label" in report
    assert "Rounded records" in report


def test_every_table_is_named_with_its_group():
    page = PAGE.read_text()
    for registry in (ATTACKS, GAMES, SECTIONS, SIGNALS, TRAINERS):
        assert f"`{registry.group}`" in page


def test_the_entry_points_are_those_of_the_example():
    (shown,) = blocks("toml")
    assert shown.strip() in (ROOT / "examples" / "plugin" / "pyproject.toml").read_text()
