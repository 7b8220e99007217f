"""`log_lineage`: what it stores is what an audit gets back, on a file system and through a real server."""

import inspect
import json
import logging
import re

import mlflow
import numpy as np
import pandas as pd
import pytest

from mlflow_privacy.auditing.options import AuditOptions
from mlflow_privacy.errors import LineageError, RecipeError, UnsafeError
from mlflow_privacy.lineage import log_lineage, resolve_target

COLUMNS = ["width", "height", "weight"]


def arrays(frame):
    return frame[COLUMNS].to_numpy(), frame["label"].to_numpy()


def tensors(frame):
    import torch

    x, y = arrays(frame)
    return torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))


def subset(frame):
    import torch

    twice = tensors(pd.concat([frame, frame]))
    return torch.utils.data.Subset(twice, range(len(frame)))


def map_style(frame):
    import torch

    class Pairs(torch.utils.data.Dataset):
        def __len__(self):
            return len(frame)

        def __getitem__(self, i):
            x, y = arrays(frame)
            return torch.tensor(x[i]), int(y[i])

    return Pairs()


def hugging_face(frame):
    import datasets

    return datasets.Dataset.from_pandas(frame)


def mlflow_dataset(frame):
    return mlflow.data.from_pandas(frame)


FORMS = {
    "frame": lambda f: f,
    "shuffled frame": lambda f: f.set_index(np.arange(len(f))[::-1]),
    "frame and series": lambda f: (f[COLUMNS], f["label"]),
    "arrays": arrays,
    "tensors": tensors,
    "subset": subset,
    "map-style": map_style,
    "hugging face": hugging_face,
    "mlflow dataset": mlflow_dataset,
}


def test_the_name_of_the_label_column_is_known(log_model, tracking, train, holdout):
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout, targets="label")
        info = log_model()
    assert resolve_target(info.model_uri).label_name == "label"


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_back_as_it_was(form, log_model, tracking, train, holdout):
    with mlflow.start_run() as run:
        log_lineage(train=FORMS[form](train), holdout=FORMS[form](holdout))
        info = log_model()
    target = resolve_target(info.model_uri)
    np.testing.assert_array_equal(np.asarray(target.pool.x), np.vstack([train[COLUMNS], holdout[COLUMNS]]))
    np.testing.assert_array_equal(target.pool.y, [*train["label"], *holdout["label"]])
    assert np.asarray(target.pool.x).dtype == np.float32
    assert list(target.pool.x.columns) == COLUMNS  # also from arrays: the estimator was fitted with names
    assert {s.status for s in target.sources} == {"verified"}
    assert all(len(s.digest) == 64 for s in target.sources)
    inputs = tracking.get_run(run.info.run_id).inputs.dataset_inputs
    assert sorted(tag.value for i in inputs for tag in i.tags if tag.key == "mlflow.data.context") == [
        "testing",
        "training",
    ]


def test_the_dataset_inputs_load_through_mlflow_alone(log_model, tracking, train, holdout):
    """What is logged is useful without this package, and the same data in two runs keeps its own source."""
    sources = []
    for _ in range(2):
        with mlflow.start_run() as run:
            log_lineage(train=train, holdout=holdout)
        inputs = tracking.get_run(run.info.run_id).inputs.dataset_inputs
        data = next(i.dataset for i in inputs if i.tags and i.dataset.name.startswith("train-"))
        source = mlflow.data.get_source(data)
        sources.append(source.to_dict()["uri"])
        pd.testing.assert_frame_equal(pd.read_parquet(source.load()), train)
        assert run.info.run_id in sources[-1]
    assert sources[0] != sources[1]


def test_files_on_this_machine_are_read_in_place(log_model, train, holdout, calls):
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout[:20], population=holdout[20:], mask=np.arange(40) % 2 == 0)
        assert calls == {"log_inputs": 1}
        info = log_model()
    loaded = mlflow.pyfunc.load_model(info.model_uri)
    calls.clear()
    target = resolve_target(info.model_uri, loaded=loaded)
    assert calls == {"get_run": 1}
    assert len(target.pool) == 60
    assert len(target.population) == 10


def test_without_the_manifest_the_dataset_inputs_are_enough(log_model, tracking, train, holdout, tmp_path):
    with mlflow.start_run() as run:
        log_lineage(train=arrays(train), holdout=arrays(holdout))
        info = log_model()
    root = tracking.get_run(run.info.run_id).info.artifact_uri.removeprefix("file://")
    (tmp_path / root / "privacy/lineage/lineage.json").unlink()
    target = resolve_target(info.model_uri)
    assert {s.status for s in target.sources} == {"verified"}
    assert target.membership.sum() == 40


def test_lineage_of_one_model_of_a_run_is_its_own(log_model, train, holdout):
    with mlflow.start_run():
        first, second = log_model(name="first"), log_model(name="second")
        log_lineage(train=train[:20], holdout=holdout)
        log_lineage(train=train[20:], model_id=second.model_id)
    assert resolve_target(first.model_uri).membership.sum() == 20
    target = resolve_target(second.model_uri)
    np.testing.assert_array_equal(target.pool.x[:20], train[COLUMNS][20:])
    assert (~target.membership).sum() == 30


def test_a_misspelt_recipe_is_refused_and_nothing_is_logged(tracking, train, holdout):
    recipe = {"optimizer": "adam", "learning_rte": 1e-3, "epoch": 5, "batch_size": 32}
    said = "(?s)did you mean 'learning_rate'.*did you mean 'epochs'"
    with mlflow.start_run() as run, pytest.raises(RecipeError, match=said):
        log_lineage(train=train, holdout=holdout, recipe=recipe)
    assert tracking.get_run(run.info.run_id).inputs.dataset_inputs == []
    assert tracking.list_artifacts(run.info.run_id) == []


def test_a_second_call_adds_and_replaces(log_model, train, holdout):
    with mlflow.start_run():
        log_lineage(train=train[:10], recipe={"C": 2.0})
        log_lineage(holdout=holdout)
        log_lineage(train=train)
        info = log_model()
    target = resolve_target(info.model_uri)
    assert target.membership.sum() == 40
    assert target.recipe.spec["estimator"]["params"]["C"] == 2.0


def log_module(module):
    """Logs the module itself; newer versions of MLflow would log a traced graph, which needs an example."""
    form = {"serialization_format": "pickle"}
    if "serialization_format" not in inspect.signature(mlflow.pytorch.log_model).parameters:
        form = {}
    return mlflow.pytorch.log_model(module, name="model", pip_requirements=["torch"], **form)


def test_images_of_a_hugging_face_dataset_and_a_torch_module(tracking):
    import datasets
    import torch

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, 24)
    features = datasets.Features(
        {"image": datasets.Array3D((1, 4, 4), "float32"), "kind": datasets.ClassLabel(names=["a", "b", "c"])}
    )
    data = datasets.Dataset.from_dict({"image": list(x), "kind": y}, features=features)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    with mlflow.start_run():
        mlflow.log_params({"optimizer": "SGD", "lr": 0.1, "epochs": 2, "batch_size": 8})
        log_lineage(train=data.select(range(12)), holdout=data.select(range(12, 24)), recipe={"learning_rate": 0.05})
        info = log_module(module)
    target = resolve_target(info.model_uri)
    np.testing.assert_array_equal(target.pool.x, x)
    np.testing.assert_array_equal(target.pool.y, y)
    assert target.model.flavor == "pytorch"
    assert isinstance(target.model.native, torch.nn.Module)
    assert target.task == "classification"
    assert target.recipe.kind == "torch", target.recipe_problem
    assert target.recipe.source == "log_lineage, then run parameters"
    assert '"learning_rate": 0.05' in json.dumps(target.recipe.spec)


def test_a_traced_graph_keeps_its_lineage_and_gets_a_recipe(tracking):
    """What newer versions of MLflow log by default."""
    import torch

    if "serialization_format" not in inspect.signature(mlflow.pytorch.log_model).parameters:
        pytest.skip("this version of MLflow logs modules only")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 4)).astype(np.float32), rng.integers(0, 3, 24)
    recipe = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 1, "batch_size": 8}
    with mlflow.start_run():
        log_lineage(train=(x[:12], y[:12]), holdout=(x[12:], y[12:]), recipe=recipe)
        info = mlflow.pytorch.log_model(
            torch.nn.Sequential(torch.nn.Linear(4, 3)), name="model", pip_requirements=["torch"], input_example=x[:2]
        )
    target = resolve_target(info.model_uri)
    assert target.model.flavor == "pytorch"
    assert isinstance(target.model.native, torch.nn.Module)
    assert target.recipe is not None, target.recipe_problem


def test_texts_stay_texts(tracking):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = pd.DataFrame({"text": ["a good film", "a bad film", "good", "bad"] * 3, "label": [1, 0, 1, 0] * 3})
    texts["text"] += [f" {i}" for i in range(12)]
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts["text"], texts["label"])
    with mlflow.start_run():
        log_lineage(train=texts[:8], holdout=texts[8:], targets="label")
        info = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])
    target = resolve_target(info.model_uri)
    assert target.pool.x.tolist() == texts["text"].tolist()
    assert target.model.native.predict(target.pool.x).shape == (12,)


def test_a_mask_splits_one_dataset(log_model, train):
    mask = np.arange(40) % 3 == 0
    with mlflow.start_run():
        log_lineage(train=train, mask=mask)
        info = log_model()
    target = resolve_target(info.model_uri)
    np.testing.assert_array_equal(target.pool.x[: mask.sum()], train[COLUMNS][mask])
    np.testing.assert_array_equal(target.pool.x[mask.sum() :], train[COLUMNS][~mask])
    assert target.pool.row_ids[[0, 1, mask.sum()]].tolist() == ["data:0", "data:3", "data:1"]


def test_a_mask_over_a_dataset_that_mlflow_recorded(log_model, train, tmp_path):
    train.to_parquet(tmp_path / "all.parquet")
    mask = np.arange(40) < 25
    with mlflow.start_run():
        mlflow.log_input(mlflow.data.from_pandas(train, source=f"{tmp_path}/all.parquet"))
        log_lineage(mask=mask)
        info = log_model()
    target = resolve_target(info.model_uri)
    assert target.membership.tolist() == [True] * 25 + [False] * 15
    assert target.sources[0].status == "weakly verified"


def test_row_indices_name_a_part_of_a_file_that_is_not_copied(log_model, tracking, train, tmp_path):
    train.to_csv(tmp_path / "all.csv", index=False)
    rows = {"train": [5, 1, 3], "holdout": [0, 2]}
    with mlflow.start_run() as run:
        log_lineage(train=tmp_path / "all.csv", row_indices=rows, store="reference")
        info = log_model()
    target = resolve_target(info.model_uri)
    assert target.pool.row_ids.tolist() == ["data:5", "data:1", "data:3", "data:0", "data:2"]
    np.testing.assert_array_equal(target.pool.x, pd.read_csv(tmp_path / "all.csv")[COLUMNS].iloc[[5, 1, 3, 0, 2]])
    stored = [item.path for item in tracking.list_artifacts(run.info.run_id, "privacy/lineage")]
    assert stored == ["privacy/lineage/lineage.json", "privacy/lineage/train_rows.npz"]
    train[::-1].to_csv(tmp_path / "all.csv", index=False)
    with pytest.raises(LineageError, match="is not the data this model was trained on"):
        resolve_target(info.model_uri)
    target = resolve_target(info.model_uri, AuditOptions(allow_digest_mismatch=True))
    assert {s.status for s in target.sources} == {"overridden"}


def test_reference_to_data_without_a_uri_keeps_only_its_digest(log_model, tracking, train, holdout, caplog):
    with caplog.at_level(logging.WARNING, "mlflow_privacy"), mlflow.start_run() as run:
        log_lineage(train=train, holdout=holdout, store="reference")
        info = log_model()
    assert "only its digest is kept" in caplog.text
    names = [item.path for item in tracking.list_artifacts(run.info.run_id, "privacy/lineage")]
    assert names == ["privacy/lineage/lineage.json"]
    with pytest.raises(LineageError, match=re.escape('evaluator_config={"privacy_meter": {"train": ...}}')):
        resolve_target(info.model_uri)
    right = resolve_target(info.model_uri, AuditOptions(train=train, holdout=holdout))
    assert [s.status for s in right.sources] == ["verified", "verified"]
    wrong = resolve_target(info.model_uri, AuditOptions(train=train[::-1], holdout=holdout))
    assert [s.status for s in wrong.sources] == ["given", "verified"]
    assert any("train data that was passed is not what was logged" in warning for warning in wrong.warnings)


def test_reference_takes_the_source_of_an_mlflow_dataset(log_model, train, holdout, tmp_path):
    train.to_parquet(tmp_path / "a.parquet"), holdout.to_parquet(tmp_path / "b.parquet")
    with mlflow.start_run():
        log_lineage(
            train=mlflow.data.from_pandas(train, source=f"{tmp_path}/a.parquet"),
            holdout=f"{tmp_path}/b.parquet",
            store="reference",
        )
        info = log_model()
    target = resolve_target(info.model_uri)
    assert {s.status for s in target.sources} == {"verified"}
    data = mlflow.data.from_pandas(train[:5].assign(width=7.0), source=f"{tmp_path}/a.parquet")  # none of its rows
    with mlflow.start_run(), pytest.raises(LineageError, match=r"train has 5 rows, but its source .* has 40"):
        log_lineage(train=data, store="reference")


def test_a_changed_copy_is_found_by_its_full_digest(log_model, tracking, train, holdout, tmp_path):
    """MLflow's own digest sees 10,000 elements only; a change behind them must be found too."""
    x = np.random.default_rng(0).normal(size=(6000, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    with mlflow.start_run() as run:
        log_lineage(train=(x, y), holdout=arrays(holdout))
        info = log_model()
    root = tracking.get_run(run.info.run_id).info.artifact_uri.removeprefix("file://")
    assert resolve_target(info.model_uri).membership.sum() == 6000
    x[-1, -1] += 1
    np.savez(f"{root}/privacy/lineage/train.npz", x=x, y=y)
    with pytest.raises(LineageError, match="is not the data this model was trained on"):
        resolve_target(info.model_uri)


def test_what_the_caller_passes_wins(log_model, train, holdout, tmp_path):
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout, recipe={"C": 2.0})
        info = log_model()
    train[:8].to_parquet(tmp_path / "few.parquet")
    options = AuditOptions(
        train=str(tmp_path / "few.parquet"),
        holdout=(holdout[COLUMNS][:6], holdout["label"][:6]),
        population=holdout[6:],
        targets="label",
        recipe={"C": 3.0},
    )
    target = resolve_target(info.model_uri, options)
    assert target.membership.tolist() == [True] * 8 + [False] * 6
    assert len(target.population) == 24
    assert {s.status for s in target.sources} == {"given"}
    assert target.recipe.spec["estimator"]["params"]["C"] == 3.0
    assert target.recipe.source == "evaluator_config, then log_lineage"


def test_code_named_in_a_logged_recipe_is_never_imported(log_model, train, holdout, tmp_path, monkeypatch):
    (tmp_path / "hostile_module.py").write_text(
        "import pathlib; pathlib.Path('executed').touch()\ndef fit(x, y, seed): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with mlflow.start_run():
        log_lineage(train=train, holdout=holdout, recipe={"train_fn": "hostile_module.fit"})
        info = log_model()
    target = resolve_target(info.model_uri)
    assert target.recipe is None
    assert "allow_code" in target.recipe_problem
    assert not (tmp_path / "executed").exists()
    with pytest.raises(UnsafeError):
        resolve_target(info.model_uri, AuditOptions(recipe={"train_fn": "hostile_module.fit"}))
    assert not (tmp_path / "executed").exists()
    allowed = resolve_target(info.model_uri, AuditOptions(allow_code=["hostile_module.fit"]))
    assert allowed.recipe.kind == "callable"


def test_a_recipe_of_live_objects_is_refused_with_all_faults(tracking):
    import torch

    with mlflow.start_run(), pytest.raises(LineageError) as error:
        log_lineage(
            recipe={"optimizer": torch.optim.SGD, "lr": float("nan"), "a": [{"f": print}], "epochs": np.int64(3)}
        )
    text = str(error.value)
    assert "recipe['optimizer'] is 'SGD'" in text
    assert "recipe['lr'] is nan" in text
    assert "recipe['a'][0]['f'] is 'print'" in text
    assert "epochs" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "without anything to log"),
        ({"train": "F", "mask": np.ones(3, bool)}, "mask must be 40 booleans"),
        ({"train": "F", "mask": np.ones(40, int)}, "mask must be 40 booleans"),
        ({"train": "F", "row_indices": [40]}, "reach from 40 to 40, but the data has 40 rows"),
        ({"train": "F", "row_indices": {"members": [1]}}, "row_indices names 'members'; the roles are train"),
        ({"train": "F", "row_indices": {"train": [1], "holdout": [1]}}, "same row to two roles"),
        ({"train": "F", "targets": "lable"}, "no target column 'lable'; its columns are width"),
        ({"train": np.zeros((3, 2))}, "features but no labels"),
        ({"train": (np.zeros((3, 2)), np.zeros(2))}, "3 records but 2 labels"),
        ({"train": (np.array([{}, []], object), [0, 1])}, "only a pickle could keep"),
        ({"train": 5}, "is a builtins.int, which is no form of data"),
        ({"train": "F", "store": "link"}, 'store must be "copy" or "reference"'),
    ],
)
def test_errors_name_the_value_and_the_remedy(arguments, message, tracking, train):
    arguments = {k: train if isinstance(v, str) and v == "F" else v for k, v in arguments.items()}
    with mlflow.start_run(), pytest.raises(LineageError, match=re.escape(message)):
        log_lineage(**arguments)


def test_outside_a_run_it_says_where_to_call_it(tracking, train):
    with pytest.raises(LineageError, match=r"call it inside `with mlflow\.start_run"):
        log_lineage(train=train)


def test_a_manifest_that_reaches_outside_its_folder_is_refused(log_model, tracking, train, holdout, tmp_path):
    with mlflow.start_run() as run:
        log_lineage(train=train, holdout=holdout)
        info = log_model()
    root = tracking.get_run(run.info.run_id).info.artifact_uri.removeprefix("file://")
    path = tmp_path / root / "privacy/lineage/lineage.json"
    path.write_text(path.read_text().replace("train.parquet", "../../secret.parquet"))
    with pytest.raises(LineageError, match="outside its folder"):
        resolve_target(info.model_uri)


def test_over_http_with_proxied_artifacts(server, tracking, estimator, train, holdout, tmp_path):
    mlflow.set_tracking_uri(server)
    mlflow.set_registry_uri(server)
    mlflow.set_experiment("over http")
    signature = mlflow.models.infer_signature(train[COLUMNS])
    mask = np.arange(40) % 2 == 0
    with mlflow.start_run() as run:
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        log_lineage(train=train, mask=mask, population=holdout, recipe={"C": 5.0})
        mlflow.sklearn.log_model(
            estimator, name="model", signature=signature, pip_requirements=["x"], registered_model_name="credit"
        )
    target = resolve_target("models:/credit/1")
    np.testing.assert_array_equal(target.pool.x[:20], train[COLUMNS][mask])
    assert [s.status for s in target.sources] == ["verified"] * 3
    assert (target.model.name, target.model.version, target.model.run_id) == ("credit", "1", run.info.run_id)
    assert target.recipe.spec["estimator"]["params"]["C"] == 5.0
    data = mlflow.MlflowClient().get_run(run.info.run_id).inputs.dataset_inputs[0].dataset
    assert data.source_type == "http"
    assert len(pd.read_parquet(mlflow.data.get_source(data).load())) in (30, 40)
