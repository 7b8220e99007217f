"""A gate on an audit's metrics: which limits a model exceeds. What was not measured never passes."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from mlflow_privacy.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PREFIX = "privacy/"
_TPR = re.compile(r"tpr_at_fpr_\d+(\.\d+)?(e-?\d+)?")
# Metrics in [0, 1], for which a limit beyond it is a slip: 5 where 0.05 was meant.
_SHARE = re.compile(r"auc|tpr_at_fpr_.+|balanced_accuracy|advantage|.*_accuracy")


@dataclasses.dataclass(frozen=True)
class Breach:
    """A limit that an audit exceeds, or cannot show to be kept.

    Attributes:
      metric: full name, such as "privacy/rmia/auc".
      value: what was measured; NaN if the audit could not resolve it.
      limit: the most that was allowed.
      bound: whether `value` is the estimate itself or the upper end of its interval.
    """

    metric: str
    value: float
    limit: float
    bound: Literal["value", "upper"]

    @property
    def line(self) -> str:
        """One line for people.

        >>> Breach("privacy/rmia/auc", 0.7, 0.6, "upper").line
        'privacy/rmia/auc: the upper end of its interval, 0.7, exceeds 0.6'
        """
        if math.isnan(self.value):
            return (
                f"{self.metric}: the audit could not resolve it, so it cannot be shown to be at most {self.limit:g}; "
                "audit with more non-members, or gate on a higher FPR"
            )
        what = f"the upper end of its interval, {self.value:g}," if self.bound == "upper" else f"{self.value:g}"
        return f"{self.metric}: {what} exceeds {self.limit:g}"


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


def check_gate(metrics: Mapping[str, float], limits: Mapping[str, float], *, upper: bool = False) -> tuple[Breach, ...]:
    """Which of `limits` the metrics exceed; empty if all are kept. A metric equal to its limit is within it.

    Args:
      metrics: of an audit, `AuditResult.metrics` or those of its MLflow run.
      limits: the most allowed, by name; the prefix "privacy/" may be left out.
      upper: compare the upper end of each interval, so that only what is surely within the limit passes.

    Returns: one `Breach` per limit exceeded, in the order of `limits`. A TPR that the audit could not resolve is
      a breach with value NaN.

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
        fault = _limit_fault(name, limit) or _name_fault(name, metrics, upper)
        if fault:
            faults.append(fault)
            continue
        value = float(metrics.get(f"{name}_high" if upper else name, math.nan))
        if not value <= limit:  # also true of NaN
            breaches.append(Breach(name, value, float(limit), "upper" if upper else "value"))
    if faults:
        raise ConfigError("The gate cannot be checked:\n" + "\n".join(f"  {fault}" for fault in faults))
    return tuple(breaches)


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
    if _SHARE.fullmatch(name.rsplit("/", 1)[-1]) and not 0 <= limit <= 1:
        return f"{name}: the limit of a rate must be in [0, 1], got {limit:g} (for 5 % write 0.05)."
    return ""


def _name_fault(name: str, metrics: Mapping[str, float], upper: bool) -> str:
    """What is wrong with a metric's name, "" if nothing; a TPR that an attack could not resolve is no fault."""
    known = [key for key in metrics if key.startswith(_PREFIX)]
    if name not in metrics:
        attack, _, metric = name.removeprefix(_PREFIX).rpartition("/")
        if _TPR.fullmatch(metric) and f"{_PREFIX}{attack}/auc" in metrics:
            return ""
        choices = [key for key in known if not key.endswith(("_low", "_high"))]
        # A wrong attack or a wrong metric alone should be found too, so the parts are compared as well as the whole.
        close = difflib.get_close_matches(name, choices, n=3, cutoff=0.6) or choices[:5]
        hint = ", ".join(key.removeprefix(_PREFIX) for key in close)
        return f"{name} is not a metric of this audit; " + (f"did you mean {hint}?" if hint else "it has none.")
    if upper and f"{name}_high" not in metrics:
        return f"{name} has no interval in this audit; gate on its value instead."
    return ""
