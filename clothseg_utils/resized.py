"""Copies of photos and masks at a smaller size, made once and kept on disk for training."""

from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
from msgspec import Struct

from clothseg_utils.core.files import atomic_path

COPY_VERSION = 1
"""Raised when the same photo gives another copy: resampling, quality or file format."""

_JPEG_QUALITY = 95


class _Copy(Struct, array_like=True):
    """What a copy's file holds.

    Attributes:
        key: what it was made from, and how.
        photo: JPEG.
        class_ids: of the mask's runs, row after row, uint8.
        run_lengths: of the same runs, int32. They decode several times as fast as a PNG.
    """

    key: str
    photo: bytes
    class_ids: bytes
    run_lengths: bytes


class ResizedCopies:
    """A folder of copies, one file for each photo and its mask.

    A copy is made when it is first asked for, and again when the photo, the mask, the size or
    `COPY_VERSION` changed; a file that is not whole counts as missing. Worker processes may ask
    for the same copy at once: each file is written whole under another name and renamed.

    Args:
        folder: made if missing.
        longest_side: of the copies, pixels; smaller photos are not enlarged.
    """

    def __init__(self, folder: Path, longest_side: int) -> None:
        self.folder = folder
        self.longest_side = longest_side

    def read_pair(
        self,
        photo_path: Path,
        mask_path: Path,
        read_native: Callable[[], tuple[np.ndarray, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a photo and its mask from their copy; make the copy if need be.

        Args:
            photo_path: the photo.
            mask_path: its mask; the copy is named after it.
            read_native: reads both as they are, checked; called only to make the copy.

        Returns:
            image (h, w, 3) uint8 RGB and mask (h, w) uint8 class ids, the longer side at most
            `longest_side`.

        Raises:
            FileNotFoundError: photo or mask is missing.
            ValueError: as `read_native`.
        """
        path = self.folder / f"{mask_path.stem}.copy"
        key = self._key(photo_path, mask_path)
        pair = _read_copy(path, key)
        if pair is None:
            copy = _make_copy(key, *read_native(), self.longest_side)
            with atomic_path(path) as temporary:
                temporary.write_bytes(msgspec.msgpack.encode(copy))
            # Decoded from the copy, the first epoch sees what all later ones will.
            pair = _decode_copy(copy)
        return pair

    def _key(self, photo_path: Path, mask_path: Path) -> str:
        stats = [path.stat() for path in (photo_path, mask_path)]
        files = [f"{stat.st_size}-{stat.st_mtime_ns}" for stat in stats]
        return f"{COPY_VERSION} {self.longest_side} {photo_path.name} {' '.join(files)}"


def _read_copy(path: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The pair, or None if there is no whole copy made from the files as they are now."""
    try:
        copy = msgspec.msgpack.decode(path.read_bytes(), type=_Copy)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return _decode_copy(copy) if copy.key == key else None


def _decode_copy(copy: _Copy) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.imdecode(np.frombuffer(copy.photo, np.uint8), cv2.IMREAD_COLOR_RGB)
    class_ids = np.frombuffer(copy.class_ids, np.uint8)
    run_lengths = np.frombuffer(copy.run_lengths, np.int32)
    return image, np.repeat(class_ids, run_lengths).reshape(image.shape[:2])


def _make_copy(key: str, image: np.ndarray, mask: np.ndarray, longest_side: int) -> _Copy:
    height, width = mask.shape
    scale = min(1.0, longest_side / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    parameters = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
    _, photo = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] ^ 1))
    run_lengths = np.diff(starts, append=flat.size).astype(np.int32)
    return _Copy(key, photo.tobytes(), flat[starts].tobytes(), run_lengths.tobytes())
