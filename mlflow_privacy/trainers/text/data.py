"""Texts to train on: the pool as tokens, and its padded batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mlflow_privacy.text import Objective, TokenizedText, pad_batch

IGNORED = -100  # the label that no loss counts


@dataclasses.dataclass(frozen=True)
class TextData:
    """The pool as tokens.

    Attributes:
      tokens: n texts.
      labels: (n,) class indices, None for a causal language model.
    """

    tokens: TokenizedText
    labels: np.ndarray | None
    pad_id: int
    objective: Objective


def collate(data: TextData, index: list[int], *, side: str = "right") -> dict[str, Any]:
    """A batch: padded ids with mask, positions where padding stands before the text, and labels of what counts.

    The first token of a text is never predicted; a prompt's tokens and padding have the label that no loss counts.
    """
    import torch

    ids, mask, counts = pad_batch(data.tokens, index, pad_id=data.pad_id, side=side)  # type: ignore[arg-type]
    batch = {"input_ids": ids, "attention_mask": mask}
    if side == "left":
        batch["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    if data.labels is not None:
        return {**batch, "labels": torch.from_numpy(np.ascontiguousarray(data.labels[np.asarray(index)]))}
    predicted = counts & (mask.cumsum(1) > 1)
    return {**batch, "labels": torch.where(predicted, ids, torch.full_like(ids, IGNORED))}
