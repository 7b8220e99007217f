"""A directory of Privacy Meter becomes a registered model whose audit trains nothing and sees exactly those models."""

import json
import os
import pickle

import mlflow
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pm_dirs import CLASSES, Convolutional, Fast, N, Perceptron, Wide, memberships, write

from mlflow_privacy import zoo
from mlflow_privacy.cli import main
from mlflow_privacy.errors import ConfigError, RecipeError, StoreError, UnsafeError
from mlflow_privacy.evaluators.call import LISTENER
from mlflow_privacy.experiment.load import parse_config
from mlflow_privacy.experiment.run import run_experiment
from mlflow_privacy.privacy_meter.importer import import_log_dir
from mlflow_privacy.privacy_meter.importer.plan import make_plan
from mlflow_privacy.zoo import make_dataset

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(N, 5)).astype(np.float32), np.arange(N) % CLASSES
Z = RNG.normal(size=(20, 5)).astype(np.float32)
IMAGES = RNG.integers(0, 256, (24, 3, 32, 32), np.uint8)


@pytest.fixture(autouse=True)
def datasets():
    before = dict(zoo.DATASETS)
    zoo.dataset("pm-table")(lambda: make_dataset(X, Y, name="pm-table", population=(Z, np.arange(20) % CLASSES)))
    zoo.dataset("pm-images")(lambda: make_dataset(IMAGES, np.arange(24) % CLASSES, name="pm-images"))
    twice = np.r_[np.arange(10), np.arange(10), np.arange(20, N)]
    zoo.dataset("pm-copies")(lambda: make_dataset(X[twice], Y[twice], name="pm-copies"))
    yield
    zoo.DATASETS.clear()
    zoo.DATASETS.update(before)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes most of an audit's time here; the report's own tests look at figures."""
    monkeypatch.setattr("mlflow_privacy.report.figures._png", lambda figure: b"")


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a reference model was trained")

    monkeypatch.setattr("mlflow_privacy.trainers.torch.trainer.TorchTrainer.train", fail)


def perceptrons(count):
    torch.manual_seed(0)
    return [Perceptron(5, CLASSES).eval() for _ in range(count)]


@pytest.fixture
def directory(tmp_path):
    return write(tmp_path / "demo", perceptrons(6), memberships(3))


def audited(uri, **options):
    found = []
    token = LISTENER.set(found.append)
    try:
        mlflow.models.evaluate(
            uri,
            evaluators=["privacy_meter"],
            evaluator_config={
                "privacy_meter": {
                    **{"blind_baseline": False, "device": "cpu", "progress": False, "attacks": ["reference"]},
                    **options,
                }
            },
        )
    finally:
        LISTENER.reset(token)
    return found[0]


def confidence(module, x, y):
    """φ of the labels, computed directly, (n,)."""
    with torch.inference_mode():
        logits = module(torch.as_tensor(x)).double()
    own = logits[torch.arange(len(y)), torch.as_tensor(y)]
    rest = logits.scatter(1, torch.as_tensor(y)[:, None], -torch.inf).logsumexp(1)
    return (own - rest).numpy()


def data_rows(result, row, target_row):
    """(n,) index in the data set of each audited record."""
    parts = {"train": np.flatnonzero(target_row), "holdout": np.flatnonzero(~target_row)}
    return np.array([parts[part][int(i)] for part, i in (str(name).split(":") for name in result.row_ids)])


def test_the_audit_trains_nothing_and_sees_the_imported_models(directory, tracking, no_training):
    modules, rows = perceptrons(6), memberships(3)
    report = import_log_dir(directory, name="old", target=2)
    assert report.model_uri == "models:/old/1"
    assert len(report.reference_run_ids) == 4
    assert "[3]" in report.notes[0]
    for _ in range(2):  # the second audit reads signals that the first one stored
        result = audited(report.model_uri)
        assert (result.references["n"], result.references["n_imported"], result.references["n_trained"]) == (4, 4, 0)
        assert tuple(result.references["run_ids"]) == report.reference_run_ids
        where = data_rows(result, None, rows[2])
        assert result.membership.tolist() == rows[2][where].tolist()
        signals = result.evidence.signals
        np.testing.assert_allclose(signals.target, confidence(modules[2], X[where], Y[where]), atol=1e-4)
        for column, number in enumerate((0, 1, 4, 5)):
            direct = confidence(modules[number], X[where], Y[where])
            np.testing.assert_allclose(signals.reference[:, column], direct, atol=1e-4)
            assert signals.member[:, column].tolist() == rows[number][where].tolist()
            population = confidence(modules[number], Z, np.arange(20) % CLASSES)
            np.testing.assert_allclose(np.sort(signals.population_reference[:, column]), np.sort(population), atol=1e-4)
        assert result.evidence.membership.shape == (5, N)
    recipe = result.references["recipe"]["spec"]["settings"]
    assert (recipe["optimizer"], recipe["epochs"], recipe["batch_size"]) == ("sgd", 2, 16)
    assert recipe["schedule"] == {"name": "privacy_meter"}
    assert recipe["optimizer_options"].get("momentum", 0) == 0  # as Privacy Meter trains


@pytest.mark.slow  # signals are compared above, scores with those of the language models
def test_scores_are_those_of_a_direct_computation(directory, tracking, no_training):
    modules, rows = perceptrons(6), memberships(3)
    result = audited(import_log_dir(directory, name="old").model_uri)
    where = data_rows(result, None, rows[0])
    from mlflow_privacy.attacks import run_attack
    from mlflow_privacy.types import Signals

    phi = np.array([confidence(module, X[where], Y[where]) for module in modules]).astype(np.float32)
    z = np.array([confidence(module, Z, np.arange(20) % CLASSES) for module in modules]).astype(np.float32)
    direct = Signals(phi[0], phi[2:].T, rows[2:, where].T, z[0], z[2:].T, np.zeros((20, 4), bool), "logit")
    scores, _ = run_attack("reference", direct)
    np.testing.assert_allclose(result.attacks[0].scores.value, scores.value, rtol=1e-3, atol=1e-4)


def test_memberships_are_right_where_records_occur_twice(tmp_path, tracking, no_training):
    rows = memberships(3)
    folder = write(tmp_path / "demo", perceptrons(6), rows, dataset="pm-copies")
    result = audited(import_log_dir(folder, name="copies").model_uri)
    where = data_rows(result, None, rows[0])
    assert sorted(where) == list(range(20, N))  # those that occur once
    for column, number in enumerate((2, 3, 4, 5)):
        assert result.evidence.signals.member[:, column].tolist() == rows[number][where].tolist()


def test_two_targets_of_one_directory_do_not_become_each_others_answers(directory, tracking, no_training):
    first, second = (import_log_dir(directory, name="old", target=i) for i in (0, 2))
    result = audited(second.model_uri)  # of six stored references two are the target and its complement
    assert tuple(result.references["run_ids"]) == second.reference_run_ids
    again = import_log_dir(directory, name="old", target=0)
    assert again.n_known == 4
    assert again.reference_run_ids == first.reference_run_ids


def test_more_references_are_trained_only_when_asked_for(directory, tracking):
    uri = import_log_dir(directory, name="old").model_uri
    result = audited(uri, num_ref_models=6)
    assert (result.references["n_imported"], result.references["n_trained"]) == (4, 2)
    assert result.references["n"] == result.evidence.signals.reference.shape[1] == 6
    fewer = audited(uri, num_ref_models=2)
    assert (fewer.references["n_imported"], fewer.references["n_trained"]) == (2, 0)


def test_one_pair_is_a_target_without_references(tmp_path, tracking):
    folder = write(tmp_path / "demo", perceptrons(2), memberships(1))
    report = import_log_dir(folder, name="alone")
    assert report.reference_run_ids == ()
    assert any("the audit will train" in note for note in report.notes)
    result = audited(report.model_uri, num_ref_models=2)
    assert (result.references["n_imported"], result.references["n_trained"]) == (0, 2)


@pytest.mark.parametrize("form", ["pkl", "pt", "pth", "safetensors"])
def test_all_forms_of_weights_are_read(form, tmp_path):
    modules = perceptrons(4)
    plan = make_plan(write(tmp_path / "demo", modules, memberships(2), form=form), target=1)
    assert [entry.number for entry in plan.references] == [2, 3]
    for entry in (plan.target, *plan.references):
        direct = confidence(modules[entry.number], X, Y)
        np.testing.assert_allclose(confidence(plan.module(entry), X, Y), direct, atol=1e-5)


def test_a_file_that_changes_after_the_check_is_not_taken(directory):
    plan = make_plan(directory)
    plan.target.path.write_bytes(pickle.dumps(Perceptron(4, CLASSES).state_dict()))
    with pytest.raises(StoreError, match="has changed since it was checked"):
        plan.module(plan.target)


def test_momentum_is_taken_from_the_config_of_the_training(directory, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {dataset: pm-table}\ntrain: {model_name: mlp, momentum: 0.7, epochs: 9}\n")
    assert make_plan(directory, config=path).settings["momentum"] == 0.7
    assert make_plan(directory, config=path).settings["epochs"] == 2
    with pytest.raises(ConfigError, match="nothing.yaml"):
        make_plan(directory, config=tmp_path / "nothing.yaml")


def image_networks(folder, name, make):
    """Four networks with running statistics that are not the initial ones, and their directory."""
    torch.manual_seed(1)
    modules, rows = [make(CLASSES) for _ in range(4)], memberships(2, 24)
    for module in modules:
        with torch.inference_mode():
            module(torch.randn(8, 3, 32, 32))
        module.eval()
    return write(folder, modules, rows, dataset="pm-images", model_name=name), modules, rows


@pytest.mark.parametrize(("name", "make"), [("CNN", Convolutional), ("wrn28-1", Wide)])
def test_networks_of_images_compute_what_privacy_meters_do(name, make, tmp_path):
    folder, modules, _ = image_networks(tmp_path / "demo", name, make)
    plan = make_plan(folder)
    for entry in (plan.target, *plan.references):
        with torch.inference_mode():
            ours = plan.module(entry)(torch.as_tensor(IMAGES))
            theirs = modules[entry.number]((torch.as_tensor(IMAGES) / 255 - 0.5) / 0.5)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "make"), [("CNN", Convolutional), pytest.param("wrn28-1", Wide, marks=pytest.mark.slow)]
)
def test_images_go_through_the_networks_as_privacy_meter_scales_them(name, make, tmp_path, tracking, no_training):
    folder, modules, rows = image_networks(tmp_path / "demo", name, make)
    result = audited(import_log_dir(folder, name="images").model_uri, num_queries=1)
    where = data_rows(result, None, rows[0])
    x, y = (IMAGES[where].astype(np.float32) / 255 - 0.5) / 0.5, where % CLASSES
    np.testing.assert_allclose(result.evidence.signals.target, confidence(modules[0], x, y), rtol=1e-3, atol=1e-3)
    for column in (0, 1):
        direct = confidence(modules[2 + column], x, y)
        np.testing.assert_allclose(result.evidence.signals.reference[:, column], direct, rtol=1e-3, atol=1e-3)


@pytest.fixture
def fast(tmp_path):
    """A directory of `speedyresnet`, its networks as they are stored (half precision), and its memberships."""
    torch.manual_seed(2)
    modules, rows = [Fast() for _ in range(4)], memberships(2, 24)
    for module in modules:
        with torch.inference_mode():
            module(torch.randn(8, 3, 32, 32))
        for name, parameter in module.named_parameters():
            parameter.data += 0.2 * torch.randn_like(parameter) * ("norm" in name or "linear" in name)
        module.half().eval()
    folder = write(tmp_path / "demo", modules, rows, dataset="pm-images", model_name="speedyresnet")
    return folder, [module.float() for module in modules], rows


def scaled(row):
    """All images, scaled by mean and deviation of those that a model trained on."""
    x = torch.as_tensor(IMAGES, dtype=torch.float32) / 255
    std, mean = torch.std_mean(x[torch.as_tensor(row)], (0, 2, 3), keepdim=True)
    return (x - mean) / std


def test_speedyresnet_is_the_network_that_was_trained(fast):
    folder, modules, rows = fast
    plan = make_plan(folder)
    for entry in (plan.target, *plan.references):
        with torch.inference_mode():
            ours, theirs = (
                plan.module(entry)(torch.as_tensor(IMAGES)),
                modules[entry.number](scaled(rows[entry.number])),
            )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert theirs.std() > 0.05
    assert "no reference models can be trained: the imported" in plan.notes[-1]


def test_an_audit_of_speedyresnet_uses_its_imported_references_and_cannot_train_more(fast, tracking):
    folder, modules, rows = fast
    uri = import_log_dir(folder, name="fast").model_uri
    result = audited(uri, num_queries=1)
    assert (result.references["n_imported"], result.references["n_trained"]) == (2, 0)
    where = data_rows(result, None, rows[0])
    signals = result.evidence.signals
    for values, number in ((signals.target, 0), (signals.reference[:, 0], 2), (signals.reference[:, 1], 3)):
        direct = confidence(modules[number], scaled(rows[number])[where], where % CLASSES)
        np.testing.assert_allclose(values, direct, rtol=1e-3, atol=1e-3)
    with pytest.raises(RecipeError, match="its training cannot be repeated here"):
        audited(uri, num_ref_models=4)
    assert audited(uri, num_ref_models=0, attacks=["population"]).references["n"] == 0


def test_an_experiment_of_ours_is_imported_from_its_own_directory(tmp_path, tracking, monkeypatch):
    config = parse_config(
        {
            "run": {"register_as": "first", "log_dir": "out"},
            "data": {"dataset": "pm-table"},
            "train": {"model_options": {"hidden": [8]}, "epochs": 2, "device": "cpu"},
            "audit": {"num_ref_models": 1, "device": "cpu", "blind_baseline": False, "algorithm": "RMIA"},
        }
    )
    first = run_experiment(config)
    monkeypatch.setattr("mlflow_privacy.trainers.torch.trainer.TorchTrainer.train", None)
    report = import_log_dir(tmp_path / "out", name="second")
    result = audited(report.model_uri, attacks=["rmia"])
    assert (result.references["n_imported"], result.references["n_trained"]) == (2, 0)
    assert result.evidence.signals.population.shape == (20,)
    before = first.targets[0].audit["privacy/rmia/auc"]
    assert result.metrics["privacy/rmia/auc"] == pytest.approx(before, abs=1e-6)
    run = tracking.search_runs([first.experiment_id], "tags.`privacy.z_record` LIKE '%\"n_imported\": 2%'")
    assert len(run) == 1


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_names_and_shapes_of_large_networks_are_privacy_meters(name):
    """Without memory for their weights: on the meta device."""
    import torchvision

    from mlflow_privacy.privacy_meter.importer.architectures import template_of

    nn = torch.nn
    with torch.device("meta"):
        template = template_of(name, (3, 32, 32), 10, raw_pixels=True)
        if name == "vgg16":
            theirs = torchvision.models.vgg16()
        else:
            theirs = nn.Module()
            theirs.features = nn.Sequential(
                *(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(64, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
                *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            )
            theirs.classifier = nn.Sequential(
                *(nn.Dropout(), nn.Linear(1024, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
                nn.Linear(4096, 10),
            )
    state = {key: torch.zeros(()).expand(value.shape) for key, value in theirs.state_dict().items()}
    assert template.faults(state) == []
    assert sorted(template.names.values()) == sorted(state)
    order = [template.names[key] for key in template.module.state_dict() if key in template.names]
    assert order == list(state)


# --- refused ---------------------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def contents(client):
    """Everything that the store holds."""
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return len(runs), [m.name for m in client.search_registered_models()], [e.name for e in client.search_experiments()]


def edit(directory, change):
    path = directory / "models" / "models_metadata.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_hostile_file_is_refused_and_nothing_is_executed_or_written(directory, tracking, tmp_path):
    state = dict(perceptrons(1)[0].state_dict())
    hostile = directory / "models" / "model_4.pkl"
    hostile.write_bytes(pickle.dumps({**state, "x": Payload(tmp_path / "executed")}))
    before = contents(tracking)
    with pytest.raises(UnsafeError, match=r"(?s)nothing was:.*model 4: .*model_4.pkl.*system"):
        import_log_dir(directory, name="old", experiment="new one")
    assert not (tmp_path / "executed").exists()
    assert contents(tracking) == before
    pickle.loads(hostile.read_bytes())  # Python itself would have
    assert (tmp_path / "executed").exists()


def test_all_faults_are_one_error_and_nothing_is_written(directory, tracking):
    models = directory / "models"
    (models / "model_2.pkl").unlink()
    states = perceptrons(6)
    with torch.no_grad():
        states[3].fc1.weight[0, 0] = torch.nan
    (models / "model_3.pkl").write_bytes(pickle.dumps(states[3].state_dict()))
    (models / "model_4.pkl").write_bytes(pickle.dumps(Perceptron(6, CLASSES).state_dict()))
    wrong = {**states[5].state_dict(), "fc9.weight": torch.zeros(1)}
    del wrong["fc2.bias"]
    (models / "model_5.pkl").write_bytes(pickle.dumps(wrong))
    edit(directory, set_all(epochs=0, num_train=7))
    before = contents(tracking)
    with pytest.raises(ConfigError) as error:
        import_log_dir(directory, name="old")
    for fault in (
        "model 0 has num_train 7, its row of memberships 30",
        "epochs must be a whole number of at least 1, got 0",
        "model 2: .*model_2.pkl cannot be read",
        "model 3, model_3.pkl: fc1.weight hold NaN",
        r"model 4, model_4.pkl: fc1.weight has the shape \(128, 6\) instead of \(128, 5\)",
        "model 5, model_5.pkl: it lacks fc2.bias",
        "model 5, model_5.pkl: it has fc9.weight",
    ):
        assert error.match(f"(?s).*{fault}")
    assert contents(tracking) == before


def set_all(**values):
    return lambda metadata: [entry.update(values) for entry in metadata.values()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_all(model_name="wrn28-3"), "unknown model 'wrn28-3', did you mean 'wrn28-"),
        (set_all(dataset="pm-tabel"), "did you mean 'pm-table'"),
        (set_all(model_name="CNN"), "does not fit data set 'pm-table'"),
        (set_all(optimizer="sdg"), "sdg"),
        (set_all(epochs="two"), "epochs 'two'; int is expected"),
        (set_all(num_train=7), "num_train 7, its row of memberships 30"),
        (set_all(model_path="demo/models/model_0.pkl"), "6 models have the same file model_0.pkl"),
        (set_all(model_path="../.."), "names no file"),
        (lambda values: values.pop("3"), "half written"),
        (lambda values: values.update({"0": 5}), "model 0 of models_metadata.json is not a mapping"),
    ],
)
def test_wrong_metadata_are_refused_before_anything_is_written(change, message, directory, tracking):
    edit(directory, change)
    before = contents(tracking)
    with pytest.raises(ConfigError, match=message):
        import_log_dir(directory, name="old")
    assert contents(tracking) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (memberships(3, N + 1), "about 61 records, but data set 'pm-table' has 60"),
        (memberships(4), "memberships.npy has 8 rows, models_metadata.json 6 models"),
        (memberships(3).astype(int), "must be bool"),
        (np.array([{"a": 1}], object), "memberships.npy is not an array that can be read"),
        (np.ones((6, N), bool), "member of every record"),
        (None, "memberships.npy is missing"),
    ],
)
def test_wrong_memberships_are_refused(rows, message, directory, tracking):
    path = directory / "models" / "memberships.npy"
    path.unlink()
    if rows is not None:
        np.save(path, rows, allow_pickle=True)
    with pytest.raises(ConfigError, match=message):
        import_log_dir(directory, name="old")


def test_no_directory_no_metadata_no_such_model(directory, tracking, tmp_path):
    with pytest.raises(ConfigError, match="no folder models"):
        import_log_dir(tmp_path / "nowhere")
    before = mlflow.active_run(), contents(tracking)
    with pytest.raises(ConfigError, match="there is no sound model 6"):
        import_log_dir(directory, target=6)
    (directory / "models" / "models_metadata.json").unlink()
    with pytest.raises(ConfigError, match="training has not ended"):
        import_log_dir(directory)
    assert (mlflow.active_run(), contents(tracking)) == before


@pytest.mark.parametrize("had_model", [False, True])
def test_an_import_that_fails_in_the_middle_leaves_nothing_that_counts(had_model, directory, tracking, monkeypatch):
    if had_model:
        import_log_dir(directory, name="old", target=4)
    from mlflow_privacy.store.references import ReferenceStore

    save, calls = ReferenceStore.save, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("disk full")
        return save(self, *args, **kwargs)

    monkeypatch.setattr(ReferenceStore, "save", failing)
    versions = len(tracking.search_model_versions("name='old'"))
    finished = {run.info.run_id for run in finished_runs(tracking)}
    edit(directory, set_all(epochs=3))  # another recipe, so that all references are new
    with pytest.raises(OSError, match="disk full"):
        import_log_dir(directory, name="old")
    assert len(tracking.search_model_versions("name='old'")) == versions
    assert bool(tracking.search_registered_models()) is had_model
    experiments = [e.experiment_id for e in tracking.search_experiments()]
    assert len(tracking.search_logged_models(experiments)) == versions
    assert {run.info.run_id for run in finished_runs(tracking)} == finished
    assert len(calls) == 3


def finished_runs(client):
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, "attributes.status = 'FINISHED'")


def test_a_damaged_imported_reference_is_left_out(directory, tracking, tmp_path):
    report = import_log_dir(directory, name="old")
    for number in (0, 1):
        run = tracking.get_run(report.reference_run_ids[number])
        path = mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/membership.npy")
        np.save(path, ~np.load(path))
    assert audited(report.model_uri).references["n_imported"] == 2


def test_the_command_line_imports_and_says_what_to_do_next(directory, tracking):
    result = CliRunner().invoke(main, ["import", str(directory), "--name", "old", "--target", "1"])
    assert result.exit_code == 0, result.output
    assert "mlflow-privacy audit models:/old/1" in result.output
    assert "4 reference model(s)" in result.output
    result = CliRunner().invoke(main, ["import", str(directory / "models")])
    assert result.exit_code == 2
    assert "no folder models" in result.output
