"""Language models and a tokenizer small enough to be made and trained in a test."""

import functools

import numpy as np
import pandas as pd

from mlflow_privacy.text import LanguageModel
from mlflow_privacy.types import Records

END = "<|endoftext|>"
WORDS = tuple("river stone market winter signal copper garden letter harbor window planet bridge candle".split())  # noqa: SIM905


@functools.cache
def backend():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return tokenizer.to_str()


def make_tokenizer(pad=False):
    """A byte-level tokenizer with an end token; `pad=True` also pads with it, as many do for GPT-2."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend()), eos_token=END)
    if pad:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def make_model(objective="causal_lm", seed=0, num_labels=2, dropout=0.0, **config):
    """A GPT-2 of two layers and 32 dimensions."""
    import torch
    import transformers

    from mlflow_privacy.seeding import seeded

    cls = {
        "causal_lm": transformers.GPT2LMHeadModel,
        "sequence_classification": transformers.GPT2ForSequenceClassification,
    }[objective]
    values = dict(vocab_size=320, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    values |= dict(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, pad_token_id=0, num_labels=num_labels)
    with seeded(seed):
        torch.manual_seed(seed)
        return cls(transformers.GPT2Config(**{**values, **config})).eval()


def make_language_model(objective="causal_lm", max_length=24, prompt_column=None, **kwargs):
    return LanguageModel(
        make_model(objective, **kwargs), make_tokenizer(), objective, max_length, prompt_column=prompt_column
    )


def make_texts(n=24, seed=0, words=(3, 8)):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(*words))) for _ in range(n)]


def make_records(n=24, seed=0, labels=False, prompts=False):
    texts = make_texts(n, seed)
    frame = pd.DataFrame({"text": texts})
    if prompts:
        frame.insert(0, "prompt", make_texts(n, seed + 1))
        frame["text"] = " " + frame["text"]
    y = np.array([int("river" in text) for text in texts]) if labels else np.zeros(n, np.int64)
    return Records(frame, y, np.arange(n).astype(str))
