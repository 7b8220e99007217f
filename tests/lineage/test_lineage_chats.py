"""Chats in a column of messages are written by the tokenizer's own template, whatever form they were logged in."""

import json
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_text import WORDS, make_model, make_tokenizer

from mlflow_privacy.errors import LineageError
from mlflow_privacy.lineage import log_lineage, resolve_target
from mlflow_privacy.lineage.records import text_records
from mlflow_privacy.lineage.tables import Table

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'critic' %}{{ raise_exception('no critics here') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% if m['name'] is defined %} ({{ m['name'] }}){% endif %}"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(template=TEMPLATE):
    made = make_tokenizer(pad=True)
    made.chat_template = template
    return made


def chat(word, named=False):
    asked = {"role": "user", "content": f"what is a {word}"}
    return [asked | ({"name": "ann"} if named else {}), {"role": "assistant", "content": f"a {word} is a {word}"}]


def text_of(word, named=False):
    return f"<user>what is a {word}{' (ann)' if named else ''}\n<assistant>a {word} is a {word}\n"


CHATS = [chat(word, named=i == 0) for i, word in enumerate(WORDS)]
TEXTS = [text_of(word, named=i == 0) for i, word in enumerate(WORDS)]


@pytest.mark.parametrize("form", ["frame", "hugging face", "list", "jsonl", "log_input"])
def test_a_chat_model_is_audited_on_the_texts_that_its_template_writes(tracking, tmp_path, form):
    def part(chats, name):
        if form == "hugging face":
            import datasets

            return datasets.Dataset.from_dict({"messages": chats})
        if form == "list":
            return chats
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"messages": one}) for one in chats))
        return path if form == "jsonl" else pd.DataFrame({"id": range(len(chats)), "messages": chats})

    members, others = CHATS[:7], CHATS[7:]
    with mlflow.start_run():
        if form == "log_input":
            for context, chats in (("training", members), ("testing", others)):
                frame = part(chats, context).drop(columns="id")
                data = mlflow.data.from_pandas(frame, source=str(tmp_path / f"{context}.jsonl"), name=context)
                mlflow.log_input(data, context=context)
        else:
            log_lineage(train=part(members, "train"), holdout=part(others, "test"), text="messages")
        parts = {"model": make_model(n_positions=128), "tokenizer": tokenizer()}
        info = mlflow.transformers.log_model(
            parts, name="model", task="text-generation", pip_requirements=["transformers"]
        )
    target = resolve_target(info.model_uri)
    assert target.task == "language"
    assert target.membership.sum() == 7
    assert target.pool.x["messages"].tolist() == TEXTS
    if form != "log_input":
        assert {source.status for source in target.sources} == {"verified"}


def records(frame, **options):
    return text_records(Table(pd.DataFrame(frame)), "train", **{"tokenizer": tokenizer(), **options}).x


def test_prompts_that_are_chats_end_where_the_answer_begins():
    frame = {"prompt": [one[:1] for one in CHATS], "completion": [one[1:] for one in CHATS]}
    found = records(frame, prompt="prompt", text="completion")
    assert (found["prompt"] + found["completion"]).tolist() == TEXTS
    assert found["prompt"].str.endswith("<assistant>").all()
    assert found["completion"][1] == f"a {WORDS[1]} is a {WORDS[1]}\n"
    assert records(frame, prompt="prompt").columns.tolist() == ["prompt", "completion"]  # the column is found


def test_the_column_of_chats_is_found_where_no_column_is_of_texts():
    assert records({"score": [1.0] * len(CHATS), "conversation": CHATS})["conversation"].tolist() == TEXTS
    assert records({"messages": CHATS, "text": TEXTS}).columns.tolist() == ["text"]


def test_a_tokenizer_without_a_template_is_told_with_the_remedy():
    with pytest.raises(LineageError, match="'messages' holds chats.*no chat template.*Log the texts as the training"):
        records({"messages": CHATS}, tokenizer=tokenizer(None))


def test_what_the_template_refuses_is_named():
    refused = [*CHATS, [{"role": "critic", "content": "bad"}]]
    with pytest.raises(LineageError, match="refuses record 13 of the column 'messages'.*no critics here"):
        records({"messages": refused})
    tail = "{% for m in messages | reverse %}{{ m['content'] }}{% endfor %}"
    frame = {"prompt": [one[:1] for one in CHATS], "text": [one[1:] for one in CHATS]}
    with pytest.raises(LineageError, match="does not write the prompt of record 0 at the beginning"):
        records(frame, prompt="prompt", text="text", tokenizer=tokenizer(tail))


def test_one_record_that_is_no_chat_is_counted():
    with pytest.raises(LineageError, match="no string in 'messages'"):
        records({"messages": [*CHATS[:3], None]}, text="messages")
