"""The whole document."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.metrics.evaluation import VERDICT_FPRS
from mlflow_privacy.metrics.groups import Groups, measurable, slicings_of
from mlflow_privacy.metrics.roc import resolves
from mlflow_privacy.report.added import added_sections
from mlflow_privacy.report.document import DOCUMENT_VERSION, Blank, Document, Exposure, Fact, ReportOptions
from mlflow_privacy.report.dpia import FIELDS
from mlflow_privacy.report.sections.attacks import attack_views
from mlflow_privacy.report.sections.checks import checks
from mlflow_privacy.report.sections.games import game_views
from mlflow_privacy.report.sections.measures import measures
from mlflow_privacy.report.sections.verdict import check_thresholds, finding
from mlflow_privacy.report.slices import check_slices, most_exposed, shares, slice_risk, trimmed_auc
from mlflow_privacy.report.tables import _brief
from mlflow_privacy.report.text import headline_attack, headline_rate, plain_text
from mlflow_privacy.types import AuditResult

__all__ = ["build_document", "check_thresholds"]

_TRIMMED = 0.05
_SPEC_LIMIT = 24
_SHOWN_COLUMNS = 60
_FLAGS = {"num_ref_models": "--num-ref-models", "random_seed": "--seed"}


def build_document(result: AuditResult, options: ReportOptions | None = None) -> Document:
    """Everything a report shows, as plain values.

    Args:
      result: of an audit; nothing is asked of the model.
      options: None for the defaults.

    Raises:
      ConfigError: a limit names no metric of this audit.
      DesignError: a slice has not one value per record.
    """
    options = options or ReportOptions()
    found = finding(result, options.thresholds)
    exposure = _exposure(result, options)
    n_members = int(result.membership.sum())
    return Document(
        version=DOCUMENT_VERSION,
        title=f"Privacy audit of {result.model.label}",
        model=result.model,
        task=result.task,
        n_members=n_members,
        n_nonmembers=len(result.membership) - n_members,
        headline=headline_attack(result).name,
        finding=found,
        warnings=tuple(result.warnings),
        checks=checks(result),
        attacks=attack_views(result),
        blind=result.blind,
        fidelity=result.fidelity,
        exposure=exposure,
        games=game_views(result),
        processing=_processing(result),
        sources=tuple(result.sources),
        measures=measures(result, exposure),
        commands=_commands(result),
        fingerprints=_fingerprints(result),
        environment=dict(result.environment),
        timings=dict(result.timings),
        options=_brief(result.options),
        references={k: v for k, v in _brief(result.references).items() if k != "recipe"},
        date=result.about.date,
        auditor=result.about.auditor,
        blanks=tuple(Blank(*field, text=result.about.dpia.get(field.key, "")) for field in FIELDS),
        recipe=_recipe(result),
        sections=added_sections(result, records=options.top > 0),
    )


def _exposure(result: AuditResult, options: ReportOptions) -> Exposure:
    attack = headline_attack(result)
    ranks, member = attack.scores.rank(), np.asarray(result.membership, bool)
    check_slices(options.slices, len(member))
    slicings = slicings_of(result.task, result.y, options.slices)
    risk_fpr = _common_fpr(result, slicings) if options.risk_fpr is None else options.risk_fpr
    if not 0 <= risk_fpr < 1:
        raise DesignError(f"risk_fpr must be in [0, 1), got {risk_fpr}.")
    overall = attack.metrics["auc"]
    worse = {(group.slicing, group.label) for group in attack.groups if group.worse}
    found, count, corrected = slice_risk(
        ranks, member, slicings, fpr=risk_fpr, confidence=overall.confidence, worse=worse
    )
    fprs = [float(key.removeprefix("tpr_at_fpr_")) for key in attack.metrics if key.startswith("tpr_at_fpr_")]
    return Exposure(
        overall=overall,
        confidence=overall.confidence,
        corrected_confidence=corrected,
        n_slices=count,
        fpr=risk_fpr,
        slicings=found,
        shares=shares(attack.metrics, fprs, [fpr_key(fpr) for fpr in fprs], int(member.sum())),
        records=most_exposed(
            np.asarray(attack.scores.value, np.float64),
            ranks,
            member,
            result.row_ids,
            result.y,
            count=options.top,
            content=options.content,
        ),
        trimmed_share=_TRIMMED,
        trimmed=trimmed_auc(ranks, member, _TRIMMED, overall.confidence),
    )


def _common_fpr(result: AuditResult, slicings: Mapping[str, Groups]) -> float:
    """The lowest FPR, not below that of the verdict, that the non-members of every slice resolve."""
    member, found = np.asarray(result.membership, bool), headline_rate(result)
    least = found[0] if found else max(VERDICT_FPRS)
    fewest = min((int((~member[rows]).sum()) for *_, rows in measurable(slicings, member)), default=0)
    return next((fpr for fpr in VERDICT_FPRS if fpr >= least and resolves(fewest, fpr)), max(VERDICT_FPRS))


def _processing(result: AuditResult) -> tuple[Fact, ...]:
    """The processing as lineage knows it."""
    model, n = result.model, int(result.membership.sum())
    facts = [
        Fact("Model", model.label),
        Fact("Model URI", model.uri),
        Fact("Kind of model", f"{result.task}, {model.flavor}" if model.flavor else result.task),
        Fact("Records audited", f"{n:,} that it was trained on, {len(result.membership) - n:,} that it was not"),
    ]
    pool = result.references.get("n_pool")
    if pool and int(pool) != len(result.membership):
        facts.append(Fact("Records known", f"{int(pool):,}"))
    about = result.about
    people = "not known; the option people says it, as a number or as the column that names the person"
    if about.people is not None:
        people = f"{about.people:,} in the training data{f' ({about.people_by})' if about.people_by else ''}"
    facts.append(Fact("People concerned", people))
    if about.columns:
        facts.append(Fact("Columns the model takes", f"{len(about.columns):,}: {_listed(about.columns)}"))
    if result.label_name:
        facts.append(Fact("Column it predicts", result.label_name))
    if model.run_id:
        facts.append(Fact("Training run", model.run_id))
    source = str(result.references.get("recipe_source") or "")
    count = result.references.get("n") or 0
    if result.references.get("recipe"):
        how = f"{count} models like it, trained for this audit" + (f" by {source}" if source else "")
        facts.append(Fact("Reference models", f"{how}; the recipe is at the end of this report"))
    elif result.references.get("problem"):
        facts.append(Fact("Reference models", f"none: {result.references['problem']}"))
    return tuple(facts)


def _listed(columns: Sequence[str]) -> str:
    """Names of columns, of very many the first."""
    shown = [plain_text(name, 40) for name in columns[:_SHOWN_COLUMNS]]
    more = len(columns) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _recipe(result: AuditResult) -> tuple[Fact, ...]:
    """Every setting of the recipe, for whoever repeats the audit."""
    recipe = result.references.get("recipe") or {}
    if not recipe:
        return ()
    facts = [Fact("Kind", str(recipe.get("kind") or ""))]
    return (*facts, *(Fact(key, value) for key, value in _flat(recipe.get("spec") or {})[:_SPEC_LIMIT]))


def _flat(spec: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values of a nested specification; long values are cut."""
    out: list[tuple[str, str]] = []
    for key, value in spec.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += _flat(value, f"{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(_brief(value), ensure_ascii=False)
            out.append((name, text if len(text) <= 160 else f"{text[:159]}…"))
    return out


def _commands(result: AuditResult) -> tuple[Fact, ...]:
    uri = result.model.uri
    changed = {k: v for k, v in _brief(result.options).items() if k in _FLAGS}
    config = json.dumps({"privacy_meter": changed}, ensure_ascii=False)
    flags = [f"{flag} {changed[key]}" for key, flag in _FLAGS.items() if isinstance(changed.get(key), int)]
    call = f'mlflow.evaluate({json.dumps(uri, ensure_ascii=False)}, evaluators=["privacy_meter"]'
    return (
        Fact("Python", f"{call}, evaluator_config={config})" if changed else f"{call})"),
        Fact("Shell", " ".join(["mlflow-privacy audit", shlex.quote(uri), *flags])),
    )


def _fingerprints(result: AuditResult) -> tuple[Fact, ...]:
    seed = result.options.get("random_seed", result.references.get("seed"))
    facts = [("Random seed", seed), ("Pool digest", result.pool_digest)]
    facts.append(("Recipe fingerprint", result.references.get("fingerprint")))
    facts.append(("Logged model", result.model.model_id))
    return tuple(Fact(name, str(value)) for name, value in facts if value is not None)
