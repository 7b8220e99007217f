"""Outputs of live language models: every extra signal by hand or by a naive twin, texts in frames, classifiers."""

import itertools
import math
import types
import zlib

import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.attacks.extras import EXTRAS
from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.types import Records

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from mlflow_privacy.signals.language.neighbours import MaskedModel, neighbours  # noqa: E402
from mlflow_privacy.signals.language.outputs import _COMPUTE, LanguageAids, computable, language_outputs  # noqa: E402
from mlflow_privacy.text import LanguageModel, visible_part  # noqa: E402

P = {"a": {"a": 0.75, "A": 0.25}, "A": {"a": 0.5, "A": 0.5}}  # next word after the last
LETTERS = {"a": 0, "A": 1}


def word_tokenizer(words, **special):
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=special.get("unk_token")))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **special)


class Bigram(torch.nn.Module):
    def __init__(self, table=P):
        super().__init__()
        rows = [[table[before][after] for after in LETTERS] for before in LETTERS]
        self.table = torch.nn.Parameter(torch.tensor(rows).log(), requires_grad=False)

    def forward(self, input_ids, attention_mask=None):
        return types.SimpleNamespace(logits=self.table[input_ids])


def bigram(table=P, **changes):
    model = Bigram(table)
    return LanguageModel(model, word_tokenizer(LETTERS), "causal_lm", **{"max_length": 16, **changes})


def records(texts, prompts=None):
    x = np.array(texts, object) if prompts is None else pd.DataFrame({"text": texts, "prompt": prompts})
    return Records(x, np.zeros(len(texts), int), np.arange(len(texts)).astype(str))


def log_p(text, table=P, first=1):
    """Mean log-probability of the words of a text from word `first` on."""
    words = text.split()
    return float(np.mean([math.log(table[a][b]) for a, b in itertools.pairwise(words)][first - 1 :]))


TEXTS = ["A A a a", "a A", "a a a A a"]


def test_the_signal_is_the_mean_log_probability_and_the_loss_its_negative():
    out = model_outputs(bigram(), records(TEXTS), task="classification", device="cpu")
    np.testing.assert_allclose(out.signal, [log_p(text) for text in TEXTS], rtol=1e-6)
    np.testing.assert_array_equal(out.loss, -out.signal)
    assert out.link == "log_p"
    assert out.correct is None
    assert out.extra == {}
    assert out.signal.dtype == out.loss.dtype == np.float32


def test_every_kind_of_extra_signal_is_computed_by_somebody():
    assert set(_COMPUTE) == set(EXTRAS)


def test_extra_signals_by_hand():
    other = {"a": {"a": 0.1, "A": 0.9}, "A": {"a": 0.8, "A": 0.2}}
    keys = ("zlib", "lowercase", "min_k:k=0.4", "min_k_plus:k=0.4", "base", "recall")
    aids = LanguageAids(base=bigram(other), prefix=("A A",))
    out = language_outputs(bigram(), records(TEXTS), device="cpu", extras=keys, aids=aids)
    assert tuple(out.extra) == keys
    np.testing.assert_array_equal(out.extra["zlib"], [len(zlib.compress(text.encode())) for text in TEXTS])
    np.testing.assert_allclose(out.extra["lowercase"], [math.log(0.75)] * 3, rtol=1e-6)
    np.testing.assert_allclose(out.extra["min_k:k=0.4"], np.log([0.5, 0.25, 0.25]), rtol=1e-6)
    # After "a": mean 0.75 log 0.75 + 0.25 log 0.25, s.d. √3/4 · log 3, so that "A" is -√3. After "A" all are alike.
    # Of three tokens the lowest one counts: both after "A" are 0. Of four the lowest is the "A" after "a".
    np.testing.assert_allclose(out.extra["min_k_plus:k=0.4"], [0, -math.sqrt(3), -math.sqrt(3)], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out.extra["base"], [log_p(text, other) for text in TEXTS], rtol=1e-6)
    # A bigram forgets the prefix, and the first word counts neither with nor without it.
    np.testing.assert_allclose(out.extra["recall"], out.signal, rtol=1e-6)
    assert {values.dtype for values in out.extra.values()} == {np.dtype(np.float32)}


def test_prompts_count_nowhere_and_stay_as_they_are():
    prompts = ["A A ", "a ", "A "]
    lm = bigram(prompt_column="prompt")
    keys = ("zlib", "lowercase", "recall")
    out = language_outputs(lm, records(TEXTS, prompts), device="cpu", extras=keys, aids=LanguageAids(prefix=("a A a",)))
    first = [len(prompt.split()) for prompt in prompts]
    wanted = [log_p(prompt + text, first=k) for prompt, text, k in zip(prompts, TEXTS, first)]
    np.testing.assert_allclose(out.signal, wanted, rtol=1e-6)
    np.testing.assert_array_equal(out.extra["zlib"], [len(zlib.compress(text.encode())) for text in TEXTS])
    lower = [log_p(prompt + text.lower(), first=k) for prompt, text, k in zip(prompts, TEXTS, first)]
    np.testing.assert_allclose(out.extra["lowercase"], lower, rtol=1e-6)
    np.testing.assert_allclose(out.extra["recall"], out.signal, rtol=1e-6)


def test_what_is_cut_off_is_compressed_by_nobody():
    out = language_outputs(bigram(max_length=2), records(TEXTS), device="cpu", extras=("zlib",))
    np.testing.assert_array_equal(out.extra["zlib"], [len(zlib.compress(text[:3].encode())) for text in TEXTS])


WORDS = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[BOS]", *(f"w{i}" for i in range(40))])}
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]"}


def gpt2(seed=0, bos=False, positions=64):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=positions,
        initializer_range=0.4,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=0,
    )
    tokenizer = word_tokenizer(WORDS, **SPECIAL)
    if bos:
        tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single="[BOS] $A", special_tokens=[("[BOS]", 2)]
        )
    return LanguageModel(transformers.GPT2LMHeadModel(config).eval(), tokenizer, "causal_lm", 32)


def sentences(n=14, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(0, 40, size)) for size in rng.integers(2, 14, n)]


def whole(lm, ids):
    """(t - 1,) log-probabilities from the whole softmax."""
    with torch.no_grad():
        table = lm.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return table[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


@pytest.mark.parametrize("bos", [False, True])
def test_recall_equals_the_concatenation_of_ids(bos):
    lm, texts, prefix = gpt2(bos=bos), sentences(), ("w1 w2 w3", "w7 w7")
    out = language_outputs(lm, records(texts), device="cpu", extras=("recall",), aids=LanguageAids(prefix=prefix))
    foreign = [WORDS[word] for word in ["w1", "w2", "w3", "w7", "w7"]]
    for i, text in enumerate(texts):
        ids = [WORDS[word] for word in text.split()]
        head = [2] if bos else []
        own, after = whole(lm, head + ids), whole(lm, head + foreign + ids)
        np.testing.assert_allclose(out.signal[i], own.mean(), atol=1e-5)
        np.testing.assert_allclose(out.extra["recall"][i], after[-len(own) :].mean(), atol=1e-5)


def test_a_prefix_without_room_is_refused_and_a_long_one_is_cut_in_front():
    lm, text, keys = gpt2(positions=8), "w1 w2 w3 w4 w5", ("recall",)
    aids = LanguageAids(prefix=("w9 w8 w7 w6 w5 w4",))
    out = language_outputs(lm, records([text]), device="cpu", extras=keys, aids=aids)
    ids = [WORDS[word] for word in f"w6 w5 w4 {text}".split()]
    np.testing.assert_allclose(out.extra["recall"], whole(lm, ids)[-4:].mean(), atol=1e-5)
    with pytest.raises(SignalError, match="no room for a prefix: the model takes 8 tokens, the longest text has 8"):
        language_outputs(lm, records(["w1 " * 8]), device="cpu", extras=keys, aids=aids)


def test_batch_size_and_padding_side_change_no_signal():
    lm, data = gpt2(), records(sentences())
    keys = ("lowercase", "min_k:k=0.2", "min_k_plus:k=0.2", "base")
    aids = LanguageAids(base=gpt2(seed=1))
    lm.tokenizer.padding_side = "right"
    wanted = language_outputs(lm, data, device="cpu", extras=keys, aids=aids)
    for side, size in (("left", 1), ("left", 5), ("right", 100)):
        lm.tokenizer.padding_side = side
        out = language_outputs(lm, data, device="cpu", batch_size=size, extras=keys, aids=aids)
        np.testing.assert_allclose(out.signal, wanted.signal, atol=1e-6)
        for key in keys:
            np.testing.assert_allclose(out.extra[key], wanted.extra[key], rtol=3e-6, atol=1e-6)


def test_a_peft_model_is_its_own_base_with_the_adapters_off():
    peft = pytest.importorskip("peft")
    lm, data = gpt2(), records(sentences())
    before = language_outputs(lm, data, device="cpu").signal
    config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    tuned = LanguageModel(peft.get_peft_model(lm.model, config), lm.tokenizer, "causal_lm", 32)
    assert computable(["base", "recall"], tuned) == ("base",)
    out = language_outputs(tuned, data, device="cpu", extras=("base",))
    np.testing.assert_allclose(out.extra["base"], before, atol=1e-6)
    assert np.abs(out.signal - before).max() > 0.01
    np.testing.assert_allclose(language_outputs(tuned, data, device="cpu").signal, out.signal, atol=1e-6)


def bert(seed=0):
    torch.manual_seed(seed)
    words = {**WORDS, "[MASK]": len(WORDS)}
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    return MaskedModel(transformers.BertForMaskedLM(config), word_tokenizer(words, **SPECIAL, mask_token="[MASK]"))


@pytest.mark.parametrize("replaced", [1, 3])
def test_neighbours_differ_in_so_many_words_and_only_there(replaced):
    texts = sentences()
    out = neighbours(bert(), texts, n=5, replaced=replaced, seed=0, device="cpu")
    assert len(out) == 5 * len(texts)
    for i, changed in enumerate(out):
        before, after = texts[i // 5].split(), changed.split()
        assert len(before) == len(after)
        assert sum(a != b for a, b in zip(before, after)) == min(replaced, len(before))
        assert set(after) <= {word for word in WORDS if word[0] == "w"}


def test_neighbours_depend_on_text_and_seed_alone():
    masked, texts = bert(), sentences()
    out = neighbours(masked, texts, n=4, replaced=1, seed=0, device="cpu", batch_size=3)
    assert neighbours(masked, texts[::-1], n=4, replaced=1, seed=0, device="cpu")[-4:] == out[:4]
    assert neighbours(masked, texts, n=4, replaced=1, seed=1, device="cpu") != out


def test_neighbours_follow_the_swap_distribution():
    """Of 4,000 neighbours each word's share is p / (1 - p of the word that was there), within 4.5 s.e."""
    masked, n = bert(), 4000
    ids = torch.tensor([[WORDS["w1"], masked.tokenizer.mask_token_id, WORDS["w2"]]])
    masked.model.eval()
    with torch.no_grad():
        p = masked.model(input_ids=ids).logits[0, 1].softmax(-1).double().numpy()
    p[[0, 1, 2, masked.tokenizer.mask_token_id, WORDS["w5"]]] = 0
    p /= p.sum()
    out = neighbours(masked, ["w1 w5 w2"], n=3 * n, replaced=1, seed=0, device="cpu", batch_size=512)
    middle = [text.split()[1] for text in out if text.split()[1] != "w5"]
    assert abs(len(middle) - n) < 4.5 * math.sqrt(n)
    shares = np.array([middle.count(f"w{i}") for i in range(40)]) / len(middle)
    wanted = np.array([p[WORDS[f"w{i}"]] for i in range(40)])
    assert (np.abs(shares - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / len(middle)) + 1e-9).all()


def test_neighbour_signal_is_the_mean_over_the_neighbours():
    lm, masked, texts = gpt2(), bert(), sentences()
    key = "neighbours:n=3,replaced=1,seed=7"
    out = language_outputs(lm, records(texts), device="cpu", extras=(key,), aids=LanguageAids(masked=masked))
    changed = neighbours(masked, texts, n=3, replaced=1, seed=7, device="cpu")
    wanted = [whole(lm, [WORDS[word] for word in text.split()]).mean() for text in changed]
    np.testing.assert_allclose(out.extra[key], np.reshape(wanted, (-1, 3)).mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("prompt", [None, "w9 "])
def test_every_neighbour_of_a_truncated_text_differs_where_the_model_sees_it(side, prompt):
    """Of texts of 12 words of which 4 are seen, two thirds would be the text itself with words changed anywhere."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 40, 12)) for _ in range(20)]
    tokenizer = word_tokenizer(WORDS, **SPECIAL)
    tokenizer.truncation_side = side
    lm = LanguageModel(None, tokenizer, "causal_lm", 4, prompt_column=None if prompt is None else "prompt")
    data = texts if prompt is None else pd.DataFrame({"text": texts, "prompt": prompt})
    parts = visible_part(lm, data)
    words = 4 if prompt is None or side == "left" else 3
    assert [len(text[start:stop].split()) for text, (start, stop) in zip(texts, parts)] == [words] * len(texts)
    out = neighbours(bert(), texts, n=5, replaced=1, seed=0, device="cpu", within=parts)
    for i, changed in enumerate(out):
        differ = [a != b for a, b in zip(texts[i // 5].split(), changed.split())]
        assert sum(differ) == 1
        seen = range(12 - words, 12) if side == "left" else range(words)
        assert differ.index(True) in seen
    anywhere = neighbours(bert(), texts, n=5, replaced=1, seed=0, device="cpu")
    first = [(texts[i // 5].split()[:4], changed.split()[:4]) for i, changed in enumerate(anywhere)]
    assert sum(a == b for a, b in first) > 50


def test_what_is_seen_of_a_text_is_found_without_places_too():
    """A slow tokenizer does not tell them; a text that is not truncated is seen whole."""
    texts = ["w1 w2 w3 w4 w5 w6", "w1 w2", "w3 w4 w5 w6 w7"]
    fast = word_tokenizer(WORDS, **SPECIAL)

    class Slow:
        is_fast = False
        truncation_side = "right"

        def __call__(self, text, **options):
            return fast(text)

    seen = {}
    for tokenizer in (fast, Slow()):
        lm = LanguageModel(None, tokenizer, "causal_lm", 4)
        seen[tokenizer] = [t[a:b].strip() for t, (a, b) in zip(texts, visible_part(lm, texts))]
    assert seen[fast] == ["w1 w2 w3 w4", "w1 w2", "w3 w4 w5 w6"]
    assert list(seen.values())[1] == seen[fast]


def test_a_tokenizer_that_cannot_mask_is_refused():
    with pytest.raises(SignalError, match="has no mask token"):
        MaskedModel(None, word_tokenizer(WORDS, **SPECIAL))


def test_what_cannot_be_had_is_said_with_its_remedy():
    keys = ("base", "recall", "neighbours:n=2,replaced=1,seed=0", "zlib")
    assert computable(keys, bigram()) == ("zlib",)
    assert computable(keys, object()) == ()
    with pytest.raises(SignalError) as caught:
        language_outputs(bigram(), records(TEXTS), extras=keys)
    for remedy in ("base=", "prefix=", "masked="):
        assert remedy in str(caught.value)
    with pytest.raises(SignalError, match="Only a causal language model gives zlib"):
        model_outputs(object(), records(TEXTS), task="classification", extras=("zlib",))


def text_classifier(pad=0, **changes):
    torch.manual_seed(0)
    lm = gpt2()
    config = transformers.GPT2Config(**{**lm.model.config.to_dict(), "num_labels": 3, "pad_token_id": pad, **changes})
    model = transformers.GPT2ForSequenceClassification(config).eval()
    return LanguageModel(model, lm.tokenizer, "sequence_classification", 32)


@pytest.mark.parametrize("pad", [0, None])
def test_classifier_of_texts_gives_phi_of_its_logits_text_by_text(pad):
    lm, texts = text_classifier(pad), sentences()
    y = np.arange(len(texts)) % 3
    data = Records(np.array(texts, object), y, np.arange(len(texts)).astype(str))
    for size in (1, 5, 100):
        out = model_outputs(lm, data, task="classification", device="cpu", batch_size=size)
        assert out.link == "logit"
        for i, text in enumerate(texts):
            with torch.no_grad():
                logits = lm.model(input_ids=torch.tensor([[WORDS[w] for w in text.split()]])).logits[0].double().numpy()
            others = np.delete(logits, y[i])
            np.testing.assert_allclose(out.signal[i], logits[y[i]] - np.logaddexp.reduce(others), atol=1e-5)
            assert out.correct[i] == (logits.argmax() == y[i])
    assert lm.model.config.pad_token_id == pad


def test_class_names_of_the_model_decide_before_the_alphabet():
    names = {"zebra": 0, "ant": 1, "cow": 2}
    plain, named = text_classifier(), text_classifier(label2id=names, id2label={i: n for n, i in names.items()})
    texts, y = sentences(), np.arange(14) % 3
    ids = np.arange(14).astype(str)
    words = np.array(["zebra", "ant", "cow"])[y]
    by_index = model_outputs(plain, Records(np.array(texts, object), y, ids), task="classification", device="cpu")
    by_name = model_outputs(named, Records(np.array(texts, object), words, ids), task="classification", device="cpu")
    np.testing.assert_allclose(by_name.signal, by_index.signal)
    alphabet = model_outputs(plain, Records(np.array(texts, object), words, ids), task="classification", device="cpu")
    assert np.abs(alphabet.signal - by_index.signal).max() > 0.01


def test_a_text_without_tokens_has_no_class():
    data = Records(np.array(["w1", ""], object), np.array([0, 1]), np.array(["0", "1"]))
    with pytest.raises(SignalError, match="1 of 2 texts have no tokens, the first at position 1"):
        model_outputs(text_classifier(), data, task="classification", device="cpu")
