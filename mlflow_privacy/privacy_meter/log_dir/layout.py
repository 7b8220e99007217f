"""Audits of one experiment side by side: one table of models, memberships and signals, rows in the data set's order.

An audit sees its records in an order of its own and under the names that lineage gave them ("train:3"). Here every
record is its index in the data set again, which all targets of an experiment share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mlflow_privacy.privacy_meter.log_dir.records import Audited
from mlflow_privacy.stats import sigmoid
from mlflow_privacy.types import Link


@dataclasses.dataclass(frozen=True)
class Model:
    """One row of the table of models.

    Attributes:
      role: targets come first.
      audited: the target itself, or the first one that the reference was used for.
      column: 0 for the target, j + 1 for its reference j.
      run_id: MLflow run of its training.
    """

    role: Literal["target", "reference"]
    audited: Audited
    column: int
    run_id: str


def models_of(audits: Sequence[Audited]) -> tuple[tuple[Model, ...], tuple[tuple[int, ...], ...]]:
    """All models of an experiment, each once: targets of one recipe share their references.

    Returns:
      The models, and for each audit the numbers of its target and its references.
    """
    models = [Model("target", audited, 0, audited.report.run_id) for audited in audits]
    number: dict[str, int] = {}
    columns = []
    for i, audited in enumerate(audits):
        own = [i]
        for j, run_id in enumerate(audited.result.references.get("run_ids", [])):
            if not run_id or run_id not in number:
                number[run_id] = len(models)
                models.append(Model("reference", audited, j + 1, run_id))
            own.append(number[run_id])
        columns.append(tuple(own))
    return tuple(models), tuple(columns)


def positions(row_ids: np.ndarray, membership: np.ndarray, members: np.ndarray, nonmembers: np.ndarray) -> np.ndarray:
    """Indices in the data set of an audit's records.

    Lineage names a record after its part and its place in it; which part that is, its membership says.

    Args:
      row_ids: (n,) such as "train:3".
      membership: (n,) bool of the target.
      members, nonmembers: indices in the data set, of the records of either part.

    >>> ids, member = np.array(["holdout:1", "train:0"]), np.array([False, True])
    >>> positions(ids, member, np.array([2, 5]), np.array([0, 7])).tolist()
    [7, 2]
    """
    place, out = _places(row_ids), np.empty(len(row_ids), np.int64)
    for rows, part in ((membership, members), (~membership, nonmembers)):
        out[rows] = part[place[rows]]
    return out


def _places(row_ids: np.ndarray) -> np.ndarray:
    """The number after the last colon of each row id."""
    return np.array([int(str(name).rpartition(":")[2]) for name in row_ids], np.int64)


def pool_rows(audits: Sequence[Audited]) -> np.ndarray:
    """(n_pool,) ascending indices in the data set of all records that targets train on or hold out."""
    return np.unique(np.concatenate([part for a in audits for part in (a.members, a.nonmembers)]))


def memberships(models: Sequence[Model], pool: np.ndarray) -> np.ndarray:
    """(n_models, n_pool) bool: who trained on what."""
    table = np.zeros((len(models), len(pool)), bool)
    places: dict[int, np.ndarray] = {}  # of each audit's pool, read once for all its models
    for row, model in zip(table, models, strict=True):
        audited, evidence = model.audited, model.audited.evidence
        if id(audited) not in places:
            where = positions(evidence.pool_ids, evidence.membership[0], audited.members, audited.nonmembers)
            places[id(audited)] = np.searchsorted(pool, where)
        row[places[id(audited)][evidence.membership[model.column]]] = True
    return table


def audited_rows(audited: Audited) -> np.ndarray:
    """(n,) indices in the data set of the audited records, in the audit's order."""
    return positions(audited.result.row_ids, audited.result.membership, audited.members, audited.nonmembers)


def population_rows(audited: Audited) -> np.ndarray:
    """(z,) indices of the population, in the audit's order; none where the non-members stand in."""
    return np.asarray(audited.population, np.int64)[_places(audited.evidence.population_ids)]


def signal_tables(
    audits: Sequence[Audited], columns: Sequence[Sequence[int]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Signals of all models on the audited records and on the population.

    Args:
      columns: of each audit, from `models_of`.

    Returns:
      By "pool" and "population" (absent if there is none): ascending indices in the data set, and (n, n_models)
      float32 signals; NaN where a model was not asked about a record, as variants with different inputs may be
      audited on different ones.
    """
    count = 1 + max(max(own) for own in columns)
    tables = {}
    for part, rows_of in (("pool", audited_rows), ("population", population_rows)):
        where = [rows_of(audited) for audited in audits]
        rows = np.unique(np.concatenate(where))
        if not len(rows):
            continue
        table = np.full((len(rows), count), np.nan, np.float32)
        for audited, own, index in zip(audits, columns, where, strict=True):
            if len(index):
                signals = audited.evidence.signals
                one, many = (
                    (signals.target, signals.reference)
                    if part == "pool"
                    else (signals.population, signals.population_reference)
                )
                values = np.column_stack([np.asarray(one), np.asarray(many)])
                table[np.searchsorted(rows, index)[:, None], own] = stored_signal(values, signals.link)
        tables[part] = rows, table
    return tables


def stored_signal(signal: np.ndarray, link: Link) -> np.ndarray:
    """What Privacy Meter's files hold of a model, whatever the attack: the probability of the label, in float32.

    >>> stored_signal(np.array([0.0, 50.0]), "logit").tolist()
    [0.5, 1.0]
    """
    signal = np.asarray(signal, np.float64)
    values = {"logit": lambda: sigmoid(signal), "label": lambda: signal}
    return values.get(link, lambda: np.exp(signal))().astype(np.float32)


def metadata(models: Sequence[Model], table: np.ndarray, paths: Sequence[str | None], dataset: str) -> dict[str, Any]:
    """`models_metadata.json`: Privacy Meter's keys for each model by its number, and what it is in MLflow.

    Accuracy and loss are means over the model's own training records and over the others: of a target over all of
    them, of a reference over the audited ones. What has no meaning (an estimator's epochs) is None.

    Args:
      table: (n_models, n_pool) of `memberships`.
      paths: of the weights, relative to the log directory.
    """
    from mlflow_privacy.zoo.families import model_family

    out = {}
    for i, (model, row, path) in enumerate(zip(models, table, paths, strict=True)):
        audited, train = model.audited, model.audited.train
        trained = model_family(train["model_name"]) != "sklearn"
        out[str(i)] = {
            "num_train": int(row.sum()),
            **{
                key: train[key] if trained else None
                for key in ("optimizer", "batch_size", "epochs", "learning_rate", "weight_decay")
            },
            "model_name": train["model_name"],
            "model_path": path,
            **_quality(model),
            "dataset": dataset,
            "role": model.role,
            "variant": audited.report.variant,
            "run_id": model.run_id,
            "model_uri": audited.report.model_uri if model.role == "target" else None,
        }
    return out


def _quality(model: Model) -> Mapping[str, float | None]:
    """Accuracy and loss under Privacy Meter's names."""
    if model.role == "target":
        values: Mapping[str, float] = model.audited.report.metrics
        names = ("train_accuracy", "holdout_accuracy", "train_loss", "holdout_loss")
    else:
        values = model.audited.evidence.quality[model.column - 1]
        names = ("member_accuracy", "nonmember_accuracy", "member_loss", "nonmember_loss")
    keys = ("train_acc", "test_acc", "train_loss", "test_loss")
    return {key: round(float(values[name]), 6) if name in values else None for key, name in zip(keys, names)}
