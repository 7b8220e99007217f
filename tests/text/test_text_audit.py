"""Whole audits of language models, made on the spot: what is trained, what is found again, what attacks see."""

import dataclasses
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_text import END, WORDS, make_language_model, make_records, make_texts, make_tokenizer

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.auditing.pipeline import audit
from mlflow_privacy.lineage import log_lineage
from mlflow_privacy.seeding import seeded
from mlflow_privacy.text import LanguageModel
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.text import memory as text_memory
from mlflow_privacy.types import AuditedModel, AuditTarget, Records

WHOLE = {"epochs": 12, "batch_size": 20, "learning_rate": 8e-3, "max_length": 24}
ADAPTERS = {"type": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
LORA = {**WHOLE, "epochs": 20, "learning_rate": 1e-2, "peft": ADAPTERS}
ONE_GROUP = {"rmia", "rmia_offline", "lira", "bavaria", "base_ratio", "min_k_plus", "loss"}
DEFAULT = ONE_GROUP | {"learned"}
WITHOUT_REFERENCES = {"base_ratio", "min_k_plus", "zlib", "loss"}
FAST = AuditOptions(num_ref_models=2, blind_baseline=False, progress=False, device="cpu")


def as_records(texts, y=None):
    y = np.zeros(len(texts), np.int64) if y is None else y
    return Records(pd.DataFrame({"text": list(texts)}), y, np.array([f"row:{i}" for i in range(len(texts))]))


def fine_tuned(base, settings, records, member=None, task="language"):
    """(model, recipe) of the package's own trainer."""
    recipe = make_recipe(base, {**settings, "base": base}, task=task, data=records)
    rows = np.ones(len(records), bool) if member is None else member
    (model,) = trainer_for(recipe).train(recipe, records, rows[None], [0], device="cpu")
    return model, recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base that has seen other texts of the same kind, live and as a folder."""
    start = dataclasses.replace(make_language_model(), tokenizer=make_tokenizer(pad=True))
    model, _ = fine_tuned(start, WHOLE, as_records(make_texts(400, seed=99)))
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def leak(base):
    """An over-fitted target in memory: 40 members of 80, no copies."""
    pool = as_records(dict.fromkeys(make_texts(120, seed=5)))
    pool = pool.take(np.arange(80))
    member = np.arange(80) % 2 == 0
    model, recipe = fine_tuned(base[0], WHOLE, pool, member)
    return AuditTarget(live(model), pool, member, "language", recipe=recipe)


def live(model):
    return AuditedModel("memory", None, None, None, None, "transformers", model)


def register(base, settings, *, name="lm", n=40):
    """Fine-tunes on n of 2n texts, and registers the model with its lineage, as a user does."""
    start, folder = base
    texts = list(dict.fromkeys(make_texts(4 * n, seed=7)))[: 2 * n]
    train, holdout = pd.DataFrame({"text": texts[:n]}), pd.DataFrame({"text": texts[n:]})
    model, _ = fine_tuned(start, settings, as_records(train["text"]))
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout, text="text", recipe={**settings, "base": str(folder)})
        options = {"base_model_path": str(folder)} if "peft" in settings else {}
        mlflow.transformers.log_model(
            {"model": model.model, "tokenizer": model.tokenizer},
            name="model",
            task="text-generation",
            registered_model_name=name,
            pip_requirements=["transformers"],
            **options,
        )
    return model


def reference_runs(client):
    experiment = client.get_experiment_by_name("test").experiment_id
    return client.search_runs([experiment], "tags.`privacy.role` = 'reference'")


def files(client, run_id, path=""):
    for entry in client.list_artifacts(run_id, path):
        if entry.is_dir:
            yield from files(client, run_id, entry.path)
        else:
            yield entry.path, entry.file_size


def attack_names(metrics):
    parts = [key.split("/") for key in metrics if key.endswith("/auc")]
    return {part[1] for part in parts} - {"blind", "headline"}


# --- one line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [WHOLE, LORA], ids=["whole", "lora"])
def test_one_line_audits_a_fine_tuned_model_and_finds_its_references_again(settings, tracking, base, monkeypatch):
    register(base, settings)
    first = mlflow.evaluate("models:/lm/1", evaluators=["privacy_meter"])
    assert attack_names(first.metrics) == DEFAULT
    assert first.metrics["privacy/rmia/auc_low"] > 0.6  # many passes over 40 texts
    assert first.metrics["privacy/base_ratio/auc_low"] > 0.6
    trained = {run.info.run_id for run in reference_runs(tracking)}
    assert len(trained) == 8
    for run_id in trained:
        sizes = {name.rpartition("/")[2]: size for name, size in files(tracking, run_id)}
        assert ("model.safetensors" in sizes) == ("peft" not in settings)
        assert ("adapter_config.json" in sizes) == ("peft" in settings)
        if "peft" in settings:  # not a byte of the base: r=16, float32, a header
            adapters = sum(4 * 16 * (a + b) for a, b in [(32, 96), (32, 32), (32, 128), (128, 32)] * 2)
            assert adapters < sizes["adapter_model.safetensors"] < adapters + 4096
    monkeypatch.setattr(text_memory, "free_bytes", lambda device: 0)  # what is trained already needs no memory
    second = mlflow.evaluate("models:/lm/1", evaluators=["privacy_meter"])
    assert {run.info.run_id for run in reference_runs(tracking)} == trained
    own = {key: value for key, value in first.metrics.items() if key.startswith("privacy/")}
    assert {key: second.metrics[key] for key in own} == pytest.approx(own)


def config(**options):
    return {"privacy_meter": {"blind_baseline": False, **options}}


def test_attacks_that_need_more_get_it_through_the_options(tracking, base):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    register(base, WHOLE)
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", "[MASK]", END, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]"
    )
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    with seeded(0):
        bert = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=len(vocabulary), **shape)).eval()
    options = config(
        attacks=["recall", "neighbourhood"],
        prefix=make_texts(3, seed=50),
        masked=(bert, tokenizer),
        attack_options={"neighbourhood": {"n": 10}},
    )
    metrics = mlflow.evaluate("models:/lm/1", evaluators=["privacy_meter"], evaluator_config=options).metrics
    assert attack_names(metrics) == {"recall", "neighbourhood"}
    assert metrics["privacy/neighbourhood/auc"] > 0.55
    assert not reference_runs(tracking)  # neither needs any


def test_no_references_leave_the_attacks_that_need_none(tracking, base):
    register(base, WHOLE)
    metrics = mlflow.evaluate(
        "models:/lm/1", evaluators=["privacy_meter"], evaluator_config=config(num_ref_models=0)
    ).metrics
    assert attack_names(metrics) == WITHOUT_REFERENCES
    assert not reference_runs(tracking)


def test_a_classifier_of_texts_is_audited_like_any_classifier(tracking, tmp_path):
    start = make_language_model("sequence_classification")
    start.model.save_pretrained(tmp_path / "base")
    start.tokenizer.save_pretrained(tmp_path / "base")
    texts = list(dict.fromkeys(make_records(120, seed=3).x["text"]))[:80]
    noise = np.random.default_rng(0).integers(2, size=80)  # labels that can only be learnt by heart
    frame = pd.DataFrame({"text": texts, "label": noise})
    settings = {**WHOLE, "epochs": 40, "learning_rate": 3e-3, "objective": "sequence_classification"}
    model, _ = fine_tuned(start, settings, as_records(frame["text"][:40], noise[:40]), task="classification")
    with mlflow.start_run():
        log_lineage(
            train=frame[:40],
            holdout=frame[40:].reset_index(drop=True),
            text="text",
            targets="label",
            recipe={**settings, "base": str(tmp_path / "base")},
        )
        mlflow.transformers.log_model(
            {"model": model.model, "tokenizer": model.tokenizer},
            name="model",
            task="text-classification",
            registered_model_name="sentiment",
            pip_requirements=["transformers"],
        )
    metrics = mlflow.evaluate(
        "models:/sentiment/1", evaluators=["privacy_meter"], evaluator_config=config(num_ref_models=2)
    ).metrics
    assert attack_names(metrics) == {"rmia", "rmia_offline", "lira", "bavaria"}
    assert metrics["privacy/fidelity/target_member_accuracy"] > metrics["privacy/fidelity/target_nonmember_accuracy"]
    assert metrics["privacy/rmia/auc_low"] > 0.5
    assert metrics["privacy/headline/auc_low"] > 0.55


# --- what the figures do and do not depend on ------------------------------------------------------------------------


def test_the_batch_size_changes_no_score(leak):
    few, many = (audit(leak, FAST.model_copy(update={"batch_size": size})) for size in (3, 64))
    for a, b in zip(few.attacks, many.attacks, strict=True):
        np.testing.assert_allclose(a.scores.value, b.scores.value, atol=2e-3 if "rmia" in a.name else 1e-4)
        assert a.metrics["auc"].value == pytest.approx(b.metrics["auc"].value, abs=2e-3)


def test_a_text_that_was_repeated_is_the_most_exposed(base):
    rng = np.random.default_rng(1)
    secret = "".join(rng.choice(list("qzxkv0123456789"), 12))
    texts = [secret, *dict.fromkeys(make_texts(120, seed=5))][:60]
    pool, member = as_records(texts), np.arange(60) < 30
    repeated = np.concatenate([np.flatnonzero(member), np.zeros(19, np.int64)])
    settings = {**WHOLE, "epochs": 24}
    model, _ = fine_tuned(base[0], settings, as_records([texts[i] for i in repeated]))
    recipe = make_recipe(base[0], {**settings, "base": base[0]}, task="language", data=pool)
    target = AuditTarget(live(model), pool, member, "language", recipe=recipe)
    result = audit(target, FAST)
    place = int(np.flatnonzero(result.row_ids == "row:0")[0])
    for attack in result.attacks:
        if attack.name in ("loss", "min_k_plus", "base_ratio", "rmia"):
            ranks = attack.scores.rank()
            assert ranks[place] == ranks.max(), attack.name


def test_a_model_that_saw_nobody_of_the_pool_reveals_nobody(base):
    texts = list(dict.fromkeys(make_texts(600, seed=100, words=(4, 9))))
    model, _ = fine_tuned(base[0], WHOLE, as_records(texts[200:240]))
    pool, member = as_records(texts[:200]), np.arange(200) % 2 == 0
    recipe = make_recipe(base[0], {**WHOLE, "epochs": 2, "base": base[0]}, task="language", data=pool)
    sure = FAST.model_copy(update={"confidence": 0.99})  # of six intervals one may miss by chance
    result = audit(AuditTarget(live(model), pool, member, "language", recipe=recipe), sure)
    assert {attack.name for attack in result.attacks} == ONE_GROUP
    for attack in result.attacks:
        assert attack.metrics["auc"].low < 0.5 < attack.metrics["auc"].high, attack.name


# --- memory ----------------------------------------------------------------------------------------------------------


def without_count(**changes):
    """Options whose number of references nobody chose."""
    return AuditOptions(blind_baseline=False, progress=False, device="cpu", **changes)


def test_a_base_too_big_to_train_is_audited_without_references(leak, monkeypatch):
    needed = text_memory.training_bytes(leak.recipe, next(leak.recipe.template.model.parameters()).device)
    size = sum(p.numel() for p in leak.recipe.template.model.parameters())
    assert needed == 16 * size
    monkeypatch.setattr(text_memory, "free_bytes", lambda device: needed - 1)
    result = audit(leak, without_count())
    assert {attack.name for attack in result.attacks} == WITHOUT_REFERENCES
    assert result.references["n"] == 0
    (warning,) = [text for text in result.warnings if "No reference models could be trained" in text]
    for part in ("base_ratio, min_k_plus, zlib, loss", f"{size:,} parameters", "set num_ref_models"):
        assert part in warning
    monkeypatch.setattr(text_memory, "free_bytes", lambda device: needed)
    assert text_memory.shortage(leak.recipe, "cpu") == ""


def test_whoever_asks_for_references_gets_them(leak, base, monkeypatch):
    recipe = make_recipe(base[0], {**WHOLE, "epochs": 1, "base": base[0]}, task="language", data=leak.pool)
    leak = dataclasses.replace(leak, recipe=recipe)
    monkeypatch.setattr(text_memory, "free_bytes", lambda device: 0)
    assert audit(leak, without_count(num_ref_models=2)).references["n"] == 2
    assert audit(leak, without_count(attacks=["rmia_offline"])).references["n"] == 8


def test_adapters_train_where_all_weights_would_not(leak, monkeypatch):
    base: LanguageModel = leak.recipe.template
    lora = make_recipe(base, {**LORA, "base": base}, task="language")
    where = next(base.model.parameters()).device
    all_weights, adapters = (text_memory.training_bytes(recipe, where) for recipe in (leak.recipe, lora))
    assert 0 < adapters < all_weights / 2
    monkeypatch.setattr(text_memory, "free_bytes", lambda device: adapters)
    assert "lora" not in text_memory.shortage(lora, "cpu")
    assert "all weights" in text_memory.shortage(leak.recipe, "cpu")


def test_free_memory_of_this_machine_is_known():
    import torch

    free = text_memory.free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20
