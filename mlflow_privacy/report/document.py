"""The records that a report is made of: plain values only, so that the page, its Markdown and its JSON agree.

`report.sections.build_document` fills them from an `AuditResult`; the templates read nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mlflow_privacy.errors import DesignError
from mlflow_privacy.types import AuditedModel, DataSource, Estimate, Fidelity, Task

if TYPE_CHECKING:
    import numpy as np

DOCUMENT_VERSION = 1

Status = Literal["ok", "look", "wrong", "unknown"]
LimitState = Literal["within", "exceeded", "undecided", "not measured"]
_MOST_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What a report shows beside the audit itself, and how much.

    Attributes:
      thresholds: the organisation's limits by metric, such as {"rmia/auc": 0.6}.
      slices: (n,) values over the audited records by name, such as {"region": ...}; classes are always there.
      content: what to show of the most exposed records, by row id; None shows row ids alone.
      risk_fpr: false-alarm rate, among a slice's own non-members, at which slices are shown; None for the lowest, not
        below that of the verdict, that all slices resolve.
      top: how many of the most exposed records to list; 0 for a copy that must not name anybody, which then also lacks
        the sections of installed packages that may do so.
    """

    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    slices: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    content: Mapping[str, str] | None = None
    risk_fpr: float | None = None
    top: int = 20


@dataclasses.dataclass(frozen=True)
class Limit:
    """One limit of the organisation beside what was measured.

    state: "exceeded" if the whole interval lies above the limit, "within" if none of it does, else "undecided".
    """

    metric: str
    title: str
    limit: float
    measured: Estimate | None
    state: LimitState


@dataclasses.dataclass(frozen=True)
class People:
    """The verdict as a crowd: of `base` people, between `low` and `high` are recognised, `guessing` without a model."""

    base: int
    low: int
    high: int
    guessing: int


@dataclasses.dataclass(frozen=True)
class ExposedGroup:
    """The most exposed group of records that is significantly worse than all others.

    Attributes:
      name: in the words of the data, such as "default: 1"; slicing and label apart.
      fpr: the false-alarm rate among its own non-members that `figure` is about, None where that is an AUC.
      figure: its TPR or AUC, with an interval that holds for all groups at once; `others`: that of all other records.
      begin, end: the words of the verdict before and after the name.
    """

    name: str
    slicing: str
    label: str
    n_members: int
    n_nonmembers: int
    fpr: float | None
    figure: Estimate
    others: Estimate
    begin: str
    end: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """The verdict of the audit.

    Attributes:
      sentence: the verdict in words: `overall`, which is about all records, and what is said of `group`.
      caution: what undoes it, "" if nothing.
      meaning: how it relates to guessing, in words.
      attack: title of the attack it is about.
      fpr: the false-alarm rate it is about, None where none shows more than guessing; it is about the AUC then.
      tpr: with an interval that holds for all false-alarm rates looked at.
    """

    sentence: str
    overall: str
    group: ExposedGroup | None
    caution: str
    meaning: str
    attack: str
    fpr: float | None
    tpr: Estimate | None
    auc: Estimate | None
    people: People | None
    limits: tuple[Limit, ...]


@dataclasses.dataclass(frozen=True)
class Check:
    """One way in which the audit could be wrong: its figure, and what to do.

    status: "ok" | "look" (weakens the audit) | "wrong" (undoes it) | "unknown" (was not checked).
    """

    name: str
    status: Status
    figure: str
    action: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """A ROC curve thinned for drawing, all lists of one length, from (0, 0) to (1, 1)."""

    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    tpr_low: tuple[float, ...]
    tpr_high: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Shares of members and of non-members per bin; `n_outside` scores lie beyond and are in the outermost bins."""

    edges: tuple[float, ...]
    members: tuple[float, ...]
    nonmembers: tuple[float, ...]
    n_outside: int
    logarithmic: bool


@dataclasses.dataclass(frozen=True)
class AttackView:
    """One attack: who the attacker is, what he achieves, and how his scores lie."""

    name: str
    title: str
    threat_model: str
    paper: str
    options: Mapping[str, Any]
    metrics: Mapping[str, Estimate]
    roc: Curve
    histogram: Histogram


@dataclasses.dataclass(frozen=True)
class SliceRow:
    """Risk of one slice.

    Attributes:
      auc: members of the slice against its non-members, at the corrected confidence.
      recognised: share of its members above a threshold of its own, at the corrected confidence.
      difference: its AUC less that of all other records, at the corrected confidence.
      differs: whether that interval leaves out zero.
      worse: whether the verdict counts it among the groups that are significantly more exposed than the rest.
    """

    label: str
    n_members: int
    n_nonmembers: int
    auc: Estimate
    recognised: Estimate
    difference: Estimate
    differs: bool
    worse: bool = False


@dataclasses.dataclass(frozen=True)
class Slicing:
    """All slices of one kind, the most exposed first.

    Attributes:
      n_small: slices with too few members or non-members to measure; they are not among `rows`.
      n_hidden: measured slices beyond those listed.
    """

    name: str
    rows: tuple[SliceRow, ...]
    n_small: int
    n_hidden: int


@dataclasses.dataclass(frozen=True)
class ExposedRecord:
    """A member that stands out. `nonmembers_above` of all non-members score at least as high."""

    rank: int
    row_id: str
    label: str
    score: float
    nonmembers_above: int
    content: str | None


@dataclasses.dataclass(frozen=True)
class ShareRow:
    """How many members an attacker recognises who accepts false alarms at a rate of `fpr`."""

    fpr: float
    share: Estimate
    n_recognised: int | None
    n_expected: float


@dataclasses.dataclass(frozen=True)
class Exposure:
    """Who is exposed, by the headline attack.

    Attributes:
      overall: AUC over all records.
      confidence: of the audit; `corrected_confidence` is Bonferroni's, for `n_slices` slices at once.
      fpr: false-alarm rate, among a slice's own non-members, that `recognised` is about: the lowest, not below that of
        the verdict, that all slices resolve.
      records: most exposed members; empty where they were not asked for.
      trimmed: AUC without the `trimmed_share` of members that score highest.
    """

    overall: Estimate
    confidence: float
    corrected_confidence: float
    n_slices: int
    fpr: float
    slicings: tuple[Slicing, ...]
    shares: tuple[ShareRow, ...]
    records: tuple[ExposedRecord, ...]
    trimmed_share: float
    trimmed: Estimate | None


@dataclasses.dataclass(frozen=True)
class GameRow:
    """One figure of a game."""

    label: str
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class GameView:
    """A game beside membership: its question answered in a sentence, its figures, and a curve if it has one.

    figure: {"x", "y", "low", "high", "x_label", "y_label", "label", "series", "lines", "diagonal"}; None without one.
    """

    name: str
    title: str
    sentence: str
    assumption: str
    rows: tuple[GameRow, ...]
    figure: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure that lowers the risk: what it does, and what this audit says about its likely effect."""

    name: str
    how: str
    evidence: str


@dataclasses.dataclass(frozen=True)
class Fact:
    """A name with its value, both for people."""

    name: str
    value: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a section: plain text, no markup. Any sequences will do; cells become text by `str`.

    Attributes:
      columns: names of the columns.
      rows: one cell per column each; the first names the row. At most 1000 rows, because a report is read by people.
      caption: what the table shows, "" for none.

    Raises: DesignError: no columns, a row of another length, too many rows.

    >>> Table(["age", "members"], [["under 30", 12], ["older", 30]]).rows
    (('under 30', '12'), ('older', '30'))
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        columns = tuple(str(cell) for cell in self.columns)
        rows = tuple(tuple(str(cell) for cell in row) for row in self.rows)
        wrong = sorted({len(row) for row in rows} - {len(columns)})
        faults = [f"rows of {wrong} cells for {len(columns)} columns"] if wrong else []
        faults += [] if columns else ["no columns"]
        faults += [f"{len(rows)} rows; {_MOST_ROWS} are allowed"] if len(rows) > _MOST_ROWS else []
        if faults:
            raise DesignError(f"The table {self.caption!r} of a report has {', and '.join(faults)}.")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", rows)


@dataclasses.dataclass(frozen=True)
class Section:
    """A section that others add to a report: plain text and tables, no markup; the report escapes every character.

    Attributes:
      title: heading.
      paragraphs: shown one below the other, before the tables.
      tables: in order.
      names_records: False says that nothing in it tells who was in the training data. Only then is the section also in
        the copies that travel with the model.

    Raises: DesignError: no title, or tables that are none.

    >>> Section("Ages", ["Half of the members are under 30."]).paragraphs
    ('Half of the members are under 30.',)
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    names_records: bool = True

    def __post_init__(self) -> None:
        paragraphs = (self.paragraphs,) if isinstance(self.paragraphs, str) else self.paragraphs
        tables = tuple(self.tables)
        wrong = [type(table).__name__ for table in tables if not isinstance(table, Table)]
        if not str(self.title).strip() or wrong:
            raise DesignError(
                f"A section of a report has a title and tables of mlflow_privacy.report.Table, got {self.title!r} and "
                f"{', '.join(wrong) or 'no other tables'}."
            )
        object.__setattr__(self, "title", str(self.title))
        object.__setattr__(self, "paragraphs", tuple(str(text) for text in paragraphs))
        object.__setattr__(self, "tables", tables)
        object.__setattr__(self, "names_records", bool(self.names_records))


@dataclasses.dataclass(frozen=True)
class AddedSection:
    """A section of an installed package in its report; `problem` says why there is none, "" if there is."""

    name: str
    package: str
    problem: str
    section: Section | None


@dataclasses.dataclass(frozen=True)
class Blank:
    """A field that only the controller can fill: what he wrote there, "" if nothing yet.

    part: of Art. 35 of the GDPR: "a" to "d" of paragraph 7, or paragraph "9" or "11".
    """

    key: str
    part: str
    title: str
    hint: str
    text: str


@dataclasses.dataclass(frozen=True)
class Document:
    """Everything a report shows.

    date, auditor: "" where not known.
    processing: description of the processing, for Art. 35(7)(a); `recipe`: how references are trained, in detail.
    """

    version: int
    title: str
    model: AuditedModel
    task: Task
    n_members: int
    n_nonmembers: int
    headline: str
    finding: Finding
    warnings: tuple[str, ...]
    checks: tuple[Check, ...]
    attacks: tuple[AttackView, ...]
    blind: Estimate | None
    fidelity: Fidelity
    exposure: Exposure
    games: tuple[GameView, ...]
    processing: tuple[Fact, ...]
    sources: tuple[DataSource, ...]
    measures: tuple[Measure, ...]
    commands: tuple[Fact, ...]
    fingerprints: tuple[Fact, ...]
    environment: Mapping[str, str]
    timings: Mapping[str, float]
    options: Mapping[str, Any]
    references: Mapping[str, Any]
    date: str = ""
    auditor: str = ""
    blanks: tuple[Blank, ...] = ()
    recipe: tuple[Fact, ...] = ()
    sections: tuple[AddedSection, ...] = ()
