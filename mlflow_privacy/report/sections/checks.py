"""What could make the audit wrong: one row per way, shown whether or not it is fine."""

from __future__ import annotations

from collections import Counter

from mlflow_privacy.report.document import Check
from mlflow_privacy.report.text import format_estimate, headline_attack, plain_text
from mlflow_privacy.types import AuditResult

FEW_REFERENCES = 4  # as in `findings`
_GAP, _SHARE_GAP = 0.05, 0.15


def checks(result: AuditResult) -> tuple[Check, ...]:
    """All rows, in the order in which they could undo the audit."""
    return (
        _blind(result),
        _fidelity(result),
        _references(result),
        _share(result),
        _resolution(result),
        _population(result),
        _duplicates(result),
        _digests(result),
        _lineage(result),
        _choice(result),
    )


def _blind(result: AuditResult) -> Check:
    name, blind = "Blind baseline", result.blind
    if blind is None:
        return Check(name, "unknown", "not run", "Run the audit with blind_baseline switched on.")
    figure = f"AUC {format_estimate(blind)} from the records alone, without the model"
    if blind.low > 0.5 or blind.high < 0.5:
        return Check(
            name,
            "wrong",
            figure,
            "Members and non-members differ in themselves. Audit with a holdout drawn at random from the same source "
            "as the training data.",
        )
    return Check(name, "ok", figure, "Nothing to do: the records alone do not tell members from non-members.")


def _fidelity(result: AuditResult) -> Check:
    name = "Recipe fidelity"
    own, reference, spread = result.fidelity.target, result.fidelity.reference, result.fidelity.reference_std
    key = next((k for k in ("nonmember_accuracy", "nonmember_r2", "nonmember_loss") if k in own), None)
    if key is None or key not in reference:
        return Check(name, "unknown", "no reference models", "Let the audit train reference models by the recipe.")
    what = key.removeprefix("nonmember_").replace("r2", "R²")
    figure = (
        f"{what} on records not trained on: target {own[key]:.3f}, references {reference[key]:.3f} "
        f"± {spread.get(key, 0.0):.3f}"
    )
    tolerance = max(_GAP if what != "loss" else _GAP * max(abs(own[key]), 1.0), 3 * spread.get(key, 0.0))
    if abs(own[key] - reference[key]) > tolerance:
        return Check(
            name,
            "look",
            figure,
            "The references may follow another recipe than the target. Log it: log_lineage(recipe=...).",
        )
    return Check(name, "ok", figure, "Nothing to do: the references generalise like the target.")


def _references(result: AuditResult) -> Check:
    name, n = "Reference models", int(result.references.get("n", 0) or 0)
    if n == 0:
        problem = str(result.references.get("problem") or "")
        action = problem or "Raise num_ref_models: without references only the weaker attacks run."
        return Check(name, "look", "none", action)
    loaded, trained, imported = (int(result.references.get(k, 0) or 0) for k in ("n_loaded", "n_trained", "n_imported"))
    parts = ((trained, "trained now"), (loaded, "found from earlier audits"), (imported, "imported"))
    figure = f"{n} ({', '.join(f'{count} {what}' for count, what in parts if count)})"
    if n < FEW_REFERENCES:
        return Check(name, "look", figure, "Raise num_ref_models; what is trained already is kept.")
    return Check(name, "ok", figure, "More references can only make the attacks stronger; what is trained is kept.")


def _share(result: AuditResult) -> Check:
    name = "Amount of training data"
    fraction, own = result.references.get("fraction"), result.references.get("target_fraction")
    if not result.references.get("n") or fraction is None or own is None:
        return Check(name, "unknown", "no reference models", "Let the audit train reference models by the recipe.")
    figure = f"target trained on {own:.0%} of the pool, each reference on {fraction:.0%}"
    if abs(fraction - own) > _SHARE_GAP:
        return Check(name, "look", figure, "Set reference_fraction nearer to the target's share, or log more holdout.")
    return Check(name, "ok", figure, "Nothing to do.")


def _resolution(result: AuditResult) -> Check:
    name, n = "Resolution of low false-alarm rates", int((~result.membership).sum())
    figure = f"{n:,} non-members resolve rates down to {100 / n:.2g}%"
    asked = [float(f) for f in result.options.get("fprs", ()) if 0 < float(f) < (1 - 1e-9) / n]
    if asked:
        return Check(
            name,
            "look",
            f"{figure}; not {', '.join(f'{100 * f:g}%' for f in sorted(asked, reverse=True))}",
            f"Log a holdout of at least {round(1 / min(asked)):,} records.",
        )
    return Check(name, "ok", figure, "Nothing to do: every rate that was asked for is resolved.")


def _population(result: AuditResult) -> Check:
    figure = f"{result.n_population:,} records"
    if result.population_is_nonmembers:
        return Check(
            "Population sample",
            "ok",
            f"{figure}, which are the non-members themselves",
            "The ROC curves do not depend on it. Log a population of its own to keep the two apart.",
        )
    return Check("Population sample", "ok", f"{figure} that no audited model trained on", "Nothing to do.")


def _duplicates(result: AuditResult) -> Check:
    name, n = "Duplicates", int(result.n_duplicates)
    if not n:
        return Check(name, "ok", "no non-member is an exact copy of a member", "Nothing to do.")
    share = n / max(n + int((~result.membership).sum()), 1)
    return Check(
        name,
        "look" if share > 0.01 else "ok",
        f"{n:,} non-members were exact copies of members and were left out",
        "Look for near copies too: they count as non-members though the model has seen them.",
    )


def _digests(result: AuditResult) -> Check:
    name = "Digests of the data"
    count = Counter(source.status for source in result.sources)
    if not result.sources:
        return Check(name, "unknown", "no source is known", "Log the data with log_lineage(train=..., holdout=...).")
    figure = ", ".join(f"{n} {status}" for status, n in count.most_common())
    if count["overridden"]:
        return Check(
            name,
            "wrong",
            figure,
            "The data differ from what was logged at training, and the difference was allowed. Audit the logged data.",
        )
    if count["verified"] < len(result.sources):
        return Check(name, "look", figure, "Log each part with MLflow, so that its digest can be compared.")
    return Check(name, "ok", figure, "Nothing to do: the data are those that were logged at training.")


def _lineage(result: AuditResult) -> Check:
    name = "Lineage"
    gaps = []
    if not result.model.run_id:
        gaps.append("source run of the model")
    roles = {source.role for source in result.sources}
    gaps += [f"source of the {role.replace('_', '-')}" for role in ("members", "non_members") if role not in roles]
    if result.references.get("problem"):
        gaps.append("recipe")
    if gaps:
        return Check(name, "look", f"not known: {', '.join(gaps)}", "Log what is missing with log_lineage(...).")
    return Check(name, "ok", "model, data and recipe are known", "Nothing to do.")


def _choice(result: AuditResult) -> Check:
    name, n = "Choice of the attack", len(result.attacks)
    title = plain_text(headline_attack(result).title, 60)
    if n == 1:
        return Check(name, "ok", f"one attack ran: {title}", "Further attacks may find more.")
    return Check(
        name,
        "ok",
        f"{title} was named before the results were known; {n} attacks ran",
        "Another attack that looks stronger here may do so by chance: name it as headline in the next audit.",
    )
