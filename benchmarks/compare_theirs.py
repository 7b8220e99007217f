"""Runs Privacy Meter v2 from a checkout: a helper of compare.py, which starts it in processes of its own.

    python benchmarks/compare_theirs.py prepare|run SPEC.json

`SPEC.json` says where the checkout is, where the work folder, and what to run. The checkout is never written to: what
Privacy Meter's data sets need is put into the work folder, in its own formats and made of its own classes, and what
does not fit is set from outside (`shims`).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def prepare(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the data as Privacy Meter's own caches and the config as its YAML; untimed, once for all repetitions."""
    folder = Path(spec["folder"]) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, spec["path"])
    if "texts" in spec:
        _prepare_texts(spec, folder)
        return {}
    with np.load(spec["arrays"], allow_pickle=False) as arrays:
        for part, suffix in (("pool", ""), ("population", "_population")):
            made = _their_dataset(arrays[f"{part}_x"], arrays[f"{part}_y"])
            with open(folder / f"{spec['dataset']}{suffix}.pkl", "wb") as file:
                pickle.dump(made, file)
    return {}


def _prepare_texts(spec: Mapping[str, Any], folder: Path) -> None:
    """Tokens as its own loader makes them of the same rows, and the checkpoint under the name that it asks for."""
    import datasets
    from dataset import TextDataset  # the checkout's
    from dataset.agnews import replace_label_with_input_ids  # the checkout's
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec["gpt2"])
    for split, suffix in (("train", ""), ("test", "_population")):
        file = Path(spec["texts"]) / "ag_news" / f"{split}-00000-of-00001.parquet"
        rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(folder / "cache"))
        tokens = rows.map(lambda row: replace_label_with_input_ids(row, tokenizer), batched=True)
        made = TextDataset(tokens.remove_columns("label"), target_column="labels", text_column="text")
        made.texts, made.input_ids = list(made.texts), list(made.input_ids)  # lists, as they were when it was written
        with open(folder / f"agnews{suffix}.pkl", "wb") as file_:
            pickle.dump(made, file_)
    shutil.copytree(spec["gpt2"], Path(spec["folder"]) / "gpt2")


def _their_dataset(x: np.ndarray, y: np.ndarray) -> Any:
    """Records as its loader would have cached them: a table of its own class, or torchvision's CIFAR-10."""
    if x.ndim == 2:
        from dataset import TabularDataset  # the checkout's

        return TabularDataset(x.astype(np.float32), y)
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    made = CIFAR10.__new__(CIFAR10)
    steps = [transforms.ToTensor(), transforms.Normalize(mean=[0.5] * 3, std=[0.5] * 3)]
    made.transform, made.target_transform, made.train = transforms.Compose(steps), None, True
    made.data, made.targets = np.ascontiguousarray(x.transpose(0, 2, 3, 1)), y.tolist()
    return made


def run(spec: Mapping[str, Any]) -> dict[str, Any]:
    """One run of its `run_mia.py` as it is; returns seconds of imports and of all the rest, and peak memory."""
    import yaml

    folder = Path(spec["folder"])
    os.chdir(folder)
    config = {**spec["config"], "run": {**spec["config"]["run"], "log_dir": spec["log_dir"]}}
    (folder / f"{spec['log_dir']}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    sys.path.insert(0, spec["path"])
    sys.argv = ["run_mia.py", "--cf", f"{spec['log_dir']}.yaml"]
    started = time.perf_counter()
    import run_mia  # the checkout's

    imported = time.perf_counter()
    shimmed = shims(spec)
    run_mia.main()
    return {
        "imports": imported - started,
        "main": time.perf_counter() - imported,
        "peak_mb": peak_mb(),
        "shims": shimmed,
    }


def shims(spec: Mapping[str, Any]) -> list[str]:
    """Sets what this workload needs in the loaded modules; returns what was done, in words."""
    import models.utils  # the checkout's

    done = []
    if "texts" in spec:
        done += _trainer_of_today()
    shape = spec.get("shape")
    if shape is not None and models.utils.INPUT_OUTPUT_SHAPE[spec["dataset"]] != shape:
        models.utils.INPUT_OUTPUT_SHAPE[spec["dataset"]] = shape
        done.append(f"models.utils.INPUT_OUTPUT_SHAPE[{spec['dataset']!r}] = {shape}")
    return done


def _trainer_of_today() -> list[str]:
    """transformers 5 calls the Trainer's tokenizer `processing_class`."""
    import inspect

    import trainers.train_transformers as theirs  # the checkout's

    trainer = theirs.Trainer
    if "tokenizer" in inspect.signature(trainer.__init__).parameters:
        return []

    def renamed(*args: Any, tokenizer: Any = None, **options: Any) -> Any:
        return trainer(*args, processing_class=tokenizer, **options)

    theirs.Trainer = renamed
    return ["transformers.Trainer(tokenizer=) is called processing_class="]


def peak_mb() -> float:
    """Peak resident set of this process alone (Linux). `ru_maxrss` would count what the parent held before exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text())
    result = {"prepare": prepare, "run": run}[sys.argv[1]](given)
    Path(given["result"]).write_text(json.dumps(result))
