"""Membership inference attacks: pure functions from signals to scores; higher = more likely a member.

Each lives in its own module (`attacks.rmia.rmia`, `attacks.lira.lira`, …) and works on NumPy arrays and torch tensors.
"""

from mlflow_privacy.attacks.registry import (
    ATTACKS,
    Attack,
    available,
    check_options,
    default_attacks,
    extra_signals,
    run_attack,
)

__all__ = ["ATTACKS", "Attack", "available", "check_options", "default_attacks", "extra_signals", "run_attack"]
