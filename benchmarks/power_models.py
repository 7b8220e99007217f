"""What bench_power.py attacks: models of seven families on real data, and their signals, trained once and kept."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlflow_privacy.design import Design
from mlflow_privacy.signals import model_outputs
from mlflow_privacy.trainers import make_recipe, trainer_for
from mlflow_privacy.types import Records, Signals

Made = tuple[Records, Records, Callable[[Records], Any]]  # pool, population, recipe from the pool
VOCABULARY = 4_000  # of the tokenizer that the tiny GPT-2 gets, learnt on rows of nobody's pool


@dataclasses.dataclass(frozen=True)
class Setting:
    """A family of models, how many of them train, and on which share of the pool."""

    name: str
    title: str
    make: Callable[[], Made]
    models: int = 40
    share: float = 0.5
    task: Literal["classification", "language"] = "classification"


@dataclasses.dataclass(frozen=True)
class Kept:
    """Signals of k models on n records of the pool and z of a population that none of them saw."""

    phi: np.ndarray  # (n, k)
    member: np.ndarray  # (n, k) bool
    population: np.ndarray  # (z, k)
    seconds: np.ndarray  # (k,) of processor time: training a model and asking it
    group: int
    link: Literal["logit", "log_p"]

    def one(self, j: int, others: np.ndarray) -> Signals:
        """What an auditor of model j with these references has."""
        nobody = np.zeros((len(self.population), len(others)), bool)
        reference, member = self.phi[:, others], self.member[:, others]
        z, z_reference = self.population[:, j], self.population[:, others]
        return Signals(self.phi[:, j], reference, member, z, z_reference, nobody, self.link)

    def others(self, j: int, count: int) -> np.ndarray:
        """The next `count` models, whole groups, after the group of model j."""
        k, first = self.phi.shape[1], (j // self.group + 1) * self.group
        return (first + np.arange(self.group * -(-count // self.group))) % k


def kept_signals(setting: Setting, folder: Path) -> Kept:
    """Of the folder, or trained now; what an interrupted run had trained is taken up again."""
    file = folder / f"{setting.name}.npz"
    found = dict(np.load(file)) if file.is_file() else {}
    if len(found.get("seconds", ())) < setting.models:
        found = _trained(setting, found, file)
    return Kept(**{key: found[key] for key in ("phi", "member", "population", "seconds")}, group=int(found["group"]),
                link=str(found["link"]))  # type: ignore[arg-type]  # fmt: skip


def _trained(setting: Setting, found: dict[str, Any], file: Path) -> dict[str, Any]:
    """Trains what is missing, a few models at a time, and saves after each few."""
    pool, population, recipe_from = setting.make()
    recipe = recipe_from(pool)
    design = Design("00" * 32, len(pool), seed=1, fraction=setting.share)
    both, n = Records.concat([pool, population]), len(pool)
    total, step = design.whole_groups(setting.models), 5 * design.group
    for start in range(len(found.get("seconds", ())), total, step):
        some = range(start, min(start + step, total))
        rows, began = design.rows(some), time.process_time()
        seeds = [design.train_seed(i) for i in some]
        said = [
            model_outputs(model, both, task=setting.task, classes=np.unique(pool.y), device="cpu")
            for model in trainer_for(recipe).train(recipe, pool, rows, seeds, device="cpu")
        ]
        phi = np.stack([each.signal for each in said], axis=1)
        seconds = np.full(len(some), (time.process_time() - began) / len(some))
        new = {"phi": phi[:n], "member": rows.T, "population": phi[n:], "seconds": seconds}
        found |= {key: np.concatenate([found[key], new[key]], axis=-1) if key in found else new[key] for key in new}
        found |= {"group": design.group, "link": said[0].link}
        part = file.with_suffix(".part.npz")
        np.savez(part, **found)
        part.replace(file)
        print(f"{setting.name}: {some.stop} of {total} trained, {seconds[0]:.1f} s each", flush=True)
    return found


def _folder() -> Path:
    folder = os.environ.get("MLFLOW_PRIVACY_DATA")
    if not folder:
        raise SystemExit("MLFLOW_PRIVACY_DATA names the folder with location30.npz, cifar10 and ag_news.")
    return Path(folder)


def _records(x: Any, y: np.ndarray, sizes: tuple[int, int]) -> tuple[Records, Records]:
    """Pool and population, drawn once and for all."""
    order, ids = np.random.default_rng(0).permutation(len(y)), np.array([f"row:{i}" for i in range(len(y))])
    everything = Records(x, y, ids)
    return everything.take(order[: sizes[0]]), everything.take(order[sizes[0] : sum(sizes)])


def location(recipe: Callable[[Records], Any]) -> Made:
    with np.load(_folder() / "location30.npz") as data:
        x, y = data["features"].astype(np.float32), data["labels"].astype(np.int64)
    return *_records(x, y, (4000, 1010)), recipe


def images(recipe: Callable[[Records], Any]) -> Made:
    import pandas as pd

    from mlflow_privacy.zoo.images import decode_images

    frame = pd.read_parquet(_folder() / "cifar10" / "train-00000-of-00001.parquet").iloc[:5000]
    x = decode_images([image["bytes"] for image in frame["img"]], name="cifar10").astype(np.float32) / 127.5 - 1
    return *_records(x, frame["label"].to_numpy(np.int64), (4000, 1000)), recipe


def news(recipe: Callable[[Records], Any], sizes: tuple[int, int] = (5000, 1500)) -> Made:
    frame = _news()
    x = np.array(frame["text"].tolist(), object)
    return *_records(x, frame["label"].to_numpy(np.int64), sizes), recipe


def _news() -> Any:
    import pandas as pd

    frame = pd.read_parquet(_folder() / "ag_news" / "test-00000-of-00001.parquet")
    return frame.drop_duplicates("text", ignore_index=True)


def mlp(settings: Mapping[str, Any]) -> Callable[[Records], Any]:
    def recipe(pool: Records) -> Any:
        from torch import nn

        net = nn.Sequential(nn.Linear(446, 64), nn.ReLU(), nn.Linear(64, 30))
        adam = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64}
        return make_recipe(net, {**adam, **settings}, task="classification", data=pool)

    return recipe


def cnn(pool: Records) -> Any:
    from torch import nn

    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1)]
    head = [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 10)]
    adam = {"optimizer": "adam", "learning_rate": 1e-3, "batch_size": 64, "epochs": 15}
    return make_recipe(nn.Sequential(*convolutions, *head), adam, task="classification", data=pool)


def logistic(_: Records) -> Any:
    from sklearn.linear_model import LogisticRegression

    return make_recipe(LogisticRegression(C=10.0, max_iter=200), task="classification")


def forest(_: Records) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return make_recipe(RandomForestClassifier(100, min_samples_leaf=2), task="classification")


def boosting(_: Records) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return make_recipe(HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8), task="classification")


def words(_: Records) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(max_features=20_000), LogisticRegression(C=10.0, max_iter=200))
    return make_recipe(model, task="classification")


def language() -> Made:
    """A GPT-2 of two layers that read 1,600 rows of nobody's, fine-tuned on 1,000 others of AG News."""
    import pandas as pd
    from bench_text import PRETRAINING, fine_tuned, random_gpt2
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    from mlflow_privacy.text import LanguageModel

    texts = _news()["text"].sample(frac=1, random_state=0).tolist()
    pool, population, others = texts[:2000], texts[2000:2500], texts[2500:]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(others, VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    start = LanguageModel(random_gpt2(tokenizer, 128, 64), tokenizer, "causal_lm", 48)

    def named(rows: list[str], part: str) -> Records:
        ids = np.array([f"{part}:{i}" for i in range(len(rows))])
        return Records(pd.DataFrame({"text": rows}), np.zeros(len(rows), np.int64), ids)

    read = named(others[:1600], "nobody")
    settings = {**PRETRAINING, "epochs": 1, "max_length": 48}
    base = dataclasses.replace(fine_tuned(start, settings, read, np.ones(1600, bool), 1, "cpu")[0], tokenizer=tokenizer)
    tuning = {"learning_rate": 1e-3, "epochs": 3, "batch_size": 16, "max_length": 48, "base": base}
    return (
        named(pool, "pool"),
        named(population, "population"),
        lambda records: make_recipe(base, tuning, task="language", data=records),
    )


_LONG, _SHORT = {"epochs": 30}, {"epochs": 8}
SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("mlp", "MLP that memorises", lambda: location(mlp(_LONG))),
        Setting("mlp_short", "MLP, regularised", lambda: location(mlp({**_SHORT, "weight_decay": 1e-3}))),
        Setting("logistic", "logistic regression", lambda: location(logistic)),
        Setting("forest", "random forest", lambda: location(forest)),
        Setting("boosting", "gradient boosting", lambda: location(boosting)),
        Setting("words", "TF-IDF + logistic regression", lambda: news(words)),
        Setting("cnn", "CNN", lambda: images(cnn), models=26),
        Setting("gpt2", "tiny GPT-2, fine-tuned", language, models=10, task="language"),
        Setting("mlp_80", "MLP that memorises, at 4/5", lambda: location(mlp(_LONG)), share=0.8),
        Setting("mlp_short_80", "MLP of 8 epochs, at 4/5", lambda: location(mlp(_SHORT)), share=0.8),
        Setting("logistic_80", "logistic regression, at 4/5", lambda: location(logistic), share=0.8),
    )
}


def main() -> None:
    """Trains and keeps the signals of some settings, so that attacks can be run while others still train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--cache", type=Path, required=True)
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        kept = kept_signals(SETTINGS[name], given.cache)
        print(f"{name}: {kept.phi.shape[1]} models, {kept.seconds.mean():.1f} s each", flush=True)


if __name__ == "__main__":
    main()
