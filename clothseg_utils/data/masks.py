"""Masks of whole splits, in parallel; the only reader and writer of mask PNGs."""

import contextlib
import re
import struct
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Literal, TypeVar

import cv2
import msgspec
import numpy as np
from filelock import FileLock
from msgspec import Struct
from zlib_ng import zlib_ng

from clothseg_utils.core.classes import IGNORE_INDEX, ClassTable, Scheme, class_table
from clothseg_utils.core.files import atomic_path, is_temporary, write_bytes
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.workers import usable_cores, worker_pool
from clothseg_utils.data.coco import (
    CocoFile,
    ImageRecord,
    PackedAnnotation,
    colliding_images,
    read_annotations,
    say_problems,
)
from clothseg_utils.data.coverage import check_coverage
from clothseg_utils.data.rasterize import layer_hidden_pixels, rasterize

RULE_VERSION = 2
"""Raised when the same JSON gives other masks: painting rule, class order or file format."""

INDEX_NAME = "index.json"

_PNG_LEVEL = 1  # higher ones save bytes, but take twice as long to read, and that every epoch
_CHUNK_IMAGES = 16
_MIN_IMAGES_PER_WORKER = 100  # below this a process costs more to start than it saves
_INDEX_WRITE_SECONDS = 2.0
_LOCK_NAME = ".lock"

_Result = TypeVar("_Result")


def read_mask(path: str | Path, num_classes: int) -> np.ndarray:
    """Read a mask PNG and check its class ids.

    Args:
        path: single-channel 8-bit PNG.
        num_classes: C, background counted.

    Returns:
        mask, (H, W) uint8, class ids 0..C-1 or 255 (ignored).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a single-channel 8-bit image, truncated, or other class ids.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"mask {path} not found; rerun notebook 02.")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    mask = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        got = "no readable image" if mask is None else f"shape {mask.shape}, {mask.dtype}"
        raise ValueError(
            f"mask {path} is {got}; expected a single-channel 8-bit PNG. Delete it and "
            "rerun notebook 02."
        )
    unknown = cv2.inRange(mask, num_classes, IGNORE_INDEX - 1)
    if unknown.any():
        class_ids = np.unique(mask[unknown > 0]).tolist()
        raise ValueError(
            f"mask {path} has class ids {class_ids}; expected 0..{num_classes - 1} or "
            f"{IGNORE_INDEX}. Delete it and rerun notebook 02."
        )
    return mask


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write a mask, (H, W) uint8 class ids, as a single-channel PNG, atomically."""
    write_bytes(path, encode_mask(mask))


def encode_mask(mask: np.ndarray, software: bytes = b"") -> bytes:
    """PNG of a mask, (H, W) uint8; three times as fast as OpenCV's, whose zlib takes the time.

    Args:
        mask: class ids.
        software: what made it, for the PNG's text of that name; empty leaves it out.
    """
    height, width = mask.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: 0, none
    rows[:, 1:] = mask
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits of grey
    text = {b"tEXt": b"Software\0" + software} if software else {}
    pixels = zlib_ng.compress(rows, _PNG_LEVEL)
    chunks = {b"IHDR": header, **text, b"IDAT": pixels, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib_ng.crc32(name + data))
        for name, data in chunks.items()
    )


def _count_pixels(mask: np.ndarray, painted: set[int], num_classes: int) -> list[int]:
    """Pixels of each class id, num_classes numbers; the rest of the mask is background.

    A comparison for each of the few classes painted is several times as fast as a histogram.
    """
    counts = [0] * num_classes
    for class_id in painted:
        counts[class_id] = int(np.count_nonzero(mask == class_id))
    counts[0] = mask.size - sum(counts[1:])
    return counts


class MaskEntry(Struct, frozen=True, gc=False):
    """One mask of an index.

    Attributes:
        image_id, file_name: the image, as in the annotation JSON.
        mask: file name of the PNG.
        height, width: pixels.
        n_bytes: size of the PNG, by which a truncated one is found; 0 means not made yet.
        class_pixels: pixels of each class, C numbers.
    """

    image_id: int
    file_name: str
    mask: str
    height: int
    width: int
    n_bytes: int = 0
    class_pixels: tuple[int, ...] = ()


class _IndexFile(Struct, frozen=True, kw_only=True):
    """What index.json holds; `entries` are the first images of the JSON, in its order."""

    state: Literal["partial", "complete"]
    annotations_file: str
    sha256: str
    scheme: Scheme
    class_names: tuple[str, ...]
    rule_version: int
    n_images: int
    entries: tuple[MaskEntry, ...]

    def is_of(self, other: "_IndexFile") -> bool:
        """Whether both describe masks of the same JSON, made by the same rule."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("sha256", "scheme", "class_names", "rule_version")
        )


class MaskIndex(Struct, frozen=True, kw_only=True, dict=True):
    """The masks of a split.

    Attributes:
        mask_dir: folder of the PNGs.
        sha256: of the annotation JSON, hex.
        class_names: index = class id.
        entries: one per image asked for, in the JSON's order.
    """

    mask_dir: Path
    sha256: str
    scheme: Scheme
    class_names: tuple[str, ...]
    entries: tuple[MaskEntry, ...]

    @property
    def path(self) -> Path:
        """The index file."""
        return self.mask_dir / INDEX_NAME

    @cached_property
    def class_pixels(self) -> np.ndarray:
        """Pixels of each class over all entries, (C,) int64."""
        total = np.zeros(len(self.class_names), np.int64)
        for entry in self.entries:
            total += entry.class_pixels
        return total

    def coverage(self, images: Iterable[ImageRecord] | None = None) -> list[tuple[int, int]]:
        """Pixels of all classes but background, and all pixels, of each image; None means all."""
        entries = self.entries if images is None else [self._entry_of_image[i.id] for i in images]
        return [(sum(entry.class_pixels[1:]), sum(entry.class_pixels)) for entry in entries]

    @cached_property
    def _entry_of_image(self) -> dict[int, MaskEntry]:
        return {entry.image_id: entry for entry in self.entries}

    def mask_path(self, image_id: int) -> Path:
        """Mask file of an image.

        Raises:
            ValueError: the index has no such image.
        """
        entry = self._entry_of_image.get(image_id)
        if entry is None:
            raise ValueError(
                f"image {image_id} has no mask in {self.path}; expected one of its "
                f"{len(self.entries)} images. Rerun notebook 02 without image_limit."
            )
        return self.mask_dir / entry.mask


def select_images(coco: CocoFile, image_limit: int) -> tuple[ImageRecord, ...]:
    """Choose the first images of a file, by its own order; a limit of 0 means all.

    Images whose masks would collide (`coco.colliding_images`) are left out; the audit names them.
    """
    colliding = colliding_images(coco)
    images = tuple(image for image in coco.images if image.file_name not in colliding)
    return images[:image_limit] if image_limit else images


def make_masks(
    coco: CocoFile,
    scheme: Scheme,
    derived_root: str | Path,
    *,
    workers: int = 0,
    image_limit: int = 0,
) -> MaskIndex:
    """Make a split's masks below `derived_root`, only what is missing, truncated or stale.

    Args:
        coco: the split's annotation file; its `derived_dir` takes the masks.
        scheme: what a class is.
        derived_root: folder of everything derived, such as data/derived.
        workers: processes; 0 means one per core, 1 works in this process.
        image_limit: first images of the JSON to make; 0 means all.

    Raises:
        ValueError: as for `rasterize_split`.
    """
    mask_dir = coco.derived_dir(derived_root) / scheme / "masks"
    ready = _read_ready_index(mask_dir, coco.sha256, scheme, image_limit)
    index = ready or _rasterize_file(coco, mask_dir, scheme, workers, image_limit)
    check_coverage(index.coverage(), str(coco.path))
    return index


def rasterize_split(
    annotations_path: str | Path,
    out_dir: str | Path,
    scheme: Scheme,
    *,
    workers: int = 0,
    image_limit: int = 0,
) -> MaskIndex:
    """Rasterize a whole annotation file into `out_dir`; photos are not needed.

    Leaves `<stem>.png` (single channel, pixel value = class id) and `index.json`, nothing else.
    A rerun makes only what is missing, truncated or of another JSON, scheme or rule; so does one
    after an interruption. Processes that share `out_dir` take turns.

    Args:
        annotations_path: the annotation JSON; image sizes come from it.
        out_dir: made if missing; must be empty or hold masks made by this function.
        scheme: what a class is.
        workers: processes; 0 means one per core, 1 works in this process. A script needs
            the usual `if __name__ == "__main__"` for more than one.
        image_limit: first images of the JSON to make; 0 means all.

    Returns:
        the index of the images asked for.

    Raises:
        FileNotFoundError: no annotation JSON.
        ValueError: a file that `read_annotations` or `class_table` refuses; an `out_dir` that
            holds somebody else's files; masks that are all background, or nearly: none is left.
    """
    coco = read_annotations(annotations_path)
    say_problems(coco)
    index = _rasterize_file(coco, Path(out_dir), scheme, workers, image_limit)
    try:
        check_coverage(index.coverage(), str(coco.path))
    except ValueError:
        _remove_masks(index.mask_dir)
        raise
    return index


def _remove_masks(mask_dir: Path) -> None:
    """Take back what was made, so that nobody takes it for masks."""
    with _folder_lock(mask_dir):
        index = _read_index(mask_dir)
        for entry in index.entries if index is not None else ():
            (mask_dir / entry.mask).unlink(missing_ok=True)
        (mask_dir / INDEX_NAME).unlink(missing_ok=True)
    mask_dir.rmdir()


def _rasterize_file(
    coco: CocoFile, out_dir: Path, scheme: Scheme, workers: int, image_limit: int
) -> MaskIndex:
    classes = class_table(scheme, coco.categories)
    images = select_images(coco, image_limit)
    _check_out_dir(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    with _folder_lock(out_dir):
        _remove_temporaries(out_dir)
        planned = _plan_index(coco, classes, out_dir, len(images))
        missing = [entry for entry in planned.entries[: len(images)] if not entry.n_bytes]
        finished = _make_missing(coco, classes, out_dir, planned, missing, workers)
    return _to_mask_index(finished, out_dir, len(images))


def count_hidden_pixels(
    coco: CocoFile, classes: ClassTable, masks: MaskIndex, *, workers: int = 0
) -> np.ndarray:
    """Count the pixels that each class loses because another class is painted over it.

    Args:
        coco: the annotation file that `masks` were made from.
        classes: its class table.
        masks: index of the images to count.
        workers: processes; 0 means one per core, 1 works in this process.

    Returns:
        (C,) int64, as `layer_hidden_pixels` counts them, over all images.
    """
    hidden = np.zeros(classes.num_classes, np.int64)
    with (
        progress_bar(total=len(masks.entries), desc="hidden pixels", unit="image") as bar,
        contextlib.closing(
            _map_chunks(_hidden_chunk, coco, classes, masks.entries, workers)
        ) as done,
    ):
        for n_images, pixels in done:
            hidden += pixels
            bar.update(n_images)
    return hidden


def _mask_name(image: ImageRecord) -> str:
    return f"{PurePath(image.file_name).stem}.png"


def _read_index(out_dir: Path) -> _IndexFile | None:
    """Read a folder's index; None where it has none, ValueError where index.json is not ours."""
    path = out_dir / INDEX_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=_IndexFile)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError(
            f"{path} is not an index of masks; expected one written here. Choose another folder, "
            "or delete this one."
        ) from None


def _write_index(out_dir: Path, index: _IndexFile) -> None:
    with atomic_path(out_dir / INDEX_NAME) as temporary:
        temporary.write_bytes(msgspec.json.encode(index))


def _read_ready_index(
    mask_dir: Path, sha256: str, scheme: Scheme, image_limit: int
) -> MaskIndex | None:
    """The index, if every mask asked for is there and whole; else None."""
    try:
        index = _read_index(mask_dir)
    except ValueError:
        return None
    if index is None:
        return None
    n_wanted = min(image_limit or index.n_images, index.n_images)
    entries = index.entries[:n_wanted]
    is_current = (index.sha256, index.scheme, index.rule_version) == (sha256, scheme, RULE_VERSION)
    is_complete = len(entries) == n_wanted and all(_is_whole(mask_dir, entry) for entry in entries)
    return _to_mask_index(index, mask_dir, n_wanted) if is_current and is_complete else None


def _to_mask_index(index: _IndexFile, mask_dir: Path, n_images: int) -> MaskIndex:
    return MaskIndex(
        mask_dir=mask_dir,
        sha256=index.sha256,
        scheme=index.scheme,
        class_names=index.class_names,
        entries=index.entries[:n_images],
    )


def _is_whole(mask_dir: Path, entry: MaskEntry) -> bool:
    try:
        return entry.n_bytes > 0 and (mask_dir / entry.mask).stat().st_size == entry.n_bytes
    except OSError:
        return False


def _check_out_dir(out_dir: Path) -> None:
    """Refuse a folder with somebody else's files before anything is written."""
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"{out_dir} is a file; expected a folder. Choose another one.")
    if not out_dir.is_dir() or _read_index(out_dir) is not None:
        return
    foreign = sorted(path.name for path in out_dir.iterdir() if not _is_own_leftover(path.name))
    if foreign:
        raise ValueError(
            f"{out_dir} holds other files, such as {foreign[0]}, and no {INDEX_NAME}; expected an "
            "empty folder or one made by `rasterize`. Choose another one."
        )


def _is_own_leftover(name: str) -> bool:
    return name == _LOCK_NAME or is_temporary(name)


def _remove_temporaries(out_dir: Path) -> None:
    """Remove what a killed process left; only the holder of the lock writes here."""
    for path in out_dir.iterdir():
        if is_temporary(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for one process; the lock file goes with the lock."""
    path = folder / _LOCK_NAME
    with FileLock(path):
        try:
            yield
        finally:
            # Safe while we hold it: a waiting FileLock that gets a removed file tries again.
            with contextlib.suppress(PermissionError):  # Windows; there FileLock removes it
                path.unlink(missing_ok=True)


def _plan_index(coco: CocoFile, classes: ClassTable, out_dir: Path, n_wanted: int) -> _IndexFile:
    """Lay out the index, with what is already there; remove masks that are stale.

    Entries beyond `n_wanted` are kept: a smaller image_limit undoes no earlier work.
    """
    images = select_images(coco, 0)
    blank = _IndexFile(
        state="partial",
        annotations_file=coco.path.name,
        sha256=coco.sha256,
        scheme=classes.scheme,
        class_names=classes.names,
        rule_version=RULE_VERSION,
        n_images=len(images),
        entries=(),
    )
    old = _read_index(out_dir) or blank
    is_current = old.is_of(blank)
    made = {e.mask: e for e in old.entries if is_current and _is_whole(out_dir, e)}
    for entry in old.entries:
        # The name comes from a file on disk; only ever delete inside the folder.
        if not is_current and re.fullmatch(r"[^/\\]+\.png", entry.mask):
            (out_dir / entry.mask).unlink(missing_ok=True)
    n_planned = max(n_wanted, len(old.entries)) if is_current else n_wanted
    entries = tuple(
        made.get(_mask_name(image))
        or MaskEntry(image.id, image.file_name, _mask_name(image), image.height, image.width)
        for image in images[:n_planned]
    )
    return msgspec.structs.replace(blank, entries=entries)


def _make_missing(
    coco: CocoFile,
    classes: ClassTable,
    out_dir: Path,
    planned: _IndexFile,
    missing: Sequence[MaskEntry],
    workers: int,
) -> _IndexFile:
    """Make the missing masks; write the index before, now and then, and after, come what may."""
    made: dict[str, MaskEntry] = {}

    def current_index() -> _IndexFile:
        entries = tuple(made.get(entry.mask, entry) for entry in planned.entries)
        state = "complete" if all(entry.n_bytes for entry in entries) else "partial"
        return msgspec.structs.replace(planned, entries=entries, state=state)

    if not missing:
        finished = current_index()
        if finished != _read_index(out_dir):
            _write_index(out_dir, finished)
        return finished
    _write_index(out_dir, current_index())
    last_write = time.monotonic()
    make_chunk = partial(_rasterize_chunk, out_dir=out_dir)
    try:
        with (
            progress_bar(total=len(missing), desc="rasterizing", unit="image") as bar,
            # Closed at once when interrupted: the pool must drop what it has not begun.
            contextlib.closing(_map_chunks(make_chunk, coco, classes, missing, workers)) as done,
        ):
            for entries in done:
                made.update((entry.mask, entry) for entry in entries)
                bar.update(len(entries))
                if time.monotonic() - last_write > _INDEX_WRITE_SECONDS:
                    _write_index(out_dir, current_index())
                    last_write = time.monotonic()
    finally:
        _write_index(out_dir, current_index())
    return current_index()


@dataclass(frozen=True)
class _Chunk:
    """Work for one call in a worker process; picklable."""

    images: Sequence[tuple[MaskEntry, Sequence[PackedAnnotation]]]
    class_of_category: dict[int, int]
    num_classes: int


def _map_chunks(
    work: Callable[[_Chunk], _Result],
    coco: CocoFile,
    classes: ClassTable,
    entries: Sequence[MaskEntry],
    workers: int,
) -> Generator[_Result, None, None]:
    """Do the work on all images, in processes; yield what each chunk gave as it gets done."""
    chunks = [
        _Chunk(
            [(e, coco.packed_of(e.image_id)) for e in entries[start : start + _CHUNK_IMAGES]],
            dict(classes.class_of_category),
            classes.num_classes,
        )
        for start in range(0, len(entries), _CHUNK_IMAGES)
    ]
    n_workers = min(workers or usable_cores(), len(entries) // _MIN_IMAGES_PER_WORKER)
    if n_workers <= 1:
        yield from map(work, chunks)
        return
    with worker_pool(n_workers) as pool:
        for future in as_completed([pool.submit(work, chunk) for chunk in chunks]):
            yield future.result()


def _rasterize_chunk(chunk: _Chunk, out_dir: Path) -> list[MaskEntry]:
    finished = []
    for entry, packed in chunk.images:
        annotations = [annotation.unpack() for annotation in packed]
        mask = rasterize(annotations, chunk.class_of_category, entry.height, entry.width)
        path = out_dir / entry.mask
        write_mask(path, mask)
        painted = {chunk.class_of_category[annotation.category_id] for annotation in annotations}
        class_pixels = _count_pixels(mask, painted, chunk.num_classes)
        finished.append(
            msgspec.structs.replace(
                entry, n_bytes=path.stat().st_size, class_pixels=tuple(class_pixels)
            )
        )
    return finished


def _hidden_chunk(chunk: _Chunk) -> tuple[int, np.ndarray]:
    """Number of images, and the pixels that each class loses in them."""
    hidden = np.zeros(chunk.num_classes, np.int64)
    for entry, packed in chunk.images:
        annotations = [annotation.unpack() for annotation in packed]
        size = entry.height, entry.width
        hidden += layer_hidden_pixels(
            annotations, chunk.class_of_category, *size, chunk.num_classes
        )
    return len(chunk.images), hidden
