"""What both tools of compare.py do: data, network and training of each workload, and the config of each tool."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

TOOLS = ("theirs", "ours", "ours, same work")


@dataclasses.dataclass(frozen=True)
class Workload:
    """What both tools do.

    Attributes:
      kind: of the records.
      dataset: the data set's name in Privacy Meter, which chooses its loader and its network's shape.
      model, options: the network's name in both, and what ours needs to be the same network.
      train: optimizer, learning rate and batch, in both. The schedule is Privacy Meter's, which takes a tenth of it.
      rows, epochs: defaults.
      only_ours: what the training of ours needs besides.
      checked: whether both must reach the same accuracy: not where they train different things.
      cuda: whether Privacy Meter's code for it needs CUDA.
    """

    kind: Literal["table", "image", "text"]
    dataset: str
    model: str
    options: Mapping[str, Any]
    train: Mapping[str, Any]
    rows: int
    epochs: int
    only_ours: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checked: bool = True
    cuda: bool = False


_SGD = {"optimizer": "SGD", "learning_rate": 5.0, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 256}
_SLOW = {**_SGD, "learning_rate": 1.0}
_ADAM = {"optimizer": "Adam", "learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 256}
_TEXT = {"optimizer": "adamw_torch", "learning_rate": 5e-5, "weight_decay": 0.01, "batch_size": 8}
_LORA = {
    "peft": {
        "type": "lora",
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "fan_in_fan_out": True,
    }
}
_MLP = {"hidden": [128], "activation": "tanh"}
_THEIRS = {"schedule": "privacy_meter"}
_WHOLE = {"max_length": 512, "warmup_steps": 500, "schedule": "linear"}  # transformers' Trainer, as theirs calls it
WORKLOADS = {
    "purchase-mlp": Workload("table", "purchase100", "mlp", _MLP, _SGD, 26_668, 10, _THEIRS),
    "location-mlp": Workload("table", "purchase100", "mlp", _MLP, {**_SGD, "batch_size": 64}, 5010, 30, _THEIRS),
    "cifar-cnn": Workload("image", "cifar10", "CNN", {}, _ADAM, 12_000, 10, _THEIRS),
    "cifar-wrn": Workload("image", "cifar10", "wrn28-2", {}, _SLOW, 60_000, 100, _THEIRS),
    "cifar-fast": Workload("image", "cifar10", "speedyresnet", {}, {}, 60_000, 12, checked=False, cuda=True),
    "agnews-gpt2": Workload("text", "agnews", "gpt2", {}, _TEXT, 7_600, 1, _WHOLE),
    # Privacy Meter's code reads `peft` in no place that its config sets, and so trains all weights.
    "agnews-lora": Workload("text", "agnews", "gpt2", {}, _TEXT, 7_600, 1, {**_WHOLE, **_LORA}, checked=False),
}


def configs(workload: Workload, *, epochs: int, references: int, device: str, seed: int) -> dict[str, dict[str, Any]]:
    """The config of each tool, by its name in `TOOLS`.

    >>> made = configs(WORKLOADS["purchase-mlp"], epochs=2, references=3, device="cpu", seed=0)
    >>> made["theirs"]["train"]["epochs"], made["ours"]["train"]["schedule"]
    (2, 'privacy_meter')
    >>> made["ours, same work"]["audit"]["attacks"]
    ['rmia_offline']
    """
    train = {"model_name": workload.model, "device": device, **workload.train, "epochs": epochs}
    batch = 8 if workload.kind == "text" else 5000
    audit = {"algorithm": "RMIA", "num_ref_models": references, "device": device, "batch_size": batch}
    run = {"random_seed": seed, "time_log": True, "num_experiments": 1}
    theirs = {
        "run": run,
        "audit": {**audit, "privacy_game": "privacy_loss_model", "report_log": "report_rmia"},
        "train": {**_TRAINED_BY_THEMSELVES, **train},
        "data": {"dataset": workload.dataset, "data_dir": "data"},
    }
    ours = {
        "run": {**run, "register_as": "compare"},
        "audit": {**audit, "num_queries": 1},
        "train": {**train, "model_options": dict(workload.options), **workload.only_ours},
        "data": {"dataset": "compare", "normalize": "auto" if workload.kind == "image" else "none"},
    }
    if workload.kind == "text":
        theirs["data"] |= {"tokenize": True, "tokenizer": "gpt2"}
        theirs["train"] |= {"tokenizer": "gpt2"}
        ours["train"] |= {"tokenizer": "gpt2"}
        ours["data"] = {"dataset": "agnews", "data_dir": "data"}
        del ours["train"]["model_options"]
    alone = {"algorithm": "rmia_offline", "attacks": ["rmia_offline"], "blind_baseline": False}
    return {"theirs": theirs, "ours": ours, "ours, same work": {**ours, "audit": {**ours["audit"], **alone}}}


# What Privacy Meter writes into its metadata, also where the network's own code decides.
_TRAINED_BY_THEMSELVES = {"optimizer": "own", "learning_rate": 0.0, "weight_decay": 0.0, "batch_size": 500}


def make_data(name: str, rows: int | None, folder: Path, *, gpt2: str = "12,768,50257") -> dict[str, Any]:
    """The data of a workload as files of a folder; returns what both tools are told of it.

    Args:
      rows: records in all; a quarter of them is population.
      gpt2: "layers,width,tokens" of the GPT-2 of a text workload, whose weights are random: the work is the same.
    """
    rows = rows or WORKLOADS[name].rows
    if WORKLOADS[name].kind == "text":
        return make_texts(rows, folder, *map(int, gpt2.split(",")))
    return make_arrays(name, rows, folder)


def given_data(wanted: str) -> str:
    """The folder of real data."""
    given = os.environ.get("MLFLOW_PRIVACY_DATA")
    if given is None:
        raise SystemExit(f"Set MLFLOW_PRIVACY_DATA to the folder that holds {wanted}.")
    return given


def make_arrays(name: str, rows: int | None, folder: Path) -> dict[str, Any]:
    """Tables and images as an NPZ file; returns its path, the number of classes, and a record's shape."""
    from mlflow_privacy.zoo import load_dataset

    rows = rows or WORKLOADS[name].rows
    if name == "purchase-mlp":
        data = load_dataset("purchase100_synthetic", options={"rows": rows})
        pool, apart, classes = data.records, data.population, 100
    else:
        source = "location30.npz" if name == "location-mlp" else "cifar10"
        data = load_dataset(source, data_dir=given_data(source))
        x, y = data.records.x, data.records.y
        if rows > len(y) and data.population is not None:  # both parts of CIFAR-10
            x, y = np.concatenate([x, data.population.x]), np.concatenate([y, data.population.y])
        order = np.random.default_rng(0).permutation(len(y))[:rows]
        cut = 3 * len(order) // 4  # the rest is the population, as in Privacy Meter's tables
        arrays = {"pool_x": x[order[:cut]], "pool_y": y[order[:cut]]}
        arrays |= {"population_x": x[order[cut:]], "population_y": y[order[cut:]]}
        return _save(arrays, data.num_outputs, folder)
    arrays = {"pool_x": pool.x, "pool_y": pool.y, "population_x": apart.x, "population_y": apart.y}
    return _save(arrays, classes, folder)


def _save(arrays: dict[str, Any], classes: int, folder: Path) -> dict[str, Any]:
    for key in ("pool_x", "population_x"):
        x = np.asarray(arrays[key])
        arrays[key] = x.astype(np.uint8) if x.ndim == 2 else x  # tables here are 0/1
    path = folder / "arrays.npz"
    np.savez(path, **arrays)
    first, rows = int(arrays["pool_x"].shape[1]), len(arrays["pool_y"])
    made = {"arrays": str(path), "classes": classes, "shape": [first, classes]}
    return {**made, "rows": rows, "apart": len(arrays["population_y"])}


def make_texts(rows: int, folder: Path, layers: int, width: int, tokens: int) -> dict[str, Any]:
    """AG News as Parquet files, and a GPT-2 with random weights whose tokenizer was made of these texts."""
    import pandas as pd

    files = sorted((Path(given_data("ag_news")) / "ag_news").glob("*.parquet"))
    frame = pd.concat([pd.read_parquet(file) for file in files]).drop_duplicates("text", ignore_index=True)
    frame["text"] = frame["text"].str.replace("\\", " ")
    frame = frame.iloc[np.random.default_rng(0).permutation(len(frame))[:rows]].reset_index(drop=True)
    cut = 3 * len(frame) // 4
    news = folder / "texts" / "ag_news"
    news.mkdir(parents=True)
    frame.iloc[:cut].to_parquet(news / "train-00000-of-00001.parquet")
    frame.iloc[cut:].to_parquet(news / "test-00000-of-00001.parquet")
    gpt2 = folder / "gpt2"
    _random_gpt2(frame["text"].tolist(), gpt2, layers, width, tokens)
    return {"texts": str(news.parent), "gpt2": str(gpt2), "shape": None, "rows": cut, "apart": len(frame) - cut}


def _random_gpt2(texts: list[str], folder: Path, layers: int, width: int, tokens: int) -> None:
    """A checkpoint of GPT-2's form: its vocabulary's size, context and heads of 64."""
    import torch
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=min(tokens, 20_000), special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config = transformers.GPT2Config(
        vocab_size=tokens, n_embd=width, n_layer=layers, n_head=max(width // 64, 1), bos_token_id=end, eos_token_id=end
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
