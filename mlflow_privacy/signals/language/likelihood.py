r"""Signals of language models: from log-probabilities of tokens to one number per text.

.. math:: \phi(x) = \frac{1}{T} \sum_t \log p(x_t \mid x_{<t})

over the T counted tokens: no padding, no prompt, and never the first token of a sequence, which has no context (a
beginning-of-sequence token where the tokenizer adds one, else the first token of the text).
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np

from mlflow_privacy.errors import SignalError

_LEAST_STD = 1e-4  # of log p under p; below it a distribution is a point, and chosen - mean is rounding


@dataclasses.dataclass(frozen=True)
class TokenLogProbs:
    """Log-probabilities of the counted tokens of n texts, one text after the other.

    Attributes:
      value: (total,) float32 log p(x_t | x_<t).
      mean, std: (total,) float32 mean and standard deviation of log p(z | x_<t) over z ~ p, or None.
      offsets: (n + 1,) int64; text i owns value[offsets[i]:offsets[i + 1]], which is never empty.
    """

    value: np.ndarray
    mean: np.ndarray | None
    std: np.ndarray | None
    offsets: np.ndarray

    def __post_init__(self) -> None:
        empty = np.flatnonzero(np.diff(self.offsets) <= 0)
        if len(empty):
            raise SignalError(
                f"{len(empty)} of {len(self.offsets) - 1} texts have no token that can be scored, the first at "
                f"position {empty[0]}: a text needs two tokens, the second of them after the prompt. Leave those "
                "records out."
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1


def mean_log_prob(tokens: TokenLogProbs) -> np.ndarray:
    """(n,) float64 mean log-probability per counted token, which is minus the loss.

    >>> mean_log_prob(TokenLogProbs(np.array([-1.0, -3.0, -5.0]), None, None, np.array([0, 2, 3]))).tolist()
    [-2.0, -5.0]
    """
    return segment_mean(tokens.value, tokens.offsets)


def perplexity(tokens: TokenLogProbs) -> np.ndarray:
    """(n,) float64 exp(-mean log-probability).

    >>> perplexity(TokenLogProbs(np.log([0.5, 0.5]), None, None, np.array([0, 2]))).round(6).tolist()
    [2.0]
    """
    return np.exp(-mean_log_prob(tokens))


def min_k(tokens: TokenLogProbs, *, k: float = 0.2) -> np.ndarray:
    """(n,) float64 mean log-probability of the k share of tokens that are least likely; at least one token.

    Shi et al. (2024), https://arxiv.org/abs/2310.16789.

    >>> min_k(TokenLogProbs(np.array([-1.0, -3.0, -5.0, -2.0]), None, None, np.array([0, 4])), k=0.5).tolist()
    [-4.0]
    """
    return lowest_mean(tokens.value, tokens.offsets, k=k)


def min_k_plus(tokens: TokenLogProbs, *, k: float = 0.2) -> np.ndarray:
    """(n,) float64 as `min_k`, of (log p - mean) / std under the model's own next-token distribution.

    Zhang et al. (2025), https://arxiv.org/abs/2404.02936.

    Raises:
      SignalError: the moments were not computed.

    >>> one = np.array([1.0, 1.0])
    >>> min_k_plus(TokenLogProbs(np.array([-1.0, -3.0]), -one, 2 * one, np.array([0, 2])), k=0.5).tolist()
    [-1.0]
    """
    if tokens.mean is None or tokens.std is None:
        raise SignalError("Min-K%++ needs the moments of the next-token distribution: token_log_probs(moments=True).")
    scaled = (tokens.value.astype(np.float64) - tokens.mean) / np.maximum(tokens.std, _LEAST_STD)
    return lowest_mean(scaled, tokens.offsets, k=k)


def zlib_bytes(texts: Sequence[str]) -> np.ndarray:
    """(n,) float64 bytes of each text after zlib, in UTF-8.

    >>> a, b = zlib_bytes(["a" * 100, "The quick brown fox jumps over the lazy dog."])
    >>> bool(a < b)
    True
    """
    return np.array([len(zlib.compress(text.encode("utf-8", "surrogatepass"))) for text in texts], np.float64)


def segment_mean(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(n,) float64 mean of each segment of values (total,); no segment may be empty."""
    return np.add.reduceat(np.asarray(values, np.float64), offsets[:-1]) / np.diff(offsets)


def lowest_mean(values: np.ndarray, offsets: np.ndarray, *, k: float) -> np.ndarray:
    """(n,) float64 mean of the floor(k * length) lowest values of each segment, at least one.

    >>> lowest_mean(np.array([3.0, 1.0, 2.0]), np.array([0, 2, 3]), k=0.5).tolist()
    [1.0, 2.0]
    """
    if not 0 < k <= 1:
        raise SignalError(f"k must be in (0, 1], got {k}.")
    values, lengths = np.asarray(values, np.float64), np.diff(offsets)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    ordered = values[np.lexsort((values, segment))]
    count = np.maximum((k * lengths + 1e-9).astype(np.int64), 1)  # 0.2 * 15 is a rounding below 3
    rank = np.arange(len(values)) - np.repeat(offsets[:-1], lengths)
    kept = np.where(rank < np.repeat(count, lengths), ordered, 0.0)
    return np.add.reduceat(kept, offsets[:-1]) / count
