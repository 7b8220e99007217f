"""AG News and a fine-tuned language model, whole and with LoRA: members are found, and not by the records alone."""

import argparse
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("MLFLOW_PRIVACY_DATA"),
        reason="MLFLOW_PRIVACY_DATA names no folder with ag_news/test-00000-of-00001.parquet",
    ),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A GPT-2 of two layers that has learnt AG News rows of nobody's pool; its vocabulary is made of those rows."""
    import bench_text
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    from mlflow_privacy.text import LanguageModel

    rows = bench_text.texts(400, last=True)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(rows["text"], vocab_size=1000, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    start = LanguageModel(bench_text.random_gpt2(tokenizer, 64, 64), tokenizer, "causal_lm", 32)
    records = bench_text.as_records(rows)
    settings = {**bench_text.PRETRAINING, "epochs": 3, "max_length": 32}
    base, _ = bench_text.fine_tuned(start, settings, records, records.y == 0, 1, "cpu")
    folder = tmp_path_factory.mktemp("base")
    base.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("peft", "rate", "epochs"), [("none", 3e-3, 6), ("lora", 1e-2, 10)])
def test_members_of_ag_news_are_found_whole_and_with_lora(checkpoint, peft, rate, epochs):
    import bench_text

    arguments = argparse.Namespace(
        model=str(checkpoint), peft=peft, rows=200, references=4, epochs=epochs, batch_size=8, learning_rate=rate,
        max_length=32, device="cpu",
    )  # fmt: skip
    result = bench_text.run(arguments)
    auc = {attack.name: attack.metrics["auc"] for attack in result.attacks}
    assert result.blind.low < 0.5  # the records alone tell nothing
    for name in ("rmia", "lira", "base_ratio"):
        assert auc[name].low > 0.6, name
    assert auc["rmia"].value > auc["loss"].value  # references take out how easy a text is
    assert result.fidelity.target["member_loss"] < result.fidelity.target["nonmember_loss"]
    gap = result.fidelity.reference["nonmember_loss"] - result.fidelity.target["nonmember_loss"]
    assert abs(gap) < 0.3  # the references are trained like the target
