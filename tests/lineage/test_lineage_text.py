"""Language models: what MLflow keeps of them, and their texts, comes back as it was."""

import dataclasses
import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_text import make_language_model, make_model, make_records, make_tokenizer

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import LineageError, SignalError
from mlflow_privacy.fingerprint import data_digest, recipe_digest, record_keys
from mlflow_privacy.lineage import log_lineage, resolve_model, resolve_target
from mlflow_privacy.lineage.files import read_path
from mlflow_privacy.lineage.text_model import language_model, text_model
from mlflow_privacy.text import LanguageModel, TokenizedText, pad_batch, tokenize, tokenizer_digest
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.trainers.text.base import is_peft, state_digest

SETTINGS = {"epochs": 1, "batch_size": 4, "learning_rate": 5e-3, "max_length": 20}
LORA = {"type": "lora", "r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}
NO_ENVIRONMENT = {"pip_requirements": ["transformers"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base checkpoint, live and as a folder."""
    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    model = make_language_model()
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return model, folder


@pytest.fixture
def frames():
    return make_records(12, seed=1).x, make_records(10, seed=2).x


def log_transformers(model, tokenizer, task="text-generation", **kwargs):
    parts = {"model": model, "tokenizer": tokenizer}
    return mlflow.transformers.log_model(parts, name="model", task=task, **NO_ENVIRONMENT, **kwargs)


class Holder(mlflow.pyfunc.PythonModel):
    """What people write to serve a model: it keeps model and tokenizer, and predicts something else."""

    def load_context(self, context):
        import transformers

        folder = context.artifacts["folder"]
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def predict(self, context, model_input: list[str], params=None):
        return ["nothing"] * len(model_input)


# --- models ------------------------------------------------------------------------------------------------------


def test_a_whole_model_comes_back_with_its_texts_and_recipe(tracking, base, frames):
    start, folder = base
    target = make_model(seed=1)
    with mlflow.start_run():
        log_lineage(train=frames[0], holdout=frames[1], text="text", recipe={**SETTINGS, "base": str(folder)})
        info = log_transformers(target, start.tokenizer)
    found = resolve_target(info.model_uri)
    assert found.model.flavor == "transformers"
    assert isinstance(found.model.native, LanguageModel)
    assert found.task == "language"
    assert state_digest(found.model.native.model) == state_digest(target)
    assert found.model.native.max_length == 20
    assert found.pool.x["text"].tolist() == [*frames[0]["text"], *frames[1]["text"]]
    assert found.membership.sum() == 12
    assert found.recipe_problem == ""
    assert found.recipe.kind == "transformers"
    assert state_digest(found.recipe.template.model) == state_digest(start.model)
    live = make_recipe(start, {**SETTINGS, "base": start}, task="language")
    assert recipe_digest(found.recipe) == recipe_digest(live)
    (reference,) = trainer_for(found.recipe).train(found.recipe, found.pool, found.membership[None], [0], device="cpu")
    assert state_digest(reference.model) != state_digest(start.model)


def test_a_model_without_its_base_says_what_to_log(tracking, base, frames):
    with mlflow.start_run():
        log_lineage(train=frames[0], holdout=frames[1], text="text", recipe=SETTINGS)
        info = log_transformers(make_model(seed=1), base[0].tokenizer)
    found = resolve_target(info.model_uri)
    assert found.recipe is None
    assert 'log_lineage(recipe={"base":' in found.recipe_problem


def test_a_lora_model_brings_its_base_and_its_adapters(tracking, base, frames):
    start, folder = base
    import peft
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    target = peft.get_peft_model(plain, config)
    with mlflow.start_run():
        log_lineage(train=frames[0], holdout=frames[1], text="text", recipe=SETTINGS)
        info = log_transformers(target, start.tokenizer, base_model_path=str(folder))
    found = resolve_target(info.model_uri)
    assert is_peft(found.model.native.model)
    assert found.recipe.spec["base"] == state_digest(start.model)
    assert found.recipe.spec["peft"] == {**LORA, "target_modules": ["c_attn"]}


def test_the_model_inside_a_python_model_is_audited(tracking, base, frames):
    start, folder = base
    with mlflow.start_run():
        log_lineage(train=frames[0], holdout=frames[1], text="text")
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Holder(), artifacts={"folder": str(folder)}, **NO_ENVIRONMENT
        )
    found = resolve_model(info.model_uri)
    assert found.flavor == "transformers"
    assert state_digest(found.native.model) == state_digest(start.model)


def test_a_classifier_of_texts_keeps_its_labels(tracking, base):
    records = make_records(12, labels=True)
    frame = records.x.assign(label=records.y, source="news")
    with mlflow.start_run():
        log_lineage(train=frame[:8], holdout=frame[8:], text="text", targets="label")
        info = log_transformers(make_model("sequence_classification"), base[0].tokenizer, "text-classification")
    found = resolve_target(info.model_uri)
    assert found.task == "classification"
    assert found.model.native.objective == "sequence_classification"
    assert found.pool.x.columns.tolist() == ["text"]
    assert found.pool.y.tolist() == records.y.tolist()


def test_the_names_of_a_classifiers_outputs_give_their_order(tracking, base, tmp_path):
    names = {0: "water", 1: "land"}
    model = make_model("sequence_classification", id2label=names, label2id={"water": 0, "land": 1})
    make_model("sequence_classification", seed=1).save_pretrained(tmp_path / "base")
    base[0].tokenizer.save_pretrained(tmp_path / "base")
    records = make_records(12, labels=True)
    frame = records.x.assign(label=np.array(["water", "land"])[records.y])
    recipe = {**SETTINGS, "objective": "sequence_classification", "base": str(tmp_path / "base")}
    with mlflow.start_run():
        log_lineage(train=frame[:8], holdout=frame[8:], text="text", targets="label", recipe=recipe)
        info = log_transformers(model, base[0].tokenizer, "text-classification")
    found = resolve_target(info.model_uri)
    assert not found.recipe_problem
    assert found.classes == ("water", "land")  # sorted, it would be the other way round
    assert found.recipe.spec["classes"] == ["water", "land"]  # so that references learn them in this order too


def test_what_has_no_log_probability_is_refused(base):
    import transformers

    tokenizer = base[0].tokenizer
    bert = transformers.BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
    )
    for model in (
        transformers.BertForMaskedLM(bert),
        transformers.BertModel(bert),
        make_model("sequence_classification", num_labels=1),
    ):
        with pytest.raises(LineageError, match=f"{type(model).__name__} gives no log-probability"):
            language_model(model, tokenizer)


def test_a_pipeline_of_another_task_is_refused_in_its_own_words(base):
    import transformers

    def loaded(model, tokenizer, task):
        pipeline = SimpleNamespace(model=model, tokenizer=tokenizer, task=task)
        return SimpleNamespace(
            metadata=SimpleNamespace(flavors={"transformers": {"task": task}}), get_raw_model=lambda: pipeline
        )

    speech = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=32, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
            decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, pad_token_id=0, bos_token_id=0,
            eos_token_id=0, decoder_start_token_id=0, suppress_tokens=None, begin_suppress_tokens=None,
        )
    )  # fmt: skip
    with pytest.raises(LineageError, match="automatic-speech-recognition' with a Whisper.* gives no log-probability"):
        text_model(loaded(speech, base[0].tokenizer, "automatic-speech-recognition"))
    with pytest.raises(LineageError, match="without a tokenizer"):
        text_model(loaded(base[0].model, None, "text-generation"))
    with pytest.raises(LineageError, match="whose model is a NoneType"):
        text_model(loaded(None, base[0].tokenizer, "text-generation"))
    assert text_model(SimpleNamespace(metadata=SimpleNamespace(flavors={"python_function": {}}))) is None


def test_a_live_base_is_logged_by_name_and_content(tracking, base, frames):
    start, folder = base
    import transformers

    live = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with mlflow.start_run() as run:
        log_lineage(train=frames[0], holdout=frames[1], text="text", recipe={**SETTINGS, "base": live})
        info = log_transformers(make_model(seed=1), start.tokenizer)
    path = tracking.download_artifacts(run.info.run_id, "privacy/lineage/lineage.json")
    recipe = json.loads(Path(path).read_text())["recipe"]
    assert recipe["base"] == str(folder)
    assert recipe["base_digest"] == state_digest(start.model)
    assert resolve_target(info.model_uri).recipe.spec["base"] == recipe["base_digest"]


# --- texts -------------------------------------------------------------------------------------------------------


def jsonl(frame, path):
    path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    return str(path)


def hub(frame, path):
    import datasets

    return datasets.Dataset.from_pandas(frame)


def csv(frame, path):
    frame.to_csv(path.with_suffix(".csv"), index=False)
    return str(path.with_suffix(".csv"))


def parquet(frame, path):
    frame.to_parquet(path.with_suffix(".parquet"))
    return str(path.with_suffix(".parquet"))


FORMS = {"frame": lambda frame, path: frame, "jsonl": jsonl, "hub": hub, "csv": csv, "parquet": parquet}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_prompts_and_texts_come_back_from_every_form(form, tracking, base, tmp_path):
    frame = make_records(12, prompts=True).x.assign(other=1.5)
    frame.loc[1, "text"] = " 12.50"
    frame.loc[2, "text"] = ' "quoted",\nand a new line'
    with mlflow.start_run():
        log_lineage(
            train=form(frame[:8].reset_index(drop=True), tmp_path / "a.jsonl"),
            holdout=form(frame[8:].reset_index(drop=True), tmp_path / "b.jsonl"),
            text="text",
            prompt="prompt",
            recipe=SETTINGS,
        )
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Holder(), artifacts={"folder": str(base[1])}, **NO_ENVIRONMENT
        )
    found = resolve_target(info.model_uri)
    assert found.pool.x.columns.tolist() == ["prompt", "text"]
    assert found.pool.x["text"].tolist() == frame["text"].tolist()
    assert found.model.native.prompt_column == "prompt"
    assert {source.status for source in found.sources} == {"verified"}


def test_lists_of_strings_are_texts(tracking, base):
    texts = make_records(10).x["text"].tolist()
    with mlflow.start_run():
        log_lineage(train=texts[:6], holdout=np.array(texts[6:]), text="body")
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Holder(), artifacts={"folder": str(base[1])}, **NO_ENVIRONMENT
        )
    found = resolve_target(info.model_uri)
    assert found.pool.x["body"].tolist() == texts
    assert found.model.native.text_column == "body"


def test_copies_of_members_are_neither_members_nor_non_members(tracking, base, frames):
    holdout = pd.concat([frames[1], frames[0][:3]], ignore_index=True)
    options = AuditOptions(train=frames[0], holdout=holdout)
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Holder(), artifacts={"folder": str(base[1])}, **NO_ENVIRONMENT
        )
    found = resolve_target(info.model_uri, options)
    assert found.n_duplicates == 3
    assert len(found.pool) == 25
    assert sorted(found.pool.row_ids[~found.scored]) == sorted(
        [f"train:{i}" for i in range(3)] + found.pool.row_ids[-3:].tolist()
    )
    assert (found.copies.members, found.copies.nonmembers, found.copies.on_both) == (3, 3, 3)


def test_a_missing_column_or_text_is_named(tracking, base, frames):
    with mlflow.start_run(), pytest.raises(LineageError, match=r"train has no column 'body'; its columns are text"):
        log_lineage(train=frames[0], holdout=frames[1], text="body")
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(
            name="model", python_model=Holder(), artifacts={"folder": str(base[1])}, **NO_ENVIRONMENT
        )
    broken = frames[0].astype(object)
    broken.loc[1, "text"] = None
    with pytest.raises(LineageError, match="1 of its 12 records have no string in 'text'"):
        resolve_target(info.model_uri, AuditOptions(train=broken, holdout=frames[1]))
    two = frames[0].rename(columns={"text": "a"}).assign(b="x")
    with pytest.raises(LineageError, match="which of its columns holds the texts is not recorded"):
        resolve_target(info.model_uri, AuditOptions(train=two, holdout=two))


def test_json_lines_keep_strings_as_they_are(tmp_path):
    rows = [{"text": "2024-01-01", "n": 0.1}, {"text": "007", "n": 3.0}]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write(lines)
    for name in ("a.jsonl", "b.json", "c.jsonl.gz"):
        assert read_path(tmp_path / name).to_dict("records") == rows


def test_digests_and_keys_of_texts_depend_on_every_text_alone():
    records = make_records(6, prompts=True)
    expected = data_digest(records)
    for dtype in (object, "str"):
        again = dataclasses.replace(records, x=records.x.astype(dtype))
        assert data_digest(again) == expected
        assert (record_keys(again) == record_keys(records)).all()
    changed = dataclasses.replace(records, x=records.x.copy())
    changed.x.loc[3, "text"] += "."
    assert data_digest(changed) != expected
    assert (record_keys(changed) != record_keys(records)).tolist() == [False, False, False, True, False, False]
    twice = records.concat([records, records])
    assert len(np.unique(record_keys(twice))) == 6


# --- tokens ------------------------------------------------------------------------------------------------------


def test_tokens_are_ragged_truncated_and_remembered():
    tokenizer, texts = make_tokenizer(), ["river stone market", "", "winter"]
    tok = tokenize(tokenizer, texts, max_length=2)
    assert np.diff(tok.offsets).tolist() == [2, 0, len(tokenizer("winter")["input_ids"][:2])]
    assert tokenize(tokenizer, list(texts), max_length=2) is tok
    assert tokenize(make_tokenizer(), texts, max_length=2) is tok  # known by content
    assert tokenize(tokenizer, texts, max_length=3) is not tok
    assert tokenizer_digest(make_tokenizer(pad=True)) == tokenizer_digest(tokenizer)
    assert not tok.ids.flags.writeable


@pytest.mark.parametrize("prompt", [None, "river "])
def test_marks_that_a_text_brings_itself_stand_there_once(prompt):
    """As a chat template writes them, before a tokenizer that adds them too."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    marks = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    first = "stone" if prompt is None else prompt
    bare = [first + "market", first + "winter"]
    marked = [f"<s>{text}</s>" for text in bare]

    def frame(texts):
        if prompt is None:
            return texts
        cut = [text.index(prompt) + len(prompt) for text in texts]
        return pd.DataFrame(
            {"prompt": [t[:k] for t, k in zip(texts, cut)], "text": [t[k:] for t, k in zip(texts, cut)]}
        )

    column = None if prompt is None else "prompt"
    once, twice = (tokenize(tokenizer, frame(t), max_length=50, prompt_column=column) for t in (bare, marked))
    assert twice.ids.tolist() == once.ids.tolist()
    assert twice.is_response.tolist() == once.is_response.tolist()
    assert once.ids.tolist().count(tokenizer.bos_token_id) == 2


def test_marks_stay_where_the_tokenizer_adds_none():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tok = tokenize(tokenizer, ["<s>river", "river"], max_length=50)
    assert (tok.ids == tokenizer.bos_token_id).tolist() == [True, *[False] * (len(tok.ids) - 1)]


def test_a_response_begins_where_the_prompt_ends():
    tokenizer = make_tokenizer()
    frame = pd.DataFrame({"prompt": ["river", "stone "], "text": [" winter", "market"]})
    tok = tokenize(tokenizer, frame, max_length=50, prompt_column="prompt")
    for i in range(2):
        part = slice(tok.offsets[i], tok.offsets[i + 1])
        assert tokenizer.decode(tok.ids[part]) == frame["prompt"][i] + frame["text"][i]
        response = tokenizer.decode(tok.ids[part][tok.is_response[part]])
        assert response.strip() == frame["text"][i].strip()  # the blank before a word is of its token


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_marked_by_the_mask_not_by_its_token(side):
    tok = TokenizedText(np.array([0, 5, 0, 7], np.int32), np.array([0, 3, 4]), np.array([True, True, True, False]))
    ids, mask, counts = pad_batch(tok, [0, 1], pad_id=0, side=side)
    assert [ids[i][mask[i] == 1].tolist() for i in range(2)] == [[0, 5, 0], [7]]
    assert mask.sum(1).tolist() == [3, 1]
    assert counts.sum(1).tolist() == [3, 0]
    assert mask[1].tolist() == ([0, 0, 1] if side == "left" else [1, 0, 0])


def test_records_without_texts_are_refused():
    with pytest.raises(SignalError, match="no column 'text'"):
        tokenize(make_tokenizer(), pd.DataFrame({"a": ["b"]}), max_length=3)
    with pytest.raises(SignalError, match="1 of 2 records have no string"):
        tokenize(make_tokenizer(), ["a", 3], max_length=3)
