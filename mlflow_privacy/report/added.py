"""Sections that others add to a report: functions from an `AuditResult` to a `Section` of plain text and tables."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.plugins import Registry, package_of
from mlflow_privacy.report.document import AddedSection, Section
from mlflow_privacy.types import AuditResult

_logger = logging.getLogger(__name__)
MakeSection = Callable[[AuditResult], "Section | None"]
F = TypeVar("F", bound=MakeSection)
_GROUP = "mlflow_privacy.report_sections"


def _check(name: str, function: Any) -> None:
    if not callable(function):
        raise ConfigError(f"The report section {name!r} must be a function of an AuditResult, got {function!r}.")


SECTIONS: Registry[MakeSection] = Registry(_GROUP, {}, _check)


def report_section(name: str) -> Callable[[F], F]:
    """A decorator that adds a function to every report that this process makes, in the page, Markdown and JSON.

    An installed package needs no decorator: an entry point of the group "mlflow_privacy.report_sections" that names the
    function is enough, and its section is in the report of every audit.

    The function gets the `AuditResult` and returns a `Section`, or None where it has nothing to say. Where it fails,
    the report says so in its place.

    Example:
      >>> @report_section("sizes")
      ... def sizes(result):
      ...     return Section("Sizes", [f"{len(result.membership)} records were audited."], names_records=False)
      >>> from mlflow_privacy.report.example import example_result
      >>> added_sections(example_result(n=50))[0].section.paragraphs
      ('100 records were audited.',)
      >>> del SECTIONS["sizes"]
    """

    def add(function: F) -> F:
        SECTIONS[name] = function
        return function

    return add


def added_sections(result: AuditResult, *, records: bool = True) -> tuple[AddedSection, ...]:
    """All sections that others add, in the order of their names.

    Args:
      records: False leaves out those that may tell who was in the training data.
    """
    found = (_made(name, result) for name in sorted(SECTIONS))
    return tuple(view for view in found if view is not None and (records or not names_records(view)))


def names_records(view: AddedSection) -> bool:
    """Whether a section may tell who was in the training data."""
    return view.section is not None and view.section.names_records


def _made(name: str, result: AuditResult) -> AddedSection | None:
    """One section; None where it has nothing to say. Whatever it raises stays here: the audit is not lost for it."""
    package = package_of(_GROUP, name)
    try:
        function = SECTIONS[name]
    except ConfigError as error:
        _logger.warning("The report lacks the section %r: %s", name, error)
        return AddedSection(name, package, str(error), None)
    package = package or getattr(function, "__module__", "") or ""
    try:
        section = function(result)
    except Exception as error:  # another package's code may raise anything
        # The message may name a record, and this report may be a copy that must not.
        _logger.warning("The report lacks the section %r of %s.", name, package, exc_info=True)
        return AddedSection(name, package, f"It raised {type(error).__name__}; the log of the audit says more.", None)
    if section is None:
        return None
    if not isinstance(section, Section):
        problem = f"It gave a {type(section).__name__} in place of a mlflow_privacy.report.Section."
        _logger.warning("The report lacks the section %r of %s. %s", name, package, problem)
        return AddedSection(name, package, problem, None)
    return AddedSection(name, package, "", section)
