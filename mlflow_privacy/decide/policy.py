"""An organisation's privacy policy as YAML: the rules that an audit must keep before a model may be used.

    rules:
      - {metric: rmia/tpr_at_fpr_0.01, max: 0.05, end: upper, min_nonmembers: 1000}
      - {metric: rmia/auc, max: 0.6}
    max_age_days: 90
    required_references: 8

Config ends at the door: `gate.check_policy` sees the frozen models below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlflow_privacy.decide.screening import no_limit
from mlflow_privacy.errors import ConfigError, nearest
from mlflow_privacy.fields import Float, Int

PREFIX = "privacy/"


Number = Annotated[Float, Field(allow_inf_nan=False)]
Count = Annotated[Int, Field(ge=0)]
Days = Annotated[Float, Field(gt=0, allow_inf_nan=False)]


class _Conditions(BaseModel):
    """What an audit must be before a figure of it counts. On a policy: for all rules that do not say otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_nonmembers: Count | None = Field(None, description="Non-members that the audit must have had.")
    max_age_days: Days | None = Field(None, description="Days after which an audit no longer counts.")
    required_references: Count | None = Field(None, description="Reference models that the audit must have used.")
    allow_caution: bool | None = Field(
        None,
        description="Accept an audit without a blind baseline, whose baseline finds a difference, or whose references "
        "are unlike the model. Default: no.",
    )
    allow_weak: bool | None = Field(None, description="Accept an audit without reference models. Default: no.")
    require_resolved: bool | None = Field(
        None, description="Whether a TPR that the non-members cannot resolve is a breach. Default: yes."
    )


class Rule(_Conditions):
    """One metric with a bound; exactly one of `max` and `min`."""

    metric: str = Field(
        min_length=1, description='"ATTACK/METRIC", such as rmia/auc; the prefix privacy/ may be left out.'
    )
    max: Number | None = Field(None, description="Largest value that passes.")
    min: Number | None = Field(None, description="Smallest value that passes.")
    end: Literal["value", "lower", "upper"] = Field(
        "value", description="What is held against the bound: the estimate or an end of its interval."
    )

    @model_validator(mode="after")
    def _one_bound(self) -> Rule:
        if (self.max is None) == (self.min is None):
            raise ValueError("give exactly one of max and min")
        return self

    @property
    def name(self) -> str:
        """Full name of the metric, without the end of its interval."""
        return self.metric if self.metric.startswith(PREFIX) else PREFIX + self.metric

    @property
    def key(self) -> str:
        """Name of the metric that is compared, with the end of its interval."""
        return self.name + {"value": "", "lower": "_low", "upper": "_high"}[self.end]

    @property
    def bound(self) -> float:
        return float(self.max if self.max is not None else self.min)  # type: ignore[arg-type]


class Policy(_Conditions):
    """All rules. An audit passes if it keeps every one."""

    rules: tuple[Rule, ...] = Field(min_length=1, description="At least one rule.")

    @property
    def digest(self) -> str:
        """Twelve hex digits that change whenever a rule does.

        >>> a, b = (parse_policy({"rules": [{"metric": "rmia/auc", "max": bound}]}) for bound in (0.6, 0.7))
        >>> len(a.digest), a.digest == b.digest
        (12, False)
        """
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def condition(self, rule: Rule, name: str) -> Any:
        """A condition of a rule: its own, or else the policy's."""
        own = getattr(rule, name)
        return getattr(self, name) if own is None else own


def load_policy(path: str | Path) -> Policy:
    """Reads a policy file. Nothing in it is imported or executed.

    Raises: ConfigError: the file cannot be read, is no plain YAML, or has faults; all of them at once.
    """
    from mlflow_privacy.experiment.yaml_text import parse_yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The policy {str(path)!r} cannot be read: {error}") from error
    return parse_policy(parse_yaml(text, name=path.name), name=path.name)


def parse_policy(values: Any, *, name: str = "the policy") -> Policy:
    """Checks a policy's plain values.

    Raises: ConfigError: all faults at once, each with its place and the nearest valid key.

    Example:
      >>> policy = parse_policy({"rules": [{"metric": "rmia/auc", "max": 0.6, "end": "upper"}]})
      >>> policy.rules[0].key
      'privacy/rmia/auc_high'
      >>> parse_policy({"rules": [{"metric": "rmia/auc", "maximum": 0.6}]})
      Traceback (most recent call last):
      mlflow_privacy.errors.ConfigError: the policy is not a privacy policy:
        rules.0: got an unexpected key 'maximum', did you mean 'max'?
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is not a privacy policy: it must be a mapping with a list of rules.")
    try:
        policy = Policy.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{name} is not a privacy policy:\n" + "\n".join(_faults(error))) from None
    faults = [f"  rules.{i}: {fault}" for i, rule in enumerate(policy.rules) if (fault := _rule_fault(rule))]
    if faults:
        raise ConfigError(f"{name} is not a privacy policy:\n" + "\n".join(faults))
    return policy


def _faults(error: ValidationError) -> list[str]:
    """One line per fault; what follows from an unknown key is not told twice."""
    lines, misspelt = [], set()
    found = error.errors()
    for fault in found:
        if fault["type"] == "extra_forbidden":
            *place, key = fault["loc"]
            known = list((Rule if place else Policy).model_fields)
            hint = nearest(key, known, cutoff=0.5, listed=True)
            where = ".".join(map(str, place))
            lines.append(f"  {where + ': ' if where else ''}got an unexpected key {str(key)!r}{hint}")
            misspelt.add(tuple(place))
    for fault in found:
        if fault["type"] == "too_short" and fault["input"]:
            continue  # the rules that are there are the faulty ones
        if fault["type"] == "extra_forbidden" or (fault["type"] == "value_error" and fault["loc"] in misspelt):
            continue
        message = fault["msg"].removeprefix("Value error, ")
        given = "" if fault["type"] in ("missing", "value_error") else f", got {fault['input']!r}"
        lines.append(f"  {'.'.join(map(str, fault['loc'])) or 'the file'}: {message[:1].lower()}{message[1:]}{given}.")
    return lines


def _rule_fault(rule: Rule) -> str:
    """What is wrong with a rule's metric or bound, "" if nothing."""
    if refused := no_limit(rule.name):
        return refused
    if not 0 <= rule.bound <= 1:
        from mlflow_privacy.metrics import is_share  # which loads SciPy

        if is_share(rule.name):
            return f"{rule.metric}: the bound of a rate must be in [0, 1], got {rule.bound:g} (for 5 % write 0.05)."
    if rule.metric.endswith(("_low", "_high")):
        return f"{rule.metric}: name the metric without _low or _high, and say end: lower or end: upper."
    return ""
