"""The bounds of one run as records: what each computes from counts, and what it supposes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, get_args

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.metrics.epsilon import (
    check_delta,
    gaussian_epsilon,
    one_run_epsilon,
    one_run_fdp_epsilon,
    one_run_fdp_mu,
)

Theorem = Literal["auto", "steinke", "mahloujifar"]
_FAILURES = 0.03  # n·δ from which the recursion is the tighter one: measured for n from 100 to 20,000


@dataclasses.dataclass(frozen=True)
class OneRunMethod:
    """One bound: its strength (ε or μ) from counts, and the ε that this strength means."""

    name: str
    title: str
    paper: str
    assumption: str
    strength: Callable[..., float]
    epsilon: Callable[[float], float]
    gaussian: bool = False


def steinke(delta: float) -> OneRunMethod:
    """One run under (ε, δ)-DP."""
    return OneRunMethod(
        "one_run",
        "One run",
        "Steinke, Nasr and Jagielski (2023), https://arxiv.org/abs/2305.08846",
        "",
        functools.partial(one_run_epsilon, delta=delta),
        float,
    )


def fdp(curve: str, delta: float) -> OneRunMethod:
    """One run under f-DP, f a Gaussian curve or that of (ε, δ)-DP."""
    paper = "Mahloujifar, Melis and Chaudhuri (2024), https://arxiv.org/abs/2410.22235"
    if curve == "approximate":
        strength = functools.partial(one_run_fdp_epsilon, delta=delta)
        return OneRunMethod("one_run_fdp", "One run, f-DP", paper, "", strength, float)
    if curve != "gaussian":
        raise ConfigError(f"curve must be gaussian or approximate, got {curve!r}.")
    check_delta(delta, positive=True)
    return OneRunMethod(
        "one_run_fdp",
        "One run, f-DP",
        paper,
        "The trade-off curve of the mechanism is Gaussian.",
        one_run_fdp_mu,
        lambda mu: gaussian_epsilon(mu, delta),
        gaussian=True,
    )


def one_run_method(name: str, delta: float, *, n: int, theorem: str = "auto") -> OneRunMethod:
    """By name: "one_run", by the theorem that is tighter with n canaries at δ, or "one_run_fdp" (Gaussian)."""
    if name not in ("one_run", "one_run_fdp"):
        raise ConfigError(f"method must be one_run or one_run_fdp, got {name!r}.")
    if theorem not in get_args(Theorem):
        raise ConfigError(f"theorem must be one of {', '.join(get_args(Theorem))}, got {theorem!r}.")
    if name == "one_run_fdp":
        return fdp("gaussian", delta)
    if theorem == "steinke" or (theorem == "auto" and not n * delta >= _FAILURES):
        return steinke(delta)
    return dataclasses.replace(fdp("approximate", delta), name="one_run", title="One run")
