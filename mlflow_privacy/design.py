"""Which reference model trains on which record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.errors import DesignError


@dataclasses.dataclass(frozen=True)
class Design:
    """The random split of the pool over reference models.

    Split i depends on (pool digest, seed, fraction, i) only, so references can be added later without retraining.

    Attributes:
      pool_digest: SHA-256 of the pool.
      n: number of records in the pool.
      seed: the config's `random_seed`.
      fraction: share of the pool each reference trains on.
      always: (n,) bool, records that every reference trains on; the split is over the others. None: over all.
      copies: (n,) int, equal for copies of one record: a reference trains on all of them or on none, and they count as
        one record of the split. None: all records are different.
    """

    pool_digest: str
    n: int
    seed: int
    fraction: float = 0.5
    always: np.ndarray | None = dataclasses.field(default=None, compare=False)
    copies: np.ndarray | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise DesignError(f"reference_fraction must be in (0, 1), got {self.fraction}.")
        if not 1 <= round(self.fraction * self.n_split) < self.n_split:
            raise DesignError(
                f"reference_fraction={self.fraction} of a pool of {self.n_split} records leaves no record in or none "
                "out. Use a larger pool, or a fraction nearer to one half."
            )

    @property
    def n_split(self) -> int:
        """How many records are split over the references, copies of one as one."""
        free = np.ones(self.n, bool) if self.always is None else ~self.always
        return int(free.sum()) if self.copies is None else len(np.unique(self.copies[free]))

    @property
    def group(self) -> int:
        """References per group: within one, every record is IN and OUT at least once (2 at one half: pairs)."""
        return group_size(self.fraction)

    def members(self, index: int) -> np.ndarray:
        """(n,) bool: the records that reference `index` trains on, `fraction` of them, the smaller side rounded up.

        Records of `always` come on top, and are no part of the permutation.

        A group shares one permutation of the pool; member j of it takes a window that starts at j · n / group. At
        one half the two windows are complementary.

        >>> design = Design("00" * 32, n=6, seed=1)
        >>> bool((design.members(0) ^ design.members(1)).all())
        True
        """
        if self.always is not None:
            row, free = self.always.copy(), ~self.always
            copies = None if self.copies is None else self.copies[free]
            row[free] = dataclasses.replace(self, n=int(free.sum()), always=None, copies=copies).members(index)
            return row
        if self.copies is not None:
            _, place = np.unique(self.copies, return_inverse=True)
            distinct = dataclasses.replace(self, n=self.n_split, copies=None)
            return distinct.members(index)[place.reshape(-1)]
        group, position = divmod(index, self.group)
        entropy = [
            self.seed & 0xFFFFFFFF,
            self.seed >> 32 & 0xFFFFFFFF,
            group,
            *bytes.fromhex(self.pool_digest),
        ]
        order = np.random.default_rng(np.random.SeedSequence(entropy)).permutation(self.n)
        # Rounded the other way, a group of windows would leave single records without an IN or an OUT reference.
        rounded = math.ceil if self.fraction < 0.5 else math.floor
        size = round(self.fraction * self.n) if self.group == 2 else rounded(round(self.fraction * self.n, 6))
        start = position * self.n // self.group
        if self.group == 2 and position == 1:  # the exact complement, also of an odd pool
            start, size = size, self.n - size
        row = np.zeros(self.n, bool)
        row[order[(start + np.arange(size)) % self.n]] = True
        return row

    def rows(self, indices: Sequence[int]) -> np.ndarray:
        """(k, n) bool: `members` of each index."""
        return np.stack([self.members(i) for i in indices]) if len(indices) else np.zeros((0, self.n), bool)

    def together(self, rows: np.ndarray) -> np.ndarray:
        """(k, n) bool: who trained on a record or on a copy of it, from who trained on which row.

        Rows of this design are so already; models that were trained elsewhere may have split copies.

        >>> design = Design("00" * 32, n=3, seed=1, copies=np.array([0, 0, 1]))
        >>> design.together(np.array([[True, False, False]])).tolist()
        [[True, True, False]]
        """
        if self.copies is None:
            return rows
        _, place = np.unique(self.copies, return_inverse=True)
        place = place.reshape(-1)
        return np.stack([(np.bincount(place, row) > 0)[place] for row in rows]) if len(rows) else rows

    def audited(self, count: int | None, among: np.ndarray | None = None) -> np.ndarray | None:
        """(count,) sorted indices of the records that are audited, drawn at random; None for all of them.

        Who is a member does not enter, so that every model of one pool is audited on the same records and the
        references' signals serve them all.

        Args:
          among: (n,) bool, the records that may be audited, but for those of `always`; None for all.

        Raises: DesignError: there are fewer records than that.

        >>> Design("00" * 32, n=6, seed=1).audited(4).tolist()
        [0, 2, 4, 5]
        """
        among = np.ones(self.n, bool) if among is None else among
        free = np.flatnonzero(among if self.always is None else among & ~self.always)
        if count is None or count == len(free):
            return free if len(free) < self.n else None
        if count > len(free):
            raise DesignError(f"data_size={count} records are to be audited, but the pool has {len(free)}. Lower it.")
        entropy = [self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF, 0xA0D17, *bytes.fromhex(self.pool_digest)]
        order = np.random.default_rng(np.random.SeedSequence(entropy)).permutation(len(free))
        return free[np.sort(order[:count])]

    def train_seed(self, index: int) -> int:
        """Seed of initialisation and minibatch order of reference `index`: 31 bits."""
        entropy = [self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF, index, 0x5EED]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)

    def whole_groups(self, count: int) -> int:
        """`count` references rounded up to whole groups, in which every record is IN and OUT.

        >>> Design("00" * 32, n=100, seed=0, fraction=0.8).whole_groups(8)
        10
        """
        return self.group * -(-count // self.group)

    def check_count(self, count: int) -> None:
        """Raises `DesignError` if `count` references leave records without an IN or an OUT reference; 0 is allowed."""
        if 0 < count < self.group:
            raise DesignError(
                f"num_ref_models={count} leaves records without IN or OUT references at reference_fraction="
                f"{self.fraction}: use {self.group} or more, or 0 for the attacks that need none."
            )


# Shares that references are trained on by themselves. Few, so that versions whose splits differ a little share them;
# none beyond 4/5, where a group, within which every record is OUT once, would need more than five models.
FRACTIONS = (1 / 5, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 5)


def fraction_like(share: float) -> float:
    """The share of the pool that references train on so as to be like a target that trained on `share` of it.

    A target at 80/20 is audited better by 5 references at 4/5 than by 16 at one half (docs/sharp_edges.md).

    >>> fraction_like(0.5), fraction_like(0.78), fraction_like(0.95)
    (0.5, 0.8, 0.8)
    """
    return min(FRACTIONS, key=lambda fraction: abs(fraction - share))


def group_size(fraction: float) -> int:
    """How few references that train on `fraction` of the pool each leave every record IN and OUT at least once.

    >>> group_size(0.5), group_size(0.8), group_size(0.25)
    (2, 5, 4)
    """
    return math.ceil(1 / min(fraction, 1 - fraction) - 1e-9)


def references_for(out: int, fraction: float) -> int:
    """How many references give every record at least `out` OUT references: whole groups, pairs at one half.

    Privacy Meter's `num_ref_models` counts OUT references of a record.

    >>> references_for(4, 0.5), references_for(4, 0.25), references_for(0, 0.5)
    (8, 8, 0)
    """
    group = group_size(fraction)
    # Within a group windows start n / group apart and are rounded up: a record is IN at most so many of them.
    most = 1 if group == 2 else min(group - 1, math.floor(group * fraction + 1e-9) + 1)
    return group * -(-out // (group - most))
