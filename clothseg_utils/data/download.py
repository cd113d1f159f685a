"""Fetch Fashionpedia: download with resume, check, and unpack into the layout of a data root."""

import re
import shutil
import stat
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import requests

from clothseg_utils.core.files import read_json, sha256_file, write_json
from clothseg_utils.core.progress import progress_bar

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
_TIMEOUT_S = (10.0, 60.0)  # to connect, and between two pieces of the body
_RETRY_WAITS_S = (1.0, 3.0, 9.0)
_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 1 << 28  # left free on the disk

# What a second try may cure. Everything else (404, a bad address) fails at once.
_PASSING_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


@dataclass(frozen=True)
class Fetched:
    """One file of the dataset: `name`, `url`, `size` in bytes, `sha256` in hex, `was_there`."""

    name: str
    url: str
    size: int
    sha256: str
    was_there: bool


def download(data_root: str | Path, *, base_url: str = OFFICIAL) -> list[Fetched]:
    """Fetch both annotation files and both photo archives, and unpack the archives.

    May be called again at any time: what is there stays, and a broken transfer goes on where it
    stopped. `download.json` in `data_root` records address, size and SHA-256 of each file. An
    archive is deleted once its photos are in place.

    Args:
        data_root: folder to fill; made if missing.
        base_url: address above `images/` and `annotations/`.

    Returns:
        One entry a file, in the order of fetching.

    Raises:
        FileNotFoundError: the server does not have a file.
        ConnectionError: the server cannot be reached, or keeps breaking off.
        OSError: the disk is too full.
        ValueError: a bad or unsafe archive, a photo folder of other origin, or a bad address.
    """
    root = Path(data_root)
    names = [PurePosixPath(address).name for address in _FILES]
    record = _Record(root)
    for name, folder in zip(names, _FILES.values(), strict=True):
        if folder:
            record.check_folder(name, folder)  # for all, before the first byte is fetched
    root.mkdir(parents=True, exist_ok=True)
    results = []
    with requests.Session() as session:
        # Compressed transfer would make Content-Length and ranges count other bytes.
        session.headers["Accept-Encoding"] = "identity"
        for (address, folder), name in zip(_FILES.items(), names, strict=True):
            url = f"{base_url.rstrip('/')}/{address}"
            was_there = record.is_complete(name, folder)
            if not was_there:
                _fetch(session, url, root / name, record)
            if folder and not record.is_unpacked(name, folder):
                _unpack(root / name, root / folder, record)
            if folder:
                (root / name).unlink(missing_ok=True)
            entry = record[name]
            results.append(
                Fetched(name, entry["url"], entry["size"], entry["sha256"], was_there=was_there)
            )
    return results


class _Record:
    """`download.json`: file name -> url, size, sha256 ("" while under way), n_unpacked."""

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
        return bool(self[name].get("sha256")) and (fetched or self.is_unpacked(name, folder))

    def check_folder(self, name: str, folder: str) -> None:
        """Refuse photos that an unpacked archive would be mixed with."""
        n_entries = _count_entries(self._root / folder)
        if n_entries and not self.is_unpacked(name, folder):
            raise ValueError(
                f"{self._root / folder} holds {n_entries} files; expected none, or the "
                f"{self[name].get('n_unpacked', 0)} that {RECORD_NAME} records. "
                "Move the folder away, or choose another data root."
            )


def _fetch(session: requests.Session, url: str, path: Path, record: _Record) -> None:
    part_path = path.with_name(f"{path.name}.part")
    for wait_s in (*_RETRY_WAITS_S, None):
        try:
            _transfer(session, url, part_path, path.name, record)
            break
        except _PASSING_ERRORS as error:
            if wait_s is None:
                raise ConnectionError(
                    f"{url} failed {len(_RETRY_WAITS_S) + 1} times ({_reason(error)}); expected "
                    "the whole file. Check the network and run the download again: it goes on "
                    "where it stopped."
                ) from None
            time.sleep(wait_s)
        except requests.RequestException as error:
            raise ValueError(
                f"{url} cannot be fetched ({_reason(error)}); expected an http(s) address. "
                "Check the base URL."
            ) from None
    digest = sha256_file(part_path)
    record.update(path.name, url=url, size=part_path.stat().st_size, sha256=digest)
    part_path.replace(path)


def _transfer(
    session: requests.Session, url: str, part_path: Path, name: str, record: _Record
) -> None:
    """Fill `part_path`, from its end on if it is a piece of the file that the server has now."""
    url_before, size_before = record[name].get("url"), record[name].get("size", 0)
    offset = part_path.stat().st_size if part_path.exists() and url_before == url else 0
    if offset and offset == size_before:
        return  # killed between the last byte and the rename
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        rest = f"bytes {offset}-{size_before - 1}/{size_before}"
        content_range = response.headers.get("Content-Range", "")
        if response.status_code == 416 or (response.status_code == 206 and content_range != rest):
            part_path.unlink(missing_ok=True)  # a piece of another version of the file
            raise requests.ConnectionError("the file changed on the server")
        if response.status_code in (403, 404):  # the store answers 403 for what it does not have
            raise FileNotFoundError(
                f"{url} answered {response.status_code}; expected the file. Check the base URL."
            )
        if response.status_code not in (200, 206):
            raise requests.ConnectionError(f"the server answered {response.status_code}")
        if response.status_code == 200:
            offset = 0
        length = response.headers.get("Content-Length")
        size = offset + int(length) if length is not None else 0
        _check_space(part_path.parent, name, size - offset)
        record.update(name, url=url, size=size, sha256="")
        with (
            part_path.open("ab" if offset else "wb") as file,
            progress_bar(
                desc=name,
                initial=offset,
                total=size or None,
                unit="byte",
                unit_scale=True,
                leave=True,
            ) as bar,
        ):
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    n_bytes = part_path.stat().st_size
    if size and n_bytes != size:
        raise requests.ConnectionError(f"{n_bytes} of {size} bytes arrived")


def _unpack(zip_path: Path, folder: Path, record: _Record) -> None:
    """Unpack the files of a zip into `folder`, flat: the JSON names photos without a folder.

    They go to a temporary folder first, so `folder` is whole or absent.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(zip_path) as archive:
            members = _checked_members(zip_path, archive)
            _check_space(folder.parent, folder.name, sum(info.file_size for info in members))
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
                f'{zip_path} holds "{info.filename}"; expected plain files below one folder, each '
                "name once. Delete the zip and check where it came from."
            )
        if not info.is_dir() and not hidden:
            members[path.name] = info
    if not members:
        raise ValueError(f"{zip_path} holds no files; expected photos. Delete it and try again.")
    return list(members.values())


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
