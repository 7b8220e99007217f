"""Names, options, folders and entry points of data sets."""

import sys

import numpy as np
import pytest

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError
from mlflow_privacy.plugins import load_entry_points
from mlflow_privacy.zoo import registry
from mlflow_privacy.zoo.loading import check_dataset, load_dataset
from mlflow_privacy.zoo.synthetic import binary_classes


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "DATASETS", dict(registry.DATASETS))


def test_every_promised_name_is_registered_by_the_decorator():
    promised = {"cifar10", "cifar100", "purchase100", "texas100", "agnews", "hf:", "purchase100_synthetic",
                "texas100_synthetic", "digits", "breast_cancer", "wine", "diabetes"}  # fmt: skip
    assert promised <= set(registry.DATASETS)


@pytest.mark.parametrize("name", ["breast_cancer", "Breast-Cancer", "BREASTCANCER", "breast-cancer"])
def test_case_dash_and_underscore_do_not_matter(name):
    assert check_dataset(name) == []
    assert load_dataset(name).name == "breast_cancer"


def test_an_exact_name_wins_over_a_similar_one():
    for name, rows in (("my-set", 2), ("my_set", 3)):
        zoo.dataset(name)(lambda rows=rows: ([[float(i)] for i in range(rows)], [i % 2 for i in range(rows)]))
    assert (len(load_dataset("my-set").records), len(load_dataset("my_set").records)) == (2, 3)


def test_near_misses_are_named():
    assert "did you mean 'cifar10'?" in check_dataset("cifr10")[0]
    assert "did you mean 'purchase100'?" in check_dataset("purchase-10")[0]
    assert "names nothing after the colon" in check_dataset("hf:")[0]
    assert check_dataset("hf:anything/at-all") == check_dataset("some/table.jsonl") == []


def test_unknown_options_are_all_reported_with_the_nearest_before_anything_is_loaded():
    options = {"row": 5, "sed": 1, "seed": 2}
    faults = check_dataset("purchase100_synthetic", options)
    assert faults == [
        "unknown key data.options.row of 'purchase100_synthetic', did you mean 'rows'?",
        "unknown key data.options.sed of 'purchase100_synthetic', did you mean 'seed'?",
    ]
    with pytest.raises(ConfigError) as caught:
        load_dataset("purchase100_synthetic", options=options)
    assert str(caught.value) == "\n".join(faults)
    assert check_dataset("wine", {"x": 1}) == ["unknown key data.options.x of 'wine'; it has no options."]
    assert "did you mean 'download'?" in check_dataset("cifar10", {"downlod": True})[0]
    assert "is a file" in check_dataset("t.csv", {"x": 1})[0]
    assert check_dataset("hf:x", {"image": "a", "split": "b"}) == []
    assert check_dataset("hf:x", {"name": "y"}) != []
    assert check_dataset("cifar10", {"folders": []}) != []


def test_a_key_of_data_reaches_a_loader_that_has_it_and_may_not_contradict_options():
    @zoo.dataset("wordy")
    def wordy(*, targets="y", rows=2):
        return [[0.0]] * rows, [f"{targets}{i}" for i in range(rows)]

    assert load_dataset("wordy", targets="z", options={"rows": 3}).classes == ("z0", "z1", "z2")
    with pytest.raises(ConfigError, match=r"data.targets and data.options.targets of 'wordy' differ"):
        load_dataset("wordy", targets="z", options={"targets": "w"})
    with pytest.raises(ConfigError, match="takes no data.drop"):
        load_dataset("wordy", drop=["a"])


def test_a_relative_data_dir_is_looked_up_beside_the_config_then_in_the_working_directory(tmp_path, monkeypatch):
    seen = {}

    @zoo.dataset("one-folder")
    def one_folder(data_dir=None):
        seen["one"] = data_dir
        return [[0.0], [1.0]], [0, 1]

    @zoo.dataset("all-folders")
    def all_folders(data_dir=None, folders=()):
        seen["all"] = (data_dir, list(folders))
        return [[0.0], [1.0]], [0, 1]

    config, cwd = tmp_path / "config", tmp_path / "cwd"
    (config / "data").mkdir(parents=True)
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    for name in ("one-folder", "all-folders"):
        load_dataset(name, data_dir="data", folders=[config])
    assert seen == {"one": config / "data", "all": (cwd / "data", [config / "data", cwd / "data"])}
    load_dataset("one-folder", data_dir="elsewhere", folders=[config])
    load_dataset("all-folders", folders=[config])
    assert seen == {"one": cwd / "elsewhere", "all": (None, [config, cwd])}
    np.savez(config / "data" / "t.npz", x=np.zeros((3, 1)), y=[0, 1, 0])
    np.savez(config / "u.npz", x=np.zeros((4, 1)), y=[0, 1, 0, 1])
    assert len(load_dataset("t.npz", data_dir="data", folders=[config]).records) == 3
    assert len(load_dataset("u.npz", data_dir="data", folders=[config]).records) == 4


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with four entry points."""
    (tmp_path / "acme_privacy.py").write_text(
        "from mlflow_privacy.zoo import dataset\n"
        "@dataset('acme')\n"
        "def acme(*, rows=2):\n"
        "    return [[float(i)] for i in range(rows)], [i % 2 for i in range(rows)]\n"
        "def plain():\n    return [[0.0], [1.0]], [0, 1]\n"
        "number = 7\n"
    )
    (tmp_path / "acme_broken.py").write_text("raise OSError('no licence')\n")
    (tmp_path / "acme-1.0.dist-info").mkdir()
    (tmp_path / "acme-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (tmp_path / "acme-1.0.dist-info/entry_points.txt").write_text(
        "[mlflow_privacy.datasets]\nacme = acme_privacy:acme\nacme_plain = acme_privacy:plain\n"
        "acme_broken = acme_broken:x\nacme_number = acme_privacy:number\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("acme_privacy", "acme_broken"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("package")
def test_names_of_entry_points_are_known_without_an_import_and_only_the_asked_one_is_imported():
    assert set(load_entry_points("mlflow_privacy.datasets")) == {"acme", "acme_plain", "acme_broken", "acme_number"}
    assert check_dataset("ACME") == []
    assert "did you mean 'acme_plain'?" in check_dataset("acme_plan")[0]
    load_dataset("wine")
    assert not {"acme_privacy", "acme_broken"} & set(sys.modules)
    assert len(load_dataset("acme-plain").records) == 2
    assert "acme_broken" not in sys.modules


@pytest.mark.usefixtures("package")
def test_entry_points_take_options_and_their_faults_name_the_package():
    assert len(load_dataset("acme", options={"rows": 5}).records) == 5
    with pytest.raises(ConfigError, match=r"data.options.rosw of 'acme', did you mean 'rows'"):
        load_dataset("acme", options={"rosw": 5})
    with pytest.raises(ConfigError, match=r"'acme_broken' of acme .* cannot be imported .*OSError: no licence"):
        load_dataset("acme_broken")
    with pytest.raises(ConfigError, match="must be a loader, got int"):
        load_dataset("acme_number")


@pytest.mark.parametrize(("name", "width"), [("purchase100_synthetic", 600), ("texas100_synthetic", 6169)])
def test_synthetic_stand_ins_have_the_shape_say_so_and_follow_their_seed(name, width):
    data = load_dataset(name, options={"rows": 800})
    assert data.records.x.shape == (600, width)
    assert data.population.x.shape == (200, width)
    assert set(np.unique(data.records.x)) == {0, 1}
    assert (len(data.classes), data.modality) == (100, "table")
    assert "synthetic" in data.name
    assert "synthetic" in data.source
    again, other = (load_dataset(name, options={"rows": 800, "seed": seed}) for seed in (0, 1))
    np.testing.assert_array_equal(again.records.x, data.records.x)
    assert (other.records.x != data.records.x).mean() > 0.01
    with pytest.raises(ConfigError, match="rows .* at least 8, got 3"):
        load_dataset(name, options={"rows": 3})


def test_synthetic_rows_do_not_depend_on_how_many_there_are():
    few, many = (binary_classes(n, 5, classes=3, rate=0.3, strength=1.0, seed=0) for n in (1500, 2300))
    np.testing.assert_array_equal(few[0], many[0][:1500])
    np.testing.assert_array_equal(few[1], many[1][:1500])


def test_synthetic_classes_separate_as_their_strength_says():
    """The best rule of all, given the rates, is right at chance for strength 0 and nearly always for a large one."""
    accuracy = []
    for strength in (0.0, 2.0):
        x, y = binary_classes(4000, 50, classes=10, rate=0.3, strength=strength, seed=0)
        rates = np.stack([x[:3000][y[:3000] == c].mean(axis=0) for c in range(10)]).clip(0.01, 0.99)
        likelihood = x[3000:] @ np.log(rates).T + (1 - x[3000:].astype(float)) @ np.log(1 - rates).T
        accuracy.append((likelihood.argmax(axis=1) == y[3000:]).mean())
    assert 0.05 < accuracy[0] < 0.16
    assert accuracy[1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["purchase100_synthetic", "texas100_synthetic"])
def test_an_mlp_overfits_10000_synthetic_rows(name):
    import torch

    torch.manual_seed(0)
    data = load_dataset(name, options={"rows": 20_000})
    x = torch.from_numpy(zoo.data.standardised(data).records.x[:14_000])
    y = torch.from_numpy(data.records.y[:14_000])
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 256), torch.nn.ReLU(), torch.nn.Linear(256, 100))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(10):
        for rows in torch.randperm(10_000).split(256):
            loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        right = (net(x).argmax(1) == y).float()
    assert right[:10_000].mean() > 0.98
    assert 0.6 < right[10_000:].mean() < 0.8
