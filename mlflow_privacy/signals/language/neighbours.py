r"""Neighbours of a text: some words replaced by what a masked language model would write there.

Mattern et al. (2023), https://arxiv.org/abs/2305.18462. A replacement at a masked place is drawn from the paper's swap
score

.. math:: p_{swap}(\tilde w) = p(\tilde w) / (1 - p(w)), \quad \tilde w \ne w

which is a distribution over the other tokens. (The paper keeps the place unmasked with dropout on its embedding, and
takes the best n swaps; masking and drawing needs one pass and gives as many neighbours as asked for.)
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlflow_privacy.errors import SignalError


@dataclasses.dataclass(frozen=True)
class MaskedModel:
    """A fill-mask model of transformers with its fast tokenizer, both live."""

    model: Any
    tokenizer: Any

    def __post_init__(self) -> None:
        if getattr(self.tokenizer, "mask_token_id", None) is None:
            raise SignalError(
                f"A {type(self.tokenizer).__name__} has no mask token; neighbours need a masked language model such as "
                "BERT or RoBERTa."
            )
        if not getattr(self.tokenizer, "is_fast", False):
            raise SignalError(
                f"A {type(self.tokenizer).__name__} does not say where its tokens lie in the text; neighbours need a "
                "fast tokenizer: AutoTokenizer.from_pretrained(..., use_fast=True)."
            )


@dataclasses.dataclass(frozen=True)
class _Masked:
    """One text with some places masked: `ids` (t,), the `places` among them and what they were, and draws in [0, 1)."""

    ids: np.ndarray
    places: np.ndarray
    before: np.ndarray
    draws: np.ndarray


def neighbours(
    masked: MaskedModel,
    texts: Sequence[str],
    *,
    n: int,
    replaced: int,
    seed: int,
    device: str = "auto",
    batch_size: int = 32,
    within: Sequence[tuple[int, int]] | None = None,
) -> list[str]:
    """n neighbours of each text, text after text.

    A text's neighbours depend on the text, what is seen of it and the seed, not on its place among the others. Nothing
    but the replaced words changes, to the letter.

    Args:
      within: (start, stop) of each text, the characters that the audited model sees of it: only these change, since a
        neighbour that differs where the text is cut off is the text itself to that model. None changes any.
      replaced: tokens of the masked model that differ; fewer in a text that has fewer.
      batch_size: of the masked model; halved when the device runs out of memory.

    Returns:
      len(texts) * n texts.

    Raises:
      SignalError: a text without a token.
    """
    tokenizer = masked.tokenizer
    parts = [(0, len(text)) for text in texts] if within is None else within
    seen = [text[start:stop] for text, (start, stop) in zip(texts, parts, strict=True)]
    encoded = tokenizer(
        seen,
        truncation=True,
        max_length=_most_tokens(masked),
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    tasks: list[_Masked] = []
    for i, text in enumerate(seen):
        tasks += _mask(encoded, i, text, tokenizer.mask_token_id, n=n, replaced=replaced, seed=seed)
    filled = _fill(masked, tasks, device, batch_size)
    out = []
    for j, (task, new) in enumerate(zip(tasks, filled)):
        text, (start, stop), spans = texts[j // n], parts[j // n], encoded["offset_mapping"][j // n]
        words = [_word(tokenizer, token) for token in new]
        changed = _rewrite(seen[j // n], [spans[place] for place in task.places], words)
        out.append(text[:start] + changed + text[stop:])
    return out


def _most_tokens(masked: MaskedModel) -> int:
    """The longest sequence that the masked model takes."""
    most = getattr(getattr(masked.model, "config", None), "max_position_embeddings", None) or 512
    return min(int(most), int(getattr(masked.tokenizer, "model_max_length", most)))


def _mask(encoded: Any, i: int, text: str, mask_id: int, *, n: int, replaced: int, seed: int) -> list[_Masked]:
    """n ways to mask one text."""
    ids = np.asarray(encoded["input_ids"][i], np.int64)
    special = np.asarray(encoded["special_tokens_mask"][i], bool)
    spans = np.asarray(encoded["offset_mapping"][i], np.int64).reshape(-1, 2)
    usable = np.flatnonzero(~special & (spans[:, 1] > spans[:, 0]))
    if not len(usable):
        raise SignalError(f"The text at position {i} ({text[:40]!r}) has no token of the masked language model.")
    identity = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    rng = np.random.default_rng([seed, identity])
    tasks = []
    for _ in range(n):
        places = np.sort(rng.choice(usable, size=min(replaced, len(usable)), replace=False))
        hidden = ids.copy()
        hidden[places] = mask_id
        tasks.append(_Masked(hidden, places, ids[places], rng.random(len(places))))
    return tasks


def _fill(masked: MaskedModel, tasks: Sequence[_Masked], device: str, batch_size: int) -> list[np.ndarray]:
    """The drawn token ids at the masked places of each task."""
    from mlflow_privacy.signals.language.torch import masked_log_probs

    special = np.asarray(sorted(set(masked.tokenizer.all_special_ids)), np.int64)
    filled: list[np.ndarray] = [np.empty(0, np.int64)] * len(tasks)

    def read(index: int, log_p: np.ndarray) -> None:
        """log_p (places, vocabulary) of one task."""
        task = tasks[index]
        p = np.exp(log_p.astype(np.float64))
        p[:, special] = 0.0
        p[np.arange(len(p)), task.before] = 0.0
        total = np.cumsum(p, axis=1)
        filled[index] = np.array([np.searchsorted(row, u * row[-1], side="right") for row, u in zip(total, task.draws)])

    masked_log_probs(
        masked.model,
        [task.ids for task in tasks],
        [task.places for task in tasks],
        read,
        device=device,
        batch_size=batch_size,
    )
    return filled


def _word(tokenizer: Any, token: int) -> str:
    """A token as it stands in a text."""
    return tokenizer.decode([int(token)]).strip().removeprefix("##")


def _rewrite(text: str, spans: Sequence[tuple[int, int]], words: Sequence[str]) -> str:
    """The text with the characters of each span replaced, capitals where there were capitals."""
    for (start, stop), word in sorted(zip(spans, words), reverse=True):
        if text[start].isupper() and word[:1].islower():
            word = word.capitalize()
        text = text[:start] + word + text[stop:]
    return text
