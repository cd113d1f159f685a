"""Download against a local server: fetch, resume, refuse, and leave nothing half done."""

import dataclasses
import hashlib
import io
import json
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from clothseg_utils.core import progress
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
    requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # (name, Range)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.rsplit("/", 1)[-1]
        asked = handler.headers.get("Range", "")
        self.requests.append((name, asked))
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
        handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        if self.breaks_left and self.break_after is not None:
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


def leave_part(tmp_path: Path, store: FakeStore, name: str, part: bytes, size: int) -> None:
    """What a process killed in mid-transfer leaves behind."""
    folder = "images" if name.endswith(".zip") else "annotations"
    entry = {"url": f"{store.url}/{folder}/{name}", "size": size, "sha256": ""}
    (tmp_path / "download.json").write_text(json.dumps({"files": {name: entry}}))
    (tmp_path / f"{name}.part").write_bytes(part)


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
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
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


def test_missing_file_fails_at_once(store, fetch) -> None:
    del store.files[TRAIN_JSON]
    with pytest.raises(FileNotFoundError, match=r"train2020.json answered 404"):
        fetch()
    assert [name for name, _ in store.requests] == [VAL_JSON, TRAIN_JSON]


def test_server_error_is_tried_again(store, fetch) -> None:
    store.status = 503
    with pytest.raises(ConnectionError, match=r"failed 4 times \(the server answered 503\)"):
        fetch()
    assert len(store.requests) == 4


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
    assert not list(tmp_path.glob(".*"))


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


def test_system_files_in_a_zip_are_left_out(store, fetch, tmp_path) -> None:
    members = {"test/c.jpg": b"c", "__MACOSX/test/._c.jpg": b"x", "test/.DS_Store": b"x"}
    store.files[VAL_ZIP] = make_zip(members)
    fetch()
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["c.jpg"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>sign in</html>", "is not a sound zip"),
        (make_zip({"test/c.jpg": b"photo c"}).replace(b"photo c", b"photo x"), "is not a sound"),
        (make_zip({}), "holds no files"),
    ],
    ids=["not a zip", "wrong CRC", "empty"],
)
def test_bad_zip_is_an_error(store, fetch, tmp_path, body, message) -> None:
    store.files[VAL_ZIP] = body
    with pytest.raises(ValueError, match=message):
        fetch()
    assert not (tmp_path / "test").exists()
    assert not list(tmp_path.glob(".*"))


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
    assert not list(tmp_path.iterdir())


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
