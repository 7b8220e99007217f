"""Outputs of live language models: mean log-probability and extra signals of a causal one, φ of a text classifier."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mlflow_privacy.attacks.extras import EXTRAS, parse_extra
from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.classification import outputs_from_phi, phi_from_logits, require_finite
from mlflow_privacy.signals.language import likelihood as language
from mlflow_privacy.signals.language.likelihood import TokenLogProbs
from mlflow_privacy.signals.language.neighbours import MaskedModel, neighbours
from mlflow_privacy.text import LanguageModel, TokenizedText, padding_id, tokenize, visible_part
from mlflow_privacy.types import ModelOutputs, Records

_LONGEST_PREFIX = 1 << 20  # tokens; what does not fit into the model is cut off in front
_BETWEEN = "\n\n"


@dataclasses.dataclass(frozen=True)
class LanguageAids:
    """What an attacker has besides the audited language model; all live, nothing is loaded from a name.

    Attributes:
      base: the model before fine-tuning. An audited peft model brings its own: itself with the adapters off.
      masked: a masked language model that writes neighbours.
      prefix: texts that are no members and not audited, for ReCaLL.
    """

    base: LanguageModel | None = None
    masked: MaskedModel | None = None
    prefix: tuple[str, ...] = ()


def has_base(lm: LanguageModel, aids: LanguageAids) -> bool:
    """Whether the model before fine-tuning is at hand: given, or under the adapters of a peft model."""
    return aids.base is not None or callable(getattr(lm.model, "disable_adapter", None))


def computable(extras: Iterable[str], model: Any, aids: LanguageAids | None = None) -> tuple[str, ...]:
    """Those of the extra signals that `language_outputs` can compute of this model, before anything is computed.

    Args:
      extras: keys, from `attacks.extra_signals`.
      model: any audited model; only a causal `LanguageModel` has extra signals.

    >>> computable(["zlib"], model=None)
    ()
    """
    if not isinstance(model, LanguageModel) or model.objective != "causal_lm":
        return ()
    aids = aids or LanguageAids()
    missing = {
        "base": not has_base(model, aids),
        "neighbours": aids.masked is None,
        "recall": not aids.prefix,
    }
    return tuple(key for key in extras if not missing.get(parse_extra(key)[0], False))


def language_outputs(
    lm: LanguageModel,
    records: Records,
    *,
    device: str = "auto",
    batch_size: int = 32,
    extras: Sequence[str] = (),
    aids: LanguageAids | None = None,
) -> ModelOutputs:
    """What a causal language model says about each text.

    Args:
      lm: the model.
      records: of n texts; labels are not looked at.
      device: "auto", "cpu", "cuda", ...
      batch_size: of inference, in texts; it does not change the result.
      extras: keys of extra signals to compute besides, from `attacks.extra_signals`.
      aids: what the extra signals "base", "neighbours" and "recall" need.

    Returns:
      Mean log-probabilities of the counted tokens (link "log_p"), the losses -signal, and `extra` by key.

    Raises:
      SignalError: a text without a counted token, an extra signal that cannot be had, NaN.
    """
    aids = aids or LanguageAids()
    parsed = {key: parse_extra(key) for key in extras}
    lacking = [EXTRAS[parsed[key][0]].remedy for key in extras if key not in computable(extras, lm, aids)]
    if lacking:
        raise SignalError(f"Extra signals cannot be computed. {' '.join(dict.fromkeys(lacking))}")
    asking = _Asking(lm, records, device, batch_size, aids)
    tokens = asking.score(asking.tokenized, moments=any(kind == "min_k_plus" for kind, _ in parsed.values()))
    signal = language.mean_log_prob(tokens)
    extra = {
        key: _COMPUTE[kind](asking, tokens, **options).astype(np.float32) for key, (kind, options) in parsed.items()
    }
    return ModelOutputs(signal.astype(np.float32), None, (-signal).astype(np.float32), "log_p", extra)


def classifier_outputs(
    lm: LanguageModel,
    records: Records,
    *,
    classes: np.ndarray | None = None,
    device: str = "auto",
    batch_size: int = 32,
) -> ModelOutputs:
    """What a classifier of texts says about each record: φ of its class logits.

    Labels are matched to outputs as `trainers.torch.tensors.label_indices` does, for references like for the target.

    Args:
      classes: labels of the whole pool, sorted or in the order of the outputs (`lineage.classes` takes a model's own
        `id2label`); None reads the `label2id` of the model, or else takes those of `records`.
      batch_size: of inference, in texts; it does not change the result.

    Raises:
      SignalError: a text without tokens, labels that do not fit the model, NaN.
    """
    from mlflow_privacy.signals.language.torch import classifier_logits
    from mlflow_privacy.trainers.torch.tensors import label_indices

    tokenized = _tokenize(lm, records.x)
    logits = classifier_logits(lm.model, tokenized, padding_id(lm.tokenizer), device=device, batch_size=batch_size)
    require_finite(logits)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    known = np.unique(records.y) if classes is None else np.asarray(classes)
    names = getattr(getattr(lm.model, "config", None), "label2id", None) or {}
    if classes is None and known.dtype.kind in "OUST" and all(name in names for name in known.tolist()):
        index = np.array([names[label] for label in records.y.tolist()], np.int64)
    else:
        index = label_indices(records.y, known, logits.shape[1], error=SignalError)
    return outputs_from_phi(phi_from_logits(logits, index), logits.argmax(axis=1) == index)


@dataclasses.dataclass(frozen=True)
class _Asking:
    """One model, the records it is asked about, and how."""

    lm: LanguageModel
    records: Records
    device: str
    batch_size: int
    aids: LanguageAids

    @property
    def tokenized(self) -> TokenizedText:
        return _tokenize(self.lm, self.records.x)

    @property
    def texts(self) -> list[str]:
        x = self.records.x
        return x[self.lm.text_column].tolist() if hasattr(x, "columns") else list(x)

    def score(
        self, tokenized: TokenizedText, lm: LanguageModel | None = None, *, moments: bool = False
    ) -> TokenLogProbs:
        """Log-probabilities of tokens under the model, or under another one."""
        from mlflow_privacy.signals.language.torch import token_log_probs

        model = (lm or self.lm).model
        return token_log_probs(model, tokenized, device=self.device, batch_size=self.batch_size, moments=moments)

    def mean_of(self, texts: Sequence[str], times: int = 1) -> np.ndarray:
        """Mean log-probabilities of other texts (n * times,), each text of the records standing for `times` of them."""
        x: Any = list(texts)
        if hasattr(self.records.x, "columns"):
            x = self.records.x.iloc[np.repeat(np.arange(len(self.records)), times)].assign(**{self.lm.text_column: x})
        return language.mean_log_prob(self.score(_tokenize(self.lm, x)))


def _tokenize(lm: LanguageModel, x: Any) -> TokenizedText:
    return tokenize(
        lm.tokenizer, x, max_length=lm.max_length, text_column=lm.text_column, prompt_column=lm.prompt_column
    )


def _zlib(asking: _Asking, tokens: TokenLogProbs) -> np.ndarray:
    """Of the text that the tokens were taken from: truncated, and without its prompt."""
    tok = asking.tokenized
    rows = [tok.ids[a:b][tok.is_response[a:b]].tolist() for a, b in zip(tok.offsets[:-1], tok.offsets[1:])]
    return language.zlib_bytes([asking.lm.tokenizer.decode(row, skip_special_tokens=True) for row in rows])


def _lowercase(asking: _Asking, tokens: TokenLogProbs) -> np.ndarray:
    return asking.mean_of([text.lower() for text in asking.texts])


def _min_k(asking: _Asking, tokens: TokenLogProbs, *, k: float) -> np.ndarray:
    return language.min_k(tokens, k=k)


def _min_k_plus(asking: _Asking, tokens: TokenLogProbs, *, k: float) -> np.ndarray:
    return language.min_k_plus(tokens, k=k)


def _base(asking: _Asking, tokens: TokenLogProbs) -> np.ndarray:
    """Under the base model that was given, else under the audited peft model with its adapters off."""
    base = asking.aids.base or asking.lm
    off = contextlib.nullcontext() if asking.aids.base is not None else asking.lm.model.disable_adapter()
    with off:
        return language.mean_log_prob(asking.score(_tokenize(base, asking.records.x), base))


def _neighbours(asking: _Asking, tokens: TokenLogProbs, *, n: int, replaced: int, seed: int) -> np.ndarray:
    assert asking.aids.masked is not None
    changed = neighbours(
        asking.aids.masked,
        asking.texts,
        n=n,
        replaced=replaced,
        seed=seed,
        device=asking.device,
        batch_size=asking.batch_size,
        within=visible_part(asking.lm, asking.records.x),
    )
    return asking.mean_of(changed, times=n).reshape(len(asking.records), n).mean(axis=1)


def _recall(asking: _Asking, tokens: TokenLogProbs) -> np.ndarray:
    """After the prefix, of the very tokens that count without it."""
    return language.mean_log_prob(asking.score(_after_prefix(asking.lm, asking.aids.prefix, asking.tokenized)))


def _after_prefix(lm: LanguageModel, prefix: Sequence[str], tok: TokenizedText) -> TokenizedText:
    """Each text after the same prefix, which does not count; a beginning-of-sequence token stays in front.

    Raises:
      SignalError: the longest text leaves no room for a prefix.
    """
    special = set(lm.tokenizer.all_special_ids)
    foreign = tokenize(lm.tokenizer, [_BETWEEN.join([*prefix, ""])], max_length=_LONGEST_PREFIX).ids
    foreign = foreign[[token not in special for token in foreign.tolist()]]
    starts, lengths = tok.offsets[:-1], np.diff(tok.offsets)
    context = getattr(getattr(lm.model, "config", None), "max_position_embeddings", None) or 2 * lm.max_length
    room = int(context) - int(lengths.max())
    if room < 1 or not len(foreign):
        raise SignalError(
            f"ReCaLL has no room for a prefix: the model takes {context} tokens, the longest text has {lengths.max()}, "
            f"the prefix {len(foreign)}. Use a smaller max_length, or leave attack 'recall' out."
        )
    foreign = foreign[-room:]
    bos = lm.tokenizer.bos_token_id
    head = int(bos is not None and bool((tok.ids[starts] == bos).all()))
    counted = tok.is_response.copy()
    counted[starts] = False
    none = np.zeros(len(foreign), bool)
    ids = [p for a, b in zip(starts, tok.offsets[1:]) for p in (tok.ids[a : a + head], foreign, tok.ids[a + head : b])]
    flags = [p for a, b in zip(starts, tok.offsets[1:]) for p in (counted[a : a + head], none, counted[a + head : b])]
    offsets = np.concatenate([[0], np.cumsum(lengths + len(foreign))])
    return TokenizedText(np.concatenate(ids), offsets, np.concatenate(flags))


_COMPUTE: dict[str, Callable[..., np.ndarray]] = {
    "zlib": _zlib,
    "lowercase": _lowercase,
    "min_k": _min_k,
    "min_k_plus": _min_k_plus,
    "base": _base,
    "neighbours": _neighbours,
    "recall": _recall,
}
