"""What was found out about photos: each is looked at once, and again when it has changed."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from clothseg_utils.core.files import atomic_path
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.workers import usable_cores

_Found = TypeVar("_Found")

_Stamp = tuple[int, int]

_UNREADABLE: _Stamp = 0, 0


def look_once(
    photos: Mapping[str, Path],
    look: Callable[[str], _Found],
    found_type: Any,
    *,
    cache_path: Path | None,
    desc: str,
) -> dict[str, _Found]:
    """Look at every photo that is new or has changed, in threads; recall the others.

    What a photo gave that could not be read, or changed meanwhile, is forgotten when it can be
    read: its disk was away, or its mode another.

    Args:
        photos: name -> file, which may be missing.
        look: finds it out, by name; the decoders release the interpreter lock.
        found_type: what `look` returns, as msgspec reads it back.
        cache_path: JSON file of what was found before, by size and modification time; made if
            missing. None looks at all photos and keeps nothing.
        desc: what the progress bar says.

    Returns:
        name -> what was found, in the order of `photos`.
    """
    stamps = {name: _file_stamp(path) for name, path in photos.items()}
    known = _read_cache(cache_path, found_type) if cache_path else {}
    unknown = [name for name in photos if name not in known or known[name][0] != stamps[name]]
    if unknown:
        with ThreadPoolExecutor(usable_cores()) as pool:
            found = pool.map(look, unknown)
            bar = progress_bar(found, total=len(unknown), desc=desc, unit="photo")
            for name, result in zip(unknown, bar, strict=True):
                is_same = _file_stamp(photos[name]) == stamps[name]
                known[name] = stamps[name] if is_same else _UNREADABLE, result
        if cache_path:
            with atomic_path(cache_path) as temporary:
                temporary.write_bytes(msgspec.json.encode(known))
    return {name: known[name][1] for name in photos}


def _file_stamp(path: Path) -> _Stamp:
    """Size and modification time; zeros for a file that is missing or may not be read."""
    try:
        stat = path.stat()
    except OSError:
        return _UNREADABLE
    return (stat.st_size, stat.st_mtime_ns) if os.access(path, os.R_OK) else _UNREADABLE


def _read_cache(path: Path, found_type: Any) -> dict[str, tuple[_Stamp, Any]]:
    try:
        cached: dict[str, tuple[_Stamp, Any]] = msgspec.json.decode(
            path.read_bytes(), type=dict[str, tuple[_Stamp, found_type]]
        )
    except (OSError, msgspec.DecodeError):
        return {}  # missing, damaged or of another version: the photos are looked at again
    return cached
