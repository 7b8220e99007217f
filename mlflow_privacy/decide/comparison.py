"""The records of a comparison: audits side by side, each pair with its differences."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from mlflow_privacy.metrics import fpr_key
from mlflow_privacy.metrics.paired import Difference
from mlflow_privacy.store.audits import StoredAudit
from mlflow_privacy.types import Estimate, Roc, flat_estimate


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting in which the audits differ.

    Attributes:
      name: such as "random_seed".
      values: one per audit, as text.
      unfair: whether it alone can change the figures, so that a difference is not the models' alone.
    """

    name: str
    values: tuple[str, ...]
    unfair: bool


@dataclasses.dataclass(frozen=True)
class WorseRecord:
    """A member of both training sets that the second model exposes more.

    Attributes:
      row_id, label: as the first audit names it.
      before, after: the false-positive rate that an attacker must accept to recognise it, counted on the common
        non-members: the share of them that scores higher, and half of those that tie.
    """

    row_id: str
    label: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """One audit against the baseline; differences are second minus first.

    Attributes:
      first, second: positions in `Comparison.audits`.
      n_members, n_nonmembers: that the figures rest on; of the smaller audit where unpaired.
      n_moved: common records left out because one model trained on them and the other did not.
      auc: (AUC of the first, of the second) on those records.
      auc_difference: with its p-value; `auc_p_holm` is adjusted for the number of pairs.
      tpr: by FPR, the TPRs of either.
      tpr_differences: by FPR; `tpr_p_holm` is adjusted for all pairs and FPRs.
      rocs: of either on those records.
      worse: the members that the second exposes most more than the first; none where unpaired.
    """

    first: int
    second: int
    paired: bool
    n_members: int
    n_nonmembers: int
    n_moved: int
    auc: tuple[Estimate, Estimate]
    auc_difference: Difference
    tpr: Mapping[float, tuple[Estimate, Estimate]]
    tpr_differences: Mapping[float, Difference]
    rocs: tuple[Roc, Roc]
    worse: tuple[WorseRecord, ...]
    auc_p_holm: float = float("nan")
    tpr_p_holm: Mapping[float, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Audits side by side; the first is the baseline.

    Attributes:
      attack: whose scores are compared.
      settings: in which the audits differ, the unfair ones first.
      notes: sentences that limit the comparison.
      run_id: of the MLflow run that holds it, None if it was not logged.
    """

    audits: tuple[StoredAudit, ...]
    attack: str
    confidence: float
    pairs: tuple[Pair, ...]
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]
    run_id: str | None = None

    @property
    def unfair(self) -> tuple[Setting, ...]:
        return tuple(s for s in self.settings if s.unfair)

    @property
    def metrics(self) -> dict[str, float]:
        """Flat metrics "compare/<second>_vs_<first>/…" with `_low`, `_high`, `_p` and `_p_holm`."""
        out: dict[str, float] = {}
        names = metric_labels([audit.label for audit in self.audits])
        for pair in self.pairs:
            prefix = f"compare/{names[pair.second]}_vs_{names[pair.first]}"
            found = [("auc_difference", pair.auc_difference, pair.auc_p_holm)]
            found += [
                (f"{fpr_key(fpr)}_difference", difference, pair.tpr_p_holm[fpr])
                for fpr, difference in pair.tpr_differences.items()
            ]
            for key, difference, adjusted in found:
                if difference.estimate.resolvable:
                    out |= flat_estimate(f"{prefix}/{key}", difference.estimate)
                    out |= {f"{prefix}/{key}_p": difference.p_value, f"{prefix}/{key}_p_holm": adjusted}
            out |= {f"{prefix}/members": float(pair.n_members), f"{prefix}/nonmembers": float(pair.n_nonmembers)}
        return out


def metric_labels(labels: Iterable[str]) -> list[str]:
    """Labels as MLflow takes them in a metric's name; "credit v1", "credit v2" become "v1", "v2".

    >>> metric_labels(["credit v1", "credit v2"]), metric_labels(["a v1", "b v1", "a v1"])
    (['v1', 'v2'], ['a_v1', 'b_v1', 'a_v1-2'])
    """
    labels = list(labels)
    heads = {label.rpartition(" ")[0] for label in labels}
    short = [label.rpartition(" ")[2] if len(heads) == 1 else label for label in labels]
    clean = [re.sub(r"[^\w.-]+", "_", label, flags=re.ASCII).strip("_")[:60] or "model" for label in short]
    out: list[str] = []
    for name in clean:
        taken = clean[: len(out)].count(name)
        out.append(f"{name}-{taken + 1}" if taken else name)
    return out
