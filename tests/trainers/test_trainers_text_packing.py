"""Texts side by side in one row: loss, gradient and model are those of padding; only where a model keeps them apart."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_text import make_language_model, make_model, make_records

from mlflow_privacy.text import tokenize
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.text import training as text_training
from mlflow_privacy.trainers.text.data import TextData, collate
from mlflow_privacy.trainers.text.packing import Packing, best_rows, keeps_texts_apart, rows_of
from mlflow_privacy.trainers.text.training import batch_loss

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 320}
LLAMA = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64}


def texts(n=24, prompts=False, objective="causal_lm", max_length=40):
    model = make_language_model(max_length=max_length, prompt_column="prompt" if prompts else None)
    data = make_records(n, prompts=prompts)
    tokens = tokenize(model.tokenizer, data.x, max_length=max_length, prompt_column=model.prompt_column)
    return TextData(tokens, None, 0, objective)


def gradients(model, batch):
    model.zero_grad()
    labels = batch.pop("labels")
    loss = batch_loss(model(**batch).logits, labels, "causal_lm", n=1)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.ravel() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("prompts", [False, True])
def test_loss_and_gradient_are_those_of_the_padded_batch(prompts):
    data, model, index = texts(prompts=prompts), make_model(), np.random.default_rng(0).permutation(24)[:16].tolist()
    packed, padded = Packing(data)(index), collate(data, index)
    assert packed["input_ids"].numel() < padded["input_ids"].numel()
    assert (packed["labels"] != -100).sum() == (padded["labels"] != -100).sum()
    one, other = gradients(model, packed), gradients(model, padded)
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    torch.testing.assert_close(one[1], other[1], rtol=1e-3, atol=1e-4)


def test_rows_hold_every_text_once_and_are_nearly_even():
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 30, rng.integers(1, 20)).tolist()
        for count in range(1, len(lengths) + 1):
            rows = rows_of(lengths, count)
            assert len(rows) == count
            assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
            widest = max(sum(lengths[i] for i in row) for row in rows)
            assert widest <= sum(lengths) / count + max(lengths)
    assert Packing(texts())([4]) is None


def test_rows_are_as_wide_as_pays():
    rng = np.random.default_rng(0)
    for hidden in (1, 100, 10_000):
        for _ in range(50):
            lengths = rng.integers(1, 200, rng.integers(1, 20)).tolist()
            padded = len(lengths) * max(lengths) * (6 * hidden + max(lengths))
            rows = best_rows(lengths, hidden, 400)
            if rows is None:
                continue
            assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
            width = max(sum(lengths[i] for i in row) for row in rows)
            assert width <= 400
            assert len(rows) * width * (6 * hidden + width) < 0.95 * padded
    lengths = [70] * 7 + [100]
    assert len(best_rows(lengths, 768, 2048)) == 3  # the dense layers cost most
    assert best_rows(lengths, 10, 2048) is None  # attention does
    assert len(best_rows(lengths, 768, 200)) == 4  # no row is wider than the model's context


def opt():
    sizes = {"ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 32}
    return transformers.OPTForCausalLM(transformers.OPTConfig(vocab_size=320, hidden_size=32, **sizes))


def bloom():
    config = transformers.BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=2)
    return transformers.BloomForCausalLM(config)


def mamba():
    config = transformers.MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=1, state_size=4)
    return transformers.MambaForCausalLM(config)


@pytest.mark.parametrize(
    ("model", "apart"),
    [
        (lambda: make_model(), True),
        (lambda: make_model(attn_implementation="eager"), True),
        (lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)), True),
        (lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**LLAMA, sliding_window=4)), True),
        (opt, False),  # its positions come from the mask
        (bloom, False),  # a token sees its whole row
        (mamba, False),  # a state runs through the row
    ],
    ids=["gpt2", "gpt2-eager", "llama", "mistral", "opt", "bloom", "mamba"],
)
def test_only_models_that_keep_texts_apart_get_them_packed(model, apart, caplog):
    torch.manual_seed(0)
    net, state = model().train(), torch.random.get_rng_state()
    with caplog.at_level(logging.INFO):
        assert keeps_texts_apart(net, Packing(texts()), np.arange(24)) is apart
    assert ("Texts are padded" in caplog.text) is not apart
    assert all(sub.training for sub in net.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_that_looks_at_its_neighbours_a_little_is_found_out():
    class Leaky(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_model()

        def forward(self, input_ids, **kwargs):
            output = self.inner(input_ids=input_ids, **kwargs)
            output.logits = output.logits + 1e-3 * output.logits.mean(dim=1, keepdim=True)
            return output

    assert not keeps_texts_apart(Leaky(), Packing(texts()), np.arange(24))


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_what_cannot_be_packed_is_padded():
    assert not keeps_texts_apart(make_model(), Packing(texts(objective="sequence_classification")), np.arange(24))
    tuned = make_language_model()
    peft = {"type": "prompt_tuning", "num_virtual_tokens": 3}
    settings = {"epochs": 1, "batch_size": 4, "learning_rate": 0.1, "base": tuned, "peft": peft}
    recipe = make_recipe(tuned, settings, task="language")
    (model,) = trainer_for(recipe).train(recipe, make_records(8), np.ones((1, 8), bool), [0], device="cpu")
    assert not keeps_texts_apart(model.model, Packing(texts()), np.arange(24))
    assert not keeps_texts_apart(torch.nn.Linear(2, 2), Packing(texts()), np.arange(24))


@pytest.mark.parametrize("peft", [None, {"type": "lora", "r": 4, "target_modules": ["c_attn"], "fan_in_fan_out": True}])
def test_packed_training_gives_the_same_model(peft, monkeypatch):
    base, data = make_language_model(), make_records(16)
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.2, "optimizer": "sgd", "base": base, "peft": peft}
    recipe = make_recipe(base, settings, task="language")
    packed, calls = Packing.__call__, []
    monkeypatch.setattr(Packing, "__call__", lambda self, index: calls.append(index) or packed(self, index))

    def train():
        (model,) = trainer_for(recipe).train(recipe, data, np.ones((1, 16), bool), [3], device="cpu")
        return torch.cat([p.detach().ravel() for p in model.model.parameters()])

    one = train()
    assert [len(index) for index in calls[1:]] == [8] * 4  # after the texts that the model was tried on
    monkeypatch.setattr(text_training, "keeps_texts_apart", lambda *args: False)
    other = train()
    assert len(calls) == 5
    start = torch.cat([p.detach().ravel() for p in base.model.parameters()])
    if peft is None:
        assert (one - start).norm() > 100 * (one - other).norm()
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
