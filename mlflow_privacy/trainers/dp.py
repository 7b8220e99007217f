"""Differentially private training of PyTorch modules by DP-SGD, as a wrapper around the one training loop.

| key of `dp` | meaning |
|---|---|
| `noise_multiplier` | standard deviation of the noise over `max_grad_norm` |
| `target_epsilon` | instead of it: the least noise that keeps ε, by the accountant, for this many records and steps |
| `max_grad_norm` | each record's gradient is clipped to this norm; 1 if absent |
| `delta` | δ of the ε that is accounted for; 1e-5 if absent |
| `accountant` | "rdp" (default), or "prv", which is tighter, where it does not take minutes (large ε, many steps) |
| `fix` | replace layers that cannot be trained per record (batch norm by group norm); false if absent |

A step takes each record with probability 1 / (steps an epoch), independently (Poisson sampling), because that is what
the accountants suppose. Adding or removing one record is the neighbourhood. Abadi et al. (2016),
https://arxiv.org/abs/1607.00133; the clipping and the noise are Opacus' (Yousefpour et al. 2021,
https://arxiv.org/abs/2109.12298). The noise comes from a seeded generator, so that an audit can be repeated; a model
that is released should not be trained with a seed that is known.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlflow_privacy.errors import RecipeError, nearest

_logger = logging.getLogger(__name__)
DEFAULT_DELTA = 1e-5
ACCOUNTANTS = ("rdp", "prv")
_KEYS = ("noise_multiplier", "target_epsilon", "max_grad_norm", "delta", "accountant", "fix")
_PRV_MOST = 2000.0  # of ε √steps: a few seconds
_TOLERANCE, _LEAST_SHARE, _MOST_HALVINGS = 0.01, 0.1, 7  # of the search for the noise
_SAID = ("epsilon",)  # what was reached; part of no recipe


def read_dp(value: Any) -> dict[str, Any]:
    """The settings of DP-SGD, completed.

    Raises: ValueError: every fault, so that it may follow the name of the key.

    Example:
      >>> read_dp({"noise_multiplier": 1})
      {'noise_multiplier': 1.0, 'max_grad_norm': 1.0, 'delta': 1e-05, 'accountant': 'rdp', 'fix': False}
      >>> read_dp({"noise": 1})
      Traceback (most recent call last):
      ValueError: has an unknown key 'noise', did you mean 'noise_multiplier'?; needs noise_multiplier or target_epsilon
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping of {', '.join(_KEYS)}")
    faults = []
    for key in value:
        if key not in (*_KEYS, *_SAID):
            faults.append(f"has an unknown key {key!r}{nearest(key, _KEYS, cutoff=0.4)}")
    out: dict[str, Any] = {}
    for key, low, high, default in (
        ("noise_multiplier", 0.0, math.inf, None),
        ("target_epsilon", 0.0, math.inf, None),
        ("max_grad_norm", 0.0, math.inf, 1.0),
        ("delta", 0.0, 1.0, DEFAULT_DELTA),
    ):
        raw = value.get(key)
        raw = default if raw is None else raw
        if raw is None:
            continue
        try:
            number = math.nan if isinstance(raw, bool) else float(raw)
        except (TypeError, ValueError):
            number = math.nan
        if not (low < number < high or (number == 0 and key == "noise_multiplier")):
            faults.append(f"needs {key} in ({low:g}, {high:g}), not {raw!r}")
        out[key] = number
    if ("noise_multiplier" in value) + ("target_epsilon" in value) != 1:
        both = "noise_multiplier" in value
        faults.append(
            "takes noise_multiplier or target_epsilon, not both" if both else "needs noise_multiplier or target_epsilon"
        )
    out["accountant"] = value.get("accountant") or "rdp"
    if out["accountant"] not in ACCOUNTANTS:
        faults.append(f"needs an accountant of {', '.join(ACCOUNTANTS)}, not {out['accountant']!r}")
    out["fix"] = value.get("fix") or False
    if not isinstance(out["fix"], bool):
        faults.append(f"needs fix to be true or false, not {out['fix']!r}")
    if faults:
        raise ValueError("; ".join(faults))
    return out


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one model is trained privately.

    Attributes:
      noise_multiplier, max_grad_norm: see above.
      sample_rate: probability of each record in each step.
      steps: in all.
      delta, accountant: of `epsilon`.
    """

    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps: int
    delta: float
    accountant: str

    @property
    def epsilon(self) -> float:
        """What the accountant says was spent at δ; infinite without noise."""
        if self.noise_multiplier == 0:
            return math.inf
        kind = affordable(self.accountant, self.noise_multiplier, self.sample_rate, self.steps, self.delta)
        return _spent(kind, self.noise_multiplier, self.sample_rate, self.steps, self.delta)


def plan_privacy(dp: Mapping[str, Any], *, n: int, batch_size: int, epochs: int) -> Plan:
    """The plan for n records; with `target_epsilon` the noise is sought.

    Args:
      dp: of `read_dp`.

    Raises: RecipeError: Opacus is not installed, or no noise keeps the target.
    """
    per_epoch = max(1, -(-n // batch_size))
    rate, steps = 1 / per_epoch, per_epoch * epochs
    noise, accountant = dp.get("noise_multiplier"), dp["accountant"]
    if noise is None:
        try:
            noise, accountant = _least_noise(dp["target_epsilon"], dp["delta"], rate, steps, accountant)
        except ValueError as error:
            raise RecipeError(
                f"No noise keeps ε = {dp['target_epsilon']:g} at δ = {dp['delta']:g} over {steps} steps of {n} "
                f"records: {error}. Raise target_epsilon, or train for fewer epochs."
            ) from error
    return Plan(float(noise), float(dp["max_grad_norm"]), rate, steps, float(dp["delta"]), accountant)


def affordable(accountant: str, noise: float, rate: float, steps: int, delta: float) -> str:
    """The accountant itself, or "rdp" where "prv" would take minutes.

    It divides an interval of the length of ε into parts that shrink with the root of the steps, so that its time grows
    with ε √steps: 1 to 2 ms each. The RDP accountant's ε is larger, and so a
    bound as well.
    """
    if accountant != "prv" or _spent("rdp", noise, rate, steps, delta) * math.sqrt(steps) <= _PRV_MOST:
        return accountant
    _logger.warning(
        "The accountant of DP-SGD is 'rdp', not 'prv', which would take minutes for an ε so large over %d steps. Its ε "
        "is an upper bound too, if a looser one.",
        steps,
    )
    return "rdp"


@functools.lru_cache(maxsize=256)
def _spent(accountant: str, noise: float, rate: float, steps: int, delta: float) -> float:
    """ε at δ, by one accountant."""
    counter = _opacus().accountants.create_accountant(accountant)
    counter.history = [(noise, rate, steps)]
    with _quiet():
        return float(counter.get_epsilon(delta=delta))


@functools.lru_cache(maxsize=64)
def _least_noise(target: float, delta: float, rate: float, steps: int, accountant: str) -> tuple[float, str]:
    """The least noise that keeps ε, and the accountant that says so.

    Opacus' own search asks the PRV accountant about noise far too small, where it never answers; here it is asked
    between the noise that the RDP accountant wants and a fraction of it.
    """
    search = _opacus().accountants.utils.get_noise_multiplier
    with _quiet():
        high = search(target_epsilon=target, target_delta=delta, sample_rate=rate, steps=steps, accountant="rdp")
    if affordable(accountant, high, rate, steps, delta) == "rdp":
        return float(high), "rdp"
    low, tolerance = high, max(_TOLERANCE, _TOLERANCE * target / 10)
    while low > _LEAST_SHARE * high:
        low *= 0.9
        if _spent(accountant, low, rate, steps, delta) > target:
            break
        high = low
    for _ in range(_MOST_HALVINGS):
        if target - _spent(accountant, high, rate, steps, delta) <= tolerance:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if _spent(accountant, middle, rate, steps, delta) <= target else (middle, high)
    return float(high), accountant


def check_module(module: Any, dp: Mapping[str, Any]) -> Any:
    """The module as it can be trained per record: itself, or with `fix` a copy with its layers replaced.

    Raises: RecipeError: with everything that Opacus finds wrong, and the remedy.
    """
    opacus = _opacus()
    validator = opacus.validators.ModuleValidator
    train = module.training
    module.train()  # it looks at modules in training mode
    try:
        errors = validator.validate(module, strict=False)
        if errors and dp.get("fix"):
            module = validator.fix(_flat_norms(module))
            module.train(train)
            errors = validator.validate(module.train(), strict=False)
    finally:
        module.train(train)
    if errors:
        lines = "\n  - ".join(str(error).strip() for error in errors)
        raise RecipeError(
            f"This module cannot be trained with DP-SGD:\n  - {lines}\nReplace these layers (batch normalisation by "
            "group normalisation, which keeps records apart), or set dp: {fix: true} to have them replaced before the "
            "training of target and references."
        )
    return module


def _flat_norms(module: Any) -> Any:
    """A copy with batch norms of flat features as one group: Opacus takes 32 groups, of one feature each in a small
    layer, and a feature that is normalised by itself is always 0."""
    import torch

    if isinstance(module, torch.nn.BatchNorm1d):
        return torch.nn.GroupNorm(1, module.num_features, eps=module.eps, affine=module.affine)
    module = copy.deepcopy(module)
    for name, child in list(module.named_modules()):
        if name and isinstance(child, torch.nn.BatchNorm1d):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent) if parent else module, last, _flat_norms(child))
    return module


@dataclasses.dataclass(frozen=True)
class Private:
    """A model, its optimizer and its minibatches, for private training.

    Attributes:
      model: computes gradients per record.
      optimizer: clips them, adds the noise and steps.
      draw: () -> (order, bounds) of one epoch: indices (k,) into the training records, batch after batch, and where
        each batch lies in them. Batches may be empty.
    """

    model: Any
    optimizer: Any
    draw: Callable[[], tuple[Any, list[tuple[int, int]]]]


@contextlib.contextmanager
def make_private(model: Any, optimizer: Any, plan: Plan, *, n: int, generator: Any, device: Any) -> Iterator[Private]:
    """The three things that a training loop uses, made private; the model is its old self again at the end.

    Args:
      n: training records.
      generator: draws the minibatches, on the CPU; the noise has a generator of its own, seeded from it.
    """
    import torch

    opacus = _opacus()
    inplace = [sub for sub in model.modules() if getattr(sub, "inplace", False)]
    for sub in inplace:  # a hook on the layer before would see what it has overwritten
        sub.inplace = False
    noise = torch.Generator(device=device)
    noise.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    with _quiet():
        wrapped = opacus.GradSampleModule(model, strict=False)
        private = opacus.optimizers.DPOptimizer(
            optimizer,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.max_grad_norm,
            expected_batch_size=max(1, round(n * plan.sample_rate)),
            generator=noise,
        )
    per_epoch = round(1 / plan.sample_rate)

    def draw() -> tuple[Any, list[tuple[int, int]]]:
        taken = torch.rand(per_epoch, n, generator=generator) < plan.sample_rate
        ends = taken.sum(1).cumsum(0).tolist()
        return taken.nonzero()[:, 1], list(zip([0, *ends[:-1]], ends))

    try:
        with _quiet():
            yield Private(wrapped, private, draw)
    finally:
        wrapped.to_standard_module()
        for sub in inplace:
            sub.inplace = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Opacus warns of secure random numbers, of the grid of orders and of its own hooks on every model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opacus() -> Any:
    try:
        import opacus
        import opacus.accountants.utils
        import opacus.optimizers
        import opacus.validators
    except ImportError as error:
        raise RecipeError(
            'Training with differential privacy (dp) needs Opacus: pip install "mlflow-privacy[dp]".'
        ) from error
    return opacus
