"""Paths, atomic writes, and hashes of files."""

import contextlib
import errno
import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def repo_root() -> Path:
    """Folder that holds `notebooks/`, `data/` and `outputs/`, found from the installed package."""
    return Path(__file__).resolve().parent.parent.parent


def resolve_path(path: str | Path) -> Path:
    """Make a path absolute; a relative one means the repository root."""
    return repo_root() / Path(path).expanduser()


def portable_path(path: str | Path) -> str:
    """Write a path for a record: relative to the repository where it lies inside, else as it is."""
    path = Path(path)
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(repo_root()).as_posix()
    return path.as_posix()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    The block makes the file; its name keeps the suffix, which image writers need. Nothing is left
    behind when the block raises, and the error of a full disk says which file it met.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden and unique: two writers of one file never meet, and the last rename wins whole. The
    # writer makes the file: to make it here, empty it and set its mode took twice as long on ext4.
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS and error.filename is None:
            error.filename = str(path)
        raise


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; rename it onto `path` if the block succeeds.

    `path` must be missing or empty by then; a link to a folder is filled, not replaced. Nothing is
    left behind when the block raises.

    Raises:
        OSError: somebody filled `path` meanwhile; it stays as it is.
    """
    target = Path(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        unfinished = Path(scratch) / target.name
        unfinished.mkdir()  # the scratch folder itself is for its owner only
        yield unfinished
        if target.exists():
            target.rmdir()
        unfinished.rename(target)


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
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore or delete it.") from None


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
