"""Which attacks an audit runs, and what the target is asked for them; all faults are told before anything trains."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from mlflow_privacy.attacks import ATTACKS, available, check_options, default_attacks, extra_signals
from mlflow_privacy.auditing.afford import probe
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.questions import Asking
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.metrics.evaluation import fpr_key
from mlflow_privacy.types import AuditTarget, Link, ModelOutputs


def needs_references(names: Sequence[str]) -> bool:
    """Whether any of these attacks compares with reference models."""
    return any("reference" in ATTACKS[name].needs for name in names)


def ask_target(
    target: AuditTarget, ask: Asking, options: AuditOptions, *, groups: int
) -> tuple[tuple[str, ...], tuple[ModelOutputs, ...]]:
    """The attacks to run, and the target's outputs with all that they need of it, if so many groups are trained."""
    native = target.model.native
    if ask.aids is None:
        own = ask(native)
        names = default_attacks(groups, own[0].link) if options.attacks is None else tuple(options.attacks)
        _check_attacks(names, options, groups=groups, link=own[0].link)
        return names, own
    from mlflow_privacy.signals.language.outputs import computable, has_base

    names = default_attacks(groups, "log_p", language=True, has_base=has_base(native, ask.aids))
    names = names if options.attacks is None else tuple(options.attacks)
    known = [name for name in names if name in ATTACKS]
    extras = computable(_wanted(known, options), native, ask.aids)
    _check_attacks(names, options, groups=groups, link="log_p", extras=extras)
    return names, ask(native, extras)


def _wanted(names: Sequence[str], options: AuditOptions) -> tuple[str, ...]:
    """Extra signals of attacks whose options are valid; the faults of the others are told with all the rest."""
    wanted: list[str] = []
    for name in names:
        with contextlib.suppress(ConfigError):
            wanted += extra_signals([name], options.attack_options)
    return tuple(dict.fromkeys(wanted))


def _check_attacks(
    names: Sequence[str], options: AuditOptions, *, groups: int, link: Link, extras: Sequence[str] = ()
) -> None:
    """Raises one `ConfigError` of all that the caller asked for and cannot be had, before anything is trained."""
    signals, problems = probe(groups, link, extras), []
    for name in names:
        given = options.attack_options.get(name, {})
        try:
            check_options(name, given)
            problems += [f"{name}: {reason}" for reason in [available(name, signals, given)] if reason]
        except ConfigError as error:
            problems.append(str(error))
    from mlflow_privacy.report.sections import check_thresholds

    try:
        check_thresholds(options.thresholds, _metric_names(names, options))
    except ConfigError as error:
        problems.append(str(error))
    running = f"running are {', '.join(names)}."
    if not names:
        problems.append(f"attacks=[] leaves nothing to run; choose from {', '.join(ATTACKS)}.")
    if options.headline not in (None, "auto", *names):
        problems.append(f"headline={options.headline!r} is not among the attacks; {running}")
    problems += [
        f"attack_options has {name!r}, which does not run; {running}"
        for name in options.attack_options
        if name not in names
    ]
    if problems:
        raise ConfigError("The audit cannot run:\n" + "\n".join(f"  {problem}" for problem in problems))


def _metric_names(names: Sequence[str], options: AuditOptions) -> list[str]:
    """What thresholds may be set on: metrics of the attacks that run and of their worst group, the blind baseline."""
    metrics = ["auc", *(fpr_key(fpr) for fpr in options.fprs), "balanced_accuracy", "advantage"]
    metrics += ["worst_group/auc", *(f"worst_group/{fpr_key(fpr)}" for fpr in options.fprs if fpr > 0)]
    return [f"{name}/{metric}" for name in ("headline", *names) for metric in metrics] + ["blind/auc"]
