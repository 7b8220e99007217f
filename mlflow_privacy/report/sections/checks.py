"""What could make the audit wrong: one row per way, shown whether or not it is fine."""

from __future__ import annotations

from collections import Counter

from mlflow_privacy.report.document import Check
from mlflow_privacy.report.text import blind_differs, format_estimate, headline_attack, plain_text
from mlflow_privacy.stats import surely_another_rate
from mlflow_privacy.types import AuditResult, HeadlineChoice

FEW_REFERENCES = 4  # as in `findings`
_GAP, _SHARE_GAP = 0.05, 0.15
_FAR, _TIMES = 0.25, 5.0  # of accuracies, and of losses, from which references are no references
_FEW_COPIES = 0.01  # of all records
_ABOUT = {
    "unique": "those {n:,} that occur once",
    "balanced": "one copy each of {n:,} records, with one ratio of members to non-members at each number of copies",
    "distinct": "{n:,} different records, each once",
}
_ACTIONS = {
    "unique": "Repeated records are usually the most exposed: score_duplicates scores them apart. Near copies count as "
    "other records, though the model may have seen them.",
    "balanced": "Hardly any record occurs once, so that few can be compared. Log more columns of the data, or more "
    "of it.",
    "distinct": "The copies lie on one side, as after oversampling, and references repeat records as often. If the "
    "holdout was cleared of copies of training records, log it as it was before.",
}
_FEW = 10  # non-members, below which a mean of losses says nothing


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
    if blind_differs(result):
        return Check(
            name,
            "wrong",
            figure,
            "Members and non-members differ in themselves. Audit with a holdout drawn at random from the same source "
            "as the training data.",
        )
    if not blind.resolvable:
        return Check(name, "unknown", "too few records to tell", "Log ten different members and non-members, or more.")
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
    n = int((~result.membership).sum())
    if what != "accuracy" and n < _FEW:
        return Check(name, "unknown", figure, f"{n} non-members are too few to tell; log a larger holdout.")
    if far_off(result):
        return Check(name, "wrong", figure, far_off(result).partition(" says little. ")[2])
    if unlike_references(result, key):
        return Check(
            name,
            "look",
            figure,
            "The references may follow another recipe than the target. Log it: log_lineage(recipe=...).",
        )
    return Check(name, "ok", figure, "Nothing to do: the references generalise like the target.")


def unlike_references(result: AuditResult, key: str) -> bool:
    """Whether target and references differ in a figure of fidelity by more than they may, and more than by chance."""
    fidelity, n = result.fidelity, int((result.membership == key.startswith("member_")).sum())
    own, reference = fidelity.target[key], fidelity.reference[key]
    tolerance = _GAP
    if key.endswith("_loss"):  # of regressors in the unit of the targets, squared
        tolerance *= max(abs(own), abs(reference)) if key.replace("_loss", "_r2") in fidelity.target else max(own, 1.0)
    if abs(own - reference) <= max(
        tolerance, 0.0 if key in fidelity.apart else 3 * fidelity.reference_std.get(key, 0.0)
    ):
        return False
    if key.endswith("_accuracy"):
        return surely_another_rate(own, n, reference, len(result.membership))
    return fidelity.apart[key] > 1 if key in fidelity.apart else n >= _FEW


def turned_round(result: AuditResult) -> str:
    """That members look less like members than others do, and what that is a sign of; "" if it is not sure."""
    attack = headline_attack(result)
    auc = attack.metrics.get("auc")
    if auc is None or not auc.resolvable or not auc.high < 0.5:
        return ""
    outputs = "the model's outputs stand in another order than the labels (say it: classes=[...])"
    if result.task in ("regression", "language"):
        outputs = "the records are not those that the model was trained on"
    return (
        f"Something is turned round: {plain_text(attack.title, 60)} takes members for non-members (AUC "
        f"{format_estimate(auc)}, all of it below one half), which no model does by what it has learned. Either "
        f"{outputs}, or training and held-out data are swapped, or differ in themselves. No figure here means that "
        "the model gives nothing away."
    )


def far_off(result: AuditResult) -> str:
    """How references differ from the model so much that comparing with them says little, and why; "" if they do not.

    A loss many times theirs on records that nobody trained on is that of inputs the model does not know: a training
    loop that scaled them outside the model.
    """
    own, reference = result.fidelity.target, result.fidelity.reference
    n_outside = int((~result.membership).sum())
    found = []
    for key, what in (("nonmember_accuracy", "records not trained on"), ("member_accuracy", "their own records")):
        far = key in own and key in reference and abs(own[key] - reference[key]) > _FAR
        if far and unlike_references(result, key):
            found.append(f"accuracy {reference[key]:.3f} on {what}, this model {own[key]:.3f}")
    losses = [values.get("nonmember_loss", 0.0) for values in (own, reference)]
    far = n_outside >= _FEW and min(losses) > 0 and max(losses) > _TIMES * min(losses)
    if far and unlike_references(result, "nonmember_loss"):
        found.append(f"mean loss {losses[1]:.3g} on records not trained on, this model {losses[0]:.3g}")
    if not found:
        return ""
    inputs = result.references.get("inputs")
    scaled = "If the training loop scaled or normalised its inputs outside the model"
    if inputs:
        scaled = f"The records hold {inputs}: if the training loop scaled them outside the model"
    return (
        f"The reference models are not like this model: {'; '.join(found)}. What compares with them says little. "
        f"{scaled}, log the records as the model takes them, or put the scaling into the model. Else the recipe is "
        "not the target's: log_lineage(recipe=...)."
    )


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
    name = "Duplicates"
    figure, action, share = copies_said(result)
    if not figure:
        return Check(name, "ok", "no record occurs more than once", "Nothing to do.")
    plain = result.copies is None or result.copies.basis == "unique"
    return Check(name, "ok" if plain and share <= _FEW_COPIES else "look", figure, action)


def copies_said(result: AuditResult) -> tuple[str, str, float]:
    """What an audit says of records that occur more than once: how many, what to do, and their share; "" if none do."""
    copies, n = result.copies, len(result.membership)
    if copies is None:
        found = int(result.n_duplicates)
        figure = f"{found:,} held-out records are exact copies of training records and are not scored"
        return (figure if found else ""), _ACTIONS["unique"], found / max(found + n, 1)
    found = copies.members + copies.nonmembers
    both = f", {copies.on_both:,} different ones on both sides" if copies.on_both else ""
    figure = (
        f"{copies.members:,} training records and {copies.nonmembers:,} held-out ones occur more than once{both}; "
        f"figures are about {_ABOUT[copies.basis].format(n=n)}"
    )
    repeated = result.repeated
    if repeated is None:
        return figure, _ACTIONS[copies.basis], found / (found + n)
    attack = headline_attack(result)
    auc = repeated.metrics.get(attack.name, {}).get("auc")
    counts = (
        f"{repeated.n_members:,} repeated training records against {repeated.n_nonmembers:,} repeated held-out ones"
    )
    said = "too few to compare" if auc is None else f"{plain_text(attack.title, 60)} AUC {format_estimate(auc)}"
    return f"{figure}. Apart from these, {counts}: {said}", _ACTIONS[copies.basis], found / (found + n)


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
        action = "Log each part with mlflow_privacy.log_lineage, which keeps a SHA-256 of all its values"
        if count["weakly verified"]:
            action += "; MLflow's own digest has 32 bits and covers 10,000 rows, and numbers and strings only"
        return Check(name, "look", figure, f"{action}.")
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


def _compared(choice: HeadlineChoice, title: str) -> str:
    """Which attack was chosen on the references, and what each found of them.

    >>> from mlflow_privacy.types import AttackStrength
    >>> rows = (AttackStrength("lira", 0.53, 0.01, 4), AttackStrength("rmia", 0.31, 0.01, 4))
    >>> _compared(HeadlineChoice("lira", "tpr_at_fpr_0.01", rows), "LiRA")
    'LiRA was chosen on 4 reference models before the target was scored, by the TPR at 1 % FPR: lira 0.530, rmia 0.310'
    """
    by = "AUC" if choice.metric == "auc" else "TPR at 1 % FPR"
    found = ", ".join(f"{row.name} {row.mean:.3f}" for row in choice.table)
    n = max(row.n for row in choice.table)
    return f"{title} was chosen on {n} reference models before the target was scored, by the {by}: {found}"


def _worse(result: AuditResult) -> str:
    """Which attack of a pair counts, and what its intervals allow for."""
    titles = {attack.name: plain_text(attack.title, 60) for attack in result.attacks}
    assert result.choice is not None
    pair = " and ".join(titles[name] for name in result.choice.pair)
    return f"the worse of {pair} counts: {titles[result.choice.name]}; the intervals of both hold together"


def _choice(result: AuditResult) -> Check:
    name, n = "Choice of the attack", len(result.attacks)
    title = plain_text(headline_attack(result).title, 60)
    if n == 1:
        return Check(name, "ok", f"one attack ran: {title}", "Further attacks may find more.")
    if result.choice is not None and result.choice.pair:
        return Check(
            name,
            "ok",
            _worse(result),
            "References of one group cannot tell which attack is the stronger one: with twice as many it is chosen "
            "before the target is scored, and intervals are narrower.",
        )
    if result.choice is not None:
        return Check(name, "ok", _compared(result.choice, title), "It counts, whatever the others find of the target.")
    return Check(
        name,
        "ok",
        f"{title} was named before the results were known; {n} attacks ran",
        "Another attack that looks stronger here may do so by chance: name it as headline in the next audit.",
    )
