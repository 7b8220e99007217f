"""Strength of every attack by the number of references, each reference as target in turn with its group left out.

    MLFLOW_PRIVACY_DATA=… python benchmarks/bench_power.py --cache FOLDER --privacy-meter CHECKOUT --figure power.svg

Real data and models of seven families (power_models.py); each is trained once, its signals and every figure are kept
in the folder, and a run that was interrupted goes on. Nothing is tuned on what it is measured on: the targets'
memberships are seen by the AUC and the TPR alone. `auto` is the attack that an audit's verdict is about. Beside them
`run_rmia` and `tune_offline_a` of a checkout of Privacy Meter, on the same signals. Prints Markdown tables: AUC / TPR
at 1 % FPR / at 0.1 %, means over the targets, with standard errors.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from power_models import SETTINGS, Kept, kept_signals

from mlflow_privacy.attacks import available, run_attack
from mlflow_privacy.auditing.headline import headline_of
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.metrics import tally
from mlflow_privacy.metrics.roc import resolves, tpr_value
from mlflow_privacy.stats import mann_whitney
from mlflow_privacy.types import Signals

SINGLE = (
    "rmia", "rmia_offline", "lira", "lira_offline", "bavaria", "bavaria_offline", "learned", "reference", "population",
)  # fmt: skip
COMPARED = ("rmia", "lira", "bavaria", "learned", "rmia_offline")  # an audit's own, of which `auto` takes one
THEIRS = "Privacy Meter"
FPRS = (0.01, 0.001)
COUNTS = (2, 4, 8, 16, 32)
Row = dict[str, Any]  # "figures": [AUC, TPR at 1 %, at 0.1 %], "s", "target", for auto "chosen"


def figures(ranks: np.ndarray, truth: np.ndarray) -> list[float]:
    """AUC and the TPRs; NaN at an FPR that so few non-members do not resolve."""
    known = tally(ranks, truth)
    tprs = [tpr_value(known, fpr) if resolves(known.n_nonmembers, fpr) else float("nan") for fpr in FPRS]
    return [mann_whitney(ranks[truth], ranks[~truth]), *tprs]


def single(name: str, signals: Signals, truth: np.ndarray) -> Row | None:
    """One attack on one target; None where it cannot be run."""
    if available(name, signals):
        return None
    began = time.process_time()
    ranks = run_attack(name, signals)[0].rank()
    return {"s": time.process_time() - began, "figures": figures(ranks, truth)}


def auto(signals: Signals, rows: dict[str, Row]) -> Row:
    """What the verdict of an audit would be about: the attack chosen on the references, or the worse of a pair."""
    names = [name for name in COMPARED if name in rows]
    began = time.process_time()
    name, choice = headline_of(names, signals, AuditOptions(headline="auto", attacks=names))
    seconds = time.process_time() - began
    if choice is not None and choice.pair:
        name = max(choice.pair, key=lambda one: rows[one]["figures"][1])
    return {"s": seconds + rows[name]["s"], "figures": rows[name]["figures"], "chosen": name}


def theirs(their: Any, kept: Kept, j: int, others: np.ndarray, truth: np.ndarray) -> Row:
    """Privacy Meter's offline RMIA with its own `a`, from probabilities, with the pair of the target that it uses."""
    columns = np.concatenate([[j, j ^ 1], others])
    p, p_z = (_probability(phi[:, columns].astype(np.float64), kept.link) for phi in (kept.phi, kept.population))
    member = kept.member[:, columns]
    began = time.process_time()
    a = their.tune_offline_a(0, p, p_z, member, _Quiet())[0]
    scores = their.run_rmia(0, p, p_z, member, len(others) // 2, a)
    return {"s": time.process_time() - began, "figures": figures(scores, truth)}


class _Quiet:
    def info(self, *words: object) -> None:
        """Says nothing."""


def _probability(phi: np.ndarray, link: str) -> np.ndarray:
    return 1 / (1 + np.exp(-phi)) if link == "logit" else np.exp(phi)


def measure(
    name: str, kept: Kept, targets: int, file: Path, their: Any, wanted: Sequence[int] = COUNTS
) -> dict[str, dict[str, list[Row]]]:
    """Rows by number of references and attack; those of the file are taken, new ones are added to it."""
    found: dict[str, dict[str, list[Row]]] = json.loads(file.read_text()) if file.is_file() else {}
    counts = {kept.group * -(-count // kept.group): None for count in wanted}
    for count in counts:
        if count > kept.phi.shape[1] - kept.group:
            continue
        cell = found.setdefault(str(count), {})
        for j in spread(kept.phi.shape[1], targets):
            others, truth = kept.others(j, count), kept.member[:, j]
            have = {attack: row for attack, rows in cell.items() for row in rows if row["target"] == j}
            asked: dict[str, Callable[[], Row | None]] = {
                each: functools.partial(single, each, kept.one(j, others), truth) for each in SINGLE
            }
            asked["auto"] = lambda have=have, j=j, others=others: auto(kept.one(j, others), have)  # type: ignore[misc]
            if their is not None and kept.group == 2:
                asked[THEIRS] = functools.partial(theirs, their, kept, j, others, truth)
            for attack, call in asked.items():
                row = None if attack in have else call()
                if row is not None:
                    have[attack] = row
                    cell.setdefault(attack, []).append({**row, "target": int(j)})
            file.write_text(json.dumps(found))
        print(f"{name}, {count} references: {_summary(cell)}", flush=True)
    return found


def spread(models: int, targets: int) -> list[int]:
    """Targets among the models, far apart, of both places in a pair.

    >>> spread(40, 4)
    [0, 13, 26, 39]
    """
    return [int(j) for j in np.unique(np.linspace(0, models - 1, targets).round())]


def _summary(cell: dict[str, list[Row]]) -> str:
    return ", ".join(f"{attack} {mean(rows)[0]:.3f} / {mean(rows)[1]:.3f}" for attack, rows in cell.items())


def values(rows: Sequence[Row]) -> np.ndarray:
    """(targets, 3) figures, by target."""
    return np.array([row["figures"] for row in sorted(rows, key=lambda row: row["target"])])


def mean(rows: Sequence[Row]) -> np.ndarray:
    return values(rows).mean(axis=0)


def error(rows: Sequence[Row]) -> np.ndarray:
    found = values(rows)
    return found.std(axis=0, ddof=1) / np.sqrt(len(found))


def short_of(cell: dict[str, list[Row]]) -> list[str]:
    """Where `auto` finds less than the best single attack in hindsight by more than a standard error."""
    out = []
    for k, what in enumerate(("AUC", "TPR at 1 %")):
        best = max((name for name in cell if name in SINGLE), key=lambda name: mean(cell[name])[k])
        lost = values(cell[best])[:, k] - values(cell["auto"])[:, k]
        paired = lost.std(ddof=1) / np.sqrt(len(lost))
        if lost.mean() > error(cell[best])[k]:
            out.append(f"{what}: {best} is {lost.mean():.4f} ± {paired:.4f} ahead (± {error(cell[best])[k]:.4f})")
    return out


def table(title: str, kept: Kept, found: dict[str, dict[str, list[Row]]]) -> str:
    """Attacks by numbers of references."""
    attacks = [*SINGLE, "auto", THEIRS]
    lines = [
        f"**{title}**: {len(kept.phi):,} records, {kept.phi.shape[1]} models, share {kept.member.mean():.2g}, "
        f"{kept.seconds.mean():.1f} s to train one",
        "",
        "| attack | " + " | ".join(found) + " |",
        "|" + "---|" * (len(found) + 1),
    ]
    for attack in attacks:
        if any(attack in cell for cell in found.values()):
            cells = [_cell(cell[attack]) if attack in cell else "" for cell in found.values()]
            lines.append(f"| {attack} | " + " | ".join(cells) + " |")
    errors = [np.max([error(rows) for name, rows in cell.items() if name != THEIRS], axis=0) for cell in found.values()]
    lines.append("| largest standard error of ours | " + " | ".join(_numbers(one) for one in errors) + " |")
    lines.append("| `auto` took | " + " | ".join(_taken(cell["auto"]) for cell in found.values()) + " |")
    lines.append(
        "| learned takes, s | " + " | ".join(_seconds(cell.get("learned", [])) for cell in found.values()) + " |"
    )
    return "\n".join(lines)


def summary(everything: dict[str, dict[str, dict[str, list[Row]]]], titles: Mapping[str, str]) -> str:
    """Three rows a family: what the verdict takes, the best single attack in hindsight, Privacy Meter."""
    tables = []
    for first in dict.fromkeys(next(iter(found)) for found in everything.values()):  # groups of two, groups of five
        some = {name: found for name, found in everything.items() if next(iter(found)) == first}
        counts = max((list(found) for found in some.values()), key=len)
        lines = ["| model | attack | " + " | ".join(counts) + " |", "|" + "---|" * (len(counts) + 2)]
        for name, found in some.items():
            cells = [found.get(count, {}) for count in counts]
            rows = {
                "**auto**": [_two(cell.get("auto")) for cell in cells],
                "best in hindsight": [f"{_two(cell[_best(cell)])} {_best(cell)}" if cell else "" for cell in cells],
                THEIRS: [_two(cell.get(THEIRS)) for cell in cells],
            }
            shown = {attack: texts for attack, texts in rows.items() if any(texts)}
            lines += [
                f"| {titles[name] if place == 0 else ''} | {attack} | " + " | ".join(texts) + " |"
                for place, (attack, texts) in enumerate(shown.items())
            ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _best(cell: dict[str, list[Row]]) -> str:
    """The single attack with the largest TPR at 1 %; "" where nothing was measured."""
    return max((name for name in cell if name in SINGLE), key=lambda name: mean(cell[name])[1], default="")


def _two(rows: Sequence[Row] | None) -> str:
    return _numbers(mean(rows)[:2]) if rows else ""


def _cell(rows: Sequence[Row]) -> str:
    return _numbers(mean(rows))


def _numbers(triple: np.ndarray) -> str:
    return " / ".join("–" if np.isnan(value) else f"{value:.3f}" for value in triple)


def _taken(rows: Sequence[Row]) -> str:
    names = [row["chosen"] for row in rows]
    return ", ".join(f"{name} {names.count(name)}" for name in dict.fromkeys(sorted(names, key=names.count)[::-1]))


def _seconds(rows: Sequence[Row]) -> str:
    return f"{np.mean([row['s'] for row in rows]):.1f}" if rows else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--references", type=int, nargs="*", default=COUNTS, help="rounded up to whole groups")
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--cache", type=Path, required=True, help="folder for signals and figures")
    parser.add_argument("--privacy-meter", type=Path, help="a checkout of Privacy Meter v2")
    parser.add_argument("--again", nargs="*", default=[], help="attacks whose kept figures are measured anew")
    parser.add_argument("--figure", type=Path, help="where the figure goes, as SVG")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    their = None
    if given.privacy_meter is not None:
        from compare_scoring import _their_attacks

        their = _their_attacks(given.privacy_meter)
    tables, everything = [], {}
    for name in given.models:
        kept = kept_signals(SETTINGS[name], given.cache)
        file = given.cache / f"{name}.json"
        forget(file, given.again)
        found = measure(name, kept, given.targets, file, their, given.references)
        everything[name] = found
        tables.append(table(SETTINGS[name].title, kept, found))
        tables += [f"`auto` at {count} references: {line}" for count, cell in found.items() for line in short_of(cell)]
    titles = {name: SETTINGS[name].title for name in everything}
    print("\n\n".join([*tables, summary(everything, titles)]))
    if given.figure is not None:
        from power_plot import plot

        plot(everything, titles, given.figure)


def forget(file: Path, attacks: Sequence[str]) -> None:
    """Drops the kept figures of some attacks."""
    if attacks and file.is_file():
        kept = json.loads(file.read_text())
        file.write_text(json.dumps({n: {a: r for a, r in c.items() if a not in attacks} for n, c in kept.items()}))


if __name__ == "__main__":
    main()
