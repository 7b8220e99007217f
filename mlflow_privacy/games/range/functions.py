"""Points of a range: what counts as near a record, as functions that draw samples. A registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import ConfigError, DesignError, nearest
from mlflow_privacy.types import Records


@dataclasses.dataclass(frozen=True)
class RangeSamples:
    """Samples of n ranges, s of each, range after range.

    Attributes:
      records: n · s records; row ids are the centre's with "#k"; labels are the centre's.
      range_index: (n · s,) int64, which centre each was drawn around.
    """

    records: Records
    range_index: np.ndarray


# (records, n_samples, rng, **options) -> samples around each record, itself not necessarily among them.
RangeFunction = Callable[..., RangeSamples]

RANGE_FUNCTIONS: dict[str, RangeFunction] = {}


def range_function(name: str) -> Callable[[RangeFunction], RangeFunction]:
    """Decorator that registers a range function under `name`.

    >>> range_function("l2")(l2_ball)
    Traceback (most recent call last):
    mlflow_privacy.errors.ConfigError: A range function "l2" is registered already; take another name.
    """

    def register(function: RangeFunction) -> RangeFunction:
        if name in RANGE_FUNCTIONS:
            raise ConfigError(f'A range function "{name}" is registered already; take another name.')
        RANGE_FUNCTIONS[name] = function
        return function

    return register


def sample_range(name: str, records: Records, n_samples: int, rng: np.random.Generator, **options: Any) -> RangeSamples:
    """Samples of the ranges around `records` by a registered function.

    Raises: ConfigError: no such function, or n_samples < 1.

    Example:
      >>> one = Records(np.zeros((1, 2)), np.array([0]), np.array(["a"]))
      >>> sample_range("l2", one, 3, np.random.default_rng(0), radius=1.0).records.row_ids.tolist()
      ['a#0', 'a#1', 'a#2']
    """
    if name not in RANGE_FUNCTIONS:
        hint = nearest(name, RANGE_FUNCTIONS, shown='"{}"'.format) or "."
        raise ConfigError(f'There is no range function "{name}"{hint} There are {", ".join(sorted(RANGE_FUNCTIONS))}.')
    if n_samples < 1:
        raise ConfigError(f"n_samples must be at least 1, got {n_samples}.")
    return RANGE_FUNCTIONS[name](records, n_samples, rng, **options)


def perturbed_centres(name: str, records: Records, rng: np.random.Generator, **options: Any) -> Records:
    """Centres that are not the records themselves: one sample of each record's range.

    A query need not contain the training point exactly; ranges around these centres still hold it where nearness is
    mutual (an l2 ball of the same radius, a flip, the same missing columns). Row ids are the records' own.

    Example:
      >>> one = Records(np.zeros((1, 2)), np.array([0]), np.array(["a"]))
      >>> moved = perturbed_centres("l2", one, np.random.default_rng(0), radius=1.0)
      >>> 0 < float(np.linalg.norm(moved.x)) <= 1, moved.row_ids.tolist()
      (True, ['a'])
    """
    moved = sample_range(name, records, 1, rng, **options).records
    return dataclasses.replace(moved, row_ids=records.row_ids)


@range_function("l2")
def l2_ball(
    records: Records,
    n_samples: int,
    rng: np.random.Generator,
    *,
    radius: float,
    clip: tuple[float, float] | None = None,
) -> RangeSamples:
    """Uniform in the Euclidean ball around each record: numeric arrays, images and numeric frames.

    Args:
      radius: of the ball, in the units of the features.
      clip: (low, high) of valid values, such as (0, 1) of pixels.

    Example:
      >>> one = Records(np.zeros((1, 3)), np.array([0]), np.array(["a"]))
      >>> drawn = l2_ball(one, 100, np.random.default_rng(0), radius=2.0).records.x
      >>> bool((np.linalg.norm(drawn, axis=1) <= 2.0).all())
      True
    """
    if radius <= 0:
        raise ConfigError(f"radius must be positive, got {radius}.")
    x = _numeric(records.x, "l2")
    flat = np.repeat(x.reshape(len(x), -1), n_samples, axis=0)
    step = rng.normal(size=flat.shape)
    # A uniform point: a random direction, and a length whose d-th power is uniform.
    length = radius * rng.random((len(flat), 1)) ** (1 / max(flat.shape[1], 1))
    drawn = flat + step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-300) * length
    if clip is not None:
        drawn = np.clip(drawn, *clip)
    drawn = drawn.reshape(-1, *x.shape[1:]).astype(x.dtype if np.issubdtype(x.dtype, np.floating) else np.float32)
    if hasattr(records.x, "iloc"):
        import pandas as pd

        return _samples(records, pd.DataFrame(drawn, columns=records.x.columns), n_samples)
    return _samples(records, drawn, n_samples)


@range_function("geometric")
def geometric(
    records: Records,
    n_samples: int,
    rng: np.random.Generator,
    *,
    flip: bool = True,
    vertical_flip: bool = False,
    rotate: float = 15.0,
    shift: int = 2,
    channels: str = "last",
) -> RangeSamples:
    """Images flipped, rotated and shifted at random; edges are continued.

    Args:
      flip: left and right change places in half of the samples.
      vertical_flip: top and bottom do, in half of the samples.
      rotate: degrees, uniform in [−rotate, rotate]; 0 for none.
      shift: pixels, uniform whole numbers in [−shift, shift] each way.
      channels: "last" for (n, h, w, c) and (n, h, w), "first" for (n, c, h, w).

    Example:
      >>> image = Records(np.arange(4.0).reshape(1, 2, 2), np.array([0]), np.array(["a"]))
      >>> drawn = geometric(image, 8, np.random.default_rng(0), rotate=0, shift=0).records.x
      >>> np.unique(drawn.reshape(8, 4), axis=0)
      array([[0., 1., 2., 3.],
             [1., 0., 3., 2.]])
    """
    from scipy import ndimage

    x = _numeric(records.x, "geometric")
    faults = []
    if x.ndim not in (3, 4):
        faults.append(f"geometric needs images (n, h, w) or with channels, got shape {x.shape}")
    if channels not in ("first", "last"):
        faults.append(f'channels must be "first" or "last", got {channels!r}')
    if shift < 0 or rotate < 0:
        faults.append(f"rotate and shift must be >= 0, got {rotate} and {shift}")
    if faults:
        raise ConfigError("; ".join(faults) + ".")
    axes = (1, 2) if channels == "first" and x.ndim == 4 else (0, 1)
    drawn = np.repeat(x, n_samples, axis=0)
    turns = rng.random(len(drawn)) < 0.5
    angles = rng.uniform(-rotate, rotate, len(drawn))
    moves = rng.integers(-shift, shift + 1, size=(len(drawn), 2))
    falls = rng.random(len(drawn)) < 0.5 if vertical_flip else np.zeros(len(drawn), bool)
    for i, (turn, fall, angle, move) in enumerate(zip(turns, falls, angles, moves)):
        image = np.flip(drawn[i], axes[1]) if flip and turn else drawn[i]
        image = np.flip(image, axes[0]) if fall else image
        if rotate:
            image = ndimage.rotate(image.astype(np.float64), angle, axes, reshape=False, order=1, mode="nearest")
        if shift:
            offsets = np.zeros(image.ndim)
            offsets[list(axes)] = move
            image = ndimage.shift(image, offsets, order=0, mode="nearest")
        drawn[i] = np.rint(image) if np.issubdtype(x.dtype, np.integer) else image
    return _samples(records, drawn, n_samples)


@range_function("missing_values")
def missing_values(
    records: Records,
    n_samples: int,
    rng: np.random.Generator,
    *,
    columns: Sequence[Any] | None = None,
    population: Any = None,
    col_ranges: Mapping[Any, Any] | None = None,
) -> RangeSamples:
    """Records of which some columns are unknown: each sample fills them in.

    A column in `col_ranges` is drawn from what is given: (low, high) uniformly for a numeric one (whole numbers stay
    whole), a list of values for a categorical one. Any other is drawn from the population's marginal: a value of a
    random record that is not missing itself.

    Args:
      columns: names (frames) or positions (arrays) of the unknown columns; None takes the cells that are missing (NaN
        or None) in each record.
      population: frame or array of the same columns.
      col_ranges: by column.

    Raises: ConfigError: unknown columns, or a column with neither range nor population. DesignError: nothing missing.

    Example:
      >>> one = Records(np.array([[1.0, np.nan]]), np.array([0]), np.array(["a"]))
      >>> missing_values(one, 3, np.random.default_rng(0), population=np.array([[0.0, 7.0]])).records.x.tolist()
      [[1.0, 7.0], [1.0, 7.0], [1.0, 7.0]]
    """
    import pandas as pd

    is_frame = hasattr(records.x, "iloc")
    if not is_frame and np.ndim(records.x) != 2:
        raise ConfigError(f"missing_values needs a table (n, d), got shape {np.shape(records.x)}.")
    frame = records.x if is_frame else pd.DataFrame(np.asarray(records.x))
    ranges = dict(col_ranges or {})
    names = list(frame.columns)
    unknown = [c for c in [*(columns if columns is not None else ()), *ranges] if c not in names]
    if unknown:
        raise ConfigError(f"No such columns: {unknown[:5]}; the records have {names[:20]}.")
    mask = (
        frame.isna().to_numpy()
        if columns is None
        else np.tile(np.isin(np.arange(len(names)), [names.index(c) for c in columns]), (len(frame), 1))
    )
    wanted = [c for j, c in enumerate(names) if mask[:, j].any()]
    if not wanted:
        raise DesignError("No column is named in `columns` and no cell is missing: there is no range to draw from.")
    source = None
    if population is not None:
        source = population if hasattr(population, "iloc") else pd.DataFrame(np.asarray(population), columns=names)
    homeless = [c for c in wanted if c not in ranges and (source is None or c not in source or source[c].isna().all())]
    if homeless:
        raise ConfigError(f"Columns {homeless[:5]} need col_ranges, or a population with values in them.")
    drawn = frame.iloc[np.repeat(np.arange(len(frame)), n_samples)].reset_index(drop=True)
    rows = np.repeat(mask, n_samples, axis=0)
    for c in wanted:
        where = rows[:, names.index(c)]
        size = int(where.sum())
        values = _from_range(ranges[c], size, rng) if c in ranges else _from_marginal(source[c], size, rng)  # type: ignore[index]
        # Through objects and back: a column of integers that was float for its NaN, or categories, keep their kind.
        filled = drawn[c].astype(object)
        filled[where] = list(values)
        drawn[c] = filled.astype(frame[c].dtype) if _fits(filled, frame[c].dtype) else filled.infer_objects()
    if not is_frame:  # whole numbers between which fractions were drawn are fractions from here on
        kind = np.asarray(records.x).dtype
        drawn = drawn.to_numpy(dtype=kind if kind.kind == "f" else None)
    return _samples(records, drawn, n_samples)


@range_function("word_replace")
def word_replace(
    records: Records,
    n_samples: int,
    rng: np.random.Generator,
    *,
    fill: Callable[[Sequence[str], int, np.random.Generator], str],
    share: float = 0.15,
) -> RangeSamples:
    """Texts of which a share of the words is replaced, one after the other, by what a masked language model says.

    Args:
      fill: (words, position, rng) -> the word at `position`; `words` holds the others as they are then. No model is
        loaded here.
      share: of the words, in (0, 1]; at least one is replaced.

    Example:
      >>> one = Records(np.array(["a b c"]), np.array([0]), np.array(["t"]))
      >>> drawn = word_replace(one, 2, np.random.default_rng(0), fill=lambda words, i, rng: words[i].upper(), share=1.0)
      >>> drawn.records.x.tolist()
      ['A B C', 'A B C']
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share must be in (0, 1], got {share}.")
    texts = [str(t) for t in np.asarray(records.x, object).reshape(len(records))]
    drawn = []
    for text in texts:
        for _ in range(n_samples):
            words = text.split()
            count = min(len(words), max(1, round(share * len(words))))
            for position in np.sort(rng.choice(len(words), count, replace=False)) if words else ():
                words[position] = fill(tuple(words), int(position), rng)
            drawn.append(" ".join(words))
    return _samples(records, np.array(drawn, dtype=object), n_samples)


def _samples(records: Records, x: Any, n_samples: int) -> RangeSamples:
    index = np.repeat(np.arange(len(records)), n_samples)
    number = np.tile(np.arange(n_samples), len(records))
    row_ids = np.array([f"{records.row_ids[i]}#{k}" for i, k in zip(index, number)])
    return RangeSamples(Records(x, np.asarray(records.y)[index], row_ids), index)


def _numeric(x: Any, name: str) -> np.ndarray:
    array = x.to_numpy() if hasattr(x, "iloc") else np.asarray(x)
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise ConfigError(f'The range function "{name}" needs numeric features, got {array.dtype}; see missing_values.')
    return array


def _from_range(given: Any, size: int, rng: np.random.Generator) -> Sequence[Any]:
    """(low, high) of numbers uniformly, or one of a list."""
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(v, (int, float)) for v in given):
        low, high = given
        if low > high:
            raise ConfigError(f"col_ranges need (low, high) with low <= high, got {given}.")
        whole = isinstance(low, int) and isinstance(high, int)
        return (rng.integers(low, high + 1, size) if whole else rng.uniform(low, high, size)).tolist()
    values = list(given)
    if not values:
        raise ConfigError("col_ranges need (low, high) or a list of at least one value, got an empty list.")
    return [values[i] for i in rng.integers(len(values), size=size)]


def _from_marginal(column: Any, size: int, rng: np.random.Generator) -> Sequence[Any]:
    values = column.dropna().to_numpy()
    return values[rng.integers(len(values), size=size)].tolist()


def _fits(values: Any, dtype: Any) -> bool:
    """Whether the column can take its old dtype again without loss."""
    try:
        back = values.astype(dtype)
    except (TypeError, ValueError):
        return False
    return bool((back.astype(object) == values).all())
