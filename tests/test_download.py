"""Download against a local server: fetch, resume, refuse, and leave nothing half done."""

import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from clothseg_utils.core import progress
from clothseg_utils.core.files import repo_root
from clothseg_utils.data import download as download_module
from clothseg_utils.data.download import OFFICIAL, download

VAL_JSON = "instances_attributes_val2020.json"
TRAIN_JSON = "instances_attributes_train2020.json"
VAL_ZIP = "val_test2020.zip"
TRAIN_ZIP = "train2020.zip"
ALL_NAMES = [VAL_JSON, TRAIN_JSON, VAL_ZIP, TRAIN_ZIP]


def make_zip(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclasses.dataclass
class FakeStore:
    """A local server; its fields are what it serves and how it misbehaves."""

    files: dict[str, bytes]  # name -> body
    url: str = ""
    ranges: bool = True  # answers Range with 206
    break_after: int | None = None  # body bytes before it hangs up, of each answer
    breaks_left: int = 0  # answers that it breaks off so
    status: int | None = None  # answer everything with this
    etag: str = ""
    said_length: int | None = None  # says this Content-Length instead of the body's
    tells_sizes: bool = False  # answers HEAD
    moves_to: str = ""  # sends whoever asks for an archive there
    hangs: threading.Event | None = None  # waits for it in the middle of the first body
    requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # (name, Range)

    @contextlib.contextmanager
    def without_ranges(self) -> Iterator[None]:
        self.ranges = False
        yield
        self.ranges = True

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.rsplit("/", 1)[-1]
        asked = handler.headers.get("Range", "")
        self.requests.append((name, asked))
        if self.moves_to and name.endswith(".zip"):
            handler.send_response(302)
            handler.send_header("Location", f"{self.url}/{self.moves_to}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.status or name not in self.files:
            handler.send_response(self.status or 404)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body, start = self.files[name], 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.send_response(200)
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(self.said_length or len(body) - start))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if self.hangs:
            handler.wfile.write(body[start : start + 700])
            self.hangs.wait(30)
        elif self.breaks_left and self.break_after is not None:
            self.breaks_left -= 1
            handler.wfile.write(body[start : start + self.break_after])
            handler.close_connection = True
        else:
            handler.wfile.write(body[start:])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    """The four files in small, on 127.0.0.1; no waiting between tries."""
    monkeypatch.setattr(download_module, "_RETRY_WAITS_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = FakeStore(
        {
            VAL_JSON: b'{"images": []}',
            TRAIN_JSON: b'{"images": [1]}' * 100,
            VAL_ZIP: make_zip({"test/": b"", "test/c.jpg": b"photo c"}),  # in a folder of the zip
            TRAIN_ZIP: make_zip({"a.jpg": b"photo a", "b.jpg": b"photo b"}),  # at its top
        }
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.answer(self)

        def do_HEAD(self) -> None:
            if fake.tells_sizes:
                fake.answer(self)
            else:
                self.send_error(501)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fake.url = f"http://127.0.0.1:{server.server_port}/store"
        yield fake
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(store: FakeStore, tmp_path: Path) -> Callable[..., list[download_module.Fetched]]:
    def call(**options: object) -> list[download_module.Fetched]:
        return download(tmp_path, base_url=store.url, **options)

    return call


def leave_part(
    tmp_path: Path, store: FakeStore, name: str, part: bytes, size: int, version: str = ""
) -> None:
    """What a process killed in mid-transfer leaves behind."""
    folder = "images" if name.endswith(".zip") else "annotations"
    entry = {"url": f"{store.url}/{folder}/{name}", "size": size, "sha256": "", "version": version}
    (tmp_path / "download.json").write_text(json.dumps({"files": {name: entry}}))
    (tmp_path / f"{name}.part").write_bytes(part)


def left_in(folder: Path) -> list[Path]:
    """All that lies in a folder but the lock, which stays."""
    return [path for path in folder.rglob("*") if path.name != ".download.lock"]


def test_official_addresses_are_those_of_the_dataset() -> None:
    addresses = {f"{OFFICIAL}{address}" for address in download_module._FILES}
    bucket = "https://s3.amazonaws.com/ifashionist-dataset"
    assert addresses == {
        f"{bucket}/images/train2020.zip",
        f"{bucket}/images/val_test2020.zip",
        f"{bucket}/annotations/instances_attributes_train2020.json",
        f"{bucket}/annotations/instances_attributes_val2020.json",
    }


def test_fetches_and_unpacks_into_the_layout(store, fetch, tmp_path) -> None:
    results = fetch()
    found = {path.relative_to(tmp_path).as_posix() for path in left_in(tmp_path)}
    photos = {"test", "test/c.jpg", "train", "train/a.jpg", "train/b.jpg"}
    assert found == {"download.json", VAL_JSON, TRAIN_JSON, *photos}
    assert (tmp_path / TRAIN_JSON).read_bytes() == store.files[TRAIN_JSON]
    assert (tmp_path / "train" / "b.jpg").read_bytes() == b"photo b"
    assert [result.name for result in results] == ALL_NAMES
    assert not any(result.was_there for result in results)


def test_record_holds_url_size_and_sha256(store, fetch, tmp_path) -> None:
    fetch()
    files = json.loads((tmp_path / "download.json").read_text())["files"]
    assert list(files) == ALL_NAMES
    assert files[TRAIN_ZIP] == {
        "url": f"{store.url}/images/{TRAIN_ZIP}",
        "size": len(store.files[TRAIN_ZIP]),
        "sha256": hashlib.sha256(store.files[TRAIN_ZIP]).hexdigest(),
        "n_unpacked": 2,
        "version": "",  # the server gave neither ETag nor Last-Modified
    }


def test_second_call_asks_the_server_nothing(store, fetch) -> None:
    first = fetch()
    n_requests = len(store.requests)
    second = fetch()
    assert n_requests == 4
    assert len(store.requests) == 4
    assert second == [dataclasses.replace(result, was_there=True) for result in first]


def test_deleted_files_are_fetched_again(store, fetch, tmp_path) -> None:
    fetch()
    (tmp_path / VAL_JSON).unlink()
    shutil.rmtree(tmp_path / "test")
    store.requests.clear()
    fetch()
    assert [name for name, _ in store.requests] == [VAL_JSON, VAL_ZIP]
    assert (tmp_path / "test" / "c.jpg").read_bytes() == b"photo c"


def test_zip_that_was_fetched_but_not_unpacked_is_only_unpacked(
    store, fetch, tmp_path, monkeypatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download_module, "_unpack", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch()
    store.requests.clear()
    fetch()
    assert [name for name, _ in store.requests] == [TRAIN_ZIP]
    assert (tmp_path / "test" / "c.jpg").exists()


def test_resumes_a_part_where_it_ends(store, fetch, tmp_path) -> None:
    body = store.files[TRAIN_JSON]
    leave_part(tmp_path, store, TRAIN_JSON, body[:700], size=len(body))
    fetch()
    assert (TRAIN_JSON, "bytes=700-") in store.requests
    assert (tmp_path / TRAIN_JSON).read_bytes() == body
    assert not list(tmp_path.glob("*.part"))


def test_whole_part_is_taken_without_a_request(store, fetch, tmp_path) -> None:
    body = store.files[TRAIN_JSON]
    leave_part(tmp_path, store, TRAIN_JSON, body, size=len(body))
    fetch()
    assert TRAIN_JSON not in [name for name, _ in store.requests]
    assert (tmp_path / TRAIN_JSON).read_bytes() == body


def test_starts_anew_where_the_server_knows_no_range(store, fetch, tmp_path) -> None:
    body = store.files[TRAIN_JSON]
    leave_part(tmp_path, store, TRAIN_JSON, b"?" * 700, size=len(body))
    store.ranges = False
    fetch()
    assert (TRAIN_JSON, "bytes=700-") in store.requests
    assert (tmp_path / TRAIN_JSON).read_bytes() == body


@pytest.mark.parametrize(
    ("part_size", "size"),
    [
        (700, 999_999),  # the total differs: 206 with another total
        (5_000, 999_999),  # longer than the file is now: 416
    ],
)
def test_starts_anew_where_the_file_has_changed(store, fetch, tmp_path, part_size, size) -> None:
    leave_part(tmp_path, store, TRAIN_JSON, b"?" * part_size, size=size)
    fetch()
    asked = [asked for name, asked in store.requests if name == TRAIN_JSON]
    assert asked == [f"bytes={part_size}-", ""]
    assert (tmp_path / TRAIN_JSON).read_bytes() == store.files[TRAIN_JSON]


def test_part_from_another_address_is_not_continued(store, fetch, tmp_path) -> None:
    body = store.files[TRAIN_JSON]
    leave_part(tmp_path, store, TRAIN_JSON, b"?" * 700, size=len(body))
    text = (tmp_path / "download.json").read_text()
    (tmp_path / "download.json").write_text(text.replace(store.url, "http://elsewhere"))
    fetch()
    assert (TRAIN_JSON, "") in store.requests
    assert (tmp_path / TRAIN_JSON).read_bytes() == body


def test_broken_transfer_goes_on_where_it_stopped(store, fetch, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 4)
    store.break_after, store.breaks_left = 4, 2
    fetch()
    asked = [asked for name, asked in store.requests if name == VAL_JSON]
    assert asked == ["", "bytes=4-", "bytes=8-"]
    assert (tmp_path / VAL_JSON).read_bytes() == store.files[VAL_JSON]


def test_truncated_body_is_an_error_and_leaves_no_file(store, fetch, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 1)
    store.break_after, store.breaks_left = 1, 99
    with pytest.raises(ConnectionError, match=r"val2020.json failed 4 times .*goes on") as raised:
        fetch()
    assert "\n" not in str(raised.value)
    assert not (tmp_path / VAL_JSON).exists()
    assert (tmp_path / f"{VAL_JSON}.part").read_bytes() == store.files[VAL_JSON][:4]


def test_length_is_checked_even_if_the_transport_does_not(
    store, fetch, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(requests.Response, "iter_content", lambda *_: iter([b"{}"]))
    # four tries, of which each adds two bytes to the part
    with pytest.raises(ConnectionError, match=r"\(8 of 14 bytes arrived\)"):
        fetch()
    assert not (tmp_path / VAL_JSON).exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_break_at_any_byte_costs_nothing(store, tmp_path, monkeypatch, ranges) -> None:
    """First the server hangs up there, then a process has been killed there."""
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 4)
    store.ranges = ranges
    body = store.files[TRAIN_JSON]
    for n_bytes in (0, 1, 3, 4, 5, 699, len(body) - 1, len(body)):
        broken, killed = tmp_path / f"broken{n_bytes}", tmp_path / f"killed{n_bytes}"
        store.break_after, store.breaks_left = n_bytes, 3
        download(broken, base_url=store.url)
        killed.mkdir()
        leave_part(killed, store, TRAIN_JSON, body[:n_bytes], len(body))
        download(killed, base_url=store.url)
        for root in (broken, killed):
            assert (root / TRAIN_JSON).read_bytes() == body, n_bytes
            assert (root / "train" / "b.jpg").read_bytes() == b"photo b", n_bytes


def test_a_transfer_that_gets_on_is_not_given_up(store, fetch, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download_module, "_CHUNK_BYTES", 10)
    monkeypatch.setattr(download_module, "_PROGRESS_BYTES", 100)
    store.break_after, store.breaks_left = 100, 13  # of 1,400 bytes; then the zips
    fetch()
    assert (tmp_path / TRAIN_JSON).read_bytes() == store.files[TRAIN_JSON]
    (tmp_path / TRAIN_JSON).unlink()
    store.ranges, store.breaks_left = False, 99
    with pytest.raises(ConnectionError, match=r"train2020\.json failed 4 times"):
        fetch()


def test_another_file_of_the_same_size_is_not_put_together_with_this_one(
    store, fetch, tmp_path
) -> None:
    body = store.files[TRAIN_JSON]
    leave_part(tmp_path, store, TRAIN_JSON, b"?" * 700, len(body), version='"first"')
    store.etag = '"second"'
    fetch()
    asked = [asked for name, asked in store.requests if name == TRAIN_JSON]
    assert asked == ["bytes=700-", ""]
    assert (tmp_path / TRAIN_JSON).read_bytes() == body


PAGE = b"<!DOCTYPE html><html>Sign in to the hotel's network</html>"


@pytest.mark.parametrize(
    ("name", "moves"), [(VAL_JSON, False), (TRAIN_ZIP, False), (VAL_ZIP, True)]
)
def test_a_sign_in_page_is_no_file(store, fetch, tmp_path, name, moves) -> None:
    """A rerun that gets through is as good as a first run; a part that was there goes on."""
    body = store.files[name]
    if moves:
        store.moves_to = "sign-in.html"
        store.files["sign-in.html"] = PAGE
    else:
        store.files[name] = PAGE
    leave_part(tmp_path, store, name, body[:7], len(body))
    with store.without_ranges(), pytest.raises(ValueError, match="web page instead of") as raised:
        fetch()
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (tmp_path / f"{name}.part").read_bytes() == body[:7]
    store.files[name], store.moves_to = body, ""
    fetch()
    assert (name, "bytes=7-") in store.requests
    assert (tmp_path / "train" / "b.jpg").read_bytes() == b"photo b"


def test_a_file_that_is_cut_with_its_length_is_not_taken(store, fetch, tmp_path) -> None:
    """A server, or what lies between, that says it sent all: the transport notices nothing."""
    store.said_length = 9
    with pytest.raises(ValueError, match=r"sent 9 bytes that are no whole json file; expected"):
        fetch()
    assert left_in(tmp_path) == [tmp_path / "download.json"]
    store.said_length = None
    fetch()
    assert (tmp_path / VAL_JSON).read_bytes() == store.files[VAL_JSON]


@pytest.mark.parametrize(
    ("status", "n_tries", "message"),
    [
        *(
            (s, 1, rf"answered {s} .*; expected the file\. Check")
            for s in (400, 401, 403, 404, 410)
        ),
        (407, 1, r"answered 407 .*HTTPS_PROXY"),
        *((s, 4, rf"failed 4 times \(the server answered {s}\)") for s in (408, 429)),
        *((s, 4, rf"failed 4 times \(the server answered {s}\)") for s in (500, 502, 503)),
    ],
)
def test_what_may_pass_is_tried_again_after_longer_and_longer_waits(
    store, fetch, tmp_path, monkeypatch, status, n_tries, message
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(download_module, "_RETRY_WAITS_S", (1.0, 3.0, 9.0))
    monkeypatch.setattr(download_module.time, "sleep", slept.append)
    store.status = status
    with pytest.raises(OSError, match=message) as raised:
        fetch()
    assert "\n" not in str(raised.value)
    assert len(store.requests) == n_tries
    assert slept == [1.0, 3.0, 9.0][: n_tries - 1]
    assert left_in(tmp_path) == []


def test_proxy_variables_are_respected(store, tmp_path, monkeypatch) -> None:
    """The store stands for the proxy: nothing else knows the way to such an address."""
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", store.url.removesuffix("/store"))
    download(tmp_path, base_url="http://photos.invalid/store")
    assert (tmp_path / "train" / "a.jpg").read_bytes() == b"photo a"
    assert [name for name, _ in store.requests] == ALL_NAMES


def test_a_second_process_is_told_and_a_killed_one_is_followed(store, fetch, tmp_path) -> None:
    store.hangs = threading.Event()
    code = f"from clothseg_utils.data.download import download as d; d({str(tmp_path)!r}, base_url="
    command = [sys.executable, "-c", f"{code}{store.url!r})"]
    with subprocess.Popen(command, cwd=repo_root(), stderr=subprocess.PIPE) as first:
        while not store.requests:
            time.sleep(0.01)
        with pytest.raises(ValueError, match=f"another process downloads into {tmp_path}; expec"):
            fetch()
        first.kill()
    store.hangs.set()
    store.hangs = None
    fetch()
    assert (tmp_path / "train" / "a.jpg").read_bytes() == b"photo a"
    assert not list(tmp_path.glob("*.part"))


def zip_digest(store: FakeStore) -> str:
    return hashlib.sha256(store.files[TRAIN_ZIP]).hexdigest()


def test_a_checksum_that_does_not_fit_stops_before_unpacking(store, fetch, tmp_path) -> None:
    with pytest.raises(ValueError, match=rf"SHA-256 {zip_digest(store)}; expected 0{{64}}\. ") as r:
        fetch(sha256={TRAIN_ZIP: "0" * 64})
    assert f"{TRAIN_ZIP}.part" in str(r.value)
    assert not (tmp_path / "train").exists()
    store.requests.clear()
    fetch(sha256={TRAIN_ZIP: zip_digest(store).upper()})  # the file is not fetched again
    assert store.requests == []
    assert (tmp_path / "train" / "a.jpg").exists()
    fetch(sha256={TRAIN_ZIP: zip_digest(store)})
    with pytest.raises(ValueError, match=r"train2020\.zip has the SHA-256 .*; expected 0"):
        fetch(sha256={TRAIN_ZIP: "0" * 64})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train.zip": "0" * 64}, r'checksum is given for "train\.zip"; expected one of .*json'),
        ({TRAIN_ZIP: "0" * 40}, r"train2020\.zip is \"0+\"; expected a SHA-256, 64 hexadecimal"),
    ],
)
def test_a_checksum_that_is_none_is_refused(store, fetch, given, message) -> None:
    with pytest.raises(ValueError, match=message):
        fetch(sha256=given)
    assert store.requests == []


def test_missing_file_fails_at_once(store, fetch) -> None:
    del store.files[TRAIN_JSON]
    with pytest.raises(FileNotFoundError, match=r"train2020.json answered 404"):
        fetch()
    assert [name for name, _ in store.requests] == [VAL_JSON, TRAIN_JSON]


def test_nobody_listening_is_one_line(tmp_path, store) -> None:
    with pytest.raises(ConnectionError, match=r"failed 4 times .*Check the network") as raised:
        download(tmp_path, base_url="http://127.0.0.1:9/")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("base_url", ["no-scheme/here", "gopher://127.0.0.1/"])
def test_bad_address_is_refused(tmp_path, base_url) -> None:
    with pytest.raises(ValueError, match=r"cannot be fetched .*http\(s\) address"):
        download(tmp_path, base_url=base_url)


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("../evil.jpg", "a step up"),
        ("test/../../evil.jpg", "a step up further down"),
        ("/evil.jpg", "an absolute path"),
        ("..\\evil.jpg", "a step up on Windows"),
        ("C:evil.jpg", "a drive on Windows"),
        ("other/c.jpg", "a name that occurs twice once folders are left out"),
    ],
)
def test_unsafe_zip_is_refused_and_nothing_is_unpacked(
    store, fetch, tmp_path, member, reason
) -> None:
    store.files[VAL_ZIP] = make_zip({"test/c.jpg": b"photo c", member: b"evil"})
    with pytest.raises(ValueError, match=r"val_test2020.zip holds .*expected plain files"):
        fetch()
    assert not list(tmp_path.parent.rglob("evil.jpg")), reason
    assert not (tmp_path / "test").exists()
    assert not [path for path in left_in(tmp_path) if path.name.startswith(".")]


def test_link_in_a_zip_is_refused(store, fetch, tmp_path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("test/c.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/hostname")
    store.files[VAL_ZIP] = buffer.getvalue()
    with pytest.raises(ValueError, match="expected plain files"):
        fetch()
    assert not (tmp_path / "test").exists()


@pytest.mark.parametrize("lies", [False, True])
def test_a_zip_that_would_unfold_to_much_more_is_refused(store, fetch, tmp_path, lies) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test/c.jpg", bytes(4_000_000))
    body, n_bytes = buffer.getvalue(), (4_000_000).to_bytes(4, "little")
    assert body.count(n_bytes) == 2  # in the file's head and in the directory
    store.files[VAL_ZIP] = body.replace(n_bytes, (9).to_bytes(4, "little")) if lies else body
    reason = "is not a sound zip" if lies else r"bytes would unfold to 4,000,000; expected photos"
    with pytest.raises(ValueError, match=reason):
        fetch()
    assert not (tmp_path / "test").exists()
    assert sum(path.stat().st_size for path in left_in(tmp_path)) < 10_000


def test_system_files_in_a_zip_are_left_out(store, fetch, tmp_path) -> None:
    members = {"test/c.jpg": b"c", "__MACOSX/test/._c.jpg": b"x", "test/.DS_Store": b"x"}
    store.files[VAL_ZIP] = make_zip(members)
    fetch()
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["c.jpg"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (make_zip({"test/c.jpg": b"photo c"}).replace(b"photo c", b"photo x"), "is not a sound"),
        (make_zip({}), "holds no files"),
    ],
    ids=["wrong CRC", "empty"],
)
def test_bad_zip_is_an_error(store, fetch, tmp_path, body, message) -> None:
    store.files[VAL_ZIP] = body
    with pytest.raises(ValueError, match=message):
        fetch()
    assert not (tmp_path / "test").exists()
    assert not [path for path in left_in(tmp_path) if path.name.startswith(".")]


def name_photos(store: FakeStore) -> None:
    for name, photos in ((VAL_JSON, ["c.jpg"]), (TRAIN_JSON, ["a.jpg", "b.jpg"])):
        images = [{"id": number, "file_name": photo} for number, photo in enumerate(photos)]
        store.files[name] = json.dumps({"images": images}).encode()


def test_a_dataset_that_came_in_another_way_is_recognised(store, fetch, tmp_path) -> None:
    """One split unpacked by hand, of the other the archive fetched by a browser."""
    name_photos(store)
    for name in (VAL_JSON, TRAIN_JSON, VAL_ZIP):
        (tmp_path / name).write_bytes(store.files[name])
    (tmp_path / "train").mkdir()
    for photo in ("a.jpg", "b.jpg"):
        (tmp_path / "train" / photo).write_bytes(b"mine")
    results = fetch()
    assert store.requests == []
    assert [(result.url, result.was_there) for result in results] == [("", True)] * 4
    assert [result.size for result in results[2:]] == [len(store.files[VAL_ZIP]), 0]
    assert (tmp_path / "test" / "c.jpg").read_bytes() == b"photo c"
    assert (tmp_path / "train" / "a.jpg").read_bytes() == b"mine"
    assert (tmp_path / VAL_ZIP).exists()  # it is not ours to delete
    assert fetch() == results


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            TRAIN_JSON,
            b'{"images": [',
            r"no whole json file, .*expected none, or a whole one\. Move",
        ),
        (VAL_ZIP, b"PK\3\4 cut", r"no whole zip file, .*expected none, or a whole one\. Move"),
        (
            "train/a.jpg",
            b"",
            r"train holds 1 files, 1 of the 2 photos that .* names; expected none",
        ),
    ],
)
def test_half_of_it_is_not(store, fetch, tmp_path, name, content, message) -> None:
    name_photos(store)
    (tmp_path / "train").mkdir()
    (tmp_path / TRAIN_JSON).write_bytes(store.files[TRAIN_JSON])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fetch()
    assert store.requests == []
    assert (tmp_path / name).read_bytes() == content


def test_photos_of_other_origin_are_not_mixed_with(store, fetch, tmp_path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"train holds 1 files; expected none"):
        fetch()
    assert not store.requests
    assert (tmp_path / "train" / "mine.jpg").read_bytes() == b"mine"


def test_empty_photo_folder_is_filled(fetch, tmp_path) -> None:
    (tmp_path / "train").mkdir()
    fetch()
    assert (tmp_path / "train" / "a.jpg").exists()


def test_full_disk_is_refused_before_writing(store, fetch, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(OSError, match=r"has 0\.0 GB free; .* needs 0\.3 GB"):
        fetch()
    assert not left_in(tmp_path)


def test_the_space_for_all_is_known_before_the_first_byte(
    store, fetch, tmp_path, monkeypatch
) -> None:
    store.tells_sizes = True
    store.files[TRAIN_ZIP] = bytes(30_000_000)
    needed = 2 * 30e6 + 2**28  # the archive lies beside its photos
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    message = r"0\.3 GB free; Fashionpedia \(.*train2020\.zip 0\.0 GB\) needs 0\.3 GB\. Free space"
    with pytest.raises(OSError, match=message):
        fetch()
    assert [name for name, _ in store.requests] == ALL_NAMES  # asked for their sizes
    assert not left_in(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"images": 1}'])
def test_damaged_record_is_an_error(store, fetch, tmp_path, text) -> None:
    (tmp_path / "download.json").write_text(text)
    with pytest.raises(ValueError, match=r"download\.json .*[Dd]elete it"):
        fetch()
    assert not store.requests


def test_progress_shows_bytes(store, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "is_attended", lambda: True)
    download(tmp_path, base_url=store.url)
    assert f"{TRAIN_JSON}: 100%" in capsys.readouterr().err
