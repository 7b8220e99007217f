"""What an audit says beside its scores: what could make it wrong, how like the target its references are, its parts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_privacy._version import __version__
from mlflow_privacy.auditing.options import MOST_AUDITED
from mlflow_privacy.auditing.records_view import record_texts
from mlflow_privacy.auditing.references import References, target_share
from mlflow_privacy.design import FRACTIONS, Design
from mlflow_privacy.report.sections.checks import copies_said, far_off, turned_round, unlike_references
from mlflow_privacy.report.sections.screening import worth_references
from mlflow_privacy.report.text import blind_differs
from mlflow_privacy.types import (
    AttackResult,
    AuditResult,
    AuditTarget,
    Evidence,
    Records,
    Signals,
)

FEW_REFERENCES = 4
_MANY_COPIES = 0.1  # of all records
_SATURATED = 20.0  # nats of cross-entropy
_LARGE, _LOOKED_AT = 20.0, 10_000  # of inputs, in the first so many records
_SHOWN = 200  # records whose content is kept for the report
_PACKAGES = ("mlflow", "numpy", "scipy", "scikit-learn", "torch", "transformers")


def find_warnings(result: AuditResult, target: AuditTarget) -> tuple[str, ...]:
    """Sentences for the report, worst first: each with its figure and what to do."""
    out: list[str] = []
    if blind_differs(result):
        out.append(
            f"Members and non-members differ without the model: a classifier that sees only the records separates them "
            f"with AUC {result.blind}. Part of every figure here may be that difference and not what the model gives "
            "away. Audit with a holdout drawn from the same distribution as the training data."
        )
    if target.recipe_problem:
        out.append(
            "No reference models could be trained, so this is the weaker audit, with the attacks that need none "
            f"({', '.join(attack.name for attack in result.attacks)}): {target.recipe_problem}"
        )
    elif result.references["n"] == 0:
        out.append("No reference models were used: this is the weaker audit, with the attacks that need none.")
    elif result.references["n"] < FEW_REFERENCES and result.references["n"] == result.references["n_wanted"]:
        out.append(
            f"Only {result.references['n']} reference models: the attacks are weaker than they can be. "
            "Raise num_ref_models; what is trained already is kept."
        )
    if worth := worth_references(result):
        out.append(worth)
    if turned := turned_round(result):
        out.insert(0, turned)
    if far := far_off(result):
        out.append(far)
    loss, inputs = result.fidelity.target.get("nonmember_loss", 0.0), result.references["inputs"]
    if not result.references["n"] and result.task == "classification" and inputs and loss > _SATURATED:
        out.append(
            f"The model's mean loss on non-members is {loss:.3g}, and the records hold {inputs}: if the training loop "
            "scaled its inputs outside the model, log the records as the model takes them, or put the scaling into it."
        )
    if result.options["data_size"] == "auto" and len(result.y) == MOST_AUDITED < len(target.pool):
        out.append(
            f"{len(result.y):,} of the pool's {len(target.pool):,} records were audited, drawn at random whoever is a "
            "member; references trained on their share of all. data_size='all' audits all of them, a number so many."
        )
    out.extend(target.warnings)
    figure, action, share = copies_said(result)
    if result.copies is not None and (share > _MANY_COPIES or result.copies.basis != "unique"):
        out.append(f"{figure}. {action}")
    out.extend(result.references.get("notes", ()))
    out.extend([] if far else _fidelity_warnings(result))
    fraction, share = result.references["fraction"], result.references["target_fraction"]
    if result.references["n"] and result.options["reference_fraction"] == "auto" and abs(fraction - share) > 0.05:
        if not FRACTIONS[0] <= share <= FRACTIONS[-1]:
            out.append(
                f"The target trained on {share:.0%} of the pool, each reference on {fraction:.0%}, the furthest that "
                "is chosen by itself: the audit may show less than the target gives away. Log a "
                f"{'larger holdout' if share > fraction else 'smaller holdout'}."
            )
    elif result.references["n"] and abs(fraction - share) > 0.15:
        out.append(
            f"The target trained on {share:.0%} of the pool, each reference on {fraction:.0%}: references see another "
            "amount of data than the target. Set reference_fraction nearer to it, or change the size of the holdout."
        )
    n_non = int((~result.membership).sum())
    lost = [f"{fpr:g}" for fpr in result.options["fprs"] if 0 < fpr < 1 / n_non]
    if lost:
        out.append(
            f"TPR at FPR {', '.join(lost)} cannot be resolved with {n_non} non-members: "
            f"log a holdout of at least {round(1 / min(float(fpr) for fpr in lost))} records."
        )
    if result.population_is_nonmembers and result.references["n"]:
        out.append("No population was logged: the non-members stand in for it. The ROC curves do not depend on it.")
    return tuple(out)


def _fidelity_warnings(result: AuditResult) -> list[str]:
    """References that generalise clearly unlike the target were trained by another recipe than the target's."""
    own, reference = result.fidelity.target, result.fidelity.reference
    out = []
    for side, where in (("nonmember", "on records they did not train on"), ("member", "on their own")):
        for key, what in ((f"{side}_accuracy", "accuracy"), (f"{side}_r2", "R²"), (f"{side}_loss", "a mean loss of")):
            if key in own and key in reference and unlike_references(result, key):
                out.append(
                    f"Reference models reach {what} {reference[key]:.3g} {where}, the target {own[key]:.3g}: the "
                    "recipe may not be the target's. Check it, or log it with log_lineage(recipe=...)."
                )
                break  # the loss tells the same again
    return out


def environment(device: str) -> dict[str, str]:
    """Versions and hardware, without names of machines or users."""
    found = {"python": platform.python_version(), "mlflow_privacy": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {"system": f"{platform.system()} {platform.machine()}", "cpus": str(os.cpu_count()), "device": device}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def exposed_content(asked: Records, attacks: Sequence[AttackResult]) -> dict[str, str]:
    """The content of the records that any attack ranks highest: more than a report lists."""
    top = {int(i) for attack in attacks for i in np.argsort(-attack.scores.rank(), kind="stable")[:_SHOWN]}
    return record_texts(asked.take(np.array(sorted(top))))


def trained_on(target: AuditTarget, references: References | None) -> np.ndarray:
    """(1 + m, n_pool) bool: who of the whole pool the target, then each reference, trained on."""
    rows = np.zeros((0, len(target.pool)), bool) if references is None else references.rows
    return np.concatenate([np.asarray(target.membership, bool)[None], rows])


def evidence_of(target: AuditTarget, signals: Signals, references: References | None) -> Evidence:
    """What the scores were made of, over the whole pool."""
    return Evidence(
        pool_ids=target.pool.row_ids,
        membership=trained_on(target, references),
        signals=signals,
        population_ids=np.array([], str) if target.population is None else target.population.row_ids,
        quality=() if references is None else references.quality,
    )


def describe_references(
    references: References | None, design: Design, target: AuditTarget, num_queries: int
) -> dict[str, Any]:
    """What the report says of the references."""
    return {
        "n": 0 if references is None else len(references.run_ids),
        "n_loaded": 0 if references is None else references.n_loaded,
        "n_trained": 0 if references is None else references.n_trained,
        "n_imported": 0 if references is None else references.n_imported,
        "n_wanted": 0 if references is None else references.n_wanted,
        "fraction": design.fraction,
        "target_fraction": target_share(target),
        "n_always": 0 if design.always is None else int(design.always.sum()),
        "seed": design.seed,
        "run_ids": [] if references is None else list(references.run_ids),
        "fingerprint": None if references is None else references.fingerprint,
        "recipe": None
        if target.recipe is None
        else {"kind": target.recipe.kind, "spec": target.recipe.spec, "rests_on": target.recipe.rests_on},
        "recipe_source": "" if target.recipe is None else target.recipe.source,
        "problem": target.recipe_problem,
        "notes": [] if references is None else list(references.notes),
        "n_pool": len(np.unique(target.pool.row_ids)) if target.copies else len(target.pool),  # each as it was logged
        "num_queries": num_queries,
        "inputs": large_inputs(target.pool.x),
    }


def large_inputs(x: Any) -> str:
    """What numbers stand in records that are far from 0 and 1, "" if none do.

    >>> large_inputs(np.array([[0, 255]], np.uint8)), large_inputs(np.array([[0.0, 1.5]]))
    ('whole numbers from 0 to 255', '')
    """
    some = x.iloc[:_LOOKED_AT] if hasattr(x, "iloc") else x[:_LOOKED_AT]
    if hasattr(some, "iloc"):
        some = some.select_dtypes("number").to_numpy()
    values = np.asarray(some)
    if values.dtype.kind not in "iuf" or not values.size:
        return ""
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not values.size or float(np.quantile(np.abs(values.astype(np.float64)), 0.99)) <= _LARGE:
        return ""
    whole = "whole numbers" if (values == np.round(values)).all() else "values"
    return f"{whole} from {float(values.min()):.4g} to {float(values.max()):.4g}"
