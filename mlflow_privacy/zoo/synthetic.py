"""Synthetic stand-ins of the shape of Purchase-100 and Texas-100. They say nothing about the real data sets."""

from __future__ import annotations

import numpy as np

from mlflow_privacy.zoo.data import DataSet, make_dataset
from mlflow_privacy.zoo.registry import dataset

POOL_FRACTION = 0.75  # the rest is the population, as in Privacy Meter
PURCHASE_STRENGTH, TEXAS_STRENGTH = 0.4, 0.4  # an MLP fits 10,000 rows entirely and gets 60 to 80 % of others right


def binary_classes(
    rows: int, features: int, *, classes: int, rate: float, strength: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Binary records around one prototype a class.

    A feature is 1 with a probability whose log-odds are those of the feature, around `rate`, plus those of the class,
    normal with standard deviation `strength`. The smaller it is, the more classes overlap and the more a model that
    fits its members has learned them by heart. Row i depends on the seed and i, not on `rows`.

    Returns: x (rows, features) uint8 and y (rows,) int64.

    >>> x, y = binary_classes(1000, 20, classes=4, rate=0.3, strength=1.0, seed=0)
    >>> x.shape, sorted(set(x.ravel().tolist())), sorted(set(y.tolist()))
    ((1000, 20), [0, 1], [0, 1, 2, 3])
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5E7]))
    odds = np.log(rate / (1 - rate)) + rng.normal(size=features) + strength * rng.normal(size=(classes, features))
    threshold = np.round(65536 / (1 + np.exp(-odds))).clip(1, 65535).astype(np.uint16)
    x, y = np.empty((rows, features), np.uint8), np.empty(rows, np.int64)
    block = 1000
    for start in range(0, rows, block):
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5E8, start]))
        label = rng.integers(classes, size=block)
        drawn = rng.integers(65536, size=(block, features), dtype=np.uint16) < threshold[label]
        stop = min(block, rows - start)
        x[start : start + stop], y[start : start + stop] = drawn[:stop], label[:stop]
    return x, y


def _shaped_like(name: str, title: str, rows: int, features: int, rate: float, strength: float, seed: int) -> DataSet:
    x, y = binary_classes(rows, features, classes=100, rate=rate, strength=strength, seed=seed)
    k = int(POOL_FRACTION * rows)
    return make_dataset(
        x[:k],
        y[:k],
        name=name,
        source=f"synthetic, of the shape of {title}, seed {seed}",
        task="classification",
        classes=[str(c) for c in range(1, 101)],
        population=(x[k:], y[k:]),
    )


@dataset("purchase100_synthetic")
def purchase100_synthetic(*, rows: int = 40_000, seed: int = 0) -> DataSet:
    """Random records of the shape of Purchase-100: 600 binary features, 100 classes. Not shopping data.

    Args:
      rows: in all; three quarters are the pool, the rest the population. The real one has 197,324.
      seed: of classes and records.
    """
    _check_rows("purchase100_synthetic", rows)
    return _shaped_like("purchase100_synthetic", "Purchase-100", rows, 600, 0.3, PURCHASE_STRENGTH, seed)


@dataset("texas100_synthetic")
def texas100_synthetic(*, rows: int = 20_000, seed: int = 0) -> DataSet:
    """Random records of the shape of Texas-100: 6,169 binary features, 100 classes. Not hospital data.

    Args:
      rows: in all; three quarters are the pool, the rest the population. The real one has 67,330.
      seed: of classes and records.
    """
    _check_rows("texas100_synthetic", rows)
    return _shaped_like("texas100_synthetic", "Texas-100", rows, 6169, 0.03, TEXAS_STRENGTH, seed)


def _check_rows(name: str, rows: int) -> None:
    from mlflow_privacy.errors import ConfigError

    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 8:
        raise ConfigError(f"data.options.rows of {name!r} must be a whole number of at least 8, got {rows!r}.")
