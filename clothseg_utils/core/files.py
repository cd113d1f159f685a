"""Paths, atomic writes, and hashes of files."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# What a temporary's name ends with, before its suffix: machine, process and a random number.
_TEMPORARY = re.compile(r"\..*-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}(\..*)?", re.DOTALL)
_ABANDONED_SECONDS = 24 * 3600.0  # of another machine, whose processes nobody here can see


def repo_root() -> Path:
    """Folder that holds `notebooks/`, `data/` and `outputs/`, found from the installed package."""
    return Path(__file__).resolve().parent.parent.parent


def resolve_path(path: str | Path) -> Path:
    """Make a path absolute; a relative one means the repository root.

    Raises:
        ValueError: it begins with ~ and a name of which no home folder is known.
    """
    return repo_root() / expand_home(path)


def expand_home(path: str | Path) -> Path:
    """Put a home folder where a path begins with ~ or ~user.

    Raises:
        ValueError: none is known of that name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{path}: no home folder {Path(path).parts[0]} is known; expected a path. Where that "
            "is the name of a folder, write the path from the root on, /."
        ) from None


def portable_path(path: str | Path) -> str:
    """Write a path for a record, which others may see.

    Relative to the repository where it lies inside, with ~ for the home folder, whose name is often
    the user's; else as it is. `resolve_path` reads all three.
    """
    path = Path(path)
    with contextlib.suppress(ValueError, RuntimeError):  # outside, or links that lead in a circle
        inside = path.resolve().relative_to(repo_root()).as_posix()
        if not inside.startswith("~"):  # which would mean a home folder
            return inside
    home = _home()
    if home is not None and path.is_relative_to(home):
        return (Path("~") / path.relative_to(home)).as_posix()
    return path.as_posix()


def portable_text(text: str) -> str:
    """Write a message for a record: the files that it names as `portable_path` does."""
    home = _home()
    for folder, short in ((repo_root(), ""), (home, f"~{os.sep}")):
        if folder is not None:
            text = text.replace(f"{folder}{os.sep}", short)
    return text


def _home() -> Path | None:
    """The user's home folder; None where none is known, or it is the root, as in batch systems."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return None if home == Path(home.anchor) else home


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    The block makes the file; its name keeps the suffix, which image writers need. Nothing is left
    behind when the block raises, and the error of a full disk says which file it met. What a killed
    process left in the folder goes with the next process that writes there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    path = _behind_links(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent)
    # Hidden and unique: two writers of one file never meet, and the last rename wins whole. The
    # writer makes the file: to make it here, empty it and set its mode took twice as long on ext4.
    temporary = path.with_name(f".{path.stem[:40]}-{_token()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # of a read-only disk, which said so already
            temporary.unlink(missing_ok=True)
        _name_target(error, temporary, path)
        raise


def _behind_links(path: Path) -> Path:
    """Where a file is to be written: a link stays, and what is no file is not replaced by one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            path = Path(os.path.realpath(path))  # of a circle too, which the next line names
            mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder is refused when it is met
            raise ValueError(f"{path} is a device or a pipe; expected a file. Name another one.")
    return path


def _name_target(error: BaseException, temporary: Path, path: Path) -> None:
    """Let the error of a disk name what a user knows, not its temporary."""
    if isinstance(error, OSError) and (
        (error.errno in _DISK_ERRORS and error.filename is None)
        or str(error.filename).startswith(str(temporary))
    ):
        error.filename = str(path)


@contextlib.contextmanager
def whole_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `path`; rename it onto `path` if the block succeeds.

    `path` must be missing or empty by then, or with `replace` goes when the new folder is whole; a
    link to a folder is filled, not replaced. Nothing is left behind when the block raises.

    Raises:
        OSError: somebody filled `path` meanwhile; it stays as it is.
    """
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    unfinished, former = (target.with_name(f".{target.name[:40]}-{_token()}") for _ in range(2))
    try:
        unfinished.mkdir()
        yield unfinished
        if replace and target.exists():
            target.rename(former)  # removed step by step, it would be half a folder meanwhile
        elif target.exists():
            target.rmdir()
        unfinished.rename(target)
    except BaseException as error:
        _name_target(error, unfinished, Path(path))
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if former.exists() and not target.exists():
            former.rename(target)
        shutil.rmtree(former, ignore_errors=True)


def check_writable(folder: str | Path) -> None:
    """Make a folder, and find out before long work whether anything can be written into it.

    Raises:
        OSError: nothing can; it names the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        error.filename = str(folder)
        raise


def is_temporary(name: str) -> bool:
    """Whether a file or folder is called as `atomic_path` and `whole_folder` call unfinished ones.

    Example:
        >>> is_temporary(".mask-0123abcd-4711-89ef0123.png"), is_temporary("mask.png")
        (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


def _token() -> str:
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


@functools.cache
def _host() -> str:
    """Of this machine or container, 8 hex digits: a process's number means nothing elsewhere."""
    where = [socket.gethostname()]
    with contextlib.suppress(OSError):  # containers may share the name, and not the numbers
        where.append(os.readlink("/proc/self/ns/pid"))
    return f"{zlib.crc32('-'.join(where).encode()):08x}"


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that live no more left unfinished in a folder, once a process."""
    _remove_abandoned(folder, os.getpid())


@functools.lru_cache(maxsize=1024)  # forked processes look again
def _remove_abandoned(folder: Path, pid: int) -> None:
    del pid
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found is None or not _is_abandoned(found["host"], int(found["pid"]), entry):
                continue
            with contextlib.suppress(OSError):  # somebody else is removing it, too
                shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)


def _is_abandoned(host: str, pid: int, entry: os.DirEntry[str]) -> bool:
    if host == _host() and os.name == "posix":  # on Windows signal 0 would end the process
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # somebody else's
            return False
    with contextlib.suppress(OSError):
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_SECONDS
    return False


def files_below(
    folder: Path, on_error: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """List what lies below a folder and is none itself; links are not followed.

    Args:
        folder: where to begin.
        on_error: is told of folders that cannot be listed, which `Path.rglob` passes over.

    Raises:
        OSError: one cannot be listed, and `on_error` is not given.
    """

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=on_error or fail):
        yield from (Path(place, name) for name in names)
        yield from (path for name in folders if (path := Path(place, name)).is_symlink())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically; a NaN or infinity is refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); restore or delete it.") from None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
