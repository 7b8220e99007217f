"""Membership inference attacks: pure functions from signals to scores; higher = more likely a member.

Each lives in its own module (`attacks.rmia`, `attacks.lira`, …), works on NumPy arrays and torch tensors, and can be
called here as it is: `from mlflow_privacy.attacks import rmia`. `ATTACKS` holds them by name with what each needs, and
takes further ones through the decorator `attack`.
"""

from mlflow_privacy.attacks.bavaria import bavaria, bavaria_offline
from mlflow_privacy.attacks.definition import Attack
from mlflow_privacy.attacks.gap import gap
from mlflow_privacy.attacks.language import (
    base_ratio,
    lowercase_ratio,
    min_k,
    min_k_plus,
    neighbourhood,
    recall,
    zlib_ratio,
)
from mlflow_privacy.attacks.learned import learned
from mlflow_privacy.attacks.lira import lira, lira_offline
from mlflow_privacy.attacks.population import attack_p, loss_threshold
from mlflow_privacy.attacks.reference import attack_r
from mlflow_privacy.attacks.registry import (
    ATTACKS,
    attack,
    available,
    check_options,
    default_attacks,
    extra_signals,
    loadable_attacks,
    run_attack,
)
from mlflow_privacy.attacks.rmia import rmia, rmia_offline
from mlflow_privacy.attacks.tuning import tune_a

__all__ = [
    "ATTACKS",
    "Attack",
    "attack",
    "attack_p",
    "attack_r",
    "available",
    "base_ratio",
    "bavaria",
    "bavaria_offline",
    "check_options",
    "default_attacks",
    "extra_signals",
    "gap",
    "learned",
    "lira",
    "lira_offline",
    "loadable_attacks",
    "loss_threshold",
    "lowercase_ratio",
    "min_k",
    "min_k_plus",
    "neighbourhood",
    "recall",
    "rmia",
    "rmia_offline",
    "run_attack",
    "tune_a",
    "zlib_ratio",
]
