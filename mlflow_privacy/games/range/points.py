"""Where the points of a range come from, and which models trained on one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError
from mlflow_privacy.games.game import Setting
from mlflow_privacy.games.range.functions import sample_range
from mlflow_privacy.games.range.options import RangeOptions
from mlflow_privacy.types import AuditTarget, Records

_NEIGHBOURS = 2000  # records that a default radius is measured on


def drawer(
    name: str, chosen: RangeOptions, target: AuditTarget, pool: Records, radius: float | None, setting: Setting
) -> Callable[[Records, int, int], Records]:
    """(records, samples of each, stage) -> samples, by a range function with its options."""
    seed = setting.seed
    if name == "word_replace":
        return _word_drawer(chosen, target, setting)
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


def _word_drawer(chosen: RangeOptions, target: AuditTarget, setting: Setting) -> Callable[[Records, int, int], Records]:
    """Neighbours of texts by a masked language model, all masks of a batch at once."""
    from mlflow_privacy.signals.language.neighbours import MaskedModel, neighbours
    from mlflow_privacy.text import LanguageModel

    native = target.model.native
    if not isinstance(native, LanguageModel):
        raise ConfigError('The range function "word_replace" is for language models; this model reads no texts.')
    masked = setting.masked
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
            seed=(setting.seed << 2) + stage,
            device=setting.device,
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


def default_function(pool: Records) -> str:
    """Texts: words; images: geometry; all else: a ball."""
    if hasattr(pool.x, "iloc"):
        text = any(getattr(kind, "kind", "O") not in "biuf" for kind in pool.x.dtypes)
        return "word_replace" if text else "l2"
    return "geometric" if np.ndim(pool.x) in (3, 4) else "l2"


def half_distance(pool: Records, seed: int) -> float:
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


def hits_of(centres: Records, pool: Records, rows: np.ndarray, radius: float) -> np.ndarray:
    """(n, 1 + m) bool: whether each model trained on a record of the pool (rows of it) inside each ball."""
    from scipy.spatial.distance import cdist

    x, all_x = _flat(centres.x), _flat(pool.x)
    found = np.zeros((len(x), rows.shape[1]), bool)
    for start in range(0, len(x), 256):
        near = cdist(x[start : start + 256], all_x) <= radius * (1 + 1e-6)
        found[start : start + 256] = near.astype(np.float32) @ rows.astype(np.float32) > 0
    return found
