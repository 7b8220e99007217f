"""What every model of an audit is asked: about which records, how often, and under which key the answers are kept."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mlflow_privacy.auditing.options import READINGS, AuditOptions
from mlflow_privacy.design import Design
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.fingerprint import data_digest, digest, record_keys
from mlflow_privacy.games.game import Question
from mlflow_privacy.lineage.copies import choose_records
from mlflow_privacy.signals import model_outputs, others_key, outputs_reading, residual_scale
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.types import AuditTarget, ModelOutputs, Reading, Recipe, Records, Task

if TYPE_CHECKING:
    from mlflow_privacy.signals.language.outputs import LanguageAids

_logger = logging.getLogger(__name__)
_TEXTS_AT_ONCE = 32  # unless the caller asks for another batch size: a text is far more work than a row of a table
_PREFIX_TEXTS = 12
_SENT = ("device", "batch_size", "output", "params")
Plain = Callable[[Records], ModelOutputs]


@dataclasses.dataclass(frozen=True)
class Asking:
    """The questions of one audit; call it with a model.

    Attributes:
      data: the audited records of the pool and, if there is one, the population.
      rows: (n,) indices of the audited records in the pool.
      keys: under which a model's answers about each of `data` are stored.
      queries: how many times each record is asked about.
      aids: what the attacker has besides an audited language model.
      n_further: how many of `data`, the last ones, only a game asks about.
      classes: labels in the order of the outputs; order: the same where the lineage says it, else None.
      reading: what the outputs of a PyTorch classifier are, decided on the audited model for all.
      others: of a model that other packages' functions are asked about, what these do.
    """

    data: tuple[Records, ...]
    rows: np.ndarray
    keys: tuple[str, ...]
    queries: int
    task: Task
    classes: np.ndarray | None
    options: AuditOptions
    augmentation: Mapping[str, Any]
    aids: LanguageAids | None = None
    n_further: int = 0
    order: tuple[Any, ...] | None = None
    reading: Reading | None = None
    others: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: of the options those that answering needs, none of the caller's live objects."""
        needed = {name: getattr(self.options, name) for name in _SENT if name in self.options.model_fields_set}
        return {**self.__dict__, "options": AuditOptions(**needed)}

    @property
    def pool(self) -> Records:
        """The audited records."""
        return self.data[0]

    def also(self, further: Sequence[Question]) -> Asking:
        """The same questions, and those of a game about further records."""
        return dataclasses.replace(
            self,
            data=(*self.data, *(question.records for question in further)),
            keys=(
                *self.keys,
                *(_kept(question.key, self.queries, self.order, self._read_key(), self.others) for question in further),
            ),
            n_further=self.n_further + len(further),
        )

    def _read_key(self) -> str | None:
        return _read_key(self.task, self.reading, self.classes, self.options)

    def split(self, answers: Sequence[ModelOutputs]) -> tuple[tuple[ModelOutputs, ...], tuple[ModelOutputs, ...]]:
        """Answers about pool and population, and those about further records."""
        main = len(self.data) - self.n_further
        return tuple(answers[:main]), tuple(answers[main:])

    def __call__(self, model: Any, extras: Sequence[str] = ()) -> tuple[ModelOutputs, ...]:
        """One model's outputs on each of `data`; the extra signals only on the audited records.

        Args:
          extras: keys of `attacks.extra_signals`, of a language model.
        """
        values: list[ModelOutputs] = []
        for records in self.data:
            asked = functools.partial(
                model_outputs,
                model,
                task=self.task,
                classes=self.classes,
                device=self.options.device,
                batch_size=self._batch_size(model),
                scale=residual_scale(values[0]) if values and self.task == "regression" else None,
                extras=() if values else extras,
                aids=self.aids,
                reading=self.reading,
                columns=_columns(self.options),
                params=self.options.params,
            )
            values.append(self._averaged(asked, records))
        return tuple(values)

    def _averaged(self, asked: Plain, records: Records) -> ModelOutputs:
        if self.queries == 1:
            return asked(records)
        from mlflow_privacy.signals.queries import augmented_outputs

        return augmented_outputs(asked, records, self.queries, augmentation=self.augmentation)

    def _batch_size(self, model: Any) -> int:
        if isinstance(model, LanguageModel) and "batch_size" not in self.options.model_fields_set:
            return _TEXTS_AT_ONCE
        return self.options.batch_size


def in_canonical_order(target: AuditTarget) -> AuditTarget:
    """The target with its pool in the order of the records' keys, whoever is a member, and what its figures are about.

    Models trained on different parts of one pool so share its digest, and with it their reference models.

    Raises:
      LineageError: no two records can be compared; see `lineage.copies`.
    """
    keys = record_keys(target.pool)
    if target.scored is None:  # nobody has looked for copies yet
        choice = choose_records(keys, target.membership, target.pool.y, target.always)
        if choice.copies is not None and choice.copies.basis == "distinct":
            target, keys = _with_rows(target, choice.rows), keys[choice.rows]
        target = dataclasses.replace(target, copies=choice.copies, scored=choice.scored, repeated=choice.repeated)
    return _with_rows(target, np.argsort(keys, kind="stable"))


def _with_rows(target: AuditTarget, rows: np.ndarray) -> AuditTarget:
    """The target with these rows of its pool, in this order."""
    taken: dict[str, Any] = {name: getattr(target, name) for name in ("always", "scored", "repeated")}
    taken = {name: None if flag is None else np.asarray(flag, bool)[rows] for name, flag in taken.items()}
    return dataclasses.replace(target, pool=target.pool.take(rows), membership=target.membership[rows], **taken)


def questions(target: AuditTarget, design: Design, options: AuditOptions) -> Asking:
    """What an audit asks of its target and of each reference.

    Raises:
      DesignError: more records are to be audited than there are, or only members, or only non-members.
    """
    audited = _audited(target, design, options)
    pool = target.pool if audited is None else target.pool.take(audited)
    rows = np.arange(len(target.pool)) if audited is None else audited
    _check_both(target.membership[rows], len(rows) if options.data_size == "auto" else options.data_size)
    data = (pool,) if target.population is None else (pool, target.population)
    augmentation, queries = _queries(target.recipe, pool, options)
    classes = _classes(target) if target.task == "classification" else None
    labelled = target.task in ("classification", "multilabel")
    reading = _reading(target, data, classes, options) if labelled else None
    digests = [design.pool_digest if part is target.pool else data_digest(part) for part in data]
    read_key = _read_key(target.task, reading, classes, options)
    others = others_key(target.model.native)
    return Asking(
        data=data,
        rows=rows,
        keys=tuple(_kept(key, queries, target.classes, read_key, others) for key in digests),
        queries=queries,
        task=target.task,
        classes=classes,
        options=options,
        augmentation=augmentation,
        aids=_aids(target, options),
        order=target.classes,
        reading=reading,
        others=others,
    )


def _audited(target: AuditTarget, design: Design, options: AuditOptions) -> np.ndarray | None:
    """Indices of the records that are asked about, None for all; all of the pool trains."""
    free = np.ones(design.n, bool) if target.scored is None else np.asarray(target.scored, bool)
    available = int((free if design.always is None else free & ~design.always).sum())
    size = options.records_audited(available)
    if options.data_size == "auto" and size is not None:
        _logger.info(
            "%d of the %d records that can be audited are, drawn at random whoever is a member; reference models train "
            "on their share of all. data_size='all' audits all.",
            *(size, available),
        )
    return design.audited(size, target.scored)


def _classes(target: AuditTarget) -> np.ndarray:
    """Labels in the order of the outputs: sorted, unless the lineage says otherwise."""
    return np.unique(target.pool.y) if target.classes is None else np.asarray(target.classes)


def _reading(
    target: AuditTarget, data: Sequence[Records], classes: np.ndarray | None, options: AuditOptions
) -> Reading | None:
    """What the target's outputs are, and so those of its references: as the caller says, else of PyTorch's alone."""
    if options.output in READINGS:
        return cast("Reading", options.output)
    settings = target.recipe.spec.get("settings") if target.recipe is not None else None
    loss = settings.get("loss") if isinstance(settings, Mapping) else None
    return outputs_reading(
        target.model.native,
        data,
        task=target.task,
        classes=classes,
        loss=loss if isinstance(loss, str) else None,
        device=options.device,
        batch_size=options.batch_size,
    )


def _columns(options: AuditOptions) -> tuple[str, ...]:
    """Names of the outputs that count, () where none are named."""
    return () if options.output is None or options.output in READINGS else tuple(options.output)


def _read_key(task: Task, reading: Reading | None, classes: np.ndarray | None, options: AuditOptions) -> str | None:
    """What distinguishes answers that are kept from those of before, where these could be read in another way."""
    key = None
    if task == "regression":
        key = "scale of the median"
    elif task == "multilabel":
        key = f"labels as {reading}"
    elif classes is not None and len(classes) == 2:
        key = reading
    if options.output is None and not options.params:
        return key
    said = {"output": options.output, "params": {str(name): str(value) for name, value in options.params.items()}}
    return digest({"key": key, **said})


def _kept(key: str, queries: int, order: Sequence[Any] | None, reading: str | None, others: str | None) -> str:
    """The key of answers that are means over several queries of a record, or read or made in an own way."""
    if order is not None:
        key = digest({"data": key, "classes": list(order)})
    if reading is not None:
        key = digest({"data": key, "reading": reading})
    if others is not None:
        key = digest({"data": key, "functions": others})
    return key if queries == 1 else digest({"data": key, "queries": queries})


def _check_both(member: np.ndarray, data_size: int | str | None) -> None:
    """Raises `DesignError` if the audited records are all members or all non-members."""
    if member.all() or not member.any():
        which = "members" if member.any() else "non-members"
        raise DesignError(
            f"All {len(member)} audited records are {which} (data_size={data_size}); an audit needs both. "
            "Raise data_size, or leave it out."
        )


def _queries(recipe: Recipe | None, records: Records, options: AuditOptions) -> tuple[Mapping[str, Any], int]:
    """The augmentation that the recipe trains with, and how many queries of a record it makes meaningful."""
    from mlflow_privacy.signals.queries import effective_queries

    settings = recipe.spec.get("settings") if recipe is not None else None
    augmentation = dict(settings.get("augmentation") or {}) if isinstance(settings, Mapping) else {}
    asked_for = "num_queries" in options.model_fields_set
    return augmentation, effective_queries(records, options.num_queries, augmentation, asked_for=asked_for)


def _aids(target: AuditTarget, options: AuditOptions) -> LanguageAids | None:
    """Base model, masked model and prefix for the attacks on a causal language model; None for any other."""
    native = target.model.native
    if not isinstance(native, LanguageModel) or native.objective != "causal_lm":
        return None
    from mlflow_privacy.signals.language.neighbours import MaskedModel
    from mlflow_privacy.signals.language.outputs import LanguageAids

    base, masked = options.base, options.masked
    if base is not None and not isinstance(base, LanguageModel):  # a plain model, with the target's tokenizer
        base = dataclasses.replace(native, model=base)
    if isinstance(masked, (tuple, list)) and len(masked) == 2:
        masked = MaskedModel(*masked)
    if masked is not None and not isinstance(masked, MaskedModel):
        raise ConfigError(f"masked must be (model, tokenizer) of a masked language model, got {type(masked).__name__}.")
    if base is None and target.recipe is not None and isinstance(target.recipe.template, LanguageModel):
        base = target.recipe.template
    prefix = tuple(options.prefix)
    if not prefix and target.population is not None:  # of nobody who is audited
        prefix = tuple(target.population.x[native.text_column].tolist()[:_PREFIX_TEXTS])
    return LanguageAids(base, masked, prefix)
