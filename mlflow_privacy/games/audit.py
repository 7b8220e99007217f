"""What a game asks of the models besides their membership signals, and how its answer is made of what they said.

The attacks run for every game; their scores and signals are what a game is played with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.attacks import ATTACKS, available
from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import ConfigError, DesignError
from mlflow_privacy.fingerprint import data_digest, digest
from mlflow_privacy.games.dp.game import check_coins, play_dp
from mlflow_privacy.games.options import DpOptions, GameOptions, RangeOptions, UsageOptions, game_options
from mlflow_privacy.games.range.functions import sample_range
from mlflow_privacy.games.range.game import RangePart, play_range
from mlflow_privacy.games.usage.game import play_usage
from mlflow_privacy.types import AttackResult, AuditTarget, GameResult, ModelOutputs, Records, Signals

_NEIGHBOURS = 2000  # records that a default radius is measured on


@dataclasses.dataclass(frozen=True)
class Ranges:
    """The points of one set of ranges: the centres and n_samples points around each."""

    name: str
    centres: Records
    samples: Records


@dataclasses.dataclass(frozen=True)
class Game:
    """One game of one audit.

    Attributes:
      options: of the game, None for membership.
      ranges: of the game "range".
      function: which range function drew them, and `radius` if that is an l2 ball.
    """

    name: str
    options: GameOptions | None
    ranges: tuple[Ranges, ...] = ()
    function: str = ""
    radius: float | None = None

    @property
    def data(self) -> tuple[Records, ...]:
        """What every model is asked about besides pool and population."""
        parts: list[Records] = []
        for part in self.ranges:
            parts += [part.samples] if part.name == "own" else [part.samples, part.centres]
        return tuple(parts)

    @property
    def keys(self) -> tuple[str, ...]:
        """Under which a model's answers about each of `data` are stored."""
        return tuple(digest({"game": self.name, "data": data_digest(records)}) for records in self.data)


def check_game(target: AuditTarget, options: AuditOptions, n_references: int) -> None:
    """Raises if a game cannot be played with these options and this target, before anything is trained.

    Raises:
      ConfigError: an option is unknown or not allowed; the game needs references or canaries and has none.
      DesignError: no fair coin decided about the canaries.
    """
    chosen = game_options(options.game, options.game_options)
    if options.game == "usage" and n_references < 1:
        raise ConfigError(
            'The game "usage" compares the target with reference models, and there are none. '
            f"{target.recipe_problem or 'Set num_ref_models to 8 or so.'}"
        )
    if isinstance(chosen, DpOptions):
        if target.always is None and chosen.canaries != "all":
            raise ConfigError(
                'The game "dp" needs canaries: records of which an independent fair coin decided whether the model '
                "trains on them. Draw the coins with mlflow_privacy.games.canary_coins, train on the canaries that are "
                "in (and on everything else), and log them: log_lineage(train=..., holdout=LEFT_OUT_CANARIES, "
                "canaries=ROWS_OF_TRAIN). If every record of the pool was decided about by such a coin, pass "
                'game_options={"canaries": "all"}; after an ordinary train/test split the bound would mean nothing.'
            )
        free = slice(None) if target.always is None else ~target.always
        check_coins(np.asarray(target.membership, bool)[free])


def check_game_attack(game: Game, names: Sequence[str]) -> None:
    """Raises `ConfigError` if the attack that a game is to take is not there, before anything is trained.

    Args:
      names: of the attacks that run.
    """
    wanted = getattr(game.options, "attack", None)
    if wanted is None:
        return
    if isinstance(game.options, DpOptions) and wanted not in names:
        raise ConfigError(
            f'game_options attack={wanted!r} of the game "dp" is not among the attacks; running are {", ".join(names)}.'
        )
    if isinstance(game.options, RangeOptions) and (wanted not in ATTACKS or ATTACKS[wanted].extras):
        usable = ", ".join(name for name, attack in ATTACKS.items() if not attack.extras)
        raise ConfigError(
            f"game_options attack={wanted!r} cannot score the samples of a range; there are {usable}, without further "
            "signals."
        )


def plan_game(target: AuditTarget, pool: Records, options: AuditOptions) -> Game:
    """The game with the points that it asks about; they depend on pool, options and seed, never on who is a member.

    Args:
      pool: the audited records.
    """
    chosen = game_options(options.game, options.game_options)
    if not isinstance(chosen, RangeOptions):
        return Game(options.game, chosen)
    name = chosen.function or _default_function(pool)
    radius = chosen.radius
    if name == "l2" and radius is None:
        radius = _half_distance(pool, options.random_seed)
    draw = _drawer(name, chosen, target, pool, radius, options)
    ranges = [Ranges("own", pool, draw(pool, chosen.n_samples, 1))]
    if chosen.moved:
        centres = dataclasses.replace(draw(pool, 1, 0), row_ids=pool.row_ids)
        ranges.append(Ranges("moved", centres, draw(centres, chosen.n_samples, 2)))
    return Game(options.game, chosen, tuple(ranges), name, radius)


def play(
    game: Game,
    target: AuditTarget,
    options: AuditOptions,
    *,
    pool: Records,
    member: np.ndarray,
    signals: Signals,
    attacks: Sequence[AttackResult],
    headline: str,
    own: Sequence[ModelOutputs] = (),
    further: Sequence[Sequence[ModelOutputs]] = (),
) -> dict[str, GameResult]:
    """The answer by the game's name; nothing for membership, whose answer the attacks are.

    Args:
      pool: the audited records; member: (n,) bool; signals: of them.
      attacks: their results; headline: the one the verdict is about.
      own: the target's outputs on `game.data`; further: those of each reference.
    """
    chosen = game.options
    shared: dict[str, Any] = {"confidence": options.confidence}
    if isinstance(chosen, DpOptions):
        result = next(attack for attack in attacks if attack.name == (chosen.attack or headline))
        coins = "" if target.always is not None else "An independent fair coin decided about every audited record"
        asked = len(target.membership) if target.always is None else int((~target.always).sum())
        unscored = math.ceil(target.n_duplicates * len(member) / max(asked, 1))
        if unscored:
            coins = (f"{coins}. " if coins else "") + (
                f"{unscored} left-out canaries equal records that were trained on: nobody can tell them apart, so each "
                "counts as wrongly taken for one that is in; canaries that are all different show more"
            )
        return {
            "dp": play_dp(
                result.scores,
                member,
                chosen,
                claims=target.claims,
                attack=result.title,
                coins=coins,
                unscored=unscored,
                seed=options.random_seed,
                **shared,
            )
        }
    if isinstance(chosen, UsageOptions):
        share = float(np.mean(member))
        return {
            "usage": play_usage(signals.target, signals.reference, signals.member, chosen, true_share=share, **shared)
        }
    if isinstance(chosen, RangeOptions):
        parts = _range_parts(game, pool, member, signals, own, further)
        name = _range_attack(chosen, attacks, headline, parts[0].signals)
        near = "A range counts as a member if a record of the pool that was trained on lies in it"
        centre = "A range counts as a member if its own record was trained on; others that may lie in it do not count"
        return {
            "range": play_range(
                parts,
                chosen,
                attack=name,
                attack_options=options.attack_options.get(name, {}),
                function=game.function,
                fprs=options.fprs,
                seed=options.random_seed,
                assumption=f"{near if game.function == 'l2' else centre}.",
                **shared,
            )
        }
    return {}


# --- ranges ------------------------------------------------------------------------------------------------------


def _drawer(
    name: str, chosen: RangeOptions, target: AuditTarget, pool: Records, radius: float | None, options: AuditOptions
) -> Callable[[Records, int, int], Records]:
    """(records, samples of each, stage) -> samples, by a range function with its options."""
    seed = options.random_seed
    if name == "word_replace":
        return _word_drawer(chosen, target, options)
    given: dict[str, Any] = {}
    if name == "l2":
        given = {"radius": radius, "clip": None if chosen.clip is None else tuple(chosen.clip)}
    elif name == "geometric":
        channels = "first" if np.ndim(pool.x) == 4 and pool.x.shape[1] in (1, 3, 4) else "last"
        given = {key: getattr(chosen, key) for key in ("flip", "vertical_flip", "rotate", "shift")}
        given["channels"] = channels
    elif name == "missing_values":
        given = _missing(chosen, pool if target.population is None else target.population, pool, seed)

    def draw(records: Records, n_samples: int, stage: int) -> Records:
        rng = np.random.default_rng(np.random.SeedSequence([seed & 0xFFFFFFFF, seed >> 32, 0x4A96E, stage]))
        return sample_range(name, records, n_samples, rng, **given).records

    return draw


def _word_drawer(
    chosen: RangeOptions, target: AuditTarget, options: AuditOptions
) -> Callable[[Records, int, int], Records]:
    """Neighbours of texts by a masked language model, all masks of a batch at once."""
    from mlflow_privacy.signals.language.neighbours import MaskedModel, neighbours
    from mlflow_privacy.text import LanguageModel

    native = target.model.native
    if not isinstance(native, LanguageModel):
        raise ConfigError('The range function "word_replace" is for language models; this model reads no texts.')
    masked = options.masked
    if isinstance(masked, (tuple, list)) and len(masked) == 2:
        masked = MaskedModel(*masked)
    if masked is None:
        if chosen.mask_model is None:
            raise ConfigError(
                'The range function "word_replace" needs a masked language model: '
                'game_options={"mask_model": NAME_OR_FOLDER}, or masked=(model, tokenizer).'
            )
        from mlflow_privacy.zoo.transformers_models import load_masked

        masked = MaskedModel(*load_masked(chosen.mask_model, chosen.mask_tokenizer))

    def draw(records: Records, n_samples: int, stage: int) -> Records:
        texts = [str(text) for text in records.x[native.text_column]]
        drawn = neighbours(
            masked,
            texts,
            n=n_samples,
            replaced=chosen.num_masks,
            seed=(options.random_seed << 2) + stage,
            device=options.device,
        )
        index = np.repeat(np.arange(len(records)), n_samples)
        x = records.x.iloc[index].reset_index(drop=True).assign(**{native.text_column: drawn})
        number = np.tile(np.arange(n_samples), len(records))
        row_ids = np.array([f"{records.row_ids[i]}#{k}" for i, k in zip(index, number)])
        return Records(x, np.asarray(records.y)[index], row_ids)

    return draw


def _missing(chosen: RangeOptions, population: Records, pool: Records, seed: int) -> dict[str, Any]:
    """The unknown columns with what each is drawn from."""
    x = pool.x
    names = list(x.columns) if hasattr(x, "iloc") else list(range(np.asarray(x).reshape(len(x), -1).shape[1]))
    columns = None if chosen.columns is None else list(chosen.columns)
    if columns is None and chosen.num_missing is not None:
        if chosen.num_missing > len(names):
            raise ConfigError(f"num_missing is {chosen.num_missing}, but the records have {len(names)} columns.")
        drawn = np.random.default_rng(np.random.SeedSequence([seed, 0x3155])).choice(
            len(names), chosen.num_missing, replace=False
        )
        columns = [names[j] for j in np.sort(drawn)]
    given = chosen.col_ranges
    if given is not None and not hasattr(given, "items"):
        if columns is None or len(given) != len(columns):
            raise ConfigError(
                f"col_ranges has {len(given)} entries for {0 if columns is None else len(columns)} unknown columns; "
                "give one for each, or a mapping by column."
            )
        given = dict(zip(columns, given))
    if given is not None and not chosen.categorical:
        given = {key: tuple(value) if len(value) == 2 else value for key, value in given.items()}
    return {"columns": columns, "population": population.x, "col_ranges": given}


def _default_function(pool: Records) -> str:
    """Texts: words; images: geometry; all else: a ball."""
    if hasattr(pool.x, "iloc"):
        text = any(getattr(kind, "kind", "O") not in "biuf" for kind in pool.x.dtypes)
        return "word_replace" if text else "l2"
    return "geometric" if np.ndim(pool.x) in (3, 4) else "l2"


def _half_distance(pool: Records, seed: int) -> float:
    """Half of the median distance of a record to its nearest other one: balls that hardly meet."""
    x = _flat(pool.x)
    if len(x) > _NEIGHBOURS:
        x = x[np.random.default_rng(seed).choice(len(x), _NEIGHBOURS, replace=False)]
    from scipy.spatial.distance import cdist

    nearest = []
    for start in range(0, len(x), 256):
        distance = cdist(x[start : start + 256], x)
        distance[np.arange(len(distance)), start + np.arange(len(distance))] = np.inf
        nearest.append(distance.min(1))
    found = float(np.median(np.concatenate(nearest))) / 2
    if not 0 < found < np.inf:
        raise ConfigError("Most records have an exact double, so a radius cannot be guessed; set game_options radius.")
    return found


def _flat(x: Any) -> np.ndarray:
    array = x.to_numpy() if hasattr(x, "iloc") else np.asarray(x)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise ConfigError('The range function "l2" needs numeric features; see missing_values and word_replace.')
    return array.reshape(len(array), -1).astype(np.float64)


def _range_parts(
    game: Game,
    pool: Records,
    member: np.ndarray,
    signals: Signals,
    own: Sequence[ModelOutputs],
    further: Sequence[Sequence[ModelOutputs]],
) -> list[RangePart]:
    """Signals of all samples with who trained on a point of their range."""
    rows = np.concatenate([member[:, None], np.asarray(signals.member, bool)], axis=1)  # (n, 1 + m)
    parts, place = [], 0
    for ranges in game.ranges:
        hits = rows if game.function != "l2" else _hits(ranges.centres, pool, rows, float(game.radius or 0.0))
        repeat = len(ranges.samples) // len(ranges.centres)
        points = _signals_of(signals, own[place], [each[place] for each in further], repeat)
        place += 1
        centre = signals
        if ranges.name != "own":
            centre = _signals_of(signals, own[place], [each[place] for each in further], 1)
            place += 1
        parts.append(RangePart(ranges.name, points, centre, hits[:, 0], hits[:, 1:]))
    return parts


def _hits(centres: Records, pool: Records, rows: np.ndarray, radius: float) -> np.ndarray:
    """(n, 1 + m) bool: whether each model trained on a record of the pool inside each ball."""
    from scipy.spatial.distance import cdist

    x, all_x = _flat(centres.x), _flat(pool.x)
    hits = np.zeros(rows.shape, bool)
    for start in range(0, len(x), 256):
        near = cdist(x[start : start + 256], all_x) <= radius * (1 + 1e-6)
        hits[start : start + 256] = near.astype(np.float32) @ rows.astype(np.float32) > 0
    return hits


def _signals_of(signals: Signals, own: ModelOutputs, further: Sequence[ModelOutputs], repeat: int) -> Signals:
    """The signals of other points about the same records, each `repeat` times."""
    n = len(own.signal)
    reference = np.stack([values.signal for values in further], axis=1) if further else np.zeros((n, 0), np.float32)
    return dataclasses.replace(
        signals, target=own.signal, reference=reference, member=np.repeat(signals.member, repeat, axis=0), extra={}
    )


def _range_attack(chosen: RangeOptions, attacks: Sequence[AttackResult], headline: str, signals: Signals) -> str:
    """The attack that scores the samples: one that needs no extra signals."""
    if chosen.attack is not None:
        attack = ATTACKS.get(chosen.attack)
        reason = "there is no such attack" if attack is None else available(chosen.attack, signals)
        if reason:
            raise ConfigError(f"game_options attack={chosen.attack!r} cannot score the samples of a range: {reason}")
        return chosen.attack
    for name in ("rmia", headline, *(attack.name for attack in attacks), "loss", "gap"):
        if name in ATTACKS and not ATTACKS[name].extras and not available(name, signals):
            return name
    raise DesignError("No attack can score the samples of a range with these signals.")
