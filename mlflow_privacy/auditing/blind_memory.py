"""The blind baseline of an earlier audit of the same records: it does not depend on the model."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy._version import __version__
from mlflow_privacy.auditing import blind
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.fingerprint import array_digest, digest
from mlflow_privacy.types import Estimate, Records

if TYPE_CHECKING:
    from mlflow_privacy.auditing.references import Store

_logger = logging.getLogger(__name__)
NAME = "blind"


def baseline_for(
    records: Records, membership: np.ndarray, data_digest: str, options: AuditOptions, store: Store
) -> Estimate | None:
    """The blind baseline of an audit with these options; None where it is not wanted."""
    if not options.blind_baseline:
        return None
    confidence = max(options.confidence, blind.BASELINE_CONFIDENCE)
    return remembered_baseline(
        records, membership, data_digest=data_digest, seed=options.random_seed, confidence=confidence, memory=store
    )


def remembered_baseline(
    records: Records, membership: np.ndarray, *, data_digest: str, seed: int, confidence: float, memory: Store
) -> Estimate:
    """`blind.blind_baseline`, computed once for the same records, membership, seed and confidence.

    Args:
      data_digest: SHA-256 of `records`.
      memory: recalls an earlier estimate, and remembers a new one.
    """
    key = baseline_key(membership, data_digest=data_digest, seed=seed, confidence=confidence)
    found = estimate_from(memory.recall(NAME, key), confidence)
    if found is not None:
        _logger.info("The blind baseline of an earlier audit of these records is used.")
        return found
    estimate = blind.blind_baseline(records, membership, seed=seed, confidence=confidence)
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    if estimate.resolvable and all(math.isfinite(value) for value in values.values()):
        memory.remember(NAME, key, values)
    return estimate


def _source() -> str:
    """The baseline's own code, so that a change of it is noticed before the version changes; "" where there is none."""
    try:
        return inspect.getsource(blind)
    except OSError:  # compiled files alone
        return ""


def baseline_key(membership: np.ndarray, *, data_digest: str, seed: int, confidence: float) -> str:
    """SHA-256 of all that the baseline depends on: data, membership, seed, confidence, and its own code."""
    parts = {
        "data": data_digest,
        "members": array_digest(np.packbits(membership)),
        "n": len(membership),
        "seed": seed,
        "confidence": confidence,
        "version": __version__,
        "code": _source(),
        "scikit-learn": importlib.metadata.version("scikit-learn"),
    }
    return digest(parts)


def estimate_from(values: Any, confidence: float) -> Estimate | None:
    """An estimate from what was remembered; None if it is none, since anybody may have written it.

    >>> estimate_from({"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}, 0.95)
    Estimate(value=0.5, low=0.4, high=0.6, n=10, confidence=0.95, resolvable=True)
    >>> [estimate_from(values, 0.95) for values in (None, [], {"value": 2, "low": 0, "high": 1, "n": 1})]
    [None, None, None]
    """
    try:
        value, low, high = (float(values[name]) for name in ("value", "low", "high"))
        n = int(values["n"])
    except (TypeError, KeyError, ValueError):
        return None
    return Estimate(value, low, high, n, confidence) if 0 <= low <= value <= high <= 1 and n > 0 else None
