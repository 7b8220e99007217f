"""An experiment's files: complete, true to each other and to MLflow, and never mixed with another config's."""

import csv
import json
import os
from pathlib import Path

import mlflow
import numpy as np
import pytest
from packaging.version import Version

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.experiment.data import prepare, split_indices
from mlflow_privacy.experiment.folder import check_folder, open_log_dir
from mlflow_privacy.experiment.load import parse_config
from mlflow_privacy.experiment.run import run_experiment
from mlflow_privacy.privacy_meter.log_dir import write
from mlflow_privacy.privacy_meter.log_dir.layout import positions, stored_signal
from mlflow_privacy.privacy_meter.log_dir.place import Place

VALUES = {
    "run": {"num_experiments": 2, "register_as": "digits", "log_dir": "out"},
    "data": {"dataset": "digits", "size": 300},
    "train": {"model_options": {"hidden": [16]}, "epochs": 3, "learning_rate": 0.05, "device": "cpu"},
    "audit": {
        "algorithm": "RMIA",
        "num_ref_models": 1,
        "population_size": 40,
        "data_size": 150,
        "device": "cpu",
        "blind_baseline": False,
    },
}
FILES = {
    "config.yaml",
    "experiment.json",
    "time.json",
    "models/models_metadata.json",
    "models/memberships.npy",
    "models/row_ids.npy",
    *(f"models/model_{i}.safetensors" for i in range(4)),
    "signals/rmia_signals.npy",
    "signals/rmia_signals_pop.npy",
    "signals/row_ids.npy",
    "signals/population_row_ids.npy",
    *(f"report/exp/{name}" for i in (0, 1) for name in (f"ROC_{i}.png", f"ROC_log_{i}.png", f"attack_result_{i}.npz")),
    "report/attack_result_average.csv",
    "report/attack_result_average.npz",
    "report/ROC_average.png",
    "report/ROC_log_average.png",
    "report/log_time_analysis.log",
}


def changed(**sections):
    return {name: {**VALUES.get(name, {}), **sections.get(name, {})} for name in {**VALUES, **sections}}


def load(path):
    return np.load(path, allow_pickle=False)


def below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def artifacts(client, run_id, path=None):
    found = client.list_artifacts(run_id, path)
    return {a.path for a in found if not a.is_dir}.union(
        *(artifacts(client, run_id, a.path) for a in found if a.is_dir)
    )


def test_the_layout_is_complete_and_its_files_agree_with_each_other_and_with_mlflow(tracking, tmp_path):
    report, out, client = run_experiment(parse_config(VALUES)), tmp_path / "out", tracking
    assert not FILES - below(out)
    assert {name.split("/")[1] for name in below(out) - FILES} == {"v1", "v2"}  # each audit's own artifacts
    mirrored = {f"privacy_meter/{f}" for f in FILES if "/" in f and not f.endswith(".safetensors")}
    assert mirrored <= artifacts(client, report.run_id)
    data = zoo.load_dataset("digits")
    names = data.records.row_ids.astype(str)
    meta = json.loads((out / "models/models_metadata.json").read_text())
    members, pool = load(out / "models/memberships.npy"), load(out / "models/row_ids.npy")
    assert list(meta) == ["0", "1", "2", "3"]
    assert members.dtype == bool
    assert members.shape == (4, len(pool)) == (4, 260)
    assert [m["role"] for m in meta.values()] == ["target", "target", "reference", "reference"]
    assert [m["num_train"] for m in meta.values()] == members.sum(1).tolist()

    # Memberships: the targets' are the splits, the references' are what their own runs hold, by record.
    for i in (0, 1):
        split = split_indices(len(names), seed=0, experiment=i, size=300, population_size=40)
        assert set(pool[members[i]]) == set(names[split.train])
        assert set(pool) == set(names[split.train]) | set(names[split.holdout])
        assert (meta[str(i)]["run_id"], meta[str(i)]["train_loss"]) == (
            report.targets[i].run_id,
            report.targets[i].metrics["train_loss"],
        )
    assert (members[2] ^ members[3]).all()  # a pair of complementary references
    for i in (2, 3):
        assert client.get_run(meta[str(i)]["run_id"]).data.params["n_members"] == str(meta[str(i)]["num_train"])

    # Signals, from the stored weights and the data set again.
    rows, signals = load(out / "signals/row_ids.npy"), load(out / "signals/rmia_signals.npy")
    population, apart = load(out / "signals/population_row_ids.npy"), load(out / "signals/rmia_signals_pop.npy")
    assert (signals.shape, apart.shape, signals.dtype) == ((150, 4), (40, 4), np.float32)
    assert not set(population) & set(pool)
    config = parse_config(VALUES)
    prepared = prepare(data, config.train, "auto").records
    index = {name: i for i, name in enumerate(names)}
    for i in range(4):
        p = probabilities(out / meta[str(i)]["model_path"], prepared, config.train)
        for ids, found in ((rows, signals), (population, apart)):
            np.testing.assert_allclose(found[:, i], [p[index[name]] for name in ids], rtol=2e-4, atol=1e-6)
    assert [list(ids) == sorted(ids, key=index.get) for ids in (rows, pool, population)] == [True] * 3

    # Results of each target, and their averages.
    table = list(csv.DictReader((out / "report/attack_result_average.csv").open()))
    rmia = {row["target"]: row for row in table if row["attack"] == "rmia"}
    where = np.searchsorted([index[n] for n in pool], [index[n] for n in rows])
    for i in (0, 1):
        result = load(out / f"report/exp/attack_result_{i}.npz")
        assert {"fpr", "tpr", "auc", "one_tenth_fpr", "zero_fpr", "scores", "memberships"} <= set(result.files)
        np.testing.assert_array_equal(result["row_ids"], rows)
        np.testing.assert_array_equal(result["memberships"], members[i][where])
        audited = report.targets[i].audit
        assert result["auc"] == pytest.approx(audited["privacy/rmia/auc"], abs=1e-6)
        for key in ("auc", "auc_low", "auc_high", "tpr_at_fpr_0.1", "tpr_at_fpr_0.1_high"):
            assert float(rmia[str(i)][key]) == audited[f"privacy/rmia/{key}"]
        assert int(rmia[str(i)]["n_members"]) == int(result["memberships"].sum())
    logged = client.get_run(report.run_id).data.metrics
    for key in ("auc", "auc_low", "auc_high", "tpr_at_fpr_0.1", "tpr_at_fpr_0_low"):
        assert float(rmia["average"][key]) == logged[f"average/mlp/rmia/{key}"]
    assert "average/mlp/rmia/tpr_at_fpr_0.001" not in logged
    average = load(out / "report/attack_result_average.npz")
    assert average["auc"] == pytest.approx(logged["average/mlp/rmia/auc"], abs=1e-6)
    assert "audit of digits v2" in (out / "report/log_time_analysis.log").read_text()


def probabilities(path, records, train):
    """p of each record's label by a model rebuilt from its file, without this package's signals."""
    import torch
    from safetensors.torch import load_model

    model = zoo.build_model(train.model_name, records.x.shape[1:], 10, train.model_options, task="classification")
    load_model(model, path)
    with torch.inference_mode():
        p = model.eval()(torch.from_numpy(records.x)).softmax(1).numpy()
    return p[np.arange(len(p)), records.y]


def saved(folder, values=VALUES):
    """A log directory as an experiment leaves it, so far as it is asked whose it is."""
    import yaml

    (folder / "models").mkdir(parents=True)
    config = parse_config(values).model_dump(exclude_unset=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize(
    ("section", "key", "value"), [("audit", "num_ref_models", 2), ("run", "random_seed", 5), ("train", "epochs", 4)]
)
def test_another_configs_results_are_refused_before_anything_runs(tracking, tmp_path, section, key, value):
    saved(tmp_path / "out")
    runs = len(tracking.search_runs([e.experiment_id for e in tracking.search_experiments()]))
    with pytest.raises(ConfigError, match=rf"another config: {section}\.{key} is .* there and {value} here.*Name"):
        run_experiment(parse_config(changed(**{section: {key: value}})))
    assert below(tmp_path / "out") == {"config.yaml"}
    assert len(tracking.search_runs([e.experiment_id for e in tracking.search_experiments()])) == runs


def test_the_same_config_writes_again_whatever_its_device_batches_and_names(tmp_path):
    folder = saved(tmp_path / "out")
    same = changed(
        run={"log_dir": str(folder), "register_as": "other", "experiment_name": "x"},
        audit={"batch_size": 7, "device": "auto", "fprs": [0.1, 0.01, 0.001, 0.0001, 0.0]},
        train={"device": "auto", "optimizer": "SGD"},
    )
    with open_log_dir(parse_config(same)) as place:
        (place.scratch / "layout").mkdir()
        (place.scratch / "layout" / "config.yaml").write_text("new")
        place.commit(place.scratch / "layout")
    assert (folder / "config.yaml").read_text() == "new"
    assert os.listdir(folder / "models") == []
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_estimators_without_a_safe_form_have_metadata_alone_and_no_population_no_file(tracking, tmp_path):
    values = {
        "run": {"register_as": "wine", "log_dir": str(tmp_path / "out"), "time_log": False},
        "data": {"dataset": "wine"},
        "train": {
            "model_name": "RandomForestClassifier",
            "model_options": {"n_estimators": 3},
            "variants": {"small": {"model_options": {"max_depth": 1}}, "deep": {}},
        },
        "audit": {"algorithm": "LOSS", "num_ref_models": 1, "blind_baseline": False},
    }
    report = run_experiment(parse_config(values))
    out = tmp_path / "out"
    meta = json.loads((out / "models/models_metadata.json").read_text())
    assert {m["model_path"] for m in meta.values()} == {None}
    assert {m["epochs"] for m in meta.values()} == {None}
    assert [m["variant"] for m in meta.values()] == ["small", "deep", "small", "small", "deep", "deep"]
    assert not [name for name in below(out) if "model_0" in name or "_pop" in name or "time" in name]
    signals = load(out / "signals/loss_signals.npy")
    assert signals.shape == (178, 6)
    assert (signals >= 0).all()
    members = load(out / "models/memberships.npy")
    assert members.shape == (6, 178)
    for i, target in enumerate(report.targets):
        own = signals[:, i]
        assert own[members[i]].mean() > own[~members[i]].mean()
        assert f"average/{target.variant}/loss/auc" in tracking.get_run(report.run_id).data.metrics
        assert f"average/{target.variant}/loss/auc_low" not in tracking.get_run(report.run_id).data.metrics


def test_without_a_log_dir_the_parent_run_still_gets_the_averages(tracking, tmp_path):
    values = changed(run={"log_dir": None, "num_experiments": 1}, audit={"num_ref_models": 0, "algorithm": "LOSS"})
    report = run_experiment(parse_config(values))
    found = artifacts(tracking, report.run_id)
    assert {"privacy_meter/report/attack_result_average.csv", "privacy_meter/report/ROC_average.png"} <= found
    assert not any("signals" in name or "models" in name for name in found)
    assert not (tmp_path / "out").exists()


def test_one_target_is_drawn_once_and_its_files_are_copied_without_asking_run_by_run(
    tracking, tmp_path, monkeypatch, calls
):
    drawn = []
    original = write.target_roc
    monkeypatch.setattr(write, "target_roc", lambda *a, **k: drawn.append(k) or original(*a, **k))
    report = run_experiment(parse_config(changed(run={"num_experiments": 1}, audit={"num_ref_models": 3})))
    early = Version(mlflow.__version__) < Version("3.10")  # asks more by itself
    # Of the targets: by log_model, by evaluate, and before and after an audit.
    assert calls["get_run"] <= (10 if early else 6)
    assert calls["search_runs"] <= 6  # one of them for how long such references took on other data
    assert not {"list_artifacts", "download_artifacts", "search_logged_models"} & set(calls)
    out = tmp_path / "out"
    assert [(one["log"], one["title"]) for one in drawn] == [(log, "the only target, mlp") for log in (False, True)]
    for name in ("ROC", "ROC_log"):
        assert (out / f"report/{name}_average.png").read_bytes() == (out / f"report/exp/{name}_0.png").read_bytes()
    metrics = tracking.get_run(report.run_id).data.metrics
    assert {key.removeprefix("time/") for key in metrics if key.startswith("time/")} == {
        "load_data",
        "train_targets",
        "audit",
    }
    # The weights are copies: whoever changes a file here changes no stored reference.
    meta = json.loads((out / "models/models_metadata.json").read_text())
    references = [model for model in meta.values() if model["role"] == "reference"]
    assert len(references) == 6
    for model in references:
        path = out / model["model_path"]
        (stored,) = Path(tracking.get_run(model["run_id"]).info.artifact_uri.removeprefix("file://")).glob("weights/*")
        assert stored.read_bytes() == path.read_bytes()
        assert not stored.samefile(path)


def test_the_average_of_two_targets_is_drawn_for_itself(tracking, tmp_path):
    run_experiment(parse_config(changed(audit={"num_ref_models": 0, "algorithm": "LOSS"})))
    report = tmp_path / "out/report"
    pictures = [(report / f"{name}.png").read_bytes() for name in ("ROC_average", "exp/ROC_0", "exp/ROC_1")]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize("name", ["models/models_metadata.json", "signals/x.npy", "report/exp/ROC_0.png"])
def test_results_of_nobody_known_are_not_written_over(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="of an unknown config.*Name another folder"):
        check_folder(tmp_path, parse_config(changed(run={"log_dir": str(tmp_path)})))


def test_a_config_that_cannot_be_read_and_a_file_in_the_folders_place_are_refused(tmp_path):
    config = parse_config(VALUES)
    (tmp_path / "config.yaml").write_text("nonsense: {}\n")
    with pytest.raises(ConfigError, match="cannot read"):
        check_folder(tmp_path, config)
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "config.yaml", config)


def test_a_failed_experiment_leaves_no_file_behind(tmp_path):
    config = parse_config(changed(run={"log_dir": str(tmp_path / "out")}))
    scope = open_log_dir(config)
    (scope.__enter__().scratch / "half.npy").write_bytes(b"half")
    error = RuntimeError()
    assert not scope.__exit__(RuntimeError, error, None)
    assert not (tmp_path / "out").exists()


def test_a_process_killed_while_files_move_leaves_whole_files_and_the_config_first(tmp_path, monkeypatch):
    root, folder = tmp_path / "root", tmp_path / "out"
    names = ["config.yaml", "models/models_metadata.json", "models/memberships.npy", "experiment.json", "report/a.csv"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    moved, replace = [], os.replace

    def dies_at_the_fourth(source, final):
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(final.relative_to(folder).as_posix())
        replace(source, final)

    monkeypatch.setattr(os, "replace", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        Place(folder, tmp_path).commit(root)
    assert moved == ["config.yaml", "models/memberships.npy", "report/a.csv"]  # what readers look for comes last
    assert below(folder) == set(moved)
    assert all((folder / name).read_text() == name for name in moved)


def test_a_config_kept_in_its_own_log_dir_stays_as_its_owner_wrote_it(tmp_path):
    from mlflow_privacy.experiment.load import load_config

    text = f"# mine\nrun: {{log_dir: '{tmp_path}'}}\ndata: {{dataset: wine}}\n"
    (tmp_path / "config.yaml").write_text(text)
    with open_log_dir(load_config(tmp_path / "config.yaml")) as place:
        root = place.scratch / "layout"
        root.mkdir()
        (root / "config.yaml").write_text("run: {}")
        place.commit(root)
    assert (tmp_path / "config.yaml").read_text() == text


def test_records_are_found_again_whatever_the_audits_order():
    split = split_indices(50, seed=3, population_size=10)
    rng = np.random.default_rng(0)
    member = np.arange(40) < 20
    ids = np.array([f"train:{i}" for i in range(20)] + [f"holdout:{i}" for i in range(20)])
    truth = np.concatenate([split.train, split.holdout])
    order = rng.permutation(40)
    np.testing.assert_array_equal(positions(ids[order], member[order], split.train, split.holdout), truth[order])


def test_stored_signals_are_probabilities_of_the_label():
    phi = np.array([-30.0, -1.0, 0.0, 2.0])
    p = 1 / (1 + np.exp(-phi))
    np.testing.assert_allclose(stored_signal(phi, "logit"), p, rtol=1e-6)
    np.testing.assert_allclose(stored_signal(np.log(p), "log"), p, rtol=1e-6)
    assert stored_signal(np.array([0.0, 1.0]), "label").tolist() == [0.0, 1.0]
