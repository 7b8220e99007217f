"""What an audit is about to do, before anybody is asked anything: the split of the pool, the game, the questions."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.questions import Asking, in_canonical_order, questions
from mlflow_privacy.auditing.records_view import check_slices
from mlflow_privacy.auditing.references import Store, design_for, number_of_references, too_big
from mlflow_privacy.auditing.repeated import ask_repeated
from mlflow_privacy.design import Design
from mlflow_privacy.games.game import Game, Question, make_game
from mlflow_privacy.types import AuditTarget


class Prepared(NamedTuple):
    """An audit that is ready to begin.

    Attributes:
      target: its pool in canonical order.
      n_references: that there are to be.
      ask: about pool and population, then what `further` and `aside` hold.
      further: records that only the game asks about.
      aside: records that occur more than once, where these are scored apart.
    """

    target: AuditTarget
    design: Design
    n_references: int
    game: Game
    ask: Asking
    further: tuple[Question, ...]
    aside: tuple[Question, ...]


def prepare(target: AuditTarget, options: AuditOptions, store: Store) -> Prepared:
    """What an audit of this target does with these options; nothing is trained, and nobody is asked.

    Raises:
      ConfigError: the game, a slice or an option of the model does not fit.
      DesignError: the pool is too small, or `num_ref_models` does not fit `reference_fraction`.
    """
    target = in_canonical_order(target)
    design = design_for(target, options)
    count = number_of_references(target, design, options)
    problem = too_big(target, design, options, store) if count else ""
    if problem:
        target, count = dataclasses.replace(target, recipe_problem=problem), 0
    design.check_count(count)
    game = make_game(options.game, options.game_options, options.setting)
    game.check(target, count, None)
    ask = questions(target, design, options)
    check_slices(ask.pool, options.slices)
    further = game.questions(target, ask.pool)
    aside = ask_repeated(target, design, options)
    return Prepared(target, design, count, game, ask.also((*further, *aside)), tuple(further), tuple(aside))
