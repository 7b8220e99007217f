"""A gate on an audit's metrics: which limits or rules a model breaks. What was not measured never passes."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mlflow_privacy.decide.screening import no_limit
from mlflow_privacy.errors import ConfigError, nearest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_privacy.decide.policy import Policy, Rule

_PREFIX = "privacy/"
_WEAK = "the audit had no reference models, so only the weaker attacks ran: what it did not find others may"
_TPR = re.compile(r"tpr_at_fpr_\d+(\.\d+)?(e-?\d+)?")


@dataclasses.dataclass(frozen=True)
class Breach:
    """A limit that an audit exceeds, or cannot show to be kept.

    Attributes:
      metric: full name, such as "privacy/rmia/auc".
      value: what was measured; NaN if the audit could not resolve it, or if it does not count at all.
      limit: the most (or the least) that was allowed.
      bound: whether `value` is the estimate itself or an end of its interval.
      kind: whether `limit` is the most or the least.
      reason: why the figure does not count, "" if it does.
    """

    metric: str
    value: float
    limit: float
    bound: Literal["value", "upper", "lower"]
    kind: Literal["max", "min"] = "max"
    reason: str = ""

    @property
    def line(self) -> str:
        """One line for people.

        >>> Breach("privacy/rmia/auc", 0.7, 0.6, "upper").line
        'privacy/rmia/auc: the upper end of its interval, 0.7, exceeds 0.6'
        """
        if self.reason:
            return f"{self.metric}: {self.reason}"
        if math.isnan(self.value):
            return (
                f"{self.metric}: the audit could not resolve it, so it cannot be shown to be at "
                f"{'most' if self.kind == 'max' else 'least'} {self.limit:g}; "
                "audit with more non-members, or gate on a higher FPR"
            )
        what = f"{self.value:g}" if self.bound == "value" else f"the {self.bound} end of its interval, {self.value:g},"
        return f"{self.metric}: {what} {'exceeds' if self.kind == 'max' else 'falls below'} {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class AuditFacts:
    """What a policy may ask about an audit besides its metrics; None for what is not known.

    Attributes:
      n_nonmembers: of the audited records.
      n_references: reference models in use.
      audited_at: milliseconds since 1970.
      run_id: of the audit.
      unlike: how its references are unlike the model, or that its outputs or data are turned round; "" if not.
    """

    n_nonmembers: int | None = None
    n_references: int | None = None
    audited_at: int | None = None
    run_id: str | None = None
    unlike: str = ""


def parse_limit(text: str) -> tuple[str, float]:
    """Name and limit of "rmia/auc=0.6".

    Raises: ConfigError: there is no "=", no name, or the limit is not a finite number.

    Example:
      >>> parse_limit("rmia/tpr_at_fpr_0.01=0.05")
      ('rmia/tpr_at_fpr_0.01', 0.05)
    """
    name, _, value = text.rpartition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if not name.strip() or not math.isfinite(limit):
        raise ConfigError(f"A limit must be ATTACK/METRIC=NUMBER, such as rmia/tpr_at_fpr_0.01=0.05, got {text!r}.")
    return name.strip(), limit


def check_gate(
    metrics: Mapping[str, float], limits: Mapping[str, float], *, upper: bool = False, allow_weak: bool = False
) -> tuple[Breach, ...]:
    """Which of `limits` the metrics exceed; empty if all are kept. A metric equal to its limit is within it.

    Args:
      metrics: of an audit, `AuditResult.metrics` or those of its MLflow run.
      limits: the most allowed, by name; the prefix "privacy/" may be left out.
      upper: compare the upper end of each interval, so that only what is surely within the limit passes.
      allow_weak: accept an audit without reference models.

    Returns: one `Breach` per limit exceeded, in the order of `limits`. A TPR that the audit could not resolve is
      a breach with value NaN, and so is every limit if the audit had no reference models.

    Raises: ConfigError: no limits; an unknown metric (with the nearest names); `upper` for a metric without an
      interval; a limit that no value can exceed. All faults together.

    Example:
      >>> check_gate({"privacy/rmia/auc": 0.7, "privacy/rmia/auc_high": 0.8}, {"rmia/auc": 0.75})
      ()
      >>> [b.value for b in check_gate({"privacy/rmia/auc": 0.7, "privacy/rmia/auc_high": 0.8}, {"rmia/auc": 0.75},
      ...                              upper=True)]
      [0.8]
    """
    if not limits:
        raise ConfigError("A gate needs at least one limit, such as rmia/auc=0.6; without one anything would pass.")
    faults: list[str] = []
    breaches: list[Breach] = []
    for given, limit in limits.items():
        name = given if given.startswith(_PREFIX) else _PREFIX + given
        fault = _limit_fault(name, limit) or _name_fault(name, metrics, "upper" if upper else "value")
        if fault:
            faults.append(fault)
            continue
        end: Literal["upper", "value"] = "upper" if upper else "value"
        if not allow_weak and is_weak(metrics):
            breaches.append(Breach(name, math.nan, float(limit), end, reason=f"{_WEAK} (--allow-weak accepts that)"))
        value = float(metrics.get(f"{name}_high" if upper else name, math.nan))
        if not value <= limit:  # also true of NaN
            breaches.append(Breach(name, value, float(limit), end))
    if faults:
        raise ConfigError("The gate cannot be checked:\n" + "\n".join(f"  {fault}" for fault in faults))
    return tuple(breaches)


def check_policy(
    metrics: Mapping[str, float], policy: Policy, *, facts: AuditFacts | None = None, now: float | None = None
) -> tuple[Breach, ...]:
    """Which rules of a policy an audit breaks; empty if it keeps all of them.

    A rule whose conditions the audit does not meet (too old, too few non-members or references, none at all unless
    `allow_weak`, a blind baseline that tells members from non-members) is broken whatever its figure says: that figure
    does not count.

    Args:
      metrics: of an audit, `AuditResult.metrics` or those of its MLflow run.
      policy: `policy.load_policy` of a file, or `policy.parse_policy` of plain values.
      facts: of the audit, `read_facts`; needed for age, references and non-members.
      now: seconds since 1970; the present if None.

    Returns: breaches in the order of the rules.

    Raises: ConfigError: a rule names a metric that this audit has not, or an end of an interval it has not. All
      faults together.

    Example:
      >>> from mlflow_privacy.decide.policy import parse_policy
      >>> policy = parse_policy({"rules": [{"metric": "rmia/auc", "max": 0.6}], "allow_caution": True})
      >>> [breach.line for breach in check_policy({"privacy/rmia/auc": 0.7}, policy)]
      ['privacy/rmia/auc: 0.7 exceeds 0.6']
    """
    facts = facts or AuditFacts()
    moment = time.time() if now is None else now
    faults: list[str] = []
    breaches: list[Breach] = []
    for rule in policy.rules:
        fault = _name_fault(rule.name, metrics, rule.end)
        if fault:
            faults.append(fault)
            continue
        breaches += _rule_breaches(rule, policy, metrics, facts, moment)
    if faults:
        raise ConfigError("The policy cannot be checked:\n" + "\n".join(f"  {fault}" for fault in faults))
    return tuple(breaches)


def policy_thresholds(policy: Policy) -> dict[str, Any]:
    """The bounds of a policy as `mlflow.validate_evaluation_results(validation_thresholds=...)` takes them.

    MLflow knows bounds only: conditions (age, non-members, references, blind baseline) need `check_policy`. A metric
    that was not resolvable is missing, which MLflow counts as a failure.

    Returns: `mlflow.models.MetricThreshold` by metric; several rules on one metric and side keep the strictest.
    """
    from mlflow.models import MetricThreshold

    strictest: dict[str, tuple[float, bool]] = {}
    for rule in policy.rules:
        known = strictest.get(rule.key)
        higher_is_better = rule.min is not None
        if known and known[1] != higher_is_better:
            raise ConfigError(
                f"{rule.key} has a max and a min; MLflow takes one threshold per metric. Use mlflow-privacy gate."
            )
        pick = max if higher_is_better else min
        strictest[rule.key] = (pick(rule.bound, known[0]) if known else rule.bound, higher_is_better)
    return {
        key: MetricThreshold(threshold=bound, greater_is_better=higher) for key, (bound, higher) in strictest.items()
    }


def read_facts(
    model_uri: str, client: MlflowClient | None = None, *, run_id: str | None = None
) -> tuple[dict[str, float], AuditFacts]:
    """Metrics and facts of the newest finished audit of a model, or of the audit of `run_id`.

    Raises: StoreError: there is no finished audit, or its files cannot be read.
    """
    from mlflow_privacy.store.audits import read_audit

    audit = read_audit(model_uri, client, run_id=run_id)
    rows, references = audit.record["rows"], audit.record["references"]
    unlike = str(audit.record.get("turned_round") or audit.record.get("references_unlike") or "")
    facts = AuditFacts(rows.get("nonmembers"), references.get("n"), audit.audited_at, audit.run_id, unlike)
    return dict(audit.metrics), facts


def tag_verdict(
    model_uri: str, *, passed: bool, policy: Policy, run_id: str | None, client: MlflowClient | None = None
) -> None:
    """Writes the verdict on the model version (or the logged model): `privacy.gate` is "pass" or "fail".

    `privacy.gate_policy` holds the policy's digest and `privacy.gate_audit` the audit run, so that a verdict of another
    policy or of an older audit is not taken for this one.
    """
    from mlflow import MlflowClient

    from mlflow_privacy.store.results import audited_model

    client = client or MlflowClient()
    model = audited_model(model_uri, client)
    tags = {"privacy.gate": "pass" if passed else "fail", "privacy.gate_policy": policy.digest}
    if run_id:
        tags["privacy.gate_audit"] = run_id
    if model.name and model.version:
        for key, value in tags.items():
            client.set_model_version_tag(model.name, model.version, key, value)
    elif model.model_id:
        client.set_logged_model_tags(model.model_id, tags)
    else:
        raise ConfigError(f"{model_uri} is no registered or logged model, so it has no tags to write a verdict to.")


def is_weak(metrics: Mapping[str, float], facts: AuditFacts | None = None) -> bool:
    """Whether an audit had no reference models, by its facts, or else by the metrics that every audit has.

    >>> is_weak({"privacy/fidelity/target_member_loss": 0.1}), is_weak({}, AuditFacts(n_references=8))
    (True, False)
    """
    if facts is not None and facts.n_references is not None:
        return facts.n_references == 0
    prefix = f"{_PREFIX}fidelity/"
    return f"{prefix}target_member_loss" in metrics and f"{prefix}reference_member_loss" not in metrics


def latest_metrics(model_uri: str, client: MlflowClient | None = None) -> dict[str, float]:
    """Metrics of the newest finished audit of a model.

    Args:
      model_uri: models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID.
      client: of the tracking server; the default one if None.

    Raises: StoreError: there is no finished audit of this model.
    """
    from mlflow_privacy.store.results import latest_audit

    return latest_audit(model_uri, client)[1]


def _limit_fault(name: str, limit: float) -> str:
    """What is wrong with a limit, "" if nothing."""
    if not math.isfinite(limit):
        return f"{name}: the limit must be a finite number, got {limit}."
    if not 0 <= limit <= 1:
        from mlflow_privacy.metrics import is_share  # which loads SciPy

        if is_share(name):
            return f"{name}: the limit of a rate must be in [0, 1], got {limit:g} (for 5 % write 0.05)."
    return ""


def _name_fault(name: str, metrics: Mapping[str, float], end: str) -> str:
    """What is wrong with a metric's name, "" if nothing; a TPR that an attack could not resolve is no fault."""
    if refused := no_limit(name):
        return refused
    known = [key for key in metrics if key.startswith(_PREFIX)]
    if name not in metrics:
        attack, _, metric = name.removeprefix(_PREFIX).rpartition("/")
        if _TPR.fullmatch(metric) and f"{_PREFIX}{attack}/auc" in metrics:
            return ""
        asked = [key for key in known if not key.endswith(("_low", "_high")) and not no_limit(key)]
        choices = [key.removeprefix(_PREFIX) for key in asked]
        hint = nearest(name.removeprefix(_PREFIX), choices, shown=str, listed=True) if choices else "; it has none."
        return f"{name} is not a metric of this audit{hint}"
    suffix = {"upper": "_high", "lower": "_low"}.get(end, "")
    if name + suffix not in metrics:
        return f"{name} has no interval in this audit; gate on its value instead."
    return ""


def _rule_breaches(
    rule: Rule, policy: Policy, metrics: Mapping[str, float], facts: AuditFacts, now: float
) -> list[Breach]:
    """What breaks one rule: each unmet condition, and the bound."""
    kind: Literal["max", "min"] = "max" if rule.max is not None else "min"
    out = [
        Breach(rule.name, math.nan, rule.bound, rule.end, kind, reason)
        for reason in (
            _too_few("non-members", facts.n_nonmembers, policy.condition(rule, "min_nonmembers")),
            _too_few("reference models", facts.n_references, policy.condition(rule, "required_references")),
            _too_old(facts.audited_at, policy.condition(rule, "max_age_days"), now),
            "" if policy.condition(rule, "allow_caution") else _caution(rule.name, metrics),
            f"{facts.unlike} (allow_caution: true accepts that)"
            if facts.unlike and not policy.condition(rule, "allow_caution")
            else "",
            f"{_WEAK} (allow_weak: true accepts that)"
            if is_weak(metrics, facts) and not policy.condition(rule, "allow_weak")
            else "",
        )
        if reason
    ]
    value = float(metrics.get(rule.key, math.nan))
    if math.isnan(value) and policy.condition(rule, "require_resolved") is False:
        return out
    kept = value <= rule.bound if kind == "max" else value >= rule.bound  # False of NaN
    return out if kept else [*out, Breach(rule.name, value, rule.bound, rule.end, kind)]


def _too_few(what: str, found: int | None, needed: int | None) -> str:
    if needed is None or (found is not None and found >= needed):
        return ""
    had = f"had {found:,} {what}" if found is not None else f"does not say how many {what} it had"
    return f"the audit {had}, the policy asks for {needed:,}"


def _too_old(audited_at: int | None, days: float | None, now: float) -> str:
    if days is None:
        return ""
    if audited_at is None:
        return f"the audit does not say when it was made, the policy asks for at most {days:g} days ago"
    age = (now - audited_at / 1000) / 86400
    return "" if age <= days else f"the audit is {age:.1f} days old, the policy asks for at most {days:g}"


def _caution(name: str, metrics: Mapping[str, float]) -> str:
    """Why members and non-members differ without the model; a rule on the baseline itself has a bound for that."""
    if name == f"{_PREFIX}blind/auc":
        return ""
    low, high = (metrics.get(f"{_PREFIX}blind/auc_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return (
            "no blind baseline was run, so members and non-members may differ without the model (allow_caution: true "
            "accepts that)"
        )
    if low > 0.5:  # below ½ a baseline tells nothing apart
        value = metrics.get(f"{_PREFIX}blind/auc", math.nan)
        return (
            f"members and non-members differ without the model (blind baseline {value:g} [{low:g}, {high:g}]), so the "
            "audit's figures are not the model's alone (allow_caution: true accepts that)"
        )
    return ""
