"""Log-probabilities of tokens under a causal language model, without (batch, T, vocabulary) float32 logits.

Where the model is a body with an output layer on top, the body runs on the batch and the output layer on a few
positions at a time, and only on counted ones. Other models give their logits for few records at a time, in their own
precision, and a few positions at a time are taken to float32.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.language.likelihood import TokenLogProbs
from mlflow_privacy.signals.torch import evaluating
from mlflow_privacy.trainers.torch.tensors import first_tensor, resolve_device

_logger = logging.getLogger(__name__)
_CHUNK_BYTES = {"cpu": 1 << 26, "device": 1 << 28}  # of float32 logits at once
_LOGITS_BYTES = {"cpu": 1 << 28, "device": 1 << 30}  # of whole logits in the model's precision, where they must exist
_BATCH_TOKENS = {"cpu": 1 << 13, "device": 1 << 16}  # padded tokens at once, whatever the batch size
_SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")
Head = tuple[torch.nn.Module, torch.nn.Module]


class _Sequences(NamedTuple):
    """Token ids of n texts, one after the other."""

    ids: np.ndarray  # (total,)
    offsets: np.ndarray  # (n + 1,)
    counted: np.ndarray  # (total,) bool


def token_log_probs(
    model: torch.nn.Module,
    tokenized: Any,
    *,
    device: str = "auto",
    batch_size: int = 32,
    moments: bool = False,
) -> TokenLogProbs:
    """log p(x_t | x_<t) of each counted token.

    Batches hold texts of like lengths, padded on the right whatever the tokenizer prefers, and padding is masked: the
    result does not depend on batch size, padding or device beyond rounding. The first token of a sequence has no
    context and is not counted: that is the beginning-of-sequence token where the tokenizer adds one.

    Args:
      model: a causal language model; it is left on its device and in its training modes.
      tokenized: `text.TokenizedText`: ids (total,), offsets (n + 1,), is_response (total,) bool or None (all count).
      device: "auto", "cpu", "cuda", ...
      batch_size: of inference, in texts; halved when the device runs out of memory.
      moments: also mean and standard deviation of log p under the next-token distribution, which Min-K%++ needs.

    Returns:
      float32 values in the order of the texts.

    Raises:
      SignalError: a text without a counted token, outputs of another shape, NaN, or no memory for a single text.
    """
    sequences = _sequences(tokenized)
    lengths = np.diff(sequences.offsets)
    offsets = np.concatenate([[0], np.cumsum(sequences.counted)])[sequences.offsets]
    out = TokenLogProbs(np.empty(offsets[-1], np.float32), None, None, offsets)
    columns = [out.value]
    if moments:
        columns += [np.empty_like(out.value), np.empty_like(out.value)]
        out = TokenLogProbs(out.value, columns[1], columns[2], offsets)
    with evaluating(model, resolve_device(device)) as where:
        score = _scorer(model, sequences, where, moments)
        for rows, values in _batches(lengths, batch_size, score, where):
            place = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in rows])
            for column, part in zip(columns, values):
                column[place] = part
    _require_finite(out)
    return out


def masked_log_probs(
    model: torch.nn.Module,
    ids: Sequence[np.ndarray],
    places: Sequence[np.ndarray],
    read: Callable[[int, np.ndarray], None],
    *,
    device: str = "auto",
    batch_size: int = 32,
) -> None:
    """`read(i, log_p)` for each text: log_p (places, vocabulary) float32 of a masked language model at `places[i]`.

    Args:
      ids: (t,) token ids of each text.
      places: positions to predict, of each text.
      batch_size: in texts; halved when the device runs out of memory.
    """
    lengths = np.array([len(row) for row in ids])
    sequences = _Sequences(
        np.concatenate(ids), np.concatenate([[0], np.cumsum(lengths)]), np.zeros(lengths.sum(), bool)
    )
    with evaluating(model, resolve_device(device)) as where:

        def score(rows: np.ndarray) -> list[np.ndarray]:
            logits = _call(model, _Batch.of(sequences, rows, where), "logits")
            return [
                logits[j, torch.from_numpy(places[i])].float().log_softmax(-1).cpu().numpy() for j, i in enumerate(rows)
            ]

        for rows, values in _batches(lengths, batch_size, score, where):
            for i, log_p in zip(rows, values):
                read(int(i), log_p)


def classifier_logits(
    model: torch.nn.Module, tokenized: Any, pad_id: int, *, device: str = "auto", batch_size: int = 32
) -> np.ndarray:
    """(n, classes) float64 logits of a classifier of texts, in the order of the texts.

    A model that finds the end of a text by its padding token and knows none gets `pad_id` for the time being.

    Args:
      batch_size: in texts; halved when the device runs out of memory.

    Raises:
      SignalError: a text without tokens, or outputs of another shape.
    """
    sequences = _sequences(tokenized)
    lengths = np.diff(sequences.offsets)
    if not lengths.all():
        raise SignalError(
            f"{int((lengths == 0).sum())} of {len(lengths)} texts have no tokens, the first at position "
            f"{int(lengths.argmin())}. Leave those records out."
        )
    logits: list[Any] = [None] * len(lengths)
    with evaluating(model, resolve_device(device)) as where, _padding_known(model, pad_id) as pad:

        def score(rows: np.ndarray) -> list[np.ndarray]:
            batch = _Batch.of(sequences, rows, where, pad)
            output = first_tensor(model(input_ids=batch.ids, attention_mask=batch.mask), error=SignalError)
            if output.ndim != 2 or len(output) != len(rows):
                raise SignalError(
                    f"The model gives outputs of shape {tuple(output.shape)} for {len(rows)} texts; a classifier gives "
                    "(texts, classes)."
                )
            return list(output.float().cpu().numpy())

        for rows, values in _batches(lengths, batch_size, score, where):
            for i, value in zip(rows, values):
                logits[i] = value
    return np.stack(logits).astype(np.float64)


@contextlib.contextmanager
def _padding_known(model: torch.nn.Module, pad_id: int) -> Iterator[int]:
    """The model's own padding token; one that has none takes `pad_id` meanwhile."""
    config: Any = getattr(model, "config", None)
    own = getattr(config, "pad_token_id", None)
    if own is not None or config is None:
        yield pad_id if own is None else int(own)
        return
    config.pad_token_id = pad_id
    try:
        yield pad_id
    finally:
        config.pad_token_id = None


def _batches(
    lengths: np.ndarray, batch_size: int, score: Callable[[np.ndarray], list[np.ndarray]], where: torch.device
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """(rows, score(rows)) over all texts, the longest first: memory runs out at once or never.

    Args:
      lengths: (n,) of the texts.
      batch_size: at most; halved when the device runs out of memory.
    """
    order = np.argsort(-lengths, kind="stable")
    most = _BATCH_TOKENS["cpu" if where.type == "cpu" else "device"]
    start = 0
    while start < len(order):
        fitting = max(most // max(int(lengths[order[start]]), 1), 1)
        rows, values = order[start : start + min(batch_size, fitting)], None
        with contextlib.suppress(torch.cuda.OutOfMemoryError):  # the traceback would keep what must be freed
            values = score(rows)
        if values is not None:
            yield rows, values
            start += len(rows)
            continue
        if len(rows) == 1:
            raise SignalError("The device has no memory for a single text. Use device='cpu'.")
        batch_size = len(rows) // 2
        _logger.warning("Out of memory; going on with batches of %d texts.", batch_size)
        torch.cuda.empty_cache()


def _sequences(tokenized: Any) -> _Sequences:
    """The texts with their counted tokens: of the response, and not the first of a sequence."""
    ids, offsets = np.asarray(tokenized.ids, np.int64), np.asarray(tokenized.offsets, np.int64)
    if len(offsets) < 2:
        raise SignalError("There are no texts to compute signals of.")
    response = getattr(tokenized, "is_response", None)
    counted = np.ones(len(ids), bool) if response is None else np.array(response, bool)
    counted[offsets[:-1][np.diff(offsets) > 0]] = False
    return _Sequences(ids, offsets, counted)


def _scorer(
    model: torch.nn.Module, sequences: _Sequences, where: torch.device, moments: bool
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """`rows -> [value, mean, std]` of the counted tokens of those texts, each text after the other."""
    kind = "cpu" if where.type == "cpu" else "device"
    head = _checked_head(model, sequences, where)

    def score(rows: np.ndarray) -> list[np.ndarray]:
        batch = _Batch.of(sequences, rows, where)
        if head is None:
            return whole(batch)
        body, layer = head
        hidden = _call(body, batch, "last_hidden_state")[:, :-1][batch.counted]  # (p, width)
        return _host(_in_chunks(hidden, batch.target, layer, moments, _CHUNK_BYTES[kind]))

    def whole(batch: _Batch) -> list[np.ndarray]:
        """Logits of the whole model, for as many texts as fit."""
        parts, start, step, n = [], 0, 1, len(batch.ids)
        while start < n:
            piece = batch.take(start, min(start + step, n))
            logits = _call(model, piece, "logits")
            position = piece.counted.nonzero(as_tuple=True)
            flat = logits.reshape(-1, logits.shape[-1])
            index = position[0] * logits.shape[1] + position[1]
            pick = functools.partial(torch.index_select, flat, 0)
            parts.append(_in_chunks(index, piece.target, pick, moments, _CHUNK_BYTES[kind], flat.shape[1]))
            start += len(piece.ids)
            size = logits[0].numel() * logits.element_size()
            step = max(int(_LOGITS_BYTES[kind] // size), 1)
            del logits, flat, pick
        return _host([torch.cat(column) for column in zip(*parts)])

    return score


class _Batch(NamedTuple):
    """A padded batch on the device.

    counted: (b, T - 1) bool, whether the token after a position is counted; target: (p,) those tokens.
    """

    ids: torch.Tensor  # (b, T)
    mask: torch.Tensor  # (b, T)
    counted: torch.Tensor
    target: torch.Tensor

    @staticmethod
    def of(sequences: _Sequences, rows: np.ndarray, where: torch.device, pad: int = 0) -> _Batch:
        """Texts `rows`, padded on the right; padding is masked and never counted."""
        lengths = sequences.offsets[rows + 1] - sequences.offsets[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]
        source = np.concatenate([np.arange(sequences.offsets[i], sequences.offsets[i + 1]) for i in rows])
        ids, counted = np.full(mask.shape, pad, np.int64), np.zeros(mask.shape, bool)
        ids[mask], counted[mask] = sequences.ids[source], sequences.counted[source]
        on, known = torch.from_numpy(counted[:, 1:]).to(where), torch.from_numpy(ids).to(where)
        return _Batch(known, torch.from_numpy(mask.astype(np.int64)).to(where), on, known[:, 1:][on])

    def take(self, start: int, stop: int) -> _Batch:
        """Some of its texts, with the padding that they need."""
        longest = int(self.mask[start:stop].sum(dim=1).max())
        ids, counted = self.ids[start:stop, :longest], self.counted[start:stop, : longest - 1]
        return _Batch(ids, self.mask[start:stop, :longest], counted, ids[:, 1:][counted])


def _call(module: torch.nn.Module, batch: _Batch, name: str) -> torch.Tensor:
    """(b, T, ...) output `name` of a module."""
    output = module(input_ids=batch.ids, attention_mask=batch.mask)
    found = getattr(output, name, None)
    if not isinstance(found, torch.Tensor):
        found = first_tensor(output, error=SignalError)
    if found.ndim != 3 or tuple(found.shape[:2]) != tuple(batch.ids.shape):
        raise SignalError(
            f"The model gives outputs of shape {tuple(found.shape)} for tokens of shape {tuple(batch.ids.shape)}; a "
            "causal language model gives (texts, tokens, vocabulary)."
        )
    return found


def _in_chunks(
    source: torch.Tensor,
    target: torch.Tensor,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    moments: bool,
    most_bytes: int,
    vocabulary: int = 0,
) -> list[torch.Tensor]:
    """[value, mean, std], each (p,), from `logits_of(source[chunk])`, (chunk, vocabulary)."""
    width = vocabulary or int(getattr(logits_of, "out_features", 0)) or 1 << 16
    step = max(most_bytes // (4 * width), 1)
    parts = []
    for start in range(0, max(len(target), 1), step):
        parts.append(_of_logits(logits_of(source[start : start + step]).float(), target[start : start + step], moments))
    return [torch.cat(column) for column in zip(*parts)]


def _of_logits(logits: torch.Tensor, target: torch.Tensor, moments: bool) -> tuple[torch.Tensor, ...]:
    """log p of each target, and mean and standard deviation of log p under p; logits (p, vocabulary) are used up."""
    total = logits.logsumexp(dim=1, keepdim=True)
    value = (logits.gather(1, target[:, None]) - total)[:, 0]
    if not moments:
        return (value,)
    log_p = logits.sub_(total)
    p = log_p.exp()
    log_p.masked_fill_(p == 0, 0.0)  # 0 · log 0 = 0
    mean = torch.einsum("pv,pv->p", p, log_p)
    variance = torch.einsum("pv,pv->p", p, log_p.sub_(mean[:, None]).square_())
    return value, mean, variance.sqrt()


def _host(tensors: list[torch.Tensor]) -> list[np.ndarray]:
    return [tensor.float().cpu().numpy() for tensor in tensors]


def _checked_head(model: torch.nn.Module, sequences: _Sequences, where: torch.device) -> Head | None:
    """Body and output layer, if together they give the model's own logits on the shortest text; else None.

    Adapters that change the input, logits that are scaled afterwards and the like so fall back to the whole model.
    """
    unwrap: Any = getattr(model, "get_base_model", None)
    inner = unwrap() if callable(unwrap) else model
    body, get_layer = getattr(inner, "base_model", None), getattr(inner, "get_output_embeddings", None)
    layer = get_layer() if callable(get_layer) else None
    config = getattr(inner, "config", None)
    scaled = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _SCALED_LOGITS)
    if body is None or body is inner or not isinstance(layer, torch.nn.Module) or scaled:
        return None
    lengths = np.diff(sequences.offsets)
    shortest = np.array([np.where(lengths > 1, lengths, lengths.max() + 1).argmin()])
    batch = _Batch.of(sequences, shortest, where).take(0, 1)
    try:
        hidden = _call(body, batch, "last_hidden_state")
        theirs, ours = _call(model, batch, "logits").float(), layer(hidden).float()
    except (RuntimeError, TypeError, ValueError, SignalError) as error:
        _logger.debug("The output layer is not run on its own: %s", error)
        return None
    scale = float(theirs.abs().max())
    same = ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(scale, 1e-3))
    if not same:
        _logger.debug("%s does more with its logits than its output layer; taking whole logits.", type(inner).__name__)
    return (body, layer) if same else None


def _require_finite(tokens: TokenLogProbs) -> None:
    """Raises `SignalError` with the number of texts that have NaN or infinite values."""
    bad = np.zeros(len(tokens.value), bool)
    for column in (tokens.value, tokens.mean, tokens.std):
        if column is not None:
            bad |= ~np.isfinite(column)
    texts = np.logical_or.reduceat(bad, tokens.offsets[:-1])
    if texts.any():
        raise SignalError(
            f"The model gives NaN or infinite log-probabilities for {int(texts.sum())} of {len(texts)} texts, the "
            f"first at position {int(texts.argmax())}. Check the model for overflow; float16 is often too narrow."
        )
