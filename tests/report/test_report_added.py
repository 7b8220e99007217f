"""Sections that others add to a report: in every form, harmless, and no danger to the audit."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from packages import as_new, install

from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.report import Section, Table, report_section
from mlflow_privacy.report.added import SECTIONS, added_sections
from mlflow_privacy.report.document import ReportOptions
from mlflow_privacy.report.html import html_report, markdown_report, render_html
from mlflow_privacy.report.schema import json_text, result_json, without_records

SOURCE = """
from mlflow_privacy.report import Section, Table

def ages(result):
    n = int(result.membership.sum())
    table = Table(["age", "n"], [["young", n]])
    return Section("Ages of members", [f"All {n:,} of them."], [table], names_records=False)

def broken(result):
    raise KeyError(str(result.row_ids[0]))
"""


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    as_new(monkeypatch, SECTIONS)


@pytest.fixture
def acme(tmp_path, monkeypatch):
    entries = {"ages": "acme_section:ages", "broken": "acme_section:broken", "gone": "acme_section:gone"}
    install(tmp_path, monkeypatch, "acme_section", SOURCE, report_sections=entries)
    yield
    sys.modules.pop("acme_section", None)


def forms(result, options=None):
    return html_report(result, options), markdown_report(result, options), result_json(result, options)


def test_a_package_adds_its_section_after_our_own_in_every_form(result, acme):
    page, text, values = forms(result)
    for form in (page, text, values):
        assert "Ages of members" in form
        assert "All 500 of them." in form
        assert "acme_section 1.0" in form
    assert page.index('id="repeat"') < page.index("Ages of members</bdi></h2>")
    assert text.index("## How to repeat it") < text.index("## Ages of members")
    assert "| young | 500 |" in text
    assert render_html(json.loads(values)) == page


def test_a_broken_section_loses_no_audit_and_is_named_with_its_package(result, acme, caplog):
    with caplog.at_level(logging.WARNING, logger="mlflow_privacy.report.added"):
        page, text, values = forms(result)
    for form in (page, text, values):
        assert "KeyError" in form
        assert "cannot be imported from acme_section" in form
    assert "This section of acme_section 1.0 could not be made. It raised KeyError" in page
    assert [view["name"] for view in json.loads(values)["sections"]] == ["ages", "broken", "gone"]
    assert "'broken' of acme_section 1.0" in caplog.text
    assert "Traceback" in caplog.text


def test_what_a_broken_section_raised_is_told_in_the_log_alone(result, acme, caplog):
    problem = next(view.problem for view in added_sections(result) if view.name == "broken")
    assert str(result.row_ids[0]) not in problem
    assert str(result.row_ids[0]) in caplog.text


def test_a_section_that_has_nothing_to_say_is_not_shown(result):
    before = forms(result)
    report_section("quiet")(lambda result: None)
    assert forms(result) == before


@pytest.mark.parametrize("given", ["<b>text</b>", {"title": "x"}, 3])
def test_what_is_no_section_is_said_to_be_none(result, given):
    report_section("odd")(lambda result: given)
    (view,) = added_sections(result)
    assert view.section is None
    assert f"It gave a {type(given).__name__}" in view.problem
    assert "<b>text</b>" not in html_report(result)


def test_no_text_of_a_section_is_markup(result):
    evil = "<script>alert(1)</script> [x](javascript:alert(1)) | `y`"
    table = Table([evil, "n"], [[evil, 1]], evil)
    report_section("evil")(lambda result: Section(evil, [evil, "a\nb"], [table], names_records=False))
    page, text, values = forms(result)
    assert "<script" not in page
    assert "<script" not in text
    assert "](javascript" not in text
    assert json.loads(values)["sections"][0]["section"]["title"] == evil
    (row,) = [line for line in text.splitlines() if line.startswith("|") and "alert" in line and line.endswith("| 1 |")]
    assert row.count("|") == 3


def test_copies_that_name_nobody_lack_sections_that_may(result):
    report_section("names")(lambda result: Section("Whose names", [str(result.row_ids[0])]))
    report_section("harmless")(lambda result: Section("How many", ["Some."], names_records=False))
    for form in forms(result):
        assert "Whose names" in form
    for form in forms(result, ReportOptions(top=0)):
        assert "Whose names" not in form
        assert "How many" in form
    assert json_text(without_records(json.loads(result_json(result)))) == result_json(result, ReportOptions(top=0))


def test_reports_with_added_sections_keep_the_published_schema(result, acme):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text())
    report_section("plain")(lambda result: Section("Plain"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(result_json(result)))


def test_cells_become_text_and_a_single_paragraph_is_one():
    section = Section("x", "One sentence.", [Table(("a", "b"), np.array([[1, 2], [3, 4]]))])
    assert section.paragraphs == ("One sentence.",)
    assert section.tables[0].rows == (("1", "2"), ("3", "4"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Table([], []), "no columns"),
        (lambda: Table(["a"], [[1], [1, 2]], "ages"), r"'ages'.*rows of \[2\] cells for 1 columns"),
        (lambda: Table(["a"], [[1]] * 1001), "1001 rows; 1000 are allowed"),
        (lambda: Section(" "), "has a title"),
        (lambda: Section("x", [], [[1, 2]]), "and list"),
    ],
)
def test_what_cannot_be_shown_is_refused(make, words):
    with pytest.raises(DesignError, match=words):
        make()


def test_a_section_is_a_function():
    with pytest.raises(ConfigError, match="'text' must be a function of an AuditResult, got 'Hello'"):
        report_section("text")("Hello")
