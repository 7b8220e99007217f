"""Downloads resume, are bounded and checked; archives cannot write where they like."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from mlflow_privacy.errors import ConfigError, UnsafeError
from mlflow_privacy.zoo.downloads import check_sha256, download, extract_files, record_sha256

BODY = bytes(range(256)) * 4096  # 1 MiB


class Server(http.server.ThreadingHTTPServer):
    """Serves one body with ranges; `cut` bytes of each answer are sent before the connection ends, once per entry."""

    daemon_threads = True
    body, etag, ranges_work, announce = BODY, '"v1"', True, True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut, self.seen = [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/file.tgz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.seen.append(wanted)
        if self.path != "/file.tgz":
            return self.send_error(404)
        start = 0
        if wanted and server.ranges_work and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(server.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        if server.announce:
            self.send_header("Content-Length", str(len(server.body) - start))
        self.send_header("ETag", server.etag)
        self.end_headers()
        rest = server.body[start:]
        self.wfile.write(rest[: server.cut.pop(0)] if server.cut else rest)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    instance = Server()
    thread = threading.Thread(target=instance.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield instance
    instance.shutdown()
    instance.server_close()


def get(server, path, **options):
    return download(server.url, path, **{"max_bytes": 2**21, "timeout": 5, "pause": 0.0, **options})


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.cut = [300_000, 200_000]
    path = get(server, tmp_path / "new" / "f")
    assert path.read_bytes() == BODY
    assert server.seen == [None, "bytes=300000-", "bytes=500000-"]
    assert [p.name for p in path.parent.iterdir()] == ["f"]


def test_what_was_fetched_survives_a_failed_call_and_the_next_one_asks_for_the_rest(server, tmp_path):
    server.cut = [300_000, 0, 0]
    with pytest.raises(ConfigError, match=r"ended after 300,000 of 1,048,576 bytes.*save it as"):
        get(server, tmp_path / "f", attempts=2)
    assert (tmp_path / "f.part").stat().st_size == 300_000
    assert not (tmp_path / "f").exists()
    assert get(server, tmp_path / "f").read_bytes() == BODY
    assert server.seen[-1] == "bytes=300000-"


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server, tmp_path):
    server.cut = [300_000, 0]
    with pytest.raises(ConfigError):
        get(server, tmp_path / "f", attempts=1)
    server.cut, server.body, server.etag = [], BODY[::-1], '"v2"'
    assert get(server, tmp_path / "f").read_bytes() == BODY[::-1]


def test_a_server_without_ranges_is_served_from_the_start(server, tmp_path):
    server.cut, server.ranges_work = [300_000], False
    assert get(server, tmp_path / "f").read_bytes() == BODY


def test_a_part_that_is_complete_already_is_taken_as_it_is(server, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY)
    (tmp_path / "f.part.etag").write_text(server.etag)
    assert get(server, tmp_path / "f").read_bytes() == BODY
    assert server.seen == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_that_is_too_long_is_refused(server, tmp_path, announced):
    server.announce = announced
    says = "has 1,048,576 bytes, more than the 1,000" if announced else "has more than the 1,000 bytes"
    with pytest.raises(UnsafeError, match=says):
        get(server, tmp_path / "f", max_bytes=1000)
    assert not (tmp_path / "f").exists()


def test_an_expected_checksum_is_enforced_and_a_wrong_file_not_kept(server, tmp_path):
    right = hashlib.sha256(BODY).hexdigest()
    assert get(server, tmp_path / "f", sha256=right.upper()).exists()
    with pytest.raises(UnsafeError, match=rf"has SHA-256 {right}, the expected is 00"):
        get(server, tmp_path / "g", sha256="00")
    assert not list(tmp_path.glob("g*.tgz")) + [p for p in tmp_path.iterdir() if p.name in ("g", "g.part")]


def test_absent_files_closed_ports_and_other_schemes_are_errors_with_the_remedy(server, tmp_path):
    with pytest.raises(ConfigError, match="the server says 404"):
        download(server.url + "x", tmp_path / "f", max_bytes=10)
    with pytest.raises(ConfigError, match="fetch it elsewhere"):
        download("http://127.0.0.1:9/f", tmp_path / "f", max_bytes=10, attempts=2, pause=0, timeout=2)
    with pytest.raises(ConfigError, match="must be http or https"):
        download("file:///etc/passwd", tmp_path / "f", max_bytes=10)


def test_a_name_that_does_not_resolve_is_not_waited_for(tmp_path, monkeypatch):
    import socket
    import time

    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    start = time.monotonic()
    with pytest.raises(ConfigError, match="Name or service not known"):
        download("http://nowhere.invalid/f", tmp_path / "f", max_bytes=10, pause=30.0)
    assert time.monotonic() - start < 5


def test_a_silent_server_times_out(tmp_path):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/f"
        with pytest.raises(ConfigError, match="timed out"):
            download(url, tmp_path / "f", max_bytes=10, attempts=1, timeout=0.3)


def test_a_remembered_checksum_shows_a_later_change(tmp_path):
    (tmp_path / "f").write_bytes(b"one")
    first = check_sha256(tmp_path / "f")
    record_sha256(tmp_path / "f", first)
    assert (tmp_path / "f.sha256").read_text() == f"{hashlib.sha256(b'one').hexdigest()}  f\n"
    assert check_sha256(tmp_path / "f", first) == first
    (tmp_path / "f").write_bytes(b"two")
    with pytest.raises(UnsafeError, match=r"the one in f.sha256 is .*delete f.sha256 too"):
        check_sha256(tmp_path / "f")


def archive(path, *members, tail=b""):
    """A .tgz of (name, content or changes of a TarInfo)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(info, key, value)
                tar.addfile(info)
    path.write_bytes(gzip.compress(buffer.getvalue() + tail))
    return path


def test_only_the_wanted_files_are_written_whatever_folder_they_are_in(tmp_path):
    tgz = archive(
        tmp_path / "a.tgz",
        ("texas/100", {"type": tarfile.DIRTYPE}),
        ("texas/100/feats", b"0,1\n" * 300),
        ("x" * 150, b"a long name"),
        ("texas/100/labels", b"7\n"),
        ("texas/100/evil.py", b"raise SystemExit"),
    )
    out = extract_files(tgz, ["feats", "labels"], tmp_path / "out", max_bytes=2**20)
    assert out["feats"].read_bytes() == b"0,1\n" * 300
    assert out["labels"].read_bytes() == b"7\n"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["feats", "labels"]


@pytest.mark.parametrize(
    "member",
    [
        ("../feats", b"x"),
        ("a/../../feats", b"x"),
        ("/tmp/feats", b"x"),
        ("..\\feats", b"x"),
        ("feats", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("other", {"type": tarfile.SYMTYPE, "linkname": ".."}),
        ("feats", {"type": tarfile.LNKTYPE, "linkname": "../secret"}),
        ("feats", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("feats", {"type": tarfile.BLKTYPE}),
        ("feats", {"type": tarfile.FIFOTYPE}),
    ],
    ids=lambda m: f"{m[0]}-{m[1] if isinstance(m[1], bytes) else m[1]['type']}".replace("/", "|"),
)
def test_hostile_members_are_refused_and_nothing_is_written(tmp_path, member):
    tgz = archive(tmp_path / "a.tgz", ("ok/feats", b"fine"), member)
    with pytest.raises(UnsafeError, match="It is not unpacked"):
        extract_files(tgz, ["feats"], tmp_path / "in" / "out", max_bytes=2**20)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tgz", "in", "out"]


@pytest.mark.parametrize("name", ["feats", "padding"])
def test_bombs_are_stopped_at_the_limit_whether_wanted_or_not(tmp_path, name):
    tgz = archive(tmp_path / "a.tgz", (name, bytes(2**22)))
    assert tgz.stat().st_size < 10_000
    with pytest.raises(UnsafeError, match="unpacks to more than 1,000,000 bytes"):
        extract_files(tgz, ["feats"], tmp_path / "out", max_bytes=1_000_000)
    assert not list((tmp_path / "out").iterdir())


def test_a_pax_header_cannot_rename_or_swell_a_member(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("feats")
        info.size, info.pax_headers = 2, {"path": "../../escaped", "comment": "c" * 70_000}
        tar.addfile(info, io.BytesIO(b"ok"))
    (tmp_path / "a.tgz").write_bytes(gzip.compress(buffer.getvalue()))
    out = extract_files(tmp_path / "a.tgz", ["feats"], tmp_path / "out", max_bytes=2**20)
    assert out["feats"].read_bytes() == b"ok"
    assert not list(tmp_path.rglob("escaped"))
    with pytest.raises(UnsafeError, match="more than 60,000"):
        extract_files(tmp_path / "a.tgz", ["feats"], tmp_path / "small", max_bytes=60_000)


def test_missing_doubled_and_damaged_members_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="holds no file labels"):
        extract_files(archive(tmp_path / "a.tgz", ("feats", b"x")), ["feats", "labels"], tmp_path / "o", max_bytes=9999)
    doubled = archive(tmp_path / "b.tgz", ("feats", b"x"), ("d/feats", b"y"))
    with pytest.raises(ConfigError, match="'feats' twice"):
        extract_files(doubled, ["feats"], tmp_path / "o", max_bytes=9999)
    whole = archive(tmp_path / "c.tgz", ("feats", hashlib.sha256(b"").digest() * 2000)).read_bytes()
    for name, data in (("cut", whole[:150]), ("no-gzip", b"hello"), ("garbage", gzip.compress(b"x" * 2048))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match="cannot be unpacked"):
            extract_files(tmp_path / name, ["feats"], tmp_path / "o", max_bytes=10**6)
    assert not list((tmp_path / "o").iterdir())
