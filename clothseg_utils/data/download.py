"""Fetch Fashionpedia: download with resume, check, and unpack into the layout of a data root."""

import contextlib
import itertools
import mmap
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from filelock import FileLock, Timeout

from clothseg_utils.core.files import read_json, sha256_file, write_json
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.text import printable

# Given in the dataset's own README, github.com/cvdfoundation/fashionpedia.
OFFICIAL = "https://s3.amazonaws.com/ifashionist-dataset/"
RECORD_NAME = "download.json"

# Address below the base -> folder that the zip unpacks to; "" for a plain file. Small ones first,
# so that a wrong address shows before gigabytes have passed.
_FILES = {
    "annotations/instances_attributes_val2020.json": "",
    "annotations/instances_attributes_train2020.json": "",
    "images/val_test2020.zip": "test",
    "images/train2020.zip": "train",
}
# Folder of photos -> the file that names them.
_ANNOTATIONS = {
    "test": "instances_attributes_val2020.json",
    "train": "instances_attributes_train2020.json",
}
_FIRST_BYTES = {".json": b"{", ".zip": b"PK"}
_TIMEOUT_S = (10.0, 60.0)  # to connect, and between two pieces of the body
_RETRY_WAITS_S = (1.0, 3.0, 9.0)
_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 1 << 28  # left free on the disk
_PROGRESS_BYTES = 1 << 20  # a try that brought so much does not count as failed
_MOST_GROWTH = 10  # of a zip that is unpacked: photos hardly compress
_WORTH_A_RETRY = (408, 429)  # of the answers 400 to 499

# What a second try may cure. Everything else (404, a bad address) fails at once.
_PASSING_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


@dataclass(frozen=True)
class Fetched:
    """One file of the dataset.

    Attributes:
        name: the file's.
        url: where it came from; empty where it was found in the folder.
        size: bytes; 0 where photos were found unpacked.
        sha256: in hex; empty where photos were found unpacked.
        was_there: nothing was fetched for it.
    """

    name: str
    url: str
    size: int
    sha256: str
    was_there: bool


def download(
    data_root: str | Path, *, base_url: str = OFFICIAL, sha256: Mapping[str, str] | None = None
) -> list[Fetched]:
    """Fetch both annotation files and both photo archives, and unpack the archives.

    May be called again at any time: what is there stays, and a broken transfer goes on where it
    stopped. Files and unpacked photos that came here in another way are taken as they are.
    `download.json` in `data_root` records address, size and SHA-256 of each file. An archive that
    was fetched is deleted once its photos are in place.

    Args:
        data_root: folder to fill; made if missing.
        base_url: address above `images/` and `annotations/`.
        sha256: file name -> SHA-256 in hex that the file must have.

    Returns:
        One entry a file, in the order of fetching.

    Raises:
        FileNotFoundError: the server does not have a file.
        ConnectionError: the server cannot be reached, or keeps breaking off.
        OSError: the disk is too full.
        ValueError: a bad or unsafe archive, a page instead of a file, a checksum that does not
            fit, a photo folder of other origin, a bad address, or another download at work.
    """
    root = Path(data_root)
    folders = {PurePosixPath(address).name: folder for address, folder in _FILES.items()}
    urls = {PurePosixPath(a).name: f"{base_url.rstrip('/')}/{a}" for a in _FILES}
    expected = _checked_digests(sha256 or {}, list(urls))
    root.mkdir(parents=True, exist_ok=True)
    with _only_one(root), requests.Session() as session:
        record = _Record(root)
        for name, folder in folders.items():  # for all, before the first byte is fetched
            record.adopt(name, folder)
        # Compressed transfer would make Content-Length and ranges count other bytes.
        session.headers["Accept-Encoding"] = "identity"
        missing = [name for name in urls if not record.is_complete(name, folders[name])]
        _check_space_of_all(session, root, {n: (urls[n], folders[n]) for n in missing})
        for name, folder in folders.items():
            if name in missing:
                _fetch(session, urls[name], root / name, record, expected.get(name))
            else:
                _check_digest(root / name, record[name].get("sha256", ""), expected.get(name))
            if folder and not record.is_unpacked(name, folder):
                _unpack(root / name, root / folder, record)
            if folder and record[name]["url"]:  # else it is somebody's own file
                (root / name).unlink(missing_ok=True)
        return [
            Fetched(
                name,
                url=record[name]["url"],
                size=record[name]["size"],
                sha256=record[name]["sha256"],
                was_there=name not in missing,
            )
            for name in urls
        ]


@contextlib.contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Two processes would write into one part of a file."""
    try:
        lock = FileLock(root / ".download.lock").acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process downloads into {root}; expected one at a time. Wait for it."
        ) from None
    with lock:
        yield


def _checked_digests(sha256: Mapping[str, str], names: list[str]) -> dict[str, str]:
    for name, digest in sha256.items():
        if name not in names:
            raise ValueError(
                f'a checksum is given for "{name}"; expected one of {", ".join(names)}.'
            )
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise ValueError(
                f'the checksum of {name} is "{digest}"; expected a SHA-256, 64 hexadecimal digits.'
            )
    return {name: digest.lower() for name, digest in sha256.items()}


def _check_digest(path: Path, recorded: str, expected: str | None) -> None:
    """Compare a file that is there, or was before it was unpacked, with the user's checksum."""
    digest = sha256_file(path) if expected and path.is_file() else recorded
    if expected and digest != expected:
        raise ValueError(
            f"{path} has the SHA-256 {digest or '(unknown: found unpacked)'}; expected {expected}. "
            "Correct the checksum, or delete the file or its photos and download again."
        )


class _Record:
    """`download.json`: file name -> url, size, version of the server's, sha256 ("" while under
    way), n_unpacked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / RECORD_NAME
        content = read_json(self._path) if self._path.exists() else {"files": {}}
        if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
            raise ValueError(f'{self._path} has no "files"; expected a record. Delete it.')
        self._files: dict[str, dict[str, Any]] = content["files"]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._files.get(name, {})

    def update(self, name: str, **values: str | int) -> None:
        self._files[name] = {**self[name], **values}
        write_json(self._path, {"files": self._files})

    def is_unpacked(self, name: str, folder: str) -> bool:
        n_recorded = self[name].get("n_unpacked", 0)
        return n_recorded > 0 and _count_entries(self._root / folder) == n_recorded

    def is_complete(self, name: str, folder: str) -> bool:
        path = self._root / name
        fetched = path.is_file() and path.stat().st_size == self[name].get("size")
        # Without a digest the record is of a transfer under way.
        return self.is_unpacked(name, folder) or (bool(self[name].get("sha256")) and fetched)

    def adopt(self, name: str, folder: str) -> None:
        """Take files and photos that came here in another way as they are, where they are whole.

        Raises:
            ValueError: a file that is not, or photos that an archive would be mixed with.
        """
        path, photos = self._root / name, self._root / folder
        if path.is_file() and not self[name]:
            if not _is_whole(path):
                raise ValueError(
                    f"{path} is no whole {path.suffix[1:]} file, and {RECORD_NAME} does not tell "
                    "of it; expected none, or a whole one. Move it away."
                )
            self.update(name, url="", size=path.stat().st_size, sha256=sha256_file(path))
        n_entries = _count_entries(photos) if folder else 0
        if n_entries == 0 or self.is_unpacked(name, folder):
            return
        names = _photo_names(self._root / _ANNOTATIONS[folder])
        n_found = len(names & {os.fsencode(name) for name in os.listdir(photos)})
        if not names or n_found < len(names):
            what = f"{n_found} of the {len(names)} photos that {_ANNOTATIONS[folder]} names"
            raise ValueError(
                f"{photos} holds {n_entries} files" + (f", {what}" if names else "") + "; expected "
                "none, all, or those that a download left. Move the folder away, or choose "
                "another data root."
            )
        self.update(name, url="", size=0, sha256="", n_unpacked=n_entries)


def _photo_names(annotation_path: Path) -> set[bytes]:
    """Names of photos in an annotation file, found without reading it as JSON: it is large."""
    if not annotation_path.is_file() or not annotation_path.stat().st_size:
        return set()
    with (
        annotation_path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        return set(re.findall(rb'"file_name":\s*"([^"]+)"', text))


def _fetch(
    session: requests.Session, url: str, path: Path, record: _Record, expected: str | None
) -> None:
    part_path = path.with_name(f"{path.name}.part")
    waits_s, n_reached = list(_RETRY_WAITS_S), _size(part_path)
    while True:
        try:
            _transfer(session, url, part_path, path.name, record)
            break
        except _PASSING_ERRORS as error:
            if _size(part_path) >= n_reached + _PROGRESS_BYTES:
                waits_s, n_reached = list(_RETRY_WAITS_S), _size(part_path)
            if not waits_s:
                raise ConnectionError(
                    f"{url} failed {len(_RETRY_WAITS_S) + 1} times ({_reason(error)}); expected "
                    "the whole file. Check the network and run the download again: it goes on "
                    "where it stopped."
                ) from None
            time.sleep(waits_s.pop(0))
        except requests.RequestException as error:
            raise ValueError(
                f"{url} cannot be fetched ({_reason(error)}); expected an http(s) address. "
                "Check the base URL."
            ) from None
    if not _is_whole(part_path):
        n_bytes = _size(part_path)
        part_path.unlink()
        raise ValueError(
            f"{url} sent {n_bytes:,} bytes that are no whole {path.suffix[1:]} file; expected one. "
            "Download again; if it stays so, something between here and the server cuts it off."
        )
    digest = sha256_file(part_path)
    _check_digest(part_path, digest, expected)
    record.update(path.name, url=url, size=part_path.stat().st_size, sha256=digest)
    part_path.replace(path)


def _transfer(
    session: requests.Session, url: str, part_path: Path, name: str, record: _Record
) -> None:
    """Fill `part_path`, from its end on if it is a piece of the file that the server has now."""
    url_before, size_before = record[name].get("url"), record[name].get("size", 0)
    offset = _size(part_path) if url_before == url else 0
    if offset and offset == size_before:
        return  # killed between the last byte and the rename
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        status = response.status_code
        version = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
        rest = f"bytes {offset}-{size_before - 1}/{size_before}"
        fits = response.headers.get("Content-Range", "") == rest
        fits &= version == record[name].get("version", version)
        if status == 416 or (status == 206 and not fits):
            part_path.unlink(missing_ok=True)  # a piece of another version of the file
            raise requests.ConnectionError("the file changed on the server")
        # The store answers 403 for what it does not have.
        if 400 <= status < 500 and status not in _WORTH_A_RETRY:
            raise FileNotFoundError(
                f"{url} answered {status} {response.reason}; expected the file. Check the base URL"
                + (", and HTTP_PROXY and HTTPS_PROXY." if status == 407 else ".")
            )
        if status not in (200, 206):
            raise requests.ConnectionError(f"the server answered {status}")
        if status == 200:
            offset = 0
        length = response.headers.get("Content-Length")
        size = offset + int(length) if length is not None else 0
        chunks = response.iter_content(_CHUNK_BYTES)
        first = next(chunks, b"")
        if not offset:
            _check_kind(url, first)
            _check_space(part_path.parent, name, size - _size(part_path))
            part_path.unlink(missing_ok=True)  # or the record would tell of another version
        record.update(name, url=url, size=size, sha256="", version=version)
        with (
            part_path.open("ab") as file,
            progress_bar(
                desc=name,
                initial=offset,
                total=size or None,
                unit="byte",
                unit_scale=True,
                leave=True,
            ) as bar,
        ):
            for chunk in itertools.chain([first], chunks):
                file.write(chunk)
                bar.update(len(chunk))
    n_bytes = _size(part_path)
    if size and n_bytes != size:
        raise requests.ConnectionError(f"{n_bytes} of {size} bytes arrived")


def _check_kind(url: str, first: bytes) -> None:
    """Refuse a page that a network puts in the place of everything until one has signed in."""
    kind = PurePosixPath(url).suffix
    if first and not first.lstrip().startswith(_FIRST_BYTES[kind]):
        what = "a web page" if first.lstrip().startswith(b"<") else "something else"
        raise ValueError(
            f"{url} answered with {what} instead of the {kind[1:]} file; nothing was kept of it. "
            "Does the network want a sign-in? Open any page in a browser, then download again."
        )


def _is_whole(path: Path) -> bool:
    """Whether a zip has its directory, which is at its end, or a JSON object its last brace."""
    if path.suffix == ".zip" or path.name.endswith(".zip.part"):
        return zipfile.is_zipfile(path)
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(max(0, path.stat().st_size - 64))
        return start.lstrip().startswith(b"{") and file.read().rstrip().endswith(b"}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unpack(zip_path: Path, folder: Path, record: _Record) -> None:
    """Unpack the files of a zip into `folder`, flat: the JSON names photos without a folder.

    They go to a temporary folder first, so `folder` is whole or absent.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(zip_path) as archive:
            members = _checked_members(zip_path, archive)
            n_bytes = sum(info.file_size for info in members)
            if n_bytes > _MOST_GROWTH * _size(zip_path):
                raise ValueError(
                    f"{zip_path} of {_size(zip_path):,} bytes would unfold to {n_bytes:,}; "
                    "expected photos, which hardly compress. Delete it and check where it came "
                    "from."
                )
            _check_space(folder.parent, folder.name, n_bytes)
            temporary.mkdir()
            for info in progress_bar(members, desc=folder.name, unit="file"):
                target = temporary / PurePosixPath(info.filename).name
                with archive.open(info) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file, _CHUNK_BYTES)
        # Recorded first: if the process dies in between, the zip is simply unpacked again.
        record.update(zip_path.name, n_unpacked=len(members))
        if folder.exists():
            folder.rmdir()  # empty, as checked at the start
        temporary.replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{zip_path} is not a sound zip ({_reason(error)}); delete it and download again."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked_members(zip_path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """List the files to unpack; refuse a zip that reaches outside its folder."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        hidden = "__MACOSX" in path.parts or path.name.startswith(".")
        unsafe = path.is_absolute() or ".." in path.parts or re.search(r"[\\:]", info.filename)
        if unsafe or stat.S_ISLNK(info.external_attr >> 16) or path.name in members:
            raise ValueError(
                f'{zip_path} holds "{printable(info.filename)}"; expected plain files below one '
                "folder, each name once. Delete the zip and check where it came from."
            )
        if not info.is_dir() and not hidden:
            members[path.name] = info
    if not members:
        raise ValueError(f"{zip_path} holds no files; expected photos. Delete it and try again.")
    return list(members.values())


def _check_space_of_all(
    session: requests.Session, root: Path, missing: Mapping[str, tuple[str, str]]
) -> None:
    """Refuse a disk that is too small for all, before hours have passed.

    Silent where the server does not tell sizes; each file is checked again when it comes.

    Args:
        session: to ask with.
        root: the data root.
        missing: file name -> address, and the folder that it unpacks to or "".
    """
    sizes: dict[str, int] = {}
    for name, (url, _) in missing.items():
        try:
            answer = session.head(url, timeout=_TIMEOUT_S, allow_redirects=True)
        except requests.RequestException:
            return  # the transfer will say why
        sizes[name] = int(answer.headers.get("Content-Length", 0)) if answer.ok else 0
    # An archive lies beside its photos, which take as much, until all are unpacked.
    largest = max((size for name, size in sizes.items() if missing[name][1]), default=0)
    n_there = sum(_size(root / f"{name}.part") for name in sizes)
    parts = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in sizes.items() if size)
    _check_space(root, f"Fashionpedia ({parts})", sum(sizes.values()) + largest - n_there)


def _check_space(folder: Path, name: str, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < n_bytes + _SPARE_BYTES:
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free; {name} needs "
            f"{(n_bytes + _SPARE_BYTES) / 1e9:.1f} GB. Free space, or choose another data root."
        )


def _count_entries(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _reason(error: Exception) -> str:
    """First line of an exception's text, cut to stay readable."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
