"""Fine-tuning of language models: what is learned, what does not count, and what stays as it was."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_text import make_language_model, make_model, make_records, make_tokenizer

from mlflow_privacy.errors import ConfigError, RecipeError, StoreError
from mlflow_privacy.fingerprint import recipe_digest
from mlflow_privacy.text import LanguageModel, pad_batch, tokenize
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.text.base import plain_base, state_digest
from mlflow_privacy.trainers.text.data import collate
from mlflow_privacy.trainers.text.peft import peft_config, peft_values, read_peft
from mlflow_privacy.trainers.text.settings import TextSettings, read_text_settings, text_settings_from_params
from mlflow_privacy.trainers.text.trainer import fresh, text_data
from mlflow_privacy.trainers.text.training import (
    batch_loss,
    fit,
    optimizer_of,
    total_steps,
    warmup_steps,
)
from mlflow_privacy.zoo.transformers_models import check_transformer, load_base

SETTINGS = {"epochs": 2, "batch_size": 4, "learning_rate": 5e-3}
EVERYWHERE = ["c_attn", "c_proj", "c_fc", "lm_head"]
LORA = {"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True}
CPU = torch.device("cpu")


def recipe_of(model, data=None, **settings):
    task = "language" if model.objective == "causal_lm" else "classification"
    return make_recipe(model, {**SETTINGS, "base": model, **settings}, task=task, data=data)


def train(recipe, data, members, seeds, **kwargs):
    return list(trainer_for(recipe).train(recipe, data, np.atleast_2d(members), seeds, device="cpu", **kwargs))


def losses(recipe, model, data):
    """(n,) mean loss of each record."""
    texts = text_data(recipe, data)
    out = []
    for i in range(len(data)):
        batch = collate(texts, [i])
        labels = batch.pop("labels")
        with torch.no_grad():
            out.append(float(batch_loss(model.model(**batch).logits, labels, model.objective)))
    return np.array(out)


def logits(model, data):
    tok = tokenize(model.tokenizer, data.x, max_length=model.max_length, prompt_column=model.prompt_column)
    ids, mask, _ = pad_batch(tok, np.arange(len(data)), pad_id=0)
    with torch.no_grad():
        return model.model(input_ids=ids, attention_mask=mask).logits


def half(n=16):
    return np.arange(n) < n // 2


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- what is learned ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peft", [None, {**LORA, "target_modules": EVERYWHERE}], ids=["whole", "lora"])
def test_a_reference_learns_its_members_better_than_the_others(peft):
    base, data = make_language_model(), make_records(16)
    recipe = recipe_of(base, peft=peft, epochs=10, learning_rate=1e-2 if peft is None else 3e-2)
    (model,) = train(recipe, data, half(), [0])
    before, after = losses(recipe, base, data), losses(recipe, model, data)
    assert after[:8].mean() < before[:8].mean() - 1
    assert after[:8].mean() < after[8:].mean() - 0.3


def test_a_classifier_learns_the_labels_of_its_members():
    base, data = make_language_model("sequence_classification"), make_records(16, labels=True)
    recipe = recipe_of(base, data, epochs=10, learning_rate=1e-2)
    (model,) = train(recipe, data, half(), [0])
    assert losses(recipe, model, data)[:8].mean() < 0.2
    assert recipe.spec["classes"] == [0, 1]


def test_class_names_are_columns_in_their_order():
    base, data = make_language_model("sequence_classification"), make_records(8, labels=True)
    named = dataclasses.replace(data, y=np.array(["no", "yes"])[data.y])
    assert text_data(recipe_of(base, named), named).labels.tolist() == data.y.tolist()


def test_the_same_seed_gives_the_same_model_whatever_was_trained_before():
    base, data = make_language_model(dropout=0.2), make_records(16)
    recipe = recipe_of(base)
    members = np.stack([half(), ~half(), half()])
    first, other, again = train(recipe, data, members, [7, 8, 7])
    (alone,) = train(recipe, data, half(), [7])
    assert same(first.model, again.model)
    assert same(first.model, alone.model)
    assert not same(first.model, train(recipe, data, half(), [9])[0].model)
    assert not same(first.model, other.model)


def test_global_random_state_is_left_alone():
    base, data = make_language_model(), make_records(8)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(recipe_of(base, epochs=1), data, half(8), [0])
    assert torch.equal(torch.rand(1), expected)


def test_training_is_quiet_and_leaves_no_file(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, data, seen = make_language_model(), make_records(8), []
    train(recipe_of(base), data, np.stack([half(8), ~half(8)]), [0, 1], progress=lambda a, b: seen.append((a, b)))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert os.listdir(tmp_path) == []
    assert seen == [(i, 4) for i in (1, 2, 3, 4)]


# --- what does not count -----------------------------------------------------------------------------------------


def gradients(model, batch, objective):
    model.zero_grad()
    labels = batch.pop("labels")
    loss = batch_loss(model(**batch).logits, labels, objective, n=1)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.ravel() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_enters_neither_loss_nor_gradient(side, pad):
    base, data = make_language_model(), make_records(4)
    base = dataclasses.replace(base, tokenizer=make_tokenizer(pad=pad))
    data.x["text"] += "<|endoftext|>"  # a real end token is no padding
    texts, model = text_data(recipe_of(base), data), base.model
    assert len(set(np.diff(texts.tokens.offsets))) > 1
    together = gradients(model, collate(texts, [0, 1, 2, 3], side=side), base.objective)
    alone = [gradients(model, collate(texts, [i]), base.objective) for i in range(4)]
    assert together[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)
    assert torch.allclose(together[1], sum(g for _, g in alone), rtol=1e-4, atol=1e-4)
    end = texts.tokens.offsets[1:] - 1
    assert (texts.tokens.ids[end] == 0).all()
    assert (collate(texts, [0, 1, 2, 3])["labels"] == 0).sum() == 4  # the end of a text is learned


def test_a_prompt_is_read_but_not_learned():
    base, data = make_language_model(prompt_column="prompt", max_length=60), make_records(6, prompts=True)
    texts = text_data(recipe_of(base), data)
    counted = collate(texts, [0])["labels"][0]
    counted = counted[counted != -100].tolist()
    assert base.tokenizer.decode(counted) == data.x["text"][0]
    loss = losses(recipe_of(base), base, data)
    data.x["prompt"] = data.x["prompt"].str.upper()
    assert not np.allclose(losses(recipe_of(base), base, data), loss)  # it is context all the same


def test_accumulated_batches_are_one_large_batch():
    base, data = make_language_model(), make_records(16)
    large = recipe_of(base, batch_size=8, epochs=1, optimizer="sgd", learning_rate=0.5)
    small = recipe_of(base, batch_size=2, gradient_accumulation_steps=4, epochs=1, optimizer="sgd", learning_rate=0.5)
    (a,), (b,) = (train(r, data, np.ones(16, bool), [1]) for r in (large, small))
    assert not same(a.model, base.model)
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.allclose(x, y, atol=1e-5)


def test_where_memory_runs_out_smaller_batches_give_the_same_steps(monkeypatch):
    from mlflow_privacy.trainers.text import trainer as ours

    base, data, sizes = make_language_model(), make_records(8), []
    recipe = recipe_of(base, batch_size=4, optimizer="sgd", learning_rate=0.5, auto_find_batch_size=True)
    (expected,) = train(recipe, data, np.ones(8, bool), [1])

    def failing(model, *args, batch_size, **kwargs):
        sizes.append(batch_size)
        fit(model, *args, batch_size=batch_size, **kwargs)
        if batch_size > 1:  # only after it has changed the model
            raise torch.cuda.OutOfMemoryError("out of memory")

    monkeypatch.setattr(ours, "fit", failing)
    (found,) = train(recipe, data, np.ones(8, bool), [1])
    assert sizes == [4, 2, 1]
    for x, y in zip(expected.model.parameters(), found.model.parameters(), strict=True):
        assert torch.allclose(x, y, atol=1e-5)


def test_one_step_of_sgd_is_the_gradient_of_the_mean_over_counted_tokens():
    base, data = make_language_model(), make_records(4)
    recipe = recipe_of(base, epochs=1, optimizer="sgd", learning_rate=0.1, schedule="constant", grad_clip=0)
    (model,) = train(recipe, data, np.ones(4, bool), [0])
    batch = collate(text_data(recipe, data), [0, 1, 2, 3])
    twin = make_model()
    n = (batch["labels"] != -100).sum()
    gradients(twin, batch, "causal_lm")
    for x, y in zip(model.model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(x, y - 0.1 * y.grad / n, atol=1e-6)


# --- what stays as it was ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "peft",
    [
        LORA,
        {"type": "lora", "bias": "all", "modules_to_save": ["ln_f"]},
        {"type": "prompt_tuning", "num_virtual_tokens": 3},
    ],
    ids=["lora", "biases", "prompt"],
)
def test_adapters_never_change_the_base_nor_each_other(peft, tmp_path):
    base, data = make_language_model(), make_records(8)
    before, untouched = state_digest(base.model), logits(base, data)
    recipe = recipe_of(base, peft=peft, learning_rate=0.05)
    trainer, outputs = trainer_for(recipe), []
    models = train(recipe, data, np.stack([half(8), ~half(8)]), [0, 1])
    for model in models:
        outputs.append(logits(model, data))
    assert state_digest(base.model) == before
    assert torch.equal(logits(base, data), untouched)
    assert all(p.requires_grad for p in base.model.parameters())
    assert not torch.equal(*outputs)
    assert trainer.save(recipe, models[0], tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors"]
    whole = sum(p.numel() * 4 for p in base.model.parameters())
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < whole / 4
    again = trainer.load(recipe, tmp_path)
    assert torch.allclose(logits(again, data), outputs[0], atol=1e-6)
    assert torch.equal(logits(base, data), untouched)
    assert torch.equal(logits(models[1], data), outputs[1])  # earlier models are still what they were


@pytest.mark.parametrize("peft", [None, LORA], ids=["whole", "lora"])
def test_a_stored_classifier_says_the_same(peft, tmp_path):
    base, data = make_language_model("sequence_classification"), make_records(8, labels=True)
    recipe = recipe_of(base, data, peft=peft)
    (model,) = train(recipe, data, half(8), [0])
    assert trainer_for(recipe).save(recipe, model, tmp_path)
    again = trainer_for(recipe).load(recipe, tmp_path)
    assert torch.equal(logits(again, data), logits(model, data))
    assert not again.model.training


def test_damaged_or_foreign_files_are_refused(tmp_path):
    base, data = make_language_model(), make_records(8)
    recipe = recipe_of(base, peft=LORA)
    trainer = trainer_for(recipe)
    with pytest.raises(StoreError, match=r"adapter_model.safetensors and no adapter_config.json"):
        trainer.load(recipe, tmp_path)
    (model,) = train(recipe, data, half(8), [0])
    trainer.save(recipe, model, tmp_path)
    with pytest.raises(StoreError, match="IA3"):
        trainer.load(recipe_of(base, peft="ia3"), tmp_path)
    with pytest.raises(StoreError, match=r"model.safetensors"):
        trainer.load(recipe_of(base), tmp_path)
    stored = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**stored, "r": 8}))
    with pytest.raises(StoreError, match="another shape"):
        trainer.load(recipe, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**stored, "runs_code": 8}))
    with pytest.raises(StoreError, match="runs_code"):
        trainer.load(recipe, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StoreError):
        trainer.load(recipe, tmp_path)


# --- the base ----------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_weights_not_of_the_name(tmp_path):
    base = make_language_model()
    expected = recipe_digest(recipe_of(base))
    for folder in ("one", "two"):
        base.model.save_pretrained(tmp_path / folder)
        base.tokenizer.save_pretrained(tmp_path / folder)
        settings = {**SETTINGS, "base": str(tmp_path / folder), "max_length": 24}
        recipe = make_recipe(make_language_model(seed=1), settings, task="language")
        assert recipe_digest(recipe) == expected
    with torch.no_grad():
        base.model.transformer.h[1].mlp.c_fc.bias[3] += 1e-6
    assert recipe_digest(recipe_of(base)) != expected


@pytest.mark.parametrize(
    "changed",
    [{"learning_rate": 1e-3}, {"peft": LORA}, {"max_length": 20}, {"gradient_accumulation_steps": 2}, {"prompt": "p"}],
    ids=lambda changed: next(iter(changed)),
)
def test_what_changes_the_model_changes_the_fingerprint(changed):
    base = make_language_model()
    assert recipe_digest(recipe_of(base, **changed)) != recipe_digest(recipe_of(base))


def test_a_layer_of_an_own_class_is_told_by_its_code_and_attributes():
    def with_activation(factor, slope=0.1):
        space = {"__name__": "__main__", "torch": torch}
        exec(
            "class Own(torch.nn.Module):\n    def __init__(self, slope):\n        super().__init__()\n"
            f"        self.slope = slope\n    def forward(self, x):\n        return x.relu() * {factor}\n",
            space,
        )
        base = make_language_model()
        base.model.transformer.h[0].mlp.act = space["Own"](slope)
        return recipe_digest(recipe_of(base))

    keys = [with_activation(1), with_activation(2), with_activation(1, slope=0.2), with_activation(1)]
    assert len(set(keys)) == 3
    assert keys[0] == keys[3]
    assert recipe_of(make_language_model()).rests_on == {}


def test_the_base_of_a_peft_model_is_found_inside_it():
    base, data = make_language_model(), make_records(8)
    recipe = recipe_of(base, peft=LORA)
    (target,) = train(recipe, data, half(8), [0])
    again = make_recipe(target, SETTINGS, task="language")
    assert recipe_digest(again) == recipe_digest(recipe)
    assert same(plain_base(target.model), base.model)
    target.model.merge_adapter()
    with pytest.raises(RecipeError, match="merged"):
        make_recipe(target, SETTINGS, task="language")


def test_the_audited_model_itself_is_no_base(tmp_path):
    target = make_language_model()
    target.model.save_pretrained(tmp_path)
    target.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="the audited model itself"):
        make_recipe(target, {**SETTINGS, "base": str(tmp_path)}, task="language")
    with pytest.raises(RecipeError, match="not known"):
        make_recipe(target, SETTINGS, task="language")


def test_another_base_than_was_logged_is_refused():
    base = make_language_model()
    with pytest.raises(RecipeError, match="not the one that was logged"):
        recipe_of(base, base_digest="0" * 64)
    assert recipe_of(base, base_digest=state_digest(base.model)).spec["base"] == state_digest(base.model)


def test_a_base_loads_from_a_folder_with_the_same_new_head_each_time(tmp_path):
    base = make_language_model()
    base.model.save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path), objective="causal_lm")
    assert same(loaded.model, base.model)
    assert loaded.max_length == 64
    assert loaded.tokenizer.pad_token is None
    one, two = (load_base(str(tmp_path), objective="sequence_classification", num_labels=3).model for _ in range(2))
    assert one.score.weight.shape == (3, 32)
    assert same(one, two)


def test_names_are_checked_without_a_network(tmp_path, monkeypatch):
    assert check_transformer("gpt2") == check_transformer("hf:org/name") == check_transformer("org/name") == []
    assert "config.json" in check_transformer(str(tmp_path))[0]
    assert check_transformer("a/b/c")
    assert check_transformer("")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "auto_map": {"AutoModel": "evil.Model"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('code was run')")
    assert check_transformer(str(tmp_path)) == []
    with pytest.raises(ConfigError, match=r"code of its own|model.safetensors"):
        load_base(str(tmp_path), objective="causal_lm")
    with pytest.raises(ConfigError, match="num_labels"):
        load_base("gpt2", objective="sequence_classification")


def test_an_offline_hub_says_what_to_fetch(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"no-such/model.*hf download no-such/model config.json model.safetensors"):
        load_base("no-such/model", objective="causal_lm")


# --- settings ----------------------------------------------------------------------------------------------------


def test_every_fault_is_reported_at_once():
    with pytest.raises(RecipeError) as caught:
        recipe_of(make_language_model(), epoch=3, batch_size=0, schedule="cosin", peft={"type": "lora", "lora_alfa": 2})
    text = str(caught.value)
    for part in ("did you mean 'epochs'", "batch_size must be", "did you mean 'cosine'", "did you mean 'lora_alpha'"):
        assert part in text


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'adalora'"):
        recipe_of(make_language_model(), peft={"type": "adalor"})
    with pytest.raises(RecipeError, match="changes the weights of the base"):
        recipe_of(make_language_model(), peft={"type": "lora", "init_lora_weights": "pissa"})
    with pytest.raises(RecipeError, match="nothing_like_this"):
        recipe_of(make_language_model(), peft={"type": "lora", "target_modules": ["nothing_like_this"]})


def test_names_of_both_worlds_mean_the_same():
    base = make_language_model()
    ours = recipe_of(base, optimizer="AdamW", schedule="linear", weight_decay=0.0)
    theirs = make_recipe(
        base,
        {"optim": "adamw_torch", "num_train_epochs": 2.0, "per_device_train_batch_size": "4", "lr": 5e-3, "base": base,
         "lr_scheduler_type": "linear"},
        task="language",
    )  # fmt: skip
    assert recipe_digest(ours) == recipe_digest(theirs)


@pytest.mark.parametrize("optimizer", ["adafactor", "sgd", "rmsprop", "adamw_torch"])
def test_optimizers_of_both_worlds_train(optimizer):
    base, data = make_language_model(), make_records(8)
    recipe = recipe_of(base, optimizer=optimizer, weight_decay=0.1, epochs=1, warmup_ratio=0.5, schedule="constant")
    (model,) = train(recipe, data, half(8), [0])
    assert not same(model.model, base.model)


@pytest.mark.parametrize(
    ("peft", "objective"),
    [("ia3", "causal_lm"), ("vera", "sequence_classification"), ("p_tuning", "causal_lm"), ("ln_tuning", "causal_lm")],
)
def test_other_methods_of_peft_train_and_come_back(peft, objective, tmp_path):
    base, data = make_language_model(objective), make_records(8, labels=True)
    extra = {"num_virtual_tokens": 3} if peft == "p_tuning" else {}
    recipe = recipe_of(base, data, peft={"type": peft, **extra}, learning_rate=0.05)
    (model,) = train(recipe, data, half(8), [0])
    trainer_for(recipe).save(recipe, model, tmp_path)
    assert torch.allclose(logits(trainer_for(recipe).load(recipe, tmp_path), data), logits(model, data), atol=1e-6)
    plain = logits(base, data)
    assert not torch.allclose(logits(model, data)[:, -plain.shape[1] :], plain, atol=1e-3)


def test_a_configuration_copied_from_peft_is_a_recipe():
    from peft import LoraConfig

    ours = {"type": "lora", "r": 4, "lora_alpha": 8}
    for theirs in (LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8).to_dict(), {**ours, "task_type": "CAUSAL_LM"}):
        config, faults = read_peft(theirs, "causal_lm")
        assert faults == []
        assert peft_values(config) == peft_values(peft_config(ours, "causal_lm"))
    (fault,) = read_peft({**ours, "task_type": "SEQ_CLS"}, "causal_lm")[1]
    assert "SEQ_CLS" in fault
    assert "CAUSAL_LM" in fault


def test_steps_and_warmup_are_counted():
    settings = TextSettings(1e-3, epochs=3, batch_size=4, gradient_accumulation_steps=2, warmup=("ratio", 0.5))
    assert total_steps(17, settings) == 3 * 3
    assert warmup_steps(settings, 10) == 5
    assert read_text_settings({**SETTINGS, "warmup_steps": 1, "warmup_ratio": 0.1})[1] == [
        "only one of warmup_steps, warmup_ratio may be given."
    ]


def test_weight_decay_spares_biases_and_norms():
    settings = TextSettings(1e-3, epochs=1, batch_size=1, weight_decay=0.1)
    model = make_model()
    decayed, spared = (group["params"] for group in optimizer_of(model, settings).param_groups)
    assert {p.ndim for p in decayed} == {2}
    assert {p.ndim for p in spared} == {1}
    assert len(decayed) + len(spared) == len(list(model.parameters()))


def test_run_parameters_of_transformers_own_logging_are_a_recipe():
    import transformers

    arguments = transformers.TrainingArguments(
        output_dir="unused", per_device_train_batch_size=4, num_train_epochs=2, learning_rate=5e-3, use_cpu=True,
        warmup_steps=3, lr_scheduler_type="cosine", adam_beta2=0.95, gradient_accumulation_steps=2,
    )  # fmt: skip
    params = {key: str(value) for key, value in arguments.to_dict().items()}
    parsed, faults = read_text_settings(text_settings_from_params(params))
    assert faults == []
    assert parsed == TextSettings(
        5e-3,
        epochs=2,
        batch_size=4,
        gradient_accumulation_steps=2,
        schedule="cosine",
        warmup=("steps", 3.0),
        optimizer_options={"betas": [0.9, 0.95]},
    )


def test_texts_without_anything_to_learn_are_named():
    base, data = make_language_model(), make_records(8)
    data.x.loc[2, "text"] = ""
    with pytest.raises(RecipeError, match="1 of 8 records have no token to learn, the first is record 2"):
        train(recipe_of(base), data, np.ones(8, bool), [0])
    with pytest.raises(RecipeError, match="at most 64 tokens"):
        recipe_of(base, max_length=65)
    with pytest.raises(RecipeError, match="no column 'body'"):
        train(recipe_of(base, text="body"), data, np.ones(8, bool), [0])


def test_a_fresh_reference_is_the_base_before_training():
    base = make_language_model()
    recipe = recipe_of(base, peft=LORA)
    untrained = LanguageModel(fresh(base.model, recipe), base.tokenizer, "causal_lm", 24)
    assert torch.allclose(logits(untrained, make_records(4)), logits(base, make_records(4)), atol=1e-6)
