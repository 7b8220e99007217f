"""CIFAR-10 and CIFAR-100: every layout gives the same pixels; damaged or hostile files are refused."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import sys
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError, UnsafeError
from mlflow_privacy.zoo import cache, cifar
from mlflow_privacy.zoo.data import image_statistics


@pytest.fixture(autouse=True)
def no_cache_of_the_user(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("MLFLOW_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))


def pixels(n, seed=0, shape=(3, 32, 32)):
    return np.random.default_rng(seed).integers(256, size=(n, *shape), dtype=np.uint8)


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, form, quality=95)
    return buffer.getvalue()


def write_parquet(path, x, y, *, image="img", label="label", names=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {image: [{"bytes": encoded(i), "path": None} for i in x], label: [int(v) for v in y]}
    table = pa.table(columns)
    if names:
        info = {"info": {"features": {label: {"_type": "ClassLabel", "names": list(names)}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=7)


def load(folder, name="cifar10", **options):
    return zoo.load_dataset(name, data_dir=folder, options={"download": False, **options})


@pytest.mark.parametrize("below", ["", "cifar10", "cifar-10", "cifar-10-images/data", "cifar10/plain_text"])
@pytest.mark.parametrize("image", ["img", "image"])
def test_parquet_is_found_and_decoded_without_loss(tmp_path, below, image):
    x, y = pixels(20), np.arange(20) % 10
    write_parquet(tmp_path / below / "train-00000-of-00002.parquet", x[:9], y[:9], image=image)
    write_parquet(tmp_path / below / "train-00001-of-00002.parquet", x[9:16], y[9:16], image=image)
    write_parquet(tmp_path / below / "test-00000-of-00001.parquet", x[16:], y[16:], image=image)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.records.x, x[:16])
    np.testing.assert_array_equal(data.population.x, x[16:])
    np.testing.assert_array_equal(data.records.y, y[:16])
    assert (data.records.x.dtype, data.modality, data.classes[3]) == (np.uint8, "image", "cat")
    assert data.population.row_ids.tolist()[0] == "cifar10:test:0"


def test_two_data_sets_in_one_folder_are_not_confused(tmp_path):
    x = pixels(8)
    write_parquet(tmp_path / "cifar10/train-0.parquet", x[:4], [0, 1, 2, 9])
    write_parquet(tmp_path / "cifar100/train-0.parquet", x[4:], [0, 1, 2, 99], label="fine_label")
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "train-0.parquet")
    np.testing.assert_array_equal(load(tmp_path).records.x, x[:4])
    data = load(tmp_path, "cifar100")
    np.testing.assert_array_equal(data.records.x, x[4:])
    assert (data.classes[99], data.population) == ("worm", None)
    assert len(data.classes) == 100


def binary(spec, folder, x, y):
    """Splits the records evenly over the files of the binary version."""
    folder.mkdir(parents=True)
    files = [*spec.binary_train, *spec.binary_test]
    for i, name in enumerate(files):
        part = slice(i * len(x) // len(files), (i + 1) * len(x) // len(files))
        labels = np.zeros((len(x[part]), spec.label_bytes), np.uint8)
        labels[:, -1] = y[part]
        np.concatenate([labels, x[part].reshape(len(x[part]), -1)], axis=1).tofile(folder / name)


def pickled(monkeypatch, key, folder, x, y):
    """The Python version; its checksums become the published ones."""
    spec = getattr(cifar, key)
    folder.mkdir(parents=True)
    files, sums = [*spec.train, *spec.test], {}
    for i, name in enumerate(files):
        part = slice(i * len(x) // len(files), (i + 1) * len(x) // len(files))
        data = {b"data": x[part].reshape(len(x[part]), -1), spec.label_key: [int(v) for v in y[part]]}
        (folder / name).write_bytes(pickle.dumps(data, protocol=2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    train, test = ({k: sums[k] for k in part} for part in (spec.train, spec.test))
    monkeypatch.setattr(cifar, key, dataclasses.replace(spec, train=train, test=test))


@pytest.mark.parametrize(("key", "classes"), [("CIFAR10", 10), ("CIFAR100", 100)])
@pytest.mark.parametrize("direct", [False, True])
def test_binary_and_python_versions_agree(tmp_path, monkeypatch, key, classes, direct):
    x, y, spec = pixels(24), np.arange(24) * 7 % classes, getattr(cifar, key)
    n = 24 * len(spec.train) // (len(spec.train) + 1)
    binary(spec, tmp_path / "b" / spec.binaries, x, y)
    pickled(monkeypatch, key, tmp_path / "p" / spec.pickles, x, y)
    for folder in (
        (tmp_path / "b" / spec.binaries, tmp_path / "p" / spec.pickles) if direct else (tmp_path / "b", tmp_path / "p")
    ):
        data = load(folder, spec.name)
        np.testing.assert_array_equal(data.records.x, x[:n])
        np.testing.assert_array_equal(data.population.x, x[n:])
        np.testing.assert_array_equal(np.concatenate([data.records.y, data.population.y]), y)


def test_a_pickle_that_is_not_the_published_one_is_not_even_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    folder = tmp_path / cifar.CIFAR10.pickles
    folder.mkdir()
    for name in (*cifar.CIFAR10.train, *cifar.CIFAR10.test):
        (folder / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UnsafeError, match=r"data_batch_1 has MD5 \w+, the published is c99cafc"):
        load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_hostile_pickle_runs_nothing_even_with_the_right_checksum(tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    pickled(monkeypatch, "CIFAR10", tmp_path / cifar.CIFAR10.pickles, pixels(12), np.arange(12) % 10)
    path = tmp_path / cifar.CIFAR10.pickles / "data_batch_2"
    path.write_bytes(pickle.dumps({b"data": Payload(), b"labels": []}))
    sums = {**cifar.CIFAR10.train, "data_batch_2": hashlib.md5(path.read_bytes()).hexdigest()}
    monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(cifar.CIFAR10, train=sums))
    with pytest.raises(UnsafeError):
        load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_wrong_shapes_labels_and_sizes_are_named(tmp_path):
    write_parquet(tmp_path / "a/train-0.parquet", pixels(3, shape=(3, 8, 8)), [0, 1, 2])
    with pytest.raises(ConfigError, match=r"is not CIFAR-10: its images have shape \(3, 8, 8\)"):
        load(tmp_path / "a")
    write_parquet(tmp_path / "b/train-0.parquet", pixels(3), [0, 1, 10])
    with pytest.raises(ConfigError, match="its labels are 0 to 10, not 0 to 9"):
        load(tmp_path / "b")
    mixed = [*pixels(2), *pixels(1, shape=(3, 16, 32))]
    write_parquet(tmp_path / "c/train-0.parquet", mixed, [0, 1, 2])
    with pytest.raises(ConfigError, match=r"2 sizes, width × height \(number\): 32×32 \(2\), 32×16 \(1\)"):
        load(tmp_path / "c")
    binary(cifar.CIFAR10, tmp_path / "d" / cifar.CIFAR10.binaries, pixels(12), np.arange(12) % 10)
    with (tmp_path / "d" / cifar.CIFAR10.binaries / "test_batch.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match=r"test_batch.bin has 6,147 bytes, not a multiple of 3,073"):
        load(tmp_path / "d")
    (tmp_path / "e").mkdir()
    (tmp_path / "e/train-0.parquet").write_bytes(b"not parquet")
    with pytest.raises(ConfigError, match=r"train-0.parquet cannot be read"):
        load(tmp_path / "e")


@pytest.mark.parametrize(
    "data", [b"", b"hello", encoded(pixels(1)[0])[:200], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_file_that_is_no_image_is_named(tmp_path, data):
    rows = [{"bytes": encoded(pixels(1)[0]), "path": None}, {"bytes": data, "path": None}]
    pq.write_table(pa.table({"img": rows, "label": [0, 1]}), tmp_path / "train-0.parquet")
    with pytest.raises(ConfigError, match="image 1 of data set 'cifar10' cannot be decoded"):
        load(tmp_path)


def test_the_cache_is_used_rebuilt_when_damaged_and_not_used_for_other_files(tmp_path, monkeypatch):
    path, calls, decode = tmp_path / "train-0.parquet", [], cifar._decoded
    monkeypatch.setattr(cifar, "_decoded", lambda *a: calls.append(1) or decode(*a))
    write_parquet(path, pixels(4), [0, 1, 2, 3])
    first = load(tmp_path).records.x
    np.testing.assert_array_equal(load(tmp_path).records.x, first)
    assert len(calls) == 1
    (stored,) = cache.user_cache().glob("*.npz")
    whole = stored.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damage in (bytes(flipped), whole[:-100], b"", pickle.dumps([1])):
        stored.write_bytes(damage)
        np.testing.assert_array_equal(load(tmp_path).records.x, first)
        assert stored.read_bytes()[:2] == b"PK"
    assert len(calls) == 5
    write_parquet(path, pixels(4, seed=1), [0, 1, 2, 3])
    os.utime(path, ns=(1, 1))
    assert (load(tmp_path).records.x != first).any()
    assert [p.suffix for p in cache.user_cache().iterdir()] == [".npz", ".npz"]


def test_arrays_are_kept_beside_the_data_where_that_can_be_written(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_PRIVACY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache.cache_folder(tmp_path) == tmp_path / ".mlflow-privacy-cache"
    monkeypatch.setattr(cache.os, "access", lambda *a: False)
    assert cache.cache_folder(tmp_path) == tmp_path / "user" / "mlflow-privacy"


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MLFLOW_PRIVACY_CACHE", str(tmp_path / "file"))
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data/train-0.parquet", pixels(4), [0, 1, 2, 3])
    assert len(load(tmp_path / "data").records) == 4


def test_nothing_there_is_one_error_with_every_layout(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "cifar100")
    for part in (
        "train-*.parquet",
        "fine_label",
        "cifar-100-python",
        "cifar-100-binary",
        "kriz/cifar.html",
        str(tmp_path),
    ):
        assert part in str(caught.value)


def test_torchvision_downloads_what_is_missing_and_its_files_are_unpacked_by_name(tmp_path, monkeypatch):
    import torchvision.datasets

    x, y = pixels(12), np.arange(12) % 10
    served, pickles = tmp_path / "served", cifar.CIFAR10.pickles
    pickled(monkeypatch, "CIFAR10", served / pickles, x, y)
    with tarfile.open(served / "c.tar.gz", "w:gz") as tar:
        tar.add(served / pickles, arcname=pickles)
    md5 = hashlib.md5((served / "c.tar.gz").read_bytes()).hexdigest()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(served), **kwargs)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/c.tar.gz"
    for key, value in (("url", url), ("tgz_md5", md5), ("filename", "c.tar.gz")):
        monkeypatch.setattr(torchvision.datasets.CIFAR10, key, value)
    try:
        data = zoo.load_dataset("cifar10", data_dir=tmp_path / "data")
    finally:
        server.shutdown()
        server.server_close()
    np.testing.assert_array_equal(data.records.x, x[:10])
    np.testing.assert_array_equal(zoo.load_dataset("cifar10", data_dir=tmp_path / "data").population.x, x[10:])
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["c.tar.gz", pickles]
    with pytest.raises(ConfigError, match="cannot be downloaded: http://127.0.0.1"):  # the server is gone
        zoo.load_dataset("cifar10", data_dir=tmp_path / "other")


def test_a_torchvision_that_cannot_be_imported_is_one_clear_error(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ConfigError, match=r"cannot be imported beside this torch .*train-\*.parquet"):
        zoo.load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.slow
def test_the_real_cifar10_has_its_sizes_labels_and_channel_means():
    folder = os.environ.get("MLFLOW_PRIVACY_DATA")
    if not folder:
        pytest.skip("MLFLOW_PRIVACY_DATA is not set: a folder with cifar10/{train,test}-*.parquet")
    data = load(folder)
    assert data.records.x.shape == (50_000, 3, 32, 32)
    assert data.population.x.shape == (10_000, 3, 32, 32)
    assert np.bincount(data.records.y).tolist() == [5000] * 10
    assert np.bincount(data.population.y).tolist() == [1000] * 10
    np.testing.assert_allclose(image_statistics(data)[0], [0.4914, 0.4822, 0.4465], atol=1e-3)
