"""Purchase-100 and Texas-100: every layout gives the same records, and what is known of them is checked."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest

from mlflow_privacy import zoo
from mlflow_privacy.errors import ConfigError, UnsafeError
from mlflow_privacy.zoo import purchase

ROWS, WIDTH = 400, 12


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """The same data sets with fewer rows and columns; no cache of the user, no connection."""
    monkeypatch.setenv("MLFLOW_PRIVACY_CACHE", str(tmp_path / "cache"))
    for key in ("PURCHASE", "TEXAS"):
        spec = dataclasses.replace(
            getattr(purchase, key), rows=ROWS, features=WIDTH, url=f"http://127.0.0.1:9/dataset_{key.lower()}.tgz"
        )
        monkeypatch.setattr(purchase, key, spec)
    fetch = purchase.fetch
    monkeypatch.setattr(purchase, "fetch", lambda *a, **k: fetch(*a, **k, pause=0.0, timeout=5))


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(2, size=(ROWS, WIDTH)), rng.permutation(np.arange(ROWS) % 100)


def text_of(x, y):
    return "".join(f"{label + 1},{','.join(map(str, row))}\n" for row, label in zip(x, y))


def tgz(path, **files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"some/folder/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(buffer.getvalue()))
    return path


def layouts(folder, x, y):
    """Name of a data set and layout → how to write it."""
    purchase_text = text_of(x, y)
    feats = "".join(",".join(map(str, row)) + "\n" for row in x)
    labels = "".join(f"{label + 1}\n" for label in y)

    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def texas(below):
        write(folder / below / "feats", feats)
        write(folder / below / "labels", labels)

    return {
        ("purchase100", "csv"): lambda: write(folder / "dataset_purchase", purchase_text),
        ("purchase100", "csv in folder"): lambda: write(folder / "dataset_purchase/dataset_purchase", purchase_text),
        ("purchase100", "archive"): lambda: tgz(folder / "dataset_purchase.tgz", dataset_purchase=purchase_text),
        ("purchase100", "npz"): lambda: np.savez(folder / "purchase100.npz", features=x, labels=y),
        ("purchase100", "one-hot npz"): lambda: np.savez_compressed(
            folder / "purchase100.npz", features=x.astype(np.float32), labels=np.eye(100)[y]
        ),
        ("texas100", "files"): lambda: texas("dataset_texas"),
        ("texas100", "files of the archive"): lambda: texas("texas/100"),
        ("texas100", "archive"): lambda: tgz(folder / "dataset_texas.tgz", feats=feats, labels=labels),
        ("texas100", "npz"): lambda: np.savez(folder / "texas100.npz", features=x, labels=y + 1),
    }


@pytest.mark.parametrize("key", list(layouts(None, np.zeros((0, 1)), [])), ids=lambda k: "-".join(k))
def test_every_layout_gives_the_same_records_and_the_last_quarter_as_population(tmp_path, arrays, key):
    x, y = arrays
    layouts(tmp_path, x, y)[key]()
    for _ in range(2):  # the second time from the cache
        data = zoo.load_dataset(key[0], data_dir=tmp_path)
        np.testing.assert_array_equal(data.records.x, x[:300])
        np.testing.assert_array_equal(data.population.x, x[300:])
        np.testing.assert_array_equal(np.concatenate([data.records.y, data.population.y]), y)
        assert data.records.x.dtype == np.float32
        assert (data.classes[0], data.classes[-1], data.modality) == ("1", "100", "table")


def test_files_of_single_digits_and_others_are_parsed_alike(tmp_path, arrays):
    text = "".join(",".join(map(str, row)) + "\n" for row in arrays[0])
    variants = {"plain": text, "windows": text.replace("\n", "\r\n"), "no-end": text[:-1], "wide": "00" + text[1:]}
    for name, content in variants.items():
        (tmp_path / name).write_bytes(content.encode())
        parsed = purchase._csv(tmp_path / name, label_first=False)[0]
        expected = arrays[0].copy()
        expected[0, 0] = 0 if name == "wide" else expected[0, 0]
        np.testing.assert_array_equal(parsed, expected, err_msg=name)
        assert (purchase._single_digits(tmp_path / name, WIDTH) is not None) == (name == "plain")
    (tmp_path / "letters").write_text(text.replace("1", "x"))
    with pytest.raises(ConfigError, match="whole numbers"):
        purchase._csv(tmp_path / "letters", label_first=False)


def test_parsing_happens_once(tmp_path, arrays, monkeypatch):
    (tmp_path / "dataset_purchase").write_text(text_of(*arrays))
    calls, parse = [], purchase._parse
    monkeypatch.setattr(purchase, "_parse", lambda *a: calls.append(1) or parse(*a))
    for _ in range(3):
        zoo.load_dataset("purchase100", data_dir=tmp_path)
    assert len(calls) == 1


def test_a_file_changed_after_its_first_use_is_refused(tmp_path, arrays):
    x, y = arrays
    path = tmp_path / "dataset_purchase"
    path.write_text(text_of(x, y))
    zoo.load_dataset("purchase100", data_dir=tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in (tmp_path / "dataset_purchase.sha256").read_text()
    path.write_text(text_of(1 - x, y))
    with pytest.raises(UnsafeError, match=r"the one in dataset_purchase.sha256"):
        zoo.load_dataset("purchase100", data_dir=tmp_path)


def test_an_expected_checksum_can_be_given(tmp_path, arrays):
    path = tmp_path / "dataset_purchase"
    path.write_text(text_of(*arrays))
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert zoo.load_dataset("purchase100", data_dir=tmp_path, options={"sha256": right}).num_outputs == 100
    with pytest.raises(UnsafeError, match="the expected is 11"):
        zoo.load_dataset("purchase100", data_dir=tmp_path, options={"sha256": "11"})


def spoil_rows(x, y):
    return x[:-1], y[:-1]


def spoil_value(x, y):
    x = x.copy()
    x[7, 3] = 2
    return x, y


def spoil_label(x, y):
    return x, np.where(y == 99, 100, y)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_rows, r"features are 399 × 12, not 400 × 12"),
        (spoil_value, "a feature is neither 0 nor 1"),
        (spoil_label, "labels are 1 to 101, not 1 to 100"),
        (lambda x, y: (x[:, :5], y), r"400 × 5, not 400 × 12"),
    ],
)
def test_what_is_known_is_verified(tmp_path, arrays, spoil, says):
    (tmp_path / "dataset_purchase").write_text(text_of(*spoil(*arrays)))
    with pytest.raises(ConfigError, match=rf"is not Purchase-100: .*{says}"):
        zoo.load_dataset("purchase100", data_dir=tmp_path)


def test_ragged_and_non_numeric_files_are_named(tmp_path):
    for text in ("1,0,1\n2,0\n", "1,zero,1\n", "1,,0\n", ""):
        (tmp_path / "dataset_purchase").write_text(text)
        with pytest.raises(ConfigError, match="dataset_purchase"):
            zoo.load_dataset("purchase100", data_dir=tmp_path)
    assert not list(tmp_path.glob("*.sha256"))


def test_a_pickled_npz_is_refused(tmp_path):
    np.savez(tmp_path / "purchase100.npz", features=np.array([[{}]], object), labels=[1])
    with pytest.raises(UnsafeError, match="pickled"):
        zoo.load_dataset("purchase100", data_dir=tmp_path)


def test_nothing_there_and_no_connection_is_one_error_with_all_layouts(tmp_path):
    with pytest.raises(ConfigError) as caught:
        zoo.load_dataset("texas100", data_dir=tmp_path)
    for part in ("dataset_texas.tgz", "feats and labels", "texas100.npz", str(tmp_path), "texas100_synthetic"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match=r"data.options.download is off"):
        zoo.load_dataset("texas100", data_dir=tmp_path, options={"download": False})


def test_what_is_missing_is_downloaded_once_into_data_dir(tmp_path, arrays, monkeypatch):
    archive = tgz(tmp_path / "dataset_purchase.tgz", dataset_purchase=text_of(*arrays)).read_bytes()
    (tmp_path / "dataset_purchase.tgz").unlink()
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/dataset_purchase.tgz"
    monkeypatch.setattr(purchase, "PURCHASE", dataclasses.replace(purchase.PURCHASE, url=url))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    try:
        for _ in range(2):
            data = zoo.load_dataset("purchase100", data_dir="data", folders=[tmp_path / "config"])
            np.testing.assert_array_equal(data.records.x, arrays[0][:300])
    finally:
        server.shutdown()
        server.server_close()
    assert seen == ["/dataset_purchase.tgz"]
    assert (tmp_path / "data/dataset_purchase.tgz.sha256").read_text().startswith(hashlib.sha256(archive).hexdigest())
    assert (tmp_path / "data/dataset_purchase/dataset_purchase").is_file()
