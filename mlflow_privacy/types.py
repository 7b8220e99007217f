"""Frozen records that travel along the one-way path of the data. No logic beyond slicing and JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mlflow_privacy.errors import DesignError

Task = Literal["classification", "multilabel", "regression", "language"]  # multilabel: several labels of a record
_LOGGED_GROUPS = 20  # each is a dozen metrics
Link = Literal["logit", "log", "log_p", "label"]
Reading = Literal["logits", "probabilities"]  # what numbers of a classifier are; log-probabilities are logits, too


@dataclasses.dataclass(frozen=True)
class Records:
    """Labelled records.

    Attributes:
      x: features, (n, ...) array or a DataFrame of n rows.
      y: (n,) labels (class names or indices) or regression targets; (n, k) where a record has several.
      row_ids: (n,) strings that name each record in its data set, such as "train:17".
    """

    x: Any
    y: np.ndarray
    row_ids: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.x)
        if len(self.y) != n or len(self.row_ids) != n:
            raise DesignError(
                f"Records need one label and one row id per record, got {n} records, "
                f"{len(self.y)} labels and {len(self.row_ids)} row ids."
            )

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: np.ndarray | slice) -> Records:
        """Returns the records at `index` (integers, boolean mask or slice), in that order."""
        x = self.x.iloc[index] if hasattr(self.x, "iloc") else self.x[index]
        return Records(x, self.y[index], self.row_ids[index])

    @staticmethod
    def concat(parts: Sequence[Records]) -> Records:
        """Stacks records of the same form."""
        if any(hasattr(part.x, "iloc") for part in parts):
            import pandas as pd

            x: Any = pd.concat([part.x for part in parts], ignore_index=True)
        else:
            x = np.concatenate([part.x for part in parts])
        return Records(x, np.concatenate([p.y for p in parts]), np.concatenate([p.row_ids for p in parts]))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything needed to train a reference model like the target.

    Attributes:
      kind: the trainer that understands it, a key of `mlflow_privacy.trainers.TRAINERS`.
      spec: plain JSON values: all that changes the trained model, nothing that only changes the speed. Fingerprinted.
      template: the live object that `spec` describes (an estimator to clone, a module to re-initialise, a callable).
      source: where it came from, in words, for the report.
      rests_on: plain JSON values: the digest of the code that it runs, the caller's packages and the libraries that
        this uses, and what of it cannot be told; see `trainers.canonical.Walk`. Fingerprinted too; empty where `spec`
        says all.
    """

    kind: str
    spec: Mapping[str, Any]
    template: Any = dataclasses.field(default=None, repr=False, compare=False)
    source: str = ""
    rests_on: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True)
class AuditedModel:
    """The registered model under audit.

    Attributes:
      uri: as the caller wrote it.
      name, version: of the registry; None for a model that is not registered.
      model_id, run_id: of MLflow's logged model and source run, None if unknown.
      flavor: "sklearn" | "pytorch" | "xgboost" | "lightgbm" | "transformers" | "pyfunc".
      native: the flavor's own object (estimator, module, `text.LanguageModel`), or the pyfunc model if there is none.
    """

    uri: str
    name: str | None
    version: str | None
    model_id: str | None
    run_id: str | None
    flavor: str
    native: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def label(self) -> str:
        return f"{self.name} v{self.version}" if self.name and self.version else self.uri


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Where one part of the pool came from, and whether it is what was logged.

    role: "members" | "non_members" | "population". status: "verified" (by a SHA-256 of all values) | "weakly verified"
    (by MLflow's own digest) | "overridden" | "no digest" | "given". compared: in words, what was compared with what was
    logged. sha256: of all values that were read, whatever was logged.
    """

    role: str
    name: str
    source: str
    n_records: int
    digest: str | None = None
    status: str = "given"
    compared: str = ""
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Copies:
    """Records that occur more than once in the data of an audit, and what its figures are about because of them.

    Attributes:
      basis: "unique" (records that occur once), "balanced" (nearly all occur more than once: one copy of each, members
        and non-members in one ratio at each number of copies) or "distinct" (copies were made after the split: one copy
        of each). See `lineage.copies`.
      members, nonmembers: training records and held-out ones that have a copy, on either side.
      on_both: distinct records that are on both sides.
    """

    basis: str
    members: int
    nonmembers: int
    on_both: int


@dataclasses.dataclass(frozen=True)
class LoggedQuality:
    """How well a model did on its training data, as its training run logged it.

    Attributes:
      kind: "accuracy" | "r2".
      name: of the metric.
      exact: of the finished model on just these records; else of its last epoch, say, which may be somewhat off.
    """

    kind: str
    value: float
    name: str
    exact: bool


@dataclasses.dataclass(frozen=True)
class AuditTarget:
    """A model with its pool: what lineage hands to the audit.

    Attributes:
      membership: (n,) bool over `pool`, True where the target trained on the record.
      population: records no audited model trained on, or None: the non-members stand in.
      recipe: None if reference models cannot be trained; `recipe_problem` then says why.
      recipe_problem: one sentence with the remedy, "" if there is a recipe.
      n_duplicates: held-out records that are copies of members: in the pool, but no non-members.
      warnings: sentences for the report.
      always: (n,) bool over `pool`, members that every reference trains on too and that nobody asks about: where
        canaries were logged, all members but these. None for no such records.
      claims: {"epsilon", "delta", "source"}: what the training says of its own differential privacy; empty if nothing.
      copies: of records that occur more than once; None where there are none, or nobody has looked yet.
      scored: (n,) bool over `pool`, the records that figures are about; None for all.
      repeated: (n,) bool, one copy each of records that are trained on more than once and that can be compared with
        each other; None for none.
      quality: what the training logged of the model's quality on its members; None if nothing.
      n_trained: records that the lineage says the model trained on, copies and all; None if not known.
      doubts: sentences on why the members may not be the records that the model was trained on.
      label_name: name of the label column, "" if it has none that is known.
      classes: labels in the order of the model's outputs, where the lineage says it; None means sorted.
    """

    model: AuditedModel
    pool: Records
    membership: np.ndarray
    task: Task
    population: Records | None = None
    recipe: Recipe | None = None
    recipe_problem: str = ""
    sources: tuple[DataSource, ...] = ()
    n_duplicates: int = 0
    warnings: tuple[str, ...] = ()
    always: np.ndarray | None = None
    claims: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    copies: Copies | None = None
    scored: np.ndarray | None = None
    repeated: np.ndarray | None = None
    quality: LoggedQuality | None = None
    n_trained: int | None = None
    doubts: tuple[str, ...] = ()
    label_name: str = ""
    classes: tuple[Any, ...] | None = None


@dataclasses.dataclass(frozen=True)
class ModelOutputs:
    """What one model says about n records.

    Attributes:
      signal: (n,) float32, φ for classifiers, log-likelihood (float64) for regressors, mean log-probability per token
        for language models, correctness (0/1) for labels only.
      correct: (n,) bool for classifiers (argmax equals the label), None for regressors and language models.
      loss: (n,) float32, cross-entropy or squared error (float64); for labels only the 0/1 error.
      link: how `signal` becomes p: "logit" (p = σ(φ)), "log" (p = exp(φ), a density), "log_p" (the same, at most 1),
        "label" (no p).
      extra: further (n,) float32 signals that single attacks ask for, by the keys of `attacks.extras.extra_key`.
    """

    signal: np.ndarray
    correct: np.ndarray | None
    loss: np.ndarray
    link: Link
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Signals:
    """Signals of the target and of m reference models: all that an attack may see.

    Attributes:
      target: (n,) signals of the audited model on the pool.
      reference: (n, m) signals of the reference models on the pool, m = 0 if there are none.
      member: (n, m) bool, whether reference j trained on record i.
      population: (z,) signals of the audited model on the population.
      population_reference: (z, m).
      population_member: (z, m) bool; all False for a real population, not so when the non-members stand in.
      link: how a signal becomes a probability.
      extra: (n,) further signals of the audited model on the pool, by the keys of `attacks.extras.extra_key`.
    """

    target: Any
    reference: Any
    member: Any
    population: Any
    population_reference: Any
    population_member: Any
    link: Link = "logit"
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What an attack says; higher = more likely a member.

    Attributes:
      value: (n,) scores in the attack's own unit.
      tie: (n,) breaks ties of `value` (RMIA: the likelihood ratio), or None.
    """

    value: np.ndarray
    tie: np.ndarray | None = None

    def rank(self) -> np.ndarray:
        """(n,) float64 dense ranks by (value, tie); equal pairs share a rank. ROC curves are made of these."""
        keys = [np.asarray(self.value, np.float64)]
        if self.tie is not None:
            keys.append(np.asarray(self.tie, np.float64))
        order = np.argsort(keys[-1])
        # RMIA's score never falls as its ratio grows: one sort orders both. Where that is not so, two are needed.
        if len(keys) > 1 and not (keys[0][order][1:] >= keys[0][order][:-1]).all():
            order = np.lexsort(keys[::-1])
        new = np.zeros(len(order), bool)
        for key in keys:
            new[1:] |= key[order][1:] != key[order][:-1]
        ranks = np.empty(len(order))
        ranks[order] = np.cumsum(new)
        return ranks


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
      value: the point estimate; NaN if not resolvable.
      low, high: interval at `confidence`.
      n: how many records it rests on.
      confidence: such as 0.95.
      resolvable: False where the number of non-members cannot resolve it (FPR < 1 / n_nonmembers).
    """

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    resolvable: bool = True

    def __str__(self) -> str:
        if not self.resolvable:
            return "not resolvable"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True)
class Roc:
    """The raw ROC step curve, thinned to its vertices; `tpr_low`/`tpr_high` is the pointwise band.

    All arrays (v,), from (0, 0) to (1, 1); `threshold` is +inf at the start.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    threshold: np.ndarray
    tpr_low: np.ndarray
    tpr_high: np.ndarray


@dataclasses.dataclass(frozen=True)
class GroupResult:
    """An attack on one group of records: its members against its own non-members, by thresholds of its own.

    Attributes:
      slicing, label: such as "class" and "1".
      name: the same as a part of a metric's name, such as "class_1".
      metrics: "auc" and the TPRs at FPRs above 0, with intervals that hold for all groups at once.
      worse: the metrics in which the group is significantly more exposed than all other records, lowest FPR first;
        empty if none, or if it was not compared.
      others: those metrics of all other records.
    """

    slicing: str
    label: str
    name: str
    n_members: int
    n_nonmembers: int
    metrics: Mapping[str, Estimate]
    worse: tuple[str, ...] = ()
    others: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """One attack on the whole pool.

    Attributes:
      name: key of `mlflow_privacy.attacks.ATTACKS`.
      scores: over the pool.
      metrics: "auc", "tpr_at_fpr_0.1", …, "tpr_at_fpr_0", "balanced_accuracy", "advantage".
      options: what the attack ran with (γ, a, …).
      joint: TPRs at the FPRs that a verdict looks at, with intervals that hold for all of these FPRs at once.
      groups: each group of records by itself, the most exposed first, for the attack of the verdict; empty for the
        others, and where there is nothing to compare.
      worst_group: "auc" and the TPRs of the most exposed group; of all records where no group could be measured.
    """

    name: str
    title: str
    threat_model: str
    paper: str
    scores: Scores
    roc: Roc
    metrics: Mapping[str, Estimate]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    joint: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    groups: tuple[GroupResult, ...] = ()
    worst_group: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GameResult:
    """One question beside membership, answered.

    Attributes:
      name: "dp" | "range" | "usage".
      title: for tables and figures.
      sentence: the answer in plain words.
      summary: the same in a few characters, for a tag.
      rows: (label, estimate), for a table.
      metrics: estimates by the names they are logged under, `privacy/<name>/<key>`.
      options: what the game ran with.
      assumption: what the answer supposes; "" if nothing.
      figure: {"x", "y"} of one length, optionally {"low", "high"} and {"x_label", "y_label"}; None without a curve.
    """

    name: str
    title: str
    sentence: str
    summary: str
    rows: tuple[tuple[str, Estimate], ...]
    metrics: Mapping[str, Estimate]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    assumption: str = ""
    figure: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Accuracy (or R²) and mean loss of target and references on members and non-members, side by side.

    Keys of each mapping: "member_loss", "nonmember_loss", and for classifiers "member_accuracy", "nonmember_accuracy",
    for regressors "member_r2", "nonmember_r2". `reference` averages over references, each on its own IN and OUT
    records; `reference_std` is their standard deviation. `apart` is the distance of the target's losses from theirs
    as a multiple of what chance explains; what cannot be told is absent. All three are empty without references.
    """

    target: Mapping[str, float]
    reference: Mapping[str, float]
    reference_std: Mapping[str, float]
    apart: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Repeated:
    """What the attacks reach on records that were trained on more than once, against each other.

    Attributes:
      n_members, n_nonmembers: such records, each counted once.
      metrics: as those of an `AttackResult`, by attack; empty where either side has too few.
    """

    n_members: int
    n_nonmembers: int
    metrics: Mapping[str, Mapping[str, Estimate]]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What an audit was made of: kept in memory beside the result, never part of its JSON.

    Attributes:
      pool_ids: (n_pool,) row ids of the whole pool, audited or not.
      membership: (1 + m, n_pool) bool: the target's row, then each reference's.
      signals: of the audited records.
      population_ids: (z,) row ids of the population; none where the non-members stand in.
      quality: mean loss and accuracy of each reference on its own members and non-members among the audited records.
    """

    pool_ids: np.ndarray
    membership: np.ndarray
    signals: Signals
    population_ids: np.ndarray
    quality: tuple[Mapping[str, float], ...]


@dataclasses.dataclass(frozen=True)
class About:
    """Who audited when, and whose data: what a report needs beside the figures.

    Attributes:
      date: "2026-11-28 12:30 UTC"; auditor: a name, "" if not known.
      columns: of the records that the model takes, () if they have none; the label's name is not among them.
      people: how many people the training records are of, None if not known.
      people_by: how that is known, in words.
      dpia: what the controller wrote into the fields of the impact assessment, by `report.dpia.FIELDS`.
    """

    date: str = ""
    auditor: str = ""
    columns: tuple[str, ...] = ()
    people: int | None = None
    people_by: str = ""
    dpia: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class AttackStrength:
    """What one attack found on references in the target's place: the mean over `n` of them, with its standard error."""

    name: str
    mean: float
    error: float
    n: int


@dataclasses.dataclass(frozen=True)
class HeadlineChoice:
    """How the attack of the verdict was chosen: on the references before the target was scored, or the worse of a pair.

    Attributes:
      name: of the attack.
      metric: by which: "tpr_at_fpr_0.01" or "auc".
      table: the attacks that were compared on the references, the strongest first; empty where these are one group.
      pair: the attacks of which the verdict takes the worse one on the target; each one's intervals are so wide that
        those of both hold together (Bonferroni). Empty where the choice was made before the target was scored.
    """

    name: str
    metric: str
    table: tuple[AttackStrength, ...] = ()
    pair: tuple[str, ...] = ()

    def confidence_each(self, together: float) -> float:
        """The confidence of each interval, so that the intervals of the attacks chosen from hold together.

        >>> round(HeadlineChoice("rmia", "auc", pair=("rmia", "lira")).confidence_each(0.95), 6)
        0.975
        """
        return 1 - (1 - together) / max(len(self.pair), 1)

    def confidence_together(self, each: float) -> float:
        """The reverse: of an interval of one of the attacks chosen from, what holds for all of them together."""
        return 1 - (1 - each) * max(len(self.pair), 1)


@dataclasses.dataclass(frozen=True)
class AuditResult:
    """Everything an audit found; reports, metrics and tables are made from this alone.

    Attributes:
      membership: (n,) bool; row_ids: (n,); y: (n,) labels, for slices.
      attacks: strongest default first, the order of `options["attacks"]`.
      blind: AUC of a classifier that sees the records but not the model.
      screening: the loss attack's TNR at 1 % FNR, where there are no references: whether some are worth training.
      headline: name of the attack the verdict is about; choice: how it was chosen, None if it was not by comparing.
      references: {"n", "n_loaded", "n_trained", "n_imported", "fraction", "target_fraction", "run_ids", "fingerprint"}.
      warnings: what could make this audit wrong, worst first.
      timings: seconds per stage, in order.
      environment: versions of Python, packages, device.
      games: answers beside membership, by name.
      evidence: memberships and signals behind the scores, for whoever stores them; not in the JSON.
      slices: (n,) values over the audited records by the name of a column, for the report alone.
      content: what the report shows of a record, by row id; None shows row ids alone.
      label_name: name of the label column, "" if it has none that is known.
      n_duplicates: held-out records that are copies of training records: neither members nor non-members.
      copies: all records that occur more than once, and what the figures are about because of them; None for none.
      repeated: how exposed those are, where that was asked for.
      about: who audited when, and whose data; of an audit without an MLflow run it is empty.
    """

    model: AuditedModel
    task: Task
    membership: np.ndarray
    row_ids: np.ndarray
    y: np.ndarray
    attacks: tuple[AttackResult, ...]
    headline: str
    blind: Estimate | None
    fidelity: Fidelity
    references: Mapping[str, Any]
    sources: tuple[DataSource, ...]
    n_population: int
    population_is_nonmembers: bool
    n_duplicates: int
    options: Mapping[str, Any]
    pool_digest: str
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    games: Mapping[str, GameResult] = dataclasses.field(default_factory=dict)
    copies: Copies | None = None
    repeated: Repeated | None = None
    label_name: str = ""
    choice: HeadlineChoice | None = None
    screening: Estimate | None = None
    about: About = dataclasses.field(default_factory=About, compare=False)
    evidence: Evidence | None = dataclasses.field(default=None, repr=False, compare=False)
    slices: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    content: Mapping[str, str] | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Flat metrics `privacy/<attack>/<metric>`, with `_low` and `_high`; what is not resolvable is absent.

        Those of the attack of the verdict are `privacy/headline/<metric>` as well, by which audits compare and
        gates ask whichever attack it is. Those of the most exposed group are
        `privacy/<attack>/worst_group/<metric>`, for the attack of the verdict also those of the 20 most exposed
        groups, `privacy/<attack>/group/<name>/<metric>`. Those of repeated records are
        `privacy/<attack>/repeated/<metric>`.
        """
        out: dict[str, float] = {}
        for attack in self.attacks:
            parts = {"": attack.metrics, "worst_group/": attack.worst_group}
            names = [attack.name]
            if attack.name == self.headline:
                parts |= {f"group/{group.name}/": group.metrics for group in attack.groups[:_LOGGED_GROUPS]}
                names.append("headline")
            for part, metrics in parts.items():
                for key, estimate in metrics.items():
                    for name in names if estimate.resolvable else ():
                        out.update(flat_estimate(f"privacy/{name}/{part}{key}", estimate))
        for name, game in self.games.items():
            for key, estimate in game.metrics.items():
                if estimate.resolvable:
                    out.update(flat_estimate(f"privacy/{name}/{key}", estimate))
        for name, metrics in (self.repeated.metrics if self.repeated else {}).items():
            for key, estimate in metrics.items():
                if estimate.resolvable:
                    out.update(flat_estimate(f"privacy/{name}/repeated/{key}", estimate))
        if self.blind is not None:
            out.update(flat_estimate("privacy/blind/auc", self.blind))
        if self.screening is not None and self.screening.resolvable:
            out.update(flat_estimate("privacy/screening/loss_tnr", self.screening))
        for who, values in (("target", self.fidelity.target), ("reference", self.fidelity.reference)):
            out.update({f"privacy/fidelity/{who}_{key}": round(v, 6) for key, v in values.items()})
        return out


def flat_estimate(name: str, estimate: Estimate) -> dict[str, float]:
    """Three rounded metrics of one estimate; a value that is not finite is left out."""
    flat = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: round(float(v), 6) for key, v in flat.items() if math.isfinite(v)}


def to_json(value: Any) -> Any:
    """Plain JSON values of a frozen record; live objects (`repr=False` fields) are left out, NaN becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return to_json(value.tolist())
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
