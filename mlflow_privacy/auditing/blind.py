"""Blind baseline: can members be told from non-members without the model?

If they can, members and non-members differ in distribution, and every attack on them looks stronger than it is (Das,
Zhang and Tramèr 2024, *Blind Baselines Beat Membership Inference Attacks for Foundation Models*,
https://arxiv.org/abs/2406.16201).
"""

from __future__ import annotations

import datetime
import decimal
import logging
from typing import Any

import numpy as np

from mlflow_privacy.errors import DesignError
from mlflow_privacy.fingerprint import record_keys
from mlflow_privacy.metrics.delong import auc_interval, delong, placements
from mlflow_privacy.metrics.roc import tally
from mlflow_privacy.types import Estimate, Records

_logger = logging.getLogger(__name__)

# An alarm is an interval above ½. Each end is passed by chance in at most 5 % of audits at this confidence or more.
BASELINE_CONFIDENCE = 0.9
_FOLDS = 5
_MIN_PER_CLASS = 10
# Caps on cost. Up to 48 columns are used as they are. Of wider records a fold uses the columns that differ most on its
# training part, the leading components, and a summary per record; of very wide ones 1,024 columns at random. Many small
# shifts are found by the linear model, to which a column costs a tenth of what it costs the trees: it sees more.
_MAX_COLUMNS = 48
_SCREENED, _SCREENED_TREES = 64, 16
_COMPONENTS, _COMPONENTS_TREES = 24, 16
# Few steps and few leaves find a shift as well as many: it is faint, or plain to see.
_TREES = {"max_iter": 15, "learning_rate": 0.25, "max_leaf_nodes": 8, "l2_regularization": 1.0, "early_stopping": False}
_MAX_RAW = 1024
_MAX_CATEGORIES = 32
_TEXT_COMPONENTS = 16


def blind_baseline(
    records: Records,
    membership: np.ndarray,
    *,
    seed: int,
    confidence: float = 0.95,
    max_records: int = 20_000,
) -> Estimate:
    r"""AUC of a classifier that sees the records (features and label) but not the model.

    Gradient-boosted trees and a regularised logistic regression are trained with k-fold cross-validation; their
    log-odds are averaged, so that nothing is chosen in hindsight. Scores of different folds come from different
    classifiers and are not comparable: the AUC is taken within each fold and averaged,

    .. math:: \hat\theta = \sum_k w_k \hat\theta_k, \quad w_k \propto n_{1k} n_{0k}, \quad
        V = \left(1 + \tfrac{K}{K-1}\right) \sum_k w_k^2 V_k^{DeLong}

    The folds' AUCs are not independent either: each test fold trains the others. Where there is nothing to find,
    their sum varies by about √2 more than DeLong's variance says (measured: 1.4 to 1.5); the factor is Nadeau and
    Bengio's (2003, https://doi.org/10.1023/A:1024068626366), and is cautious where there is a clear shift.

    An interval above ½ is evidence of a shift. One that holds ½ is not proof that there is none: another classifier
    may see it. One below ½ is chance, since such a classifier is no worse than guessing on records it can learn from.

    Copies of a record are in one fold, so that no classifier is tested on what it was trained on, and count as one in
    the variance. What occurs more often than a fold has records is taken for a category, whose frequency may differ.

    Args:
      records: n labelled records: a DataFrame of mixed types, a flat array, images, or a list of texts.
      membership: (n,) bool.
      seed: of subsampling, folds and classifiers.
      max_records: larger pools are subsampled, members and non-members as equally as possible.

    Returns: the AUC; not resolvable with fewer than 10 different members or 10 different non-members. `n` counts the
      records in use.

    Raises: DesignError: shapes differ, or there are no members or no non-members.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> membership = np.arange(200) < 100
      >>> x = rng.normal(size=(200, 3)) + 2 * membership[:, None]
      >>> records = Records(x, rng.integers(0, 2, 200), np.arange(200).astype(str))
      >>> blind_baseline(records, membership, seed=0).low > 0.9
      True
    """
    membership = np.asarray(membership, bool)
    if membership.shape != (len(records),):
        raise DesignError(f"membership must have shape ({len(records)},), got {membership.shape}.")
    if membership.all() or not membership.any():
        raise DesignError(
            f"all {len(membership)} records are {'members' if membership.any() else 'non-members'}; both are needed."
        )
    import sklearn.ensemble  # noqa: F401 (the limit below reaches only libraries that are loaded)
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    keep = _subsample(membership, max_records, rng)
    truth, used = membership[keep], records.take(keep)
    same = _same(used)
    sizes = tuple(int(side.sum()) if same is None else len(np.unique(same[side])) for side in (truth, ~truth))
    if min(sizes) < _MIN_PER_CLASS:
        nan = float("nan")
        return Estimate(nan, nan, nan, len(keep), confidence, resolvable=False)
    # One thread: the fits are small, and OpenMP threads waiting for a busy core are costly (20,000 × 20 on a loaded
    # two-core machine: 0.7 s with one, 30 s with two). It also makes the figure independent of the machine.
    with threadpool_limits(1):
        value, parts = _cross_validated(*_encode(used, rng), truth, same, rng)
    low, high = auc_interval(value, parts, (sizes[0], sizes[1]), confidence)
    return Estimate(value, low, high, len(keep), confidence)


def _same(records: Records) -> np.ndarray | None:
    """(n,) number of each record, equal for copies; None if there are none, or only of what fills more than a fold."""
    _, index, counts = np.unique(record_keys(records), return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    many = counts[index] > len(index) / _FOLDS
    index[many] = len(counts) + np.arange(int(many.sum()))
    return index if ((counts > 1) & (counts <= len(index) / _FOLDS)).any() else None


def _cross_validated(
    columns: np.ndarray,
    views: list[np.ndarray],
    always: np.ndarray,
    truth: np.ndarray,
    same: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[float, tuple[float, float]]:
    """AUC averaged over folds, and the variance due to members and to non-members."""
    fold = _folds(truth, _FOLDS, rng) if same is None else _folds_of_copies(truth, same, _FOLDS, rng)
    value, parts, weights = 0.0, np.zeros(2), 0.0
    for k in range(_FOLDS):
        test = fold == k
        if truth[test].all() or not truth[test].any():
            continue
        screened = _screen(views, truth, ~test)
        wide = np.concatenate([columns[:, screened], always], axis=1)
        few = wide
        if columns.shape[1] > _MAX_COLUMNS:
            kept = always.shape[1] - max(0, _COMPONENTS - _COMPONENTS_TREES)  # the last of them are components
            few = np.concatenate([columns[:, screened[:_SCREENED_TREES]], always[:, :kept]], axis=1)
        log_odds = _tree_log_odds(few, truth, ~test, rng) + _linear_log_odds(wide, truth, ~test)
        weight = int(truth[test].sum()) * int((~truth[test]).sum())
        fold_value, fold_parts = (
            delong(tally(log_odds, truth[test]))
            if same is None
            else _delong_of_copies(log_odds, truth[test], same[test])
        )
        value += weight * fold_value
        parts += weight**2 * np.array(fold_parts)
        weights += weight
    # Folds share training data, which DeLong does not see: Nadeau and Bengio's 1 + K · n_test / n_train.
    parts *= (1 + _FOLDS / (_FOLDS - 1)) / weights**2
    return float(value / weights), (float(parts[0]), float(parts[1]))


def _strengths(columns: np.ndarray) -> list[np.ndarray]:
    """Matrices whose covariance with membership tells which columns differ: values, and missing values if any."""
    missing = ~np.isfinite(columns)
    return [_standardise(columns)] + ([_standardise(missing.astype(np.float32))] if missing.any() else [])


def _screen(views: list[np.ndarray], truth: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The columns that differ most between members and non-members on `train`, the first most; all of a few."""
    width = views[0].shape[1]
    if width <= _MAX_COLUMNS:
        return np.arange(width)
    target = np.where(train, truth - truth[train].mean(), 0).astype(np.float32)
    strength = np.max([np.abs(target @ view) for view in views], axis=0)
    return np.argsort(-strength, kind="stable")[:_SCREENED]


def _subsample(membership: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices of at most `limit` records, half of them members where there are enough of both."""
    groups = [np.flatnonzero(membership), np.flatnonzero(~membership)]
    if len(membership) <= limit:
        return np.arange(len(membership))
    few = min(len(g) for g in groups)
    sizes = [min(len(g), max(limit // 2, limit - few)) for g in groups]
    return np.sort(np.concatenate([rng.permutation(g)[:size] for g, size in zip(groups, sizes)]))


def _folds(truth: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) fold of each record, members and non-members spread evenly."""
    fold = np.empty(len(truth), np.int64)
    for group in (np.flatnonzero(truth), np.flatnonzero(~truth)):
        fold[rng.permutation(group)] = np.arange(len(group)) % k
    return fold


def _folds_of_copies(truth: np.ndarray, same: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) fold of each record, that of its copies; each kind is spread evenly, records with many copies first."""
    _, index, counts = np.unique(same, return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    inside = np.bincount(index, truth)
    kind = np.where(inside == counts, 0, np.where(inside == 0, 1, 2))
    fold = np.empty(len(counts), np.int64)
    for one in range(3):
        group = rng.permutation(np.flatnonzero(kind == one))
        fold[group[np.argsort(-counts[group], kind="stable")]] = np.arange(len(group)) % k
    return fold[index]


def _delong_of_copies(log_odds: np.ndarray, truth: np.ndarray, same: np.ndarray) -> tuple[float, tuple[float, float]]:
    """`delong`, with the copies of a record as one: Obuchowski (1997), https://doi.org/10.2307/2533958."""
    value, beats, beaten = placements(log_odds, truth)
    parts = []
    for values, names in ((beats, same[truth]), (beaten, same[~truth])):
        _, index = np.unique(names, return_inverse=True)
        sums = np.bincount(index.reshape(-1), values - value)
        n = len(sums)
        parts.append(float((sums**2).sum() / len(values) ** 2 * n / (n - 1)) if n > 1 else value * (1 - value))
    return value, (parts[0], parts[1])


def _tree_log_odds(features: np.ndarray, truth: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-odds by boosted trees on the records that are not in `train`."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    # A column without any finite value to train on is an error in some versions of the trees.
    features = features[:, np.isfinite(features[train]).any(axis=0)]
    trees = HistGradientBoostingClassifier(**_TREES, random_state=int(rng.integers(2**31)))
    return trees.fit(features[train], truth[train]).decision_function(features[~train])


def _linear_log_odds(features: np.ndarray, truth: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Log-odds by a regularised logistic regression on the records that are not in `train`."""
    from sklearn.linear_model import LogisticRegression

    scaled = _standardise(features)
    # Few records in many columns: the penalty grows with the columns.
    linear = LogisticRegression(C=1.0 / max(scaled.shape[1], 1), max_iter=200)
    return linear.fit(scaled[train], truth[train]).decision_function(scaled[~train])


def _encode(records: Records, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Records as float32 columns (NaN kept) that a fold may screen, what it screens by, and columns every fold uses."""
    columns = _columns(records.x, rng)
    views = [columns]
    always = [_labels(np.asarray(records.y), rng)]
    if columns.shape[1] > _MAX_COLUMNS:
        always.append(_summary(columns))
        columns = _pick(columns, rng)
        views = _strengths(columns)
        always.append(_reduce(views[0], rng))
    return columns.astype(np.float32), views, np.concatenate(always, axis=1, dtype=np.float32, casting="same_kind")


def _labels(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, d) numbers of the labels; of many values a record, such as an autoencoder's, a summary and components."""
    if y.ndim == 1:
        return _column(y, "label", rng)
    columns = _columns(y, rng)
    if columns.shape[1] <= _MAX_COLUMNS:
        return columns.astype(np.float32)
    return np.concatenate([_summary(columns), _reduce(_standardise(_pick(columns, rng)), rng)], axis=1)


def _columns(x: Any, rng: np.random.Generator) -> np.ndarray:
    """(n, d) numbers of the features, whatever their form."""
    if hasattr(x, "iloc") and hasattr(x, "columns"):
        parts = [_column(x.iloc[:, j], str(name), rng) for j, name in enumerate(x.columns)]
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(x), 0), np.float32)
    x = np.asarray(x)
    flat = x.reshape(len(x), -1)
    if x.dtype.kind == "f":
        return flat
    if x.dtype.kind in "iub":
        return flat.astype(np.float32) if flat.shape[1] <= _MAX_COLUMNS else flat
    parts = [_column(flat[:, j], f"column {j}", rng) for j in range(flat.shape[1])]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(x), 0), np.float32)


def _pick(columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most 1,024 of the columns, in float32."""
    if columns.shape[1] > _MAX_RAW:
        _logger.info("The blind baseline looks at %d of %d values a record.", _MAX_RAW, columns.shape[1])
        columns = columns[:, np.sort(rng.permutation(columns.shape[1])[:_MAX_RAW])]
    return columns.astype(np.float32)


def _column(values: Any, name: str, rng: np.random.Generator) -> np.ndarray:
    """(n, k) float32 of one column: numbers and dates as they are, categories as codes, text as components."""
    import pandas as pd

    series = pd.Series(values).reset_index(drop=True)
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        days = pd.to_datetime(series, utc=True).to_numpy("datetime64[ns]")
        # Days since the first one: nanoseconds since 1970 do not fit in float32.
        return ((days - np.nanmin(days)) / np.timedelta64(1, "D")).astype(np.float32)[:, None]
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        return (series.dt.total_seconds() / 86400).to_numpy(np.float32)[:, None]
    if pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.is_numeric_dtype(series.dtype):
        numbers = series.to_numpy(np.float64, na_value=np.nan)
        return np.clip(numbers, -3e38, 3e38).astype(np.float32)[:, None]
    return _text_or_category(series, name, rng)


def _text_or_category(series: Any, name: str, rng: np.random.Generator) -> np.ndarray:
    """Indicators of the commonest values; of columns with many values also length and components of words."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    first = next((v for v in series if v is not None), None)
    if isinstance(first, (list, tuple)) or hasattr(first, "__array__"):  # an array per cell
        shapes = {np.shape(v) for v in series}
        if len(shapes) == 1 and np.asarray(first).dtype.kind in "fiub" and shapes != {()}:
            return _columns(np.stack([np.asarray(v) for v in series]), rng)
    present = series.notna().to_numpy()
    text = series.where(present, "").map(_as_text)
    counts = text[present].value_counts()
    common = counts.index[:_MAX_CATEGORIES]
    parts = [(~present).astype(np.float32)[:, None]]
    parts += [(text == value).to_numpy(np.float32)[:, None] for value in common]
    if len(counts) > _MAX_CATEGORIES:
        frequency = text.map(counts).fillna(0).to_numpy(np.float32)[:, None]
        dates = _dates(text, present)
        lengths = text.str.len().to_numpy(np.float32)[:, None]
        parts += [frequency, lengths, *([] if dates is None else [dates]), _words(text.tolist(), rng)]
        _logger.debug("The blind baseline reads column %r as text (%d values).", name, len(counts))
    return np.concatenate(parts, axis=1)


def _as_text(value: object) -> str:
    """A cell as text; of live objects only their type, whose printed form may hold a memory address."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    plain = (str, int, float, bool, np.generic, datetime.date, datetime.time, decimal.Decimal)
    return str(value) if isinstance(value, plain) else type(value).__name__


def _dates(text: Any, present: np.ndarray) -> np.ndarray | None:
    """(n, 1) days of a column of ISO dates written as text, or None if it is not one."""
    import pandas as pd

    if not text[present].head(50).str.match(r"^\d{4}-\d{2}-\d{2}").all():
        return None
    days = pd.to_datetime(text.str.slice(0, 10), format="%Y-%m-%d", errors="coerce")
    if days.notna().sum() < 0.9 * present.sum():
        return None
    return ((days - days.min()) / pd.Timedelta(days=1)).to_numpy(np.float32)[:, None]


def _words(texts: list[str], rng: np.random.Generator) -> np.ndarray:
    """(n, k) leading components of hashed word counts; (n, 0) where there are no words."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer

    counts = HashingVectorizer(n_features=2**14, token_pattern=r"\w+").transform([t[:5000] for t in texts])
    if counts.nnz == 0:
        return np.zeros((len(texts), 0), np.float32)
    svd = TruncatedSVD(_TEXT_COMPONENTS, n_iter=2, random_state=int(rng.integers(2**31)))
    return svd.fit_transform(counts).astype(np.float32)


def _summary(columns: np.ndarray) -> np.ndarray:
    """(n, 4) mean, spread, smallest and largest value of each record: what PCA of wide records may miss."""
    parts = []
    for start in range(0, len(columns), 512):  # a float copy of all images at once may not fit in memory
        part = columns[start : start + 512].astype(np.float32)
        part[~np.isfinite(part)] = 0
        parts.append(np.stack([part.mean(1), part.std(1), part.min(1), part.max(1)], axis=1))
    return np.concatenate(parts)


def _reduce(scaled: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, ≤ 24) leading principal components of standardised columns."""
    from sklearn.decomposition import PCA

    width = min(_COMPONENTS, *scaled.shape)
    pca = PCA(width, svd_solver="randomized", iterated_power=2, random_state=int(rng.integers(2**31)))
    part = scaled if len(scaled) <= 5000 else scaled[rng.permutation(len(scaled))[:5000]]
    return pca.fit(part).transform(scaled)


def _standardise(columns: np.ndarray) -> np.ndarray:
    """Mean 0 and spread 1 per column, in float32; missing values become the mean, constant columns 0."""
    missing = ~np.isfinite(columns)
    if missing.any():
        counts = np.maximum((~missing).sum(0), 1)
        columns = np.where(missing, np.where(missing, 0, columns).sum(0, dtype=np.float64) / counts, columns)
    columns = columns if columns.dtype in (np.float32, np.float64) else columns.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        # Around the first record rather than zero, so that float32 keeps what tells dates or large numbers apart.
        moved = columns - columns[0]
        moved -= np.full(len(moved), 1 / len(moved), moved.dtype) @ moved
        spread = np.sqrt(np.einsum("ij,ij->j", moved, moved) / len(moved))
    if not np.isfinite(spread).all() and columns.dtype == np.float32:  # squares beyond its range
        return _standardise(columns.astype(np.float64))
    moved /= np.where(spread > 0, spread, 1)
    return moved.astype(np.float32, copy=False)
