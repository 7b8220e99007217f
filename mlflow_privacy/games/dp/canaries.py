"""Canaries: who is in the training set by a fair coin, and what a canary looks like."""

from __future__ import annotations

import numpy as np

from mlflow_privacy.errors import DesignError


def canary_coins(n: int, seed: int) -> np.ndarray:
    """(n,) bool, independent fair coins: whether each canary is trained on.

    Independent (Poisson), not half of them exactly: the bounds of one run rest on that. With a fixed number in, an
    attacker who knows n − 1 coins knows the last one.

    Args:
      seed: the coins depend on it alone; coin i does not depend on n.

    Example:
      >>> canary_coins(8, seed=0).tolist() == canary_coins(80, seed=0)[:8].tolist()
      True
    """
    if n < 1:
        raise DesignError(f"An audit with canaries needs at least 1, got n={n}; hundreds are usual.")
    entropy = np.random.SeedSequence([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, 0xC017])
    return np.random.default_rng(entropy).random(n) < 0.5


def mislabel(y: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) labels, each uniform over the classes that are not the record's own.

    A mislabelled record is learnt only by memorising it, so it shows more than a natural one.

    Args:
      y: (n,) integer labels in [0, num_classes).

    Raises: DesignError: fewer than two classes, or a label out of range.

    Example:
      >>> y = np.array([0, 1, 2])
      >>> bool((mislabel(y, 3, np.random.default_rng(0)) != y).all())
      True
    """
    y = np.asarray(y)
    faults = []
    if num_classes < 2:
        faults.append(f"num_classes must be at least 2 for a different label to exist, got {num_classes}")
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        faults.append(f"y must be (n,) integers, got {y.dtype} of shape {y.shape}; encode class names first")
    elif y.size and (y.min() < 0 or y.max() >= num_classes):
        faults.append(f"labels must be in [0, {num_classes}), got {y.min()} to {y.max()}")
    if faults:
        raise DesignError("; ".join(faults) + ".")
    return ((y + rng.integers(1, num_classes, size=len(y))) % num_classes).astype(y.dtype)
