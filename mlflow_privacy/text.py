"""Texts as token ids, and the live language model that audit and trainers hand around."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlflow_privacy.errors import SignalError

Objective = Literal["causal_lm", "sequence_classification"]
MAX_LENGTH = 1024  # tokens a text, where neither model nor tokenizer says less
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_CACHED = 8  # tokenized data sets kept in memory
_NO_CONTENT = {"name_or_path", "is_local", "transformers_version", "truncation", "padding"}  # change no token
_cache: collections.OrderedDict[str, TokenizedText] = collections.OrderedDict()
_digests: weakref.WeakKeyDictionary[Any, tuple[Any, str]] = weakref.WeakKeyDictionary()


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A live model with all that turns a record into its input.

    Attributes:
      model: a transformers `PreTrainedModel` or a peft `PeftModel`.
      tokenizer: its transformers tokenizer.
      max_length: tokens; longer texts are truncated.
      text_column: of the records' frame.
      prompt_column: what stands before the text; its tokens count neither in loss nor in signal.
    """

    model: Any = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)
    objective: Objective
    max_length: int
    text_column: str = "text"
    prompt_column: str | None = None


@dataclasses.dataclass(frozen=True)
class TokenizedText:
    """n texts as token ids, one after the other, without padding. The arrays are read-only.

    Attributes:
      ids: (total,) int32.
      offsets: (n + 1,) int64; text i is `ids[offsets[i]:offsets[i + 1]]`.
      is_response: (total,) bool, False for tokens of a prompt.
    """

    ids: np.ndarray
    offsets: np.ndarray
    is_response: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def tokenize(
    tokenizer: Any,
    frame_or_texts: Any,
    *,
    max_length: int,
    text_column: str = "text",
    prompt_column: str | None = None,
) -> TokenizedText:
    """Tokenizes texts with the tokenizer's own special tokens.

    A text that brings the marks of beginning and end itself gets no second one. A prompt and its text are tokenized as
    one string, without anything in between. A token belongs to the response if a character of it is of the text. The
    last few results are kept in memory, by the SHA-256 of tokenizer, texts and `max_length`.

    Args:
      tokenizer: of transformers.
      frame_or_texts: a DataFrame with the columns, or n strings.
      max_length: tokens per text; what is longer loses its end.
      text_column, prompt_column: of a DataFrame.

    Raises:
      SignalError: the columns are not there, a text is not a string, or there is a prompt but the tokenizer does not
        tell where tokens end.
    """
    texts, prompts = _columns(frame_or_texts, text_column, prompt_column)
    key = _key(tokenizer_digest(tokenizer), texts, prompts, max_length)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    if prompts is not None and not getattr(tokenizer, "is_fast", False):
        raise SignalError(
            f"{type(tokenizer).__name__} does not tell where tokens end, so the tokens of a prompt cannot be told "
            "from those of its text. Use the fast tokenizer, or no prompt column."
        )
    result = _tokenized(tokenizer, texts, prompts, max_length)
    _cache[key] = result
    while len(_cache) > _CACHED:
        _cache.popitem(last=False)
    return result


def visible_part(lm: LanguageModel, frame_or_texts: Any) -> list[tuple[int, int]]:
    """(start, stop) of each text: the characters that are left of it when it is truncated, and so seen by the model.

    Args:
      frame_or_texts: as in `tokenize`.

    Raises:
      SignalError: as `tokenize`.
    """
    texts, prompts = _columns(frame_or_texts, lm.text_column, lm.prompt_column)
    whole = texts if prompts is None else [p + t for p, t in zip(prompts, texts, strict=True)]
    before = [0] * len(texts) if prompts is None else [len(prompt) for prompt in prompts]
    seen = _seen_fast if getattr(lm.tokenizer, "is_fast", False) else _seen_slow
    parts = seen(lm.tokenizer, whole, lm.max_length) if whole else []
    return [(max(start - b, 0), max(stop - b, 0)) for (start, stop), b in zip(parts, before)]


def _seen_fast(tokenizer: Any, whole: Sequence[str], max_length: int) -> list[tuple[int, int]]:
    """By the places of the tokens that are left, as the tokenizer tells them."""
    encoded = _encoded(tokenizer, whole, max_length, places=True)
    parts = []
    for spans, special in zip(encoded["offset_mapping"], encoded["special_tokens_mask"]):
        ends = [span for span, s in zip(spans, special) if not s and span[1] > span[0]]
        parts.append((ends[0][0], ends[-1][1]) if ends else (0, 0))
    return parts


def _seen_slow(tokenizer: Any, whole: Sequence[str], max_length: int) -> list[tuple[int, int]]:
    """The longest beginning (or end, where the beginning is cut off) of each that is not truncated, by bisection."""

    def fits(part: str) -> bool:
        return len(tokenizer(part, verbose=False)["input_ids"]) <= max_length

    at_left = tokenizer.truncation_side == "left"
    parts = []
    for text in whole:
        most, above = len(text) if fits(text) else 0, len(text)
        while above - most > 1:
            middle = (most + above) // 2
            if fits(text[len(text) - middle :] if at_left else text[:middle]):
                most = middle
            else:
                above = middle
        parts.append((len(text) - most, len(text)) if at_left else (0, most))
    return parts


def pad_batch(
    tok: TokenizedText, index: Any, *, pad_id: int, side: Literal["left", "right"] = "right"
) -> tuple[Any, Any, Any]:
    """Some texts as tensors of one length. Padding is marked by the masks, whatever token it is made of.

    Args:
      index: (b,) of the texts.

    Returns:
      input_ids (b, T) int64, attention_mask (b, T) int64, counts_mask (b, T) bool: tokens of the response.

    Example:
      >>> tok = TokenizedText(np.array([5, 6, 7], np.int32), np.array([0, 2, 3]), np.array([True, True, True]))
      >>> [t.tolist() for t in pad_batch(tok, [0, 1], pad_id=0)]
      [[[5, 6], [7, 0]], [[1, 1], [1, 0]], [[True, True], [True, False]]]
    """
    import torch

    index = np.asarray(index, np.int64)
    starts, stops = tok.offsets[index], tok.offsets[index + 1]
    width = int((stops - starts).max(initial=0))
    ids = np.full((len(index), width), pad_id, np.int64)
    mask = np.zeros((len(index), width), np.int64)
    counts = np.zeros((len(index), width), bool)
    for row, (start, stop) in enumerate(zip(starts, stops)):
        at = slice(width - (stop - start), width) if side == "left" else slice(0, stop - start)
        ids[row, at], mask[row, at], counts[row, at] = tok.ids[start:stop], 1, tok.is_response[start:stop]
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(counts)


def padding_id(tokenizer: Any) -> int:
    """The token that fills a batch: the tokenizer's own, else its end, else token 0; the mask hides it."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if value is not None:
            return int(value)
    return 0


def context_length(config: Any) -> int:
    """The most tokens that a model's configuration allows; a large number where it has no limit."""
    limits = [value for name in _POSITIONS if isinstance(value := getattr(config, name, None), int) and value > 0]
    reserved = 2 if getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else 0
    return min(limits, default=2**30) - reserved


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what decides a tokenizer's tokens: not its name, its padding, or what single calls leave behind."""
    state = (len(tokenizer), str(tokenizer.special_tokens_map), tokenizer.truncation_side)
    known = _digests.get(tokenizer)
    if known is not None and known[0] == state:
        return known[1]
    hasher = hashlib.sha256(tokenizer.truncation_side.encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        hasher.update(_content(backend.to_str().encode()))
    else:
        with tempfile.TemporaryDirectory(prefix="mlflow-privacy-") as folder:
            tokenizer.save_pretrained(folder)
            for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
                content = path.read_bytes()
                content = _content(content) if path.suffix == ".json" else content
                hasher.update(f"{path.name}:{len(content)}:".encode() + content)
    value = hasher.hexdigest()
    _digests[tokenizer] = (state, value)
    return value


def _content(raw: bytes) -> bytes:
    """A JSON file without what changes no token."""
    value = json.loads(raw)
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in _NO_CONTENT}
    return json.dumps(value, sort_keys=True).encode()


def _columns(data: Any, text_column: str, prompt_column: str | None) -> tuple[list[str], list[str] | None]:
    """Texts and prompts as lists of strings."""
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        wanted = [text_column] if prompt_column is None else [text_column, prompt_column]
        missing = [name for name in wanted if name not in data.columns]
        if missing:
            raise SignalError(
                f"The records have no column {' and no column '.join(map(repr, missing))}; their columns are "
                f"{', '.join(map(repr, data.columns))}. Name the text column with text=, the prompt's with prompt=."
            )
        texts = data[text_column].tolist()
        prompts = None if prompt_column is None else data[prompt_column].tolist()
    else:
        if prompt_column is not None:
            raise SignalError(
                f"The prompt column {prompt_column!r} needs records in a DataFrame, got {type(data).__name__}."
            )
        texts, prompts = list(data.tolist() if hasattr(data, "tolist") else data), None
    for name, values in ((text_column, texts), (prompt_column, prompts or [])):
        strange = [i for i, value in enumerate(values) if not isinstance(value, str)]
        if strange:
            raise SignalError(
                f"{len(strange)} of {len(values)} records have no string in {name!r}, the first is record "
                f"{strange[0]}: {values[strange[0]]!r}. Leave them out, or name another column."
            )
    return texts, prompts


def _key(tokenizer: str, texts: Sequence[str], prompts: Sequence[str] | None, max_length: int) -> str:
    hasher = hashlib.sha256(f"{tokenizer}:{max_length}:{len(texts)}:{prompts is not None}".encode())
    for values in (texts, prompts or ()):
        for value in values:
            raw = value.encode("utf-8", "surrogatepass")
            hasher.update(len(raw).to_bytes(8, "little") + raw)
    return hasher.hexdigest()


def _encoded(tokenizer: Any, texts: Sequence[str], max_length: int, *, places: bool) -> Any:
    """Texts as the model gets them; with `places` also where each token lies in its text, and which are special."""
    return tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_offsets_mapping=places,
        return_special_tokens_mask=places,
        verbose=False,
    )


def _without_marks_of_its_own(
    tokenizer: Any, prompts: Sequence[str] | None, texts: Sequence[str]
) -> tuple[Sequence[str] | None, Sequence[str]]:
    """Prompts and texts without the beginning and end marks that the tokenizer adds: none is to stand there twice.

    Chat templates write them into the text, for one.
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    if not any(mark and any(mark in text for text in (*(prompts or ()), *texts)) for mark in (bos, eos)):
        return prompts, texts
    plain = tokenizer("a", verbose=False)["input_ids"]
    if bos and plain[0] == tokenizer.bos_token_id:
        if prompts is not None:
            texts = [text if prompt else text.removeprefix(bos) for prompt, text in zip(prompts, texts, strict=True)]
            prompts = [prompt.removeprefix(bos) for prompt in prompts]
        else:
            texts = [text.removeprefix(bos) for text in texts]
    if eos and len(plain) > 1 and plain[-1] == tokenizer.eos_token_id:
        texts = [text.removesuffix(eos) for text in texts]
    return prompts, texts


def _tokenized(tokenizer: Any, texts: Sequence[str], prompts: Sequence[str] | None, max_length: int) -> TokenizedText:
    if not texts:
        rows: list[list[int]] = []
        starts: Any = []
    else:
        prompts, texts = _without_marks_of_its_own(tokenizer, prompts, texts)
        whole = list(texts) if prompts is None else [p + t for p, t in zip(prompts, texts, strict=True)]
        encoded = _encoded(tokenizer, whole, max_length, places=prompts is not None)
        rows = encoded["input_ids"]
        starts = [] if prompts is None else zip(encoded["offset_mapping"], encoded["special_tokens_mask"], prompts)
    lengths = np.array([len(row) for row in rows], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.fromiter((token for row in rows for token in row), np.int32, int(offsets[-1]))
    counted = np.ones(len(ids), bool)
    for i, (spans, special, prompt) in enumerate(starts):
        in_text = [not s and span[1] > len(prompt) for span, s in zip(spans, special)]
        first = in_text.index(True) if True in in_text else len(in_text)
        counted[offsets[i] : offsets[i] + first] = False
    for array in (ids, offsets, counted):
        array.setflags(write=False)
    return TokenizedText(ids, offsets, counted)
