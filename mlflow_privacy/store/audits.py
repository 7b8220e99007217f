"""What a finished audit left in MLflow, read back: metrics, options and per-record scores. No model is loaded."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.errors import StoreError
from mlflow_privacy.store.tags import MODEL_NAME, MODEL_VERSION

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

_SCHEMA = 1
_FILES = ("audit.json", "metrics.json", "scores.parquet")
# Prefix of a row id → role of the data source it counts rows of; see `lineage.parts`.
_ROLES = {"train": "members", "data": "members", "holdout": "non_members"}


@dataclasses.dataclass(frozen=True)
class StoredAudit:
    """One audit as its MLflow run holds it.

    Attributes:
      uri: of the model, as the caller wrote it.
      label: short and for people, such as "credit v3".
      run_id: of the audit.
      audited_at: milliseconds since 1970.
      metrics: flat, "privacy/<attack>/<metric>".
      record: audit.json: options, references, sources, versions.
      findings: metrics.json: estimates with their intervals, fidelity, blind baseline.
      scores: one row per record: row_id, label, member, a column per attack, risk_rank.
    """

    uri: str
    label: str
    run_id: str
    audited_at: int
    metrics: Mapping[str, float]
    record: Mapping[str, Any]
    findings: Mapping[str, Any]
    scores: pd.DataFrame = dataclasses.field(repr=False, compare=False)

    @property
    def attacks(self) -> tuple[str, ...]:
        return tuple(name for name in self.findings["attacks"] if name.replace(".", "_") in self.scores.columns)

    def ranks(self, attack: str) -> np.ndarray:
        """(n,) what orders the records for `attack`, higher = more likely a member.

        For the headline attack the stored rank, which also knows how equal scores were told apart.
        """
        if attack == self.record["headline"]:
            return -self.scores["risk_rank"].to_numpy(np.float64)
        return self.scores[attack.replace(".", "_")].to_numpy(np.float64)

    def record_keys(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """(n,) names of the records that mean the same in any audit; and the row-id prefixes where that is assumed.

        "train:17" is row 17 of this audit's training data, which may be another audit's holdout. So the prefix is
        replaced by the verified digest of the data it counts, or else by where that data lies.
        """
        ids = self.scores["row_id"].to_numpy(str)
        # Of "train:17" the part before the last colon.
        prefixes = np.array([text.rpartition(":")[0] for text in ids], str) if len(ids) else ids
        keys, assumed = np.empty(len(ids), object), []
        for prefix in np.unique(prefixes):
            identity, certain = _identity(str(prefix), self.record.get("sources") or ())
            if not certain:
                assumed.append(str(prefix))
            of = np.flatnonzero(prefixes == prefix)
            keys[of] = [f"{identity}:{ids[i].rpartition(':')[2]}" for i in of]
        return keys.astype(str), tuple(assumed)


def read_audit(model_uri: str, client: MlflowClient | None = None, *, run_id: str | None = None) -> StoredAudit:
    """The newest finished audit of a model, or the audit of `run_id`.

    Args:
      model_uri: models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID.
      client: of the tracking server; the default one if None.

    Raises: StoreError: there is no finished audit, or its run lacks a file or holds one that cannot be read.
    """
    from mlflow import MlflowClient

    from mlflow_privacy.store.results import audited_at, audited_model, flat_metrics, is_audit_of, newest_audit

    client = client or MlflowClient()
    if run_id is None:
        run = newest_audit(model_uri, client)
        run_id = run.info.run_id
    else:
        run = client.get_run(run_id)
        if not is_audit_of(run, audited_model(model_uri, client)):
            raise StoreError(f"Run {run_id} is no audit of {model_uri}; leave out the run id to read its newest one.")
    record, findings, scores = _read_files(client, run_id, model_uri)
    metrics = flat_metrics(findings)
    if metrics is None:  # of an audit that logged them all
        metrics = {key: value for key, value in run.data.metrics.items() if key.startswith("privacy/")}
    tags = run.data.tags
    name, version = tags.get(MODEL_NAME), tags.get(MODEL_VERSION)
    return StoredAudit(
        uri=model_uri,
        label=f"{name} v{version}" if name and version else model_uri,
        run_id=run_id,
        audited_at=audited_at(run),
        metrics=metrics,
        record=record,
        findings=findings,
        scores=scores,
    )


def _read_files(client: MlflowClient, run_id: str, model_uri: str) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """audit.json, metrics.json and scores.parquet of a run, their form checked."""
    import pandas as pd
    from mlflow.exceptions import MlflowException

    from mlflow_privacy.store.quiet import no_artifact_bars

    again = f"Audit it again: mlflow-privacy audit {model_uri}."
    with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as folder, no_artifact_bars():
        paths = {}
        for name in _FILES:
            try:
                paths[name] = Path(client.download_artifacts(run_id, f"privacy/{name}", folder))
            except (MlflowException, OSError) as error:
                raise StoreError(
                    f"The audit of {model_uri}, run {run_id}, has no artifact privacy/{name}: {error} {again}"
                ) from error
        try:
            record, findings = (json.loads(paths[name].read_text(encoding="utf-8")) for name in _FILES[:2])
            scores = pd.read_parquet(paths["scores.parquet"])
        except (ValueError, OSError) as error:
            raise StoreError(
                f"An artifact of the audit of {model_uri}, run {run_id}, cannot be read: {error} {again}"
            ) from error
    faults = _form_faults(record, findings, scores)
    if faults:
        raise StoreError(f"The audit of {model_uri}, run {run_id}, cannot be compared: {'; '.join(faults)}. {again}")
    return record, findings, scores


def _form_faults(record: Any, findings: Any, scores: Any) -> list[str]:
    """What these files lack; anybody may have written them."""
    faults = []
    for name, value, keys in (
        ("audit.json", record, ("headline", "options", "references", "rows")),
        ("metrics.json", findings, ("attacks", "fidelity")),
    ):
        if not isinstance(value, dict) or value.get("schema_version") != _SCHEMA:
            faults.append(f"{name} is not of schema {_SCHEMA}")
            continue
        faults += [f"{name} has no {key!r}" for key in keys if key not in value]
    missing = [name for name in ("row_id", "label", "member", "risk_rank") if name not in scores.columns]
    if missing:
        faults.append(f"scores.parquet has no column {', '.join(missing)}")
    elif scores["member"].dtype != bool:
        faults.append(f"the column member of scores.parquet is {scores['member'].dtype}, not bool")
    return faults


def _identity(prefix: str, sources: Any) -> tuple[str, bool]:
    """What the rows of a prefix are rows of, and whether that is certain."""
    stem = prefix.rstrip("0123456789")
    number = int(prefix[len(stem) :] or 1)
    of_role = [s for s in sources if isinstance(s, dict) and s.get("role") == _ROLES.get(stem)]
    if not 0 < number <= len(of_role):
        return prefix, False
    source = of_role[number - 1]
    known = source.get("sha256") or (source.get("digest") if source.get("status") == "verified" else None)
    if known:
        return str(known), True
    # A run's own copy, or data that was passed, says nothing about another audit's.
    return prefix, False
