"""Which attacks need how many groups of references, where a time budget may leave fewer than there were to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlflow_privacy.attacks import ATTACKS, available
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.references import References
from mlflow_privacy.types import Link, Signals


def least_groups(options: AuditOptions, link: Link, groups: int) -> int:
    """The fewest groups with which every attack runs that the caller asked for by name; at least one.

    So a short budget makes no audit fail that names `learned`, which needs two.

    Args:
      groups: that there are to be without a budget; the attacks were checked with these.
    """
    named = {*(options.attacks or ()), *options.attack_options, options.headline}
    named |= {key.removeprefix("privacy/").partition("/")[0] for key in options.thresholds}
    named |= {str(options.game_options.get("attack"))}
    asked = [name for name in named if name in ATTACKS and not ATTACKS[str(name)].extras]
    return next(
        (n for n in range(1, groups) if not any(available(str(name), probe(n, link)) for name in asked)), max(groups, 1)
    )


def probe(groups: int, link: Link, extras: Sequence[str] = ()) -> Signals:
    """Signals of one record with an IN and an OUT reference in each of so many groups: to see which attacks run."""
    rows = np.array([[True, False] * groups], bool)
    one = np.zeros(1)
    return Signals(one, np.zeros(rows.shape), rows, one, np.zeros(rows.shape), ~rows, link, dict.fromkeys(extras, one))


def that_run(
    names: Sequence[str], signals: Signals, references: References | None, options: AuditOptions
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The attacks that run with the references that the budget paid, and a warning for those that do not."""
    if references is None or len(references.run_ids) >= references.n_wanted:
        return tuple(names), ()
    run = [name for name in names if not available(name, signals, options.attack_options.get(name, {}))]
    left_out = tuple(
        f"Attack {name} is left out: the time budget ended before there were references enough for it."
        for name in names
        if name not in run
    )
    return tuple(run), left_out
