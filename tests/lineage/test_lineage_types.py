"""Records keep the types in which they were logged, and modules of several inputs get their arrays."""

import inspect

import mlflow
import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

import mlflow_privacy  # noqa: E402
from mlflow_privacy.errors import LineageError  # noqa: E402
from mlflow_privacy.lineage.options import LineageOptions  # noqa: E402
from mlflow_privacy.lineage.records import for_model  # noqa: E402
from mlflow_privacy.lineage.resolve import resolve_target  # noqa: E402
from mlflow_privacy.lineage.tables import as_table  # noqa: E402
from mlflow_privacy.signals import model_outputs  # noqa: E402
from mlflow_privacy.types import Records  # noqa: E402

RNG = np.random.default_rng(0)
RECIPE = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 1, "batch_size": 8}


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(3, 2)
        self.embed = torch.nn.Embedding(9, 3)

    def forward(self, x):
        return self.out(self.embed(x).mean(dim=1))


class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(9, 3)
        self.out = torch.nn.Linear(5, 2)

    def forward(self, num, cat):
        return self.out(torch.cat([num, self.embed(cat)], dim=1))


class Items(torch.utils.data.Dataset):
    """A dataset of ((num, cat), y)."""

    def __init__(self, num, cat, y):
        self.num, self.cat, self.y = num, cat, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return (self.num[i], self.cat[i : i + 1]), self.y[i]


def words(n=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, (n, 4)), rng.integers(0, 2, n)


def pairs(n=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)).astype(np.float32), rng.integers(0, 9, n), rng.integers(0, 2, n)


def log_module(module):
    form = {}
    if "serialization_format" in inspect.signature(mlflow.pytorch.log_model).parameters:
        form = {"serialization_format": "pickle"}
    return mlflow.pytorch.log_model(module, name="model", pip_requirements=["torch"], **form)


def frame_of(x, y):
    return pd.DataFrame(x, columns=[f"w{i}" for i in range(x.shape[1])]).assign(label=y)


@pytest.mark.parametrize("how", ["arrays", "frame", "csv", "log_input numpy", "log_input pandas"])
def test_whole_numbers_reach_the_embedding_however_they_were_logged(tracking, tmp_path, how):
    members, others = words(seed=1), words(seed=2)
    with mlflow.start_run():
        if how == "arrays":
            mlflow_privacy.log_lineage(train=members, holdout=others, recipe=RECIPE)
        elif how == "frame":
            mlflow_privacy.log_lineage(
                train=frame_of(*members), holdout=frame_of(*others), targets="label", recipe=RECIPE
            )
        elif how == "csv":
            for name, data in (("train", members), ("test", others)):
                frame_of(*data).to_csv(tmp_path / f"{name}.csv", index=False)
            mlflow_privacy.log_lineage(
                train=tmp_path / "train.csv", holdout=tmp_path / "test.csv", targets="label", recipe=RECIPE
            )
        else:
            mlflow_privacy.log_lineage(recipe=RECIPE)
            for name, data in (("training", members), ("testing", others)):
                if how == "log_input numpy":
                    path = tmp_path / f"{name}.npz"
                    np.savez(path, x=data[0], y=data[1])
                    dataset = mlflow.data.from_numpy(data[0], targets=data[1], source=str(path), name=name)
                else:
                    path = tmp_path / f"{name}.csv"
                    frame_of(*data).to_csv(path, index=False)
                    dataset = mlflow.data.from_pandas(frame_of(*data), targets="label", source=str(path), name=name)
                mlflow.log_input(dataset, context=name)
        info = log_module(Words())
    options = LineageOptions(targets="label") if how == "log_input pandas" else None
    target = resolve_target(info.model_uri, options)
    assert target.pool.x.dtype.kind == "i"
    assert target.recipe is not None, target.recipe_problem
    out = model_outputs(target.model.native, target.pool, task="classification", device="cpu")
    with torch.no_grad():
        logits = target.model.native(torch.from_numpy(target.pool.x.astype(np.int64))).numpy()
    assert np.array_equal(out.correct, logits.argmax(1) == target.pool.y)
    assert target.recipe.spec["input"] == "int64"


def test_a_dictionary_of_arrays_that_mlflow_recorded_goes_into_the_module(tracking, tmp_path):
    members, others = pairs(seed=1), pairs(seed=2)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(recipe=RECIPE)
        for context, (num, cat, y) in (("training", members), ("testing", others)):
            path = tmp_path / f"{context}.npz"
            np.savez(path, num=num, cat=cat, weight=np.ones(30), bought=y)
            data = mlflow.data.from_numpy({"num": num, "cat": cat}, targets=y, source=str(path), name=context)
            mlflow.log_input(data, context=context)
        info = log_module(Pair())
    target = resolve_target(info.model_uri)
    assert {source.status for source in target.sources} == {"weakly verified"}
    assert set(target.pool.x.columns) == {"num[0]", "num[1]", "cat"}
    assert np.array_equal(np.sort(target.pool.y), np.sort(np.r_[members[2], others[2]]))
    assert target.recipe is not None, target.recipe_problem
    np.savez(tmp_path / "training.npz", numbers=members[0], cat=members[1], bought=members[2])
    with pytest.raises(LineageError, match=r"its source names no 'num'.*np.savez\(path, num=...\)"):
        resolve_target(info.model_uri)


@pytest.mark.parametrize("how", ["dict", "tuple", "tensors", "subset", "items", "mlflow"])
def test_arrays_of_several_inputs_are_logged_verified_and_go_into_the_module(tracking, how):
    def form(num, cat, y):
        if how == "dict":
            return {"num": num, "cat": cat}, y
        if how == "tuple":
            return (num, cat), y
        if how == "mlflow":
            return mlflow.data.from_numpy({"num": num, "cat": cat}, targets=y)
        tensors = [torch.from_numpy(array) for array in (num, cat, y)]
        if how == "items":
            return Items(*tensors)
        data = torch.utils.data.TensorDataset(*tensors)
        return data if how == "tensors" else torch.utils.data.Subset(data, range(len(y)))

    class Wide(Pair):  # categories as (n, 1)
        def forward(self, num, cat):
            return super().forward(num, cat[:, 0])

    members, others = pairs(seed=1), pairs(seed=2)
    with mlflow.start_run():
        mlflow_privacy.log_lineage(train=form(*members), holdout=form(*others), recipe=RECIPE)
        net = Wide() if how == "items" else Pair()
        info = log_module(Pair())
    target = resolve_target(info.model_uri)
    assert {source.status for source in target.sources} == {"verified"}
    assert (len(target.pool), target.membership.sum()) == (60, 30)
    out = model_outputs(net, target.pool, task="classification", device="cpu")
    num, cat, y = (np.concatenate(both) for both in zip(members, others, strict=True))
    with torch.no_grad():
        logits = Pair.forward(net.eval(), torch.from_numpy(num), torch.from_numpy(cat)).numpy()
    parts, rows = zip(*(name.split(":") for name in target.pool.row_ids), strict=True)
    place = np.array([int(row) + 30 * (part == "holdout") for part, row in zip(parts, rows, strict=True)])
    assert np.array_equal(out.correct, (logits.argmax(1) == y)[place])


def test_named_columns_of_a_frame_go_into_the_arguments_of_the_module(tracking):
    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(9, 3)
            self.out = torch.nn.Linear(5, 2)

        def forward(self, age, income, job):
            return self.out(torch.cat([age[:, None], income[:, None], self.embed(job)], dim=1))

    def frame(seed):
        num, cat, y = pairs(seed=seed)
        return pd.DataFrame({"job": cat, "income": num[:, 0], "age": 20 + cat, "id": np.arange(30), "bought": y})

    native = Named()
    records = Records(frame(1).drop(columns="bought"), frame(1)["bought"].to_numpy(), np.arange(30).astype(str))
    kept = for_model(records, native, "pytorch", None)
    assert list(kept.x.columns) == ["job", "income", "age", "id"]
    assert kept.x["job"].dtype.kind == "i"
    assert for_model(records, torch.nn.Linear(4, 2), "pytorch", None).x.dtype == np.float32
    whole = Records(records.x[["job", "age"]], records.y, records.row_ids)
    assert for_model(whole, torch.nn.Linear(2, 2), "pytorch", None).x.dtype == np.int64


def test_inputs_of_unequal_length_or_without_end_are_refused_in_words():
    num, cat, y = pairs()
    with pytest.raises(LineageError, match=r"30 labels.*'cat' of shape \(29,\)"):
        as_table(({"num": num, "cat": cat[:-1]}, y))
    with pytest.raises(LineageError, match=r"20,030 values a record.*Log one array"):
        as_table(({"big": np.zeros((2, 20_000)), "num": np.zeros((2, 30))}, np.zeros(2)))
    assert as_table((tuple(map(tuple, num.tolist())), y)).x.shape == (30, 2)  # rows, not inputs
