"""What an audit would do and cost, without doing it: the same steps up to where references are trained."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlflow_privacy.auditing.afford import least_groups
from mlflow_privacy.auditing.choice import ask_target, needs_references
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.prepare import Prepared, prepare
from mlflow_privacy.auditing.price import Price, lasting
from mlflow_privacy.auditing.references import Store, covers, foresee, one_reference, reference_key, usable_imported
from mlflow_privacy.auditing.training import How
from mlflow_privacy.types import AuditTarget, DataSource

_FEW = 64  # records that the model is asked about, to see what it gives


@dataclasses.dataclass(frozen=True)
class AuditPlan:
    """What an audit would do; `str` of it is a page for a terminal.

    Attributes:
      model: as the caller named it.
      task: "classification", "regression" or "multilabel".
      sources: where the data was found, and whether it is what was logged.
      n_members, n_nonmembers: records of the pool.
      n_audited: of these, those that figures are about.
      n_population: records of the population; None where the non-members stand in.
      recipe: how references are trained, in words; "" where they cannot be.
      problem: why they cannot be, with the remedy.
      fraction: share of the pool that each reference trains on; group: references per group.
      price: of the reference models; None where there are to be none.
      time_budget: seconds; least: groups that are trained whatever they take.
      attacks: names of those that run.
      notes: what lineage has to say of the data.
    """

    model: str
    task: str
    sources: tuple[DataSource, ...]
    n_members: int
    n_nonmembers: int
    n_audited: int
    n_population: int | None
    recipe: str
    problem: str
    fraction: float
    group: int
    price: Price | None
    time_budget: float | None
    least: int
    attacks: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        pool = self.n_members + self.n_nonmembers
        rows = [("Model", f"{self.model}, {self.task}")]
        rows += [("Data", _source(source)) for source in self.sources]
        audited = "all" if self.n_audited == pool else f"{self.n_audited:,}"
        rows.append(("Pool", f"{self.n_members:,} members, {self.n_nonmembers:,} non-members; {audited} are audited"))
        stand_in = "none: the non-members stand in"
        rows.append(("Population", stand_in if self.n_population is None else f"{self.n_population:,} records"))
        rows.append(("Recipe", self.recipe or f"none. {self.problem}"))
        if self.price is None:
            rows.append(("References", "none"))
        else:
            share = f"each trains on {self.fraction:.3g} of the pool, {self.group} of them are a group"
            rows += [("References", str(self.price)), ("Design", share)]
        if self.price is not None and self.time_budget is not None:
            rows.append(("Time budget", f"{lasting(self.time_budget)}: {_fitting(self.price, self)}"))
        rows.append(("Attacks", ", ".join(self.attacks)))
        rows += [("Note", note) for note in self.notes]
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join(f"{name.ljust(width)}{text}" for name, text in rows)


def plan_audit(target: AuditTarget, options: AuditOptions, store: Store) -> AuditPlan:
    """What `audit` of this target would do; trains nothing, and writes nothing to the store.

    The model is asked about a few records, so that attacks and options that do not fit it are told here already.

    Raises:
      ConfigError, DesignError, SignalError: as `audit` would.
    """
    ready = prepare(target, options, store)
    target, groups = ready.target, -(-ready.n_references // ready.design.group)
    parts = tuple(part.take(np.arange(min(len(part), _FEW))) for part in ready.ask.data)
    few = dataclasses.replace(ready.ask, data=parts)
    names, answers = ask_target(target, few, options, groups=groups)
    ready.game.check(target, ready.n_references, names)
    price = None
    if ready.n_references and (ready.game.uses_references or needs_references(names)):
        price = _price(ready, options, store)
    member = np.asarray(target.membership, bool)
    return AuditPlan(
        model=target.model.uri,
        task=target.task,
        sources=target.sources,
        n_members=int(member.sum()),
        n_nonmembers=int((~member).sum()),
        n_audited=len(ready.ask.pool),
        n_population=None if target.population is None else len(target.population),
        recipe=_recipe(ready),
        problem=target.recipe_problem,
        fraction=ready.design.fraction,
        group=ready.design.group,
        price=price,
        time_budget=options.time_budget,
        least=least_groups(options, answers[0].link, groups),
        attacks=names,
        notes=(*target.doubts, *target.warnings),
    )


def _price(ready: Prepared, options: AuditOptions, store: Store) -> Price:
    """What `ensure` would find and train."""
    target, design, recipe = ready.target, ready.design, ready.target.recipe
    assert recipe is not None
    members = np.asarray(target.membership, bool)
    rows = [row for _, row in usable_imported(store, recipe, design, members)]
    if "num_ref_models" in options.model_fields_set:
        rows = rows[: ready.n_references]
        count = ready.n_references - len(rows)
    else:
        whole = bool(rows) and covers(design.together(np.stack(rows))[:, ready.ask.rows])
        count = 0 if whole else ready.n_references
    keys = [reference_key(design, recipe, index) for index in range(count)]
    found = store.find(keys[0].fingerprint) if keys else {}
    stored = [found[key.index] for key in keys if key.index in found and found[key.index].key == key]
    return foresee(
        *(recipe, target.pool, design, How(options.executor, options.n_workers), options.device, store),
        stored=stored,
        imported=len(rows),
        missing=count - len(stored),
        size=one_reference(target, ready.ask),
    )[0]


def _fitting(price: Price, plan: AuditPlan) -> str:
    """How many of the missing references the budget pays, by what they are expected to take."""
    least = min(plan.least * plan.group, price.found + price.missing)
    if price.seconds is None:
        return f"whole groups, as many as fit, {least} references at least."
    fitting = int((plan.time_budget or 0.0) * price.missing / max(price.seconds, 1e-9)) // plan.group * plan.group
    fitting = min(max(fitting, least - price.found, 0), price.missing)
    return (
        "all of them fit." if fitting == price.missing else f"about {fitting} of the {price.missing} missing ones fit."
    )


def _recipe(ready: Prepared) -> str:
    recipe = ready.target.recipe
    if recipe is None or ready.target.recipe_problem:
        return ""
    what = type(getattr(recipe.template, "model", recipe.template)).__name__
    return f"{recipe.kind}, a {what}{f', from {recipe.source}' if recipe.source else ''}"


def _source(source: DataSource) -> str:
    return (
        f"{source.n_records:,} {source.role.replace('_', '-')}: {source.name!r} from {source.source} ({source.status})"
    )
