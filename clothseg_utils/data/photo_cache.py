"""What was found out about photos: each is looked at once, and again when it has changed."""

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


def look_once(
    photos: Mapping[str, Path],
    look: Callable[[str], _Found],
    found_type: Any,
    *,
    cache_path: Path | None,
    desc: str,
) -> dict[str, _Found]:
    """Look at every photo that is new or has changed, in threads; recall the others.

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
                known[name] = stamps[name], result
        if cache_path:
            with atomic_path(cache_path) as temporary:
                temporary.write_bytes(msgspec.json.encode(known))
    return {name: known[name][1] for name in photos}


def _file_stamp(path: Path) -> _Stamp:
    """Size and modification time; zeros for a missing file."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _read_cache(path: Path, found_type: Any) -> dict[str, tuple[_Stamp, Any]]:
    try:
        cached: dict[str, tuple[_Stamp, Any]] = msgspec.json.decode(
            path.read_bytes(), type=dict[str, tuple[_Stamp, found_type]]
        )
    except (OSError, msgspec.DecodeError):
        return {}  # missing, damaged or of another version: the photos are looked at again
    return cached
