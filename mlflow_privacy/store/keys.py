"""The keys under which reference runs are found again; no MLflow here."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlflow_privacy.fingerprint import array_digest, digest


@dataclasses.dataclass(frozen=True)
class ReferenceKey:
    """What a reference run is found by.

    Attributes:
      fingerprint: SHA-256 of (recipe, pool digest, seed, fraction), the same for all references of one design; or of
        an imported model, see `imported_fingerprint`.
      index: which split of the design; of an imported model, its number where it came from.
      members_digest: SHA-256 of the membership row.
      train_seed: seed of initialisation and minibatch order; of an imported model, 31 bits of its weights' digest.
    """

    fingerprint: str
    index: int
    members_digest: str
    train_seed: int

    @property
    def digest(self) -> str:
        return digest(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class StoredReference:
    """A finished reference run; `seconds`: that its training took, None if that was not recorded."""

    key: ReferenceKey
    run_id: str
    seconds: float | None = dataclasses.field(default=None, compare=False)


def members_digest(members: np.ndarray) -> str:
    """SHA-256 of a membership row (n,) bool."""
    return array_digest(np.packbits(members))


def imported_fingerprint(recipe_digest: str, pool_digest: str) -> str:
    """The fingerprint of models that were trained elsewhere. Their splits follow no design, so it holds no seed.

    >>> imported_fingerprint("aa", "bb") == imported_fingerprint("aa", "cc")
    False
    """
    return digest({"recipe": recipe_digest, "pool": pool_digest, "imported": True})
