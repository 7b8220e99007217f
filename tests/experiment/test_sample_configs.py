"""Every sample config runs from its file to an audited version, shrunken by overrides alone."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from mlflow_privacy.cli import main
from mlflow_privacy.experiment.load import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ["train.epochs=1", "audit.num_ref_models=1", "audit.blind_baseline=false", "run.log_dir=out"]
COUNTS = ["data.size=48", "audit.data_size=24", "audit.population_size=16"]


def image_parquet(folder, column, label, classes, n, seed):
    from PIL import Image

    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        rows.append({column: {"bytes": buffer.getvalue(), "path": None}, label: int(i % classes)})
    folder.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder)


def cifar(data, name, column, label, classes):
    for part, n in (("train", 60), ("test", 24)):
        image_parquet(data / name / f"{part}-00000-of-00001.parquet", column, label, classes, n, n)


def headlines(data):
    words = "stocks rise as oil falls after the minister wins a match in space with new chips"
    rng = np.random.default_rng(0)
    (data / "ag_news").mkdir(parents=True)
    for part, n in (("train", 60), ("test", 24)):
        texts = [" ".join(rng.choice(words.split(), 12)) for _ in range(n)]
        frame = pd.DataFrame({"text": texts, "label": np.arange(n) % 4})
        frame.to_parquet(data / "ag_news" / f"{part}-00000-of-00001.parquet")


def tiny_gpt2(folder):
    """A two-layer GPT-2 with a tokenizer trained on the spot, as a local checkpoint."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["stocks rise as oil falls after the minister wins"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    end = fast.convert_tokens_to_ids("<|endoftext|>")
    config = GPT2Config(
        vocab_size=len(fast), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def run(name, *overrides):
    arguments = ["run", str(CONFIGS / f"{name}.yaml"), "--device", "cpu"]
    for override in (*SMALL, *overrides):
        arguments += ["--set", override]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (target,) = json.loads(Path("out/experiment.json").read_text())["targets"]
    assert 0 <= target["audit"]["privacy/rmia/auc"] <= 1
    return target


def check(tracking, target, references):
    version = tracking.get_model_version(*target["model_uri"].removeprefix("models:/").split("/"))
    assert version.tags["privacy.audit_run"] == target["audit_run_id"]
    query = f"tags.`mlflow.parentRunId` = '{target['audit_run_id']}'"
    runs = tracking.search_runs([tracking.get_run(target["run_id"]).info.experiment_id], query)
    assert len(runs) == references


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("cifar10", ["train.batch_size=16"]),
        ("cifar10_speedyresnet", ["train.batch_size=16", "train.model_options.width=0.125"]),
        ("cifar100", ["train.batch_size=16"]),
    ],
)
def test_image_configs(tracking, tmp_path, name, overrides):
    dataset = "cifar100" if name == "cifar100" else "cifar10"
    label, classes = ("fine_label", 100) if dataset == "cifar100" else ("label", 10)
    cifar(tmp_path / "data", dataset, "img", label, classes)
    check(tracking, run(name, *COUNTS, *overrides), 2)


@pytest.mark.parametrize("name", ["purchase100", "texas100"])
def test_table_configs(tracking, name):
    """On synthetic records of the same shape: the real ones are 197,324 and 67,330, which their loaders insist on."""
    check(tracking, run(name, *COUNTS, f"data.dataset={name}_synthetic", "data.options.rows=200"), 2)


def test_any_hugging_face_data_set(tracking, tmp_path):
    cifar(tmp_path, "mine", "image", "label", 10)
    check(tracking, run("huggingface", *COUNTS, f"data.dataset=hf:{tmp_path / 'mine'}"), 2)


@pytest.mark.parametrize("name", ["agnews", "agnews_lora"])
def test_text_configs(tracking, tmp_path, name):
    headlines(tmp_path / "data")
    folder = tiny_gpt2(tmp_path / "model")
    target = run(name, *COUNTS, f"train.model_name={folder}", f"train.tokenizer={folder}", "train.max_length=32")
    check(tracking, target, 2)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sample_is_valid(path):
    assert load_config(path).data.dataset
