"""Log-probabilities of tokens and the signals made of them, against values by hand and naive twins."""

import itertools
import math
import types
import zlib

import numpy as np
import pytest

from mlflow_privacy.errors import SignalError
from mlflow_privacy.signals.language.likelihood import (
    TokenLogProbs,
    lowest_mean,
    mean_log_prob,
    min_k,
    min_k_plus,
    perplexity,
    segment_mean,
    zlib_bytes,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mlflow_privacy.signals.language.torch import _checked_head, _sequences, masked_log_probs, token_log_probs  # noqa: E402

BIGRAM = [[0.75, 0.25], [0.5, 0.5]]


class Bigram(torch.nn.Module):
    """Two tokens; the next one depends on the last one alone, with known probabilities."""

    def __init__(self, table=BIGRAM, most=10**9):
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(table).log(), requires_grad=False)
        self.most, self.sizes = most, []

    def forward(self, input_ids, attention_mask=None):
        self.sizes.append(len(input_ids))
        if len(input_ids) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return types.SimpleNamespace(logits=self.table[input_ids])


def tokenized(texts, response=None):
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    flags = None if response is None else np.concatenate(response).astype(bool)
    return types.SimpleNamespace(ids=np.concatenate(texts).astype(np.int32), offsets=offsets, is_response=flags)


def tiny_gpt2(seed=0, **changes):
    torch.manual_seed(seed)
    options = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.5}
    special = {"bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**options, **special, **changes})).eval()


def random_texts(n=23, vocabulary=61, longest=40, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, length) for length in rng.integers(2, longest, n)]


def naive(model, ids):
    """value, mean, std of one text from its whole float64 softmax."""
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor(ids)[None]).logits[0].double().log_softmax(-1)[:-1]
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    std = ((p * log_p**2).sum(-1) - mean**2).clamp(min=0).sqrt()
    value = log_p[torch.arange(len(ids) - 1), torch.tensor(ids)[1:]]
    return value.numpy(), mean.numpy(), std.numpy()


def test_two_token_model_gives_the_values_by_hand():
    out = token_log_probs(Bigram(), tokenized([[0, 0, 1, 1], [1, 0]]), device="cpu", moments=True)
    np.testing.assert_allclose(out.value, np.log([0.75, 0.25, 0.5, 0.5]), rtol=1e-6)
    mu, sigma = 0.75 * math.log(0.75) + 0.25 * math.log(0.25), math.sqrt(3) / 4 * math.log(3)
    np.testing.assert_allclose(out.mean, [mu, mu, math.log(0.5), math.log(0.5)], rtol=1e-6)
    np.testing.assert_allclose(out.std, [sigma, sigma, 0, 0], rtol=1e-6, atol=1e-7)
    assert out.offsets.tolist() == [0, 3, 4]
    assert out.value.dtype == np.float32
    np.testing.assert_allclose(mean_log_prob(out), [math.log(0.75 * 0.25 * 0.5) / 3, math.log(0.5)], rtol=1e-6)
    np.testing.assert_allclose(perplexity(out), [(0.75 * 0.25 * 0.5) ** (-1 / 3), 2], rtol=1e-6)
    np.testing.assert_allclose(min_k(out, k=0.4), np.log([0.25, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(min_k(out, k=0.7), [math.log(0.25 * 0.5) / 2, math.log(0.5)], rtol=1e-6)
    np.testing.assert_allclose(min_k_plus(out, k=0.4), [-math.sqrt(3), 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gpt2_equals_the_naive_softmax(dtype):
    model, texts = tiny_gpt2().to(getattr(torch, dtype)), random_texts()
    assert_head_runs_alone(model, texts)
    out = token_log_probs(model, tokenized(texts), device="cpu", batch_size=8, moments=True)
    parts = [naive(model, text) for text in texts]
    for got, wanted in zip((out.value, out.mean, out.std), zip(*parts)):
        tolerance = 2e-5 if dtype == "float32" else 0.2  # padding changes the order of sums
        np.testing.assert_allclose(got, np.concatenate(wanted), atol=tolerance)


def assert_head_runs_alone(model, texts):
    with torch.no_grad():
        assert _checked_head(model, _sequences(tokenized(texts)), torch.device("cpu")) is not None


@pytest.mark.parametrize(
    "make", [tiny_gpt2, lambda: Bigram(np.random.default_rng(0).dirichlet(np.ones(61), 61).tolist())]
)
def test_batch_size_and_company_change_nothing(make):
    model, texts = make(), random_texts()
    whole = token_log_probs(model, tokenized(texts), device="cpu", moments=True)
    for size in (1, 2, 7, 100):
        out = token_log_probs(model, tokenized(texts), device="cpu", batch_size=size, moments=True)
        for got, wanted in ((out.value, whole.value), (out.mean, whole.mean), (out.std, whole.std)):
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=3e-6)
    alone = token_log_probs(model, tokenized(texts[3:4]), device="cpu")
    np.testing.assert_allclose(alone.value, whole.value[whole.offsets[3] : whole.offsets[4]], rtol=1e-6, atol=3e-6)


def test_small_chunks_change_nothing(monkeypatch):
    from mlflow_privacy.signals.language import torch as torch_language

    texts = random_texts()
    for model in (tiny_gpt2(), Bigram(np.random.default_rng(0).dirichlet(np.ones(61), 61).tolist())):
        whole = token_log_probs(model, tokenized(texts), device="cpu", moments=True)
        monkeypatch.setattr(torch_language, "_CHUNK_BYTES", {"cpu": 4 * 61 * 5})
        monkeypatch.setattr(torch_language, "_LOGITS_BYTES", {"cpu": 4 * 61 * 90})
        out = token_log_probs(model, tokenized(texts), device="cpu", moments=True)
        monkeypatch.undo()
        for got, wanted in ((out.value, whole.value), (out.mean, whole.mean), (out.std, whole.std)):
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=3e-6)


def test_whole_logits_never_exist_where_the_output_layer_stands_alone():
    model, texts, rows = tiny_gpt2(), random_texts(), []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(tuple(output.shape)))
    token_log_probs(model, tokenized(texts), device="cpu", batch_size=4)
    checks, scored = rows[:2], rows[2:]  # the model's own logits and the layer's, of one short text
    assert all(len(shape) == 3 and shape[0] == 1 for shape in checks)
    assert all(len(shape) == 2 for shape in scored)
    assert sum(shape[0] for shape in scored) == sum(len(text) - 1 for text in texts)


def test_a_model_that_scales_its_logits_is_not_cut_in_two():
    class Scaled(transformers.GPT2LMHeadModel):
        def forward(self, **kwargs):
            out = super().forward(**kwargs)
            return types.SimpleNamespace(logits=out.logits / 2)

    torch.manual_seed(0)
    model, texts = Scaled(tiny_gpt2().config).eval(), random_texts(n=5)
    with torch.no_grad():
        assert _checked_head(model, _sequences(tokenized(texts)), torch.device("cpu")) is None
    out = token_log_probs(model, tokenized(texts), device="cpu")
    np.testing.assert_allclose(out.value, np.concatenate([naive(model, text)[0] for text in texts]), atol=2e-5)


def test_prompt_and_padding_never_count():
    texts = [[0, 0, 1, 1, 0], [1, 1, 0]]
    response = [[0, 0, 0, 1, 1], [1, 1, 1]]
    out = token_log_probs(Bigram(), tokenized(texts, response), device="cpu")
    np.testing.assert_allclose(out.value, np.log([0.5, 0.5, 0.5, 0.5]), rtol=1e-6)
    assert out.offsets.tolist() == [0, 2, 4]
    whole = token_log_probs(Bigram(), tokenized(texts), device="cpu")
    np.testing.assert_allclose(out.value[:2], whole.value[2:4])


def test_memory_that_runs_out_halves_the_batch(caplog):
    model, texts, sizes = tiny_gpt2(), random_texts(), []
    whole = token_log_probs(model, tokenized(texts), device="cpu")

    def refuse(module, args, kwargs):
        sizes.append(len(args[0] if args else kwargs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    model.transformer.register_forward_pre_hook(refuse, with_kwargs=True)
    out = token_log_probs(model, tokenized(texts), device="cpu", batch_size=16)
    np.testing.assert_allclose(out.value, whole.value, rtol=1e-6, atol=3e-6)
    assert sizes[2:] == [16, 8, 4, *[2] * 11, 1]  # after the two checks of the output layer
    assert "batches of 2 texts" in caplog.text
    with pytest.raises(SignalError, match="no memory for a single text"):
        token_log_probs(Bigram(most=0), tokenized([[0, 1]]), device="cpu")


def test_texts_without_a_scored_token_are_counted():
    with pytest.raises(SignalError, match="2 of 3 texts have no token that can be scored, the first at position 1"):
        token_log_probs(Bigram(), tokenized([[0, 1], [1], []]), device="cpu")
    with pytest.raises(SignalError, match="1 of 1 texts have no token"):
        token_log_probs(Bigram(), tokenized([[0, 1]], [[1, 0]]), device="cpu")
    with pytest.raises(SignalError, match="no texts"):
        token_log_probs(Bigram(), types.SimpleNamespace(ids=np.zeros(0), offsets=np.zeros(1)), device="cpu")


def test_nan_is_counted_by_text():
    table = [[0.75, 0.25], [float("nan"), 0.5]]
    with pytest.raises(SignalError, match="for 2 of 3 texts, the first at position 1"):
        token_log_probs(Bigram(table), tokenized([[0, 0], [1, 1], [0, 1, 1]]), device="cpu")


def test_modes_are_put_back_and_dropout_is_off():
    model, texts = tiny_gpt2(embd_pdrop=0.5, resid_pdrop=0.5).train(), random_texts()
    a, b = (token_log_probs(model, tokenized(texts), device="cpu", batch_size=s) for s in (4, 16))
    np.testing.assert_allclose(a.value, b.value, atol=3e-6)
    assert model.training


@pytest.mark.parametrize("k", [0.01, 0.2, 0.5, 1.0])
def test_segments_equal_a_loop(k):
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 30, 50)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values, mean, std = rng.normal(size=offsets[-1]), rng.normal(size=offsets[-1]), rng.uniform(0.1, 2, offsets[-1])
    parts = [slice(a, b) for a, b in itertools.pairwise(offsets)]
    np.testing.assert_allclose(segment_mean(values, offsets), [values[s].mean() for s in parts])

    def lowest(v):
        return np.sort(v)[: max(int(round(k * len(v), 6)), 1)].mean()

    np.testing.assert_allclose(lowest_mean(values, offsets, k=k), [lowest(values[s]) for s in parts])
    tokens = TokenLogProbs(values, mean, std, offsets)
    np.testing.assert_allclose(min_k_plus(tokens, k=k), [lowest((values[s] - mean[s]) / std[s]) for s in parts])


def test_all_tokens_are_the_mean():
    tokens = TokenLogProbs(np.random.default_rng(0).normal(size=9), None, None, np.array([0, 4, 9]))
    np.testing.assert_allclose(min_k(tokens, k=1.0), mean_log_prob(tokens))
    with pytest.raises(SignalError, match=r"k must be in \(0, 1\]"):
        min_k(tokens, k=0.0)
    with pytest.raises(SignalError, match="needs the moments"):
        min_k_plus(tokens)


def test_zlib_counts_bytes_not_letters():
    texts = ["ab" * 50, "ä", "\ud800"]
    assert zlib_bytes(texts)[:2].tolist() == [len(zlib.compress(text.encode())) for text in texts[:2]]


def test_masked_places_equal_one_text_at_a_time():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForMaskedLM(config).eval()
    ids = [text % 31 for text in random_texts(n=6, longest=12)]
    places = [np.array([0, len(text) - 1]) for text in ids]
    got = {}
    masked_log_probs(model, ids, places, got.__setitem__, device="cpu", batch_size=4)
    for i, text in enumerate(ids):
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor(text)[None]).logits[0].log_softmax(-1)[places[i]].numpy()
        np.testing.assert_allclose(got[i], wanted, atol=1e-5)


@pytest.mark.gpu
def test_the_gpu_gives_the_numbers_of_the_cpu():
    model, texts = tiny_gpt2(), random_texts()
    a, b = (token_log_probs(model, tokenized(texts), device=d, moments=True) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(a.value, b.value, atol=1e-4)
    np.testing.assert_allclose(a.std, b.std, atol=1e-4)
