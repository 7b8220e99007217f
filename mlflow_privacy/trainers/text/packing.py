"""Texts of a batch side by side in fewer rows, where the model keeps them apart: less padding is computed.

Positions begin again with each text, and no attention mask is given: models of transformers then let a token see its
own text alone. Whether a model does so is tried on the very texts, not looked up.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_privacy.text import context_length, pad_batch
from mlflow_privacy.trainers.text.data import IGNORED, TextData

if TYPE_CHECKING:
    import torch

_logger = logging.getLogger(__name__)
# Differences as a share of the logits' norm: what bfloat16 rounds where shapes differ, and what may change in a text
# when only its neighbours do, in the same shapes: nothing, but for sums that a GPU takes in any order.
_TOLERANCE, _NO_CHANGE = 0.02, 1e-6
_TRIED = 6  # texts
_WORTH = 0.95  # of a padded batch's cost


def rows_of(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Which texts lie in which of `count` rows: the longest first, each in the row that is shortest so far.

    The longest row is at most 4/3 of what it could be (Graham 1969, https://doi.org/10.1137/0117039).

    >>> rows_of([3, 7, 2, 2], 2)
    [[1], [0, 2, 3]]
    """
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, row) for row in range(count)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        size, row = filled[0]
        rows[row].append(i)
        heapq.heapreplace(filled, (size + lengths[i], row))
    return rows


def places_of(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> Iterator[tuple[int, int, slice]]:
    """Each text as its row, its number, and where in the row it lies.

    >>> list(places_of([[1], [0, 2]], [3, 7, 2]))
    [(0, 1, slice(0, 7, None)), (1, 0, slice(0, 3, None)), (1, 2, slice(3, 5, None))]
    """
    for row, texts in enumerate(rows):
        at = 0
        for i in texts:
            yield row, i, slice(at, at + lengths[i])
            at += lengths[i]


def best_rows(lengths: Sequence[int], hidden: int, widest: int) -> list[list[int]] | None:
    """The rows that cost a transformer least; None where each text had better have its own, padded to the longest.

    A token of a row of T costs 24 h² multiplications in the dense layers of a block and 4 h T in its attention: wider
    rows have less padding, and more pairs of tokens that are masked.

    Args:
      hidden: h, the model's width.
      widest: tokens of a row at most; the longest text needs a row in any case.

    >>> best_rows([10, 60, 50], 768, 1024), best_rows([60, 50, 40], 768, 1024), best_rows([60, 50, 40], 1, 1024)
    ([[1], [2, 0]], [[0, 1, 2]], None)
    >>> best_rows([60, 60], 768, 1024) is None
    True
    """
    longest = max(lengths, default=0)

    def cost(rows: int, width: int) -> float:
        return rows * width * (6 * hidden + width)

    best, least = None, _WORTH * cost(len(lengths), longest)
    for count in range(1, len(lengths)):
        rows = rows_of(lengths, count)
        width = max(sum(lengths[i] for i in row) for row in rows)
        if width <= max(widest, longest) and cost(count, width) < least:
            best, least = rows, cost(count, width)
        if width == longest:  # more rows are not narrower
            break
    return best


@dataclasses.dataclass(frozen=True)
class Packing:
    """Makes packed batches of a causal model.

    Attributes:
      hidden: width of the model.
      widest: tokens of a row at most.
    """

    data: TextData
    hidden: int = 768
    widest: int = 2**30

    @classmethod
    def of(cls, model: Any, data: TextData) -> Packing:
        """For a model of transformers, by its configuration."""
        config = getattr(model, "config", None)
        return cls(data, int(getattr(config, "hidden_size", None) or 768), context_length(config))

    def rows(self, index: Sequence[int]) -> list[list[int]] | None:
        """Which of the texts at `index` lie in which row; None where that saves nothing."""
        return best_rows(self._lengths(index), self.hidden, self.widest)

    def _lengths(self, index: Sequence[int]) -> list[int]:
        places = np.asarray(index, np.int64)
        return (self.data.tokens.offsets[places + 1] - self.data.tokens.offsets[places]).tolist()

    def __call__(self, index: Sequence[int]) -> dict[str, Any] | None:
        """A batch as rows of whole texts; None where that saves nothing.

        Args:
          index: (b,) of the texts.

        Returns:
          input_ids, position_ids and labels, (rows, T) int64 each, and use_cache=False. A text's first token is never
          predicted; what fills a row is a text of its own that no loss counts.
        """
        import torch

        rows = self.rows(index)
        if rows is None:
            return None
        tokens, lengths = self.data.tokens, self._lengths(index)
        width = max(where.stop for _, _, where in places_of(rows, lengths))
        ids = np.full((len(rows), width), self.data.pad_id, np.int64)
        positions, labels = np.zeros_like(ids), np.full_like(ids, IGNORED)
        for row, i, where in places_of(rows, lengths):
            text = slice(*tokens.offsets[index[i] : index[i] + 2].tolist())
            ids[row, where] = tokens.ids[text]
            positions[row, where] = np.arange(lengths[i])
            learned = np.where(tokens.is_response[text], tokens.ids[text], IGNORED)
            labels[row, where.start + 1 : where.stop] = learned[1:]
            positions[row, where.stop :] = np.arange(width - where.stop)  # filling, or the next text
        batch = {"input_ids": ids, "position_ids": positions, "labels": labels}
        return {**{name: torch.from_numpy(value) for name, value in batch.items()}, "use_cache": False}


def keeps_texts_apart(model: Any, packing: Packing, rows: np.ndarray) -> bool:
    """Whether a model says the same of texts side by side as of each by itself.

    Tried on the longest text and a few others of `rows`: side by side each must get the logits it gets alone, and the
    last of a row must keep its own when the others change. A model that cannot be asked so does not.

    Args:
      rows: (n,) of the texts that it will train on.
    """
    import torch

    from mlflow_privacy.trainers.torch.tensors import evaluation_mode

    data = packing.data
    if data.objective != "causal_lm" or not len(rows):
        return False
    lengths = np.diff(data.tokens.offsets)
    ordered = np.asarray(rows)[np.argsort(lengths[rows], kind="stable")]
    tried = np.unique([*ordered[: _TRIED - 2], *ordered[len(ordered) // 2 :][:1], *ordered[-1:]])
    rows_tried, packed = packing.rows(tried.tolist()), packing(tried.tolist())
    if rows_tried is None or packed is None:
        return False
    device = next(model.parameters()).device
    ids, mask, _ = pad_batch(data.tokens, tried, pad_id=data.pad_id)
    own = lengths[tried].tolist()
    packed = {k: v.to(device) if hasattr(v, "to") else v for k, v in packed.items() if k != "labels"}
    changed = {**packed, "input_ids": _others_turned(packed["input_ids"], rows_tried, own)}
    fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    try:
        with evaluation_mode(model), torch.no_grad(), fork:
            alone = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
            together, turned = model(**packed).logits, model(**changed).logits
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, AttributeError) as error:
        _logger.info("Texts are padded: %s", str(error).split("\n")[0])
        return False
    apart = alone.shape[:2] == ids.shape and together.shape[:2] == packed["input_ids"].shape
    for row, i, where in places_of(rows_tried, own) if apart else ():
        apart = apart and _close(together[row, where], alone[i, : own[i]], _TOLERANCE)
        if i == rows_tried[row][-1]:
            apart = apart and _close(turned[row, where], together[row, where], _NO_CHANGE)
    if not apart:
        _logger.info("Texts are padded: %s does not keep texts of one row apart.", type(model).__name__)
    return apart


def _others_turned(ids: torch.Tensor, rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> torch.Tensor:
    """The same rows with the tokens of all texts but the last of each row in reverse order."""
    turned = ids.clone()
    for row, i, where in places_of(rows, lengths):
        if i != rows[row][-1]:
            turned[row, where] = ids[row, where].flip(0)
    return turned


def _close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by at most a share of their norm."""
    found, wanted = found.float(), wanted.float()
    return bool((found - wanted).norm() <= tolerance * wanted.norm())
