"""Annotation JSON -> checked records, the audit, and tables for exploration; no pixels."""

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_args

import msgspec
import numpy as np
from msgspec import Meta, Struct

from clothseg_utils.photos import check_photo
from clothseg_utils.progress import progress_bar
from clothseg_utils.runs import atomic_path, sha256_file

if TYPE_CHECKING:
    import pandas as pd

Split = Literal["train", "val"]

ProblemKind = Literal[
    "annotation_left_out",
    "area_zero",
    "bbox_differs",
    "same_stem",
    "photo_missing",
    "photo_empty",
    "photo_unreadable",
    "photo_size",
    "mask_missing",
    "mask_unreadable",
    "mask_size",
    "mask_without_photo",
]

# Far outside any photo, and small enough for the mask API, which allocates by edge length.
_MAX_COORDINATE = 100_000.0
_MAX_SIDE_PX = 65_535
_BBOX_TOLERANCE_PX = 2.0

_Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Side = Annotated[int, Meta(ge=1, le=_MAX_SIDE_PX)]
_Coordinate = Annotated[float, Meta(ge=-_MAX_COORDINATE, le=_MAX_COORDINATE)]
_Part = Annotated[list[_Coordinate], Meta(min_length=6)]


# gc=False throughout: the official train file holds 333,401 annotations, none of them in a
# reference cycle, and the garbage collector would walk all of them again and again.
class Category(Struct, frozen=True, gc=False):
    """One of Fashionpedia's 46 categories; its `id` is a category_id, not a class_id."""

    id: _Id
    name: str
    supercategory: str


class ImageRecord(Struct, frozen=True, gc=False):
    """One image of the JSON.

    Attributes:
        id: image_id.
        file_name: plain file name inside the split's image folder.
        width, height: pixels.
        person_count: number of people, where the file says it.
        license: id of an entry of the file's `licenses`, where it says one.
    """

    id: _Id
    file_name: str
    width: _Side
    height: _Side
    person_count: int | None = None
    license: Any = None  # no reason to refuse a file, whatever stands there


class Rle(Struct, frozen=True, gc=False):
    """Run lengths of a mask in column order, background first.

    Attributes:
        size: (height, width), pixels.
        counts: COCO's compressed string, or the plain list of run lengths.
    """

    size: tuple[int, int]
    counts: str | list[int]


class Annotation(Struct, frozen=True, gc=False):
    """One annotated item.

    Attributes:
        segmentation: polygon parts, each [x0, y0, x1, y1, ...] in pixels, or an Rle.
        area: the JSON's own field, square pixels; it decides the painting order.
        bbox: (x, y, width, height), pixels.
    """

    id: int
    image_id: int
    category_id: int
    segmentation: list[list[float]] | Rle
    area: float
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class PackedAnnotation(Struct, gc=False):
    """An annotation whose segmentation is still JSON, a view into the file's own bytes.

    Decoded coordinates take ten times the file's size in memory; only one image's are needed at
    a time. Pickles well, so worker processes do the decoding.

    Attributes:
        segmentation: JSON of the segmentation, already checked.
        n_parts: polygon parts; 0 for RLE.
    """

    id: _Id
    image_id: _Id
    category_id: _Id
    segmentation: msgspec.Raw
    area: float
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    n_parts: int = 0

    def unpack(self) -> Annotation:
        """Decode the segmentation."""
        return Annotation(
            self.id,
            self.image_id,
            self.category_id,
            _decode_segmentation(self.segmentation),
            self.area,
            self.bbox,
            self.iscrowd,
        )


class Problem(Struct, frozen=True, gc=False):
    """One finding: of what kind, about which annotation or file, and what is wrong."""

    kind: ProblemKind
    subject: str
    detail: str


class _Info(Struct):
    description: str = ""


class _AnnotationFile(Struct, kw_only=True):
    info: _Info | None = None
    licenses: Any = None
    categories: list[Category]
    images: list[ImageRecord]
    annotations: list[PackedAnnotation]


class _RawRecords(Struct):
    """The same file without its types, to find the id of a malformed record."""

    categories: list[msgspec.Raw] = []
    images: list[msgspec.Raw] = []
    annotations: list[msgspec.Raw] = []


_decode_file = msgspec.json.Decoder(_AnnotationFile).decode
_decode_segmentation = msgspec.json.Decoder(list[list[float]] | Rle).decode
_decode_sound_segmentation = msgspec.json.Decoder(
    Annotated[list[_Part], Meta(min_length=1)] | Rle
).decode


class _Annotations(Sequence[Annotation]):
    """Packed annotations that look like a tuple of decoded ones."""

    def __init__(self, packed: Sequence[PackedAnnotation]) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Annotations(self._packed[index])
        return self._packed[index].unpack()

    def __iter__(self) -> Iterator[Annotation]:
        return (packed.unpack() for packed in self._packed)


@dataclass(frozen=True)
class CocoFile:
    """A checked annotation file.

    Every annotation belongs to an image and a category of the file and can be rasterized; those
    that cannot are in `problems`, not in `annotations`.

    Attributes:
        path: the JSON.
        sha256: of its bytes, hex.
        categories, images: as in the JSON, in its order.
        packed: the annotations, segmentation still undecoded.
        problems: annotations left out, one Problem each.
        description: the JSON's own, "" where it has none.
        license_names: names of the JSON's licences by their id, as text.
    """

    path: Path
    sha256: str
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]
    packed: tuple[PackedAnnotation, ...]
    problems: tuple[Problem, ...]
    description: str
    license_names: Mapping[str, str]
    _packed_of_image: Mapping[int, list[PackedAnnotation]]

    def __repr__(self) -> str:
        return (
            f"CocoFile({self.path.name!r}, {len(self.images)} images, "
            f"{len(self.packed)} annotations)"
        )

    @property
    def is_synthetic(self) -> bool:
        """Whether the photos are drawn; every figure made from them says so."""
        return self.description.startswith("Synthetic")

    def source(self, split: Split, n_images: int) -> str:
        """Say in a few words what a figure was made from: data, split, number of photos."""
        name = "synthetic" if self.is_synthetic else self.path.parent.name
        return f"{name}, {split}, n = {n_images:,} photos"

    @property
    def annotations(self) -> Sequence[Annotation]:
        """All annotations, decoded one by one as they are asked for."""
        return _Annotations(self.packed)

    def annotations_of(self, image_id: int) -> Sequence[Annotation]:
        """Annotations of one image, in the file's order; empty where it has none."""
        return tuple(packed.unpack() for packed in self.packed_of(image_id))

    def packed_of(self, image_id: int) -> Sequence[PackedAnnotation]:
        """As `annotations_of`, undecoded: what is sent to worker processes."""
        return self._packed_of_image.get(image_id, ())


def annotation_path(data_root: str | Path, split: Split) -> Path:
    """Annotation JSON of a split.

    Raises:
        ValueError: unknown split.

    Example:
        >>> annotation_path("data", "val").name
        'instances_attributes_val2020.json'
    """
    _check_split(split)
    return Path(data_root) / f"instances_attributes_{split}2020.json"


def images_dir(data_root: str | Path, split: Split) -> Path:
    """Photo folder of a split; val shares `test` with the unlabelled test photos.

    Raises:
        ValueError: unknown split.
    """
    _check_split(split)
    return Path(data_root) / ("train" if split == "train" else "test")


def _check_split(split: str) -> None:
    if split not in get_args(Split):
        raise ValueError(f'unknown split "{split}"; expected {" or ".join(get_args(Split))}.')


def read_annotations(path: str | Path) -> CocoFile:
    """Read and check an annotation JSON in Fashionpedia's (COCO's) layout.

    What makes the file as a whole untrustworthy is an error. A segmentation that cannot be
    rasterized leaves out its annotation alone, as a Problem. Unknown keys are ignored.

    Args:
        path: the JSON; needs `categories`, `images` and `annotations`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON; a missing key or malformed record; duplicate ids; an image_id or
            category_id that does not exist; an unsafe file_name; an RLE of another size than its
            image.
    """
    path = Path(path)
    _check_exists(path)
    data = path.read_bytes()
    try:
        file = _decode_file(data)
    except msgspec.ValidationError as error:
        _raise_malformed(path, data, str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); expected an annotation file. Fetch it again."
        ) from None
    for name in ("categories", "images", "annotations"):
        _check_unique_ids(path, name, getattr(file, name))
    for image in file.images:
        _check_file_name(path, image)
    packed, problems = _check_annotations(path, file)
    packed_of_image: dict[int, list[PackedAnnotation]] = {}
    for annotation in packed:
        packed_of_image.setdefault(annotation.image_id, []).append(annotation)
    return CocoFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        categories=tuple(file.categories),
        images=tuple(file.images),
        packed=tuple(packed),
        problems=tuple(problems),
        description=file.info.description if file.info else "",
        license_names=_license_names(file.licenses),
        _packed_of_image=packed_of_image,
    )


def annotations_sha256(path: str | Path) -> str:
    """SHA-256 of an annotation JSON, hex, as in `CocoFile`; without parsing it.

    Raises:
        FileNotFoundError: no such file.
    """
    _check_exists(Path(path))
    return sha256_file(path)


def _check_exists(path: Path) -> None:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.glob("*.json"))
        raise FileNotFoundError(
            f"{path} is a folder; expected an annotation file. Name "
            + (f"one of those in it, such as {path / inside[0]}." if inside else "the JSON itself.")
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"annotation file {path} not found; expected Fashionpedia's JSON. Check the path, or "
            "run `download` or `synthesize`."
        )


def _raise_malformed(path: Path, data: bytes, message: str) -> NoReturn:
    """Turn the decoder's message into ours, which names the record by its id."""
    what, _, where = message.partition(" - at `$")
    found = re.match(r"\.(\w+)\[(\d+)\]", where)
    if found is None:
        raise ValueError(
            f"{path} is no annotation file ({what}{f' in {where[1:-1]}' if where else ''}); "
            "expected an object with categories, images and annotations. Fetch it again."
        )
    key, index = found[1], int(found[2])
    raw = getattr(msgspec.json.decode(data, type=_RawRecords), key)[index]
    record = msgspec.json.decode(raw)
    record_id = record.get("id", "unknown") if isinstance(record, dict) else "unknown"
    field = where[found.end() : -1].lstrip(".")
    raise ValueError(
        f"{path}: {key}[{index}] with id {record_id} is malformed"
        f"{f' at {field}' if field else ''}: {what}. Correct the record, or fetch the file again."
    )


def _license_names(licenses: Any) -> dict[str, str]:
    entries = licenses if isinstance(licenses, list) else []
    return {
        str(entry.get("id")): entry["name"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    }


def _check_unique_ids(path: Path, name: str, records: Sequence[Any]) -> None:
    if len({record.id for record in records}) < len(records):
        repeated = next(i for i, n in Counter(r.id for r in records).items() if n > 1)
        raise ValueError(
            f"{path}: id {repeated} occurs more than once in {name}; expected unique ids. "
            "Correct the file, or fetch it again."
        )


def _check_file_name(path: Path, image: ImageRecord) -> None:
    # A name that leads out of the folder would read, and for its mask write, anywhere.
    name = image.file_name
    if not name or name.startswith(".") or any(mark in name for mark in ("/", "\\", "\0")):
        raise ValueError(
            f"{path}: image {image.id} has the file_name {name!r}; expected a plain file name, "
            "no folders and no leading dot. Put the photos into one folder and correct the file."
        )


def _check_annotations(
    path: Path, file: _AnnotationFile
) -> tuple[list[PackedAnnotation], list[Problem]]:
    """Split annotations into sound ones and problems; raise on what cannot be left out."""
    image_of_id = {image.id: image for image in file.images}
    category_ids = {category.id for category in file.categories}
    sound, problems = [], []
    for annotation in file.annotations:
        image = image_of_id.get(annotation.image_id)
        if image is None or annotation.category_id not in category_ids:
            name = "image_id" if image is None else "category_id"
            raise ValueError(
                f"{path}: annotation {annotation.id} has the {name} "
                f"{getattr(annotation, name)}, which is not in the file; expected one of "
                f"{'images' if image is None else 'categories'}. Correct the file, or fetch it "
                "again."
            )
        fault = _check_segmentation(path, annotation, image)
        if fault is None:
            sound.append(annotation)
        else:
            subject = f"annotation {annotation.id} of {image.file_name}"
            problems.append(Problem("annotation_left_out", subject, fault))
    return sound, problems


def _check_segmentation(path: Path, packed: PackedAnnotation, image: ImageRecord) -> str | None:
    """Set `n_parts`; return what keeps the annotation from being rasterized, or None."""
    is_sound = True
    try:
        segmentation = _decode_sound_segmentation(packed.segmentation)
    except msgspec.ValidationError:
        is_sound = False
        try:
            segmentation = _decode_segmentation(packed.segmentation)
        except msgspec.ValidationError as error:
            if "out of range" in str(error):
                return "a number is too large to be finite"
            what, _, where = str(error).partition(" - at `$")
            raise ValueError(
                f"{path}: annotation {packed.id} has a malformed segmentation"
                f"{f' at {where[:-1]}' if where else ''}: {what}. Expected polygons or RLE; "
                "correct the record, or fetch the file again."
            ) from None
    if isinstance(segmentation, Rle):
        packed.n_parts = 0
        if segmentation.size != (image.height, image.width):
            raise ValueError(
                f"{path}: annotation {packed.id} has an RLE of height x width "
                f"{segmentation.size[0]} x {segmentation.size[1]}; expected {image.height} x "
                f"{image.width}, the size of image {image.id}. Correct the file, or fetch it again."
            )
        return segmentation_fault(segmentation)
    packed.n_parts = len(segmentation)
    # The decoder has checked sound ones already, all but this; it is ten times as fast.
    if is_sound and not any(len(part) % 2 for part in segmentation):
        return None
    return segmentation_fault(segmentation)


def segmentation_fault(segmentation: list[list[float]] | Rle) -> str | None:
    """Say what keeps a segmentation from being rasterized; None where nothing does.

    Example:
        >>> segmentation_fault([[0, 0, 4, 4]])
        'polygon part 0 has 4 coordinates; expected an even number of at least 6'
        >>> segmentation_fault([[0, 0, 4, 0, 4, 4]]) is None
        True
    """
    if isinstance(segmentation, Rle):
        try:
            rle_to_counts(segmentation)
        except ValueError as error:
            return str(error)
        return None
    if not segmentation:
        return "the segmentation has no polygon part"
    for index, part in enumerate(segmentation):
        if len(part) < 6 or len(part) % 2:
            return (
                f"polygon part {index} has {len(part)} coordinates; expected an even number of "
                "at least 6"
            )
        # sum() is not finite if one coordinate is not, which min() and max() may miss for NaN.
        if not (math.isfinite(sum(part)) and max(map(abs, part)) <= _MAX_COORDINATE):
            return (
                f"polygon part {index} has a coordinate that is not finite or beyond "
                f"{_MAX_COORDINATE:.0f} px"
            )
    return None


def rle_to_counts(rle: Rle) -> np.ndarray:
    """Run lengths of an RLE: background, foreground, background, ... in column order.

    Returns:
        (R,) int64, >= 0, adding up to height * width.

    Raises:
        ValueError: not COCO's code, or the runs do not fill the image exactly.

    Source: COCO mask API, rleFrString: 6 bits a character from "0" on, 5 of them value and one
    "more follows", low bits first, two's complement; from the fourth on, the difference to the
    run before last.

    Example:
        >>> rle_to_counts(Rle(size=(2, 3), counts="123")).tolist()
        [1, 2, 3]
    """
    if isinstance(rle.counts, str):
        (counts,) = compressed_to_counts([rle.counts.encode()])
    else:
        try:
            counts = np.array(rle.counts, dtype=np.int64)
        except OverflowError:
            raise ValueError("an RLE count is too large") from None
    n_pixels = rle.size[0] * rle.size[1]
    # The bounds before the sum: huge counts would wrap round.
    if counts.size and (counts.min() < 0 or counts.max() > n_pixels):
        raise ValueError(f"an RLE count is not in 0..{n_pixels}")
    if counts.sum() != n_pixels:
        raise ValueError(
            f"the RLE counts add up to {counts.sum()} pixels; expected {rle.size[0]} x "
            f"{rle.size[1]} = {n_pixels}"
        )
    return counts


def compressed_to_counts(codes: Sequence[bytes]) -> list[np.ndarray]:
    """Decode COCO's compressed run lengths, of several masks at once; see `rle_to_counts`.

    Arrays of a few hundred numbers cost NumPy more to begin than to work through: all masks of an
    image in one go take a fraction of the time.

    Args:
        codes: one string for each mask.

    Returns:
        (R,) int64 for each mask; whether they fit an image is for the caller to check.

    Raises:
        ValueError: characters outside the code, a number cut short or too large, in any of them.
    """
    symbols = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - 48
    code_ends = np.cumsum([len(code) for code in codes])
    if symbols.size == 0:
        return [symbols for _ in codes]
    is_last = (symbols & 32) == 0
    if symbols.min() < 0 or symbols.max() > 63 or not is_last[code_ends[code_ends > 0] - 1].all():
        raise ValueError("the RLE counts are not COCO's compressed string")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits; the mask API holds 32
        raise ValueError("an RLE count is too large")
    shifts = 5 * (np.arange(symbols.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((symbols & 31) << shifts, starts)
    numbers -= ((symbols[ends] & 16) >> 4) << (5 * lengths)  # sign
    counts_of_code = []
    n_before = 0
    for n_until in np.searchsorted(ends, code_ends).tolist():
        counts = numbers[n_before:n_until]
        counts[1::2] = np.cumsum(counts[1::2])
        counts[2::2] = np.cumsum(counts[2::2])
        counts_of_code.append(counts)
        n_before = n_until
    return counts_of_code


def colliding_images(coco: CocoFile) -> dict[str, str]:
    """Images whose mask would be another one's: two file names with one stem.

    Returns:
        file_name -> reason; empty for a sound file.
    """
    stems = Counter(PurePath(image.file_name).stem for image in coco.images)
    return {
        image.file_name: f"{stems[PurePath(image.file_name).stem]} images share the stem "
        f'"{PurePath(image.file_name).stem}", and with it one mask file'
        for image in coco.images
        if stems[PurePath(image.file_name).stem] > 1
    }


class Audit(Struct, frozen=True):
    """What is in a dataset and what is wrong with it; JSON-able.

    Attributes:
        annotations_file: name of the JSON.
        sha256: of the JSON, hex.
        n_images: images listed, those left out included.
        n_annotations: annotations used; `n_polygon` + `n_rle`.
        n_annotations_left_out: annotations that cannot be rasterized.
        n_images_without_annotations: all background; not a fault.
        photos_checked, masks_checked: whether the files were looked at.
        problems: every finding, in the JSON's order within each kind of check.
        counts: findings of each kind that occurs.
        excluded: file_name -> reason, for every image left out.
        licenses: name -> images listed under it, most first; those without one are not counted.
    """

    annotations_file: str
    sha256: str
    n_images: int
    n_annotations: int
    n_polygon: int
    n_rle: int
    n_annotations_left_out: int
    n_images_without_annotations: int
    photos_checked: bool
    masks_checked: bool
    problems: list[Problem]
    counts: dict[ProblemKind, int]
    excluded: dict[str, str]
    licenses: dict[str, int]

    def summary(self) -> str:
        """A few lines for a terminal: totals, what is left out, and each kind of finding."""
        lines = [
            f"{self.annotations_file}: {self.n_images:,} images "
            f"({self.n_images_without_annotations:,} without annotations), "
            f"{self.n_annotations:,} annotations ({self.n_polygon:,} polygon, {self.n_rle:,} RLE)",
            f"left out: {len(self.excluded):,} images, {self.n_annotations_left_out:,} annotations",
        ]
        for kind, count in self.counts.items():
            subjects = [problem.subject for problem in self.problems if problem.kind == kind]
            more = f", and {count - 3:,} more" if count > 3 else ""
            lines.append(f"  {kind} {count:,}: {', '.join(subjects[:3])}{more}")
        return "\n".join(lines)


def audit(
    coco: CocoFile,
    *,
    image_dir: str | Path | None = None,
    mask_dir: str | Path | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Audit:
    """Find what would be paired wrongly or could not be read, and name it.

    Photos and masks are decoded in full, since a truncated file shows only then. An image
    without annotations is not a fault, nor is a photo that the JSON does not list.

    Args:
        coco: the annotation file.
        image_dir: folder of the photos; None leaves photos unchecked.
        mask_dir: folder of the masks, `<stem>.png`; None leaves masks unchecked.
        workers: threads that decode; 0 means one per CPU.
        progress: show a bar, or lines where nobody watches.

    Raises:
        FileNotFoundError: `image_dir` or `mask_dir` is not a folder, or `image_dir` holds none of
            the photos.
    """
    collisions = colliding_images(coco)
    problems = list(coco.problems)
    problems += _annotation_problems(coco)
    problems += [Problem("same_stem", name, reason) for name, reason in collisions.items()]
    excluded = dict(collisions)
    lost_photos: set[str] = set()
    if image_dir is not None:
        folder = _check_folder(image_dir, "photo")
        for image, problem in _check_files(coco.images, folder, "photo", workers, progress):
            problems.append(problem)
            excluded.setdefault(image.file_name, problem.detail)
            if problem.kind == "photo_missing":
                lost_photos.add(f"{PurePath(image.file_name).stem}.png")
        n_lost = sum(problem.kind == "photo_missing" for problem in problems)
        if coco.images and n_lost == len(coco.images):
            raise FileNotFoundError(
                f"{folder} holds none of the photos that {coco.path.name} names ({n_lost}); "
                "expected the folder of these photos. Check its path."
            )
    if mask_dir is not None:
        folder = _check_folder(mask_dir, "mask")
        for image, problem in _check_files(coco.images, folder, "mask", workers, progress):
            problems.append(problem)
            excluded.setdefault(image.file_name, problem.detail)
        problems += _masks_without_photo(coco, folder, lost_photos)
    annotated = {annotation.image_id for annotation in coco.packed}
    names = [coco.license_names.get(str(image.license)) for image in coco.images]
    n_rle = sum(annotation.n_parts == 0 for annotation in coco.packed)
    return Audit(
        annotations_file=coco.path.name,
        sha256=coco.sha256,
        n_images=len(coco.images),
        n_annotations=len(coco.packed),
        n_polygon=len(coco.packed) - n_rle,
        n_rle=n_rle,
        n_annotations_left_out=len(coco.problems),
        n_images_without_annotations=sum(image.id not in annotated for image in coco.images),
        photos_checked=image_dir is not None,
        masks_checked=mask_dir is not None,
        problems=problems,
        counts=dict(Counter(problem.kind for problem in problems)),
        excluded=excluded,
        licenses=dict(Counter(name for name in names if name).most_common()),
    )


def photo_problems(
    images: Sequence[ImageRecord],
    image_dir: str | Path,
    *,
    cache_path: str | Path,
    progress: bool = False,
) -> dict[str, str]:
    """Find the photos that cannot be used: missing, empty, undecodable, or of another size.

    A photo is decoded once and remembered by name, size and modification time.

    Args:
        images: records to check.
        image_dir: folder of the photos.
        cache_path: JSON file of what was found before, for these annotations; made if missing.
        progress: show a bar, or lines where nobody watches.

    Returns:
        file_name -> reason, for the photos to leave out.

    Raises:
        FileNotFoundError: `image_dir` is not a folder.
    """
    folder = _check_folder(image_dir, "photo")
    cache_path = Path(cache_path)
    stamps = {image.file_name: _file_stamp(folder / image.file_name) for image in images}
    known = _read_photo_cache(cache_path)
    unknown = [
        image
        for image in images
        if image.file_name not in known or known[image.file_name][0] != stamps[image.file_name]
    ]
    if unknown:
        found = {
            image.file_name: problem.detail
            for image, problem in _check_files(unknown, folder, "photo", 0, progress)
        }
        for image in unknown:
            known[image.file_name] = (stamps[image.file_name], found.get(image.file_name, ""))
        with atomic_path(cache_path) as temporary:
            temporary.write_bytes(msgspec.json.encode(known))
    return {name: known[name][1] for name in stamps if known[name][1]}


def _file_stamp(path: Path) -> tuple[int, int]:
    """Size and modification time; zeros for a missing file."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _read_photo_cache(path: Path) -> dict[str, tuple[tuple[int, int], str]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[tuple[int, int], str]])
    except (OSError, msgspec.DecodeError):
        return {}  # missing or damaged: the photos are decoded again


def write_audit(path: str | Path, audit: Audit) -> None:
    """Write an audit as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(audit)) + b"\n")


def _annotation_problems(coco: CocoFile) -> Iterator[Problem]:
    """Oddities that leave an annotation in: it is still rasterized, by the rule."""
    file_name_of_id = {image.id: image.file_name for image in coco.images}
    for annotation in coco.annotations:
        subject = f"annotation {annotation.id} of {file_name_of_id[annotation.image_id]}"
        if annotation.area <= 0:
            detail = f"area {annotation.area:g}; painted last, on top"
            yield Problem("area_zero", subject, detail)
        box = _segmentation_to_box(annotation.segmentation)
        x, y, width, height = annotation.bbox
        differences = [abs(a - b) for a, b in zip(box, (x, y, x + width, y + height), strict=True)]
        if max(differences) > _BBOX_TOLERANCE_PX:
            yield Problem(
                "bbox_differs",
                subject,
                f"bbox {list(annotation.bbox)} is up to {max(differences):.0f} px off the "
                "segmentation, which decides",
            )


def _segmentation_to_box(
    segmentation: list[list[float]] | Rle,
) -> tuple[float, float, float, float]:
    """Tight box (left, top, right, bottom) of a segmentation, pixels; zeros where it is empty."""
    if isinstance(segmentation, Rle):
        height = segmentation.size[0]
        counts = rle_to_counts(segmentation)
        edges = np.cumsum(counts)
        starts, stops = edges[0 : 2 * (len(counts) // 2) : 2], edges[1::2]
        starts, stops = starts[starts < stops], stops[starts < stops]
        if starts.size == 0:
            return 0.0, 0.0, 0.0, 0.0
        left, right = starts[0] // height, (stops[-1] - 1) // height + 1
        # A run into the next column covers the lowest row of one and the first row of the other.
        wraps = starts // height < (stops - 1) // height
        top = 0 if wraps.any() else (starts % height).min()
        bottom = height if wraps.any() else ((stops - 1) % height).max() + 1
        return float(left), float(top), float(right), float(bottom)
    xs = [x for part in segmentation for x in part[0::2]]
    ys = [y for part in segmentation for y in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _check_folder(folder: str | Path, what: str) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{what} folder {folder} not found; expected a folder of {what}s.")
    return folder


def _check_files(
    images: Sequence[ImageRecord],
    folder: Path,
    what: Literal["photo", "mask"],
    workers: int,
    progress: bool,
) -> Iterator[tuple[ImageRecord, Problem]]:
    """Check every image's photo or mask; yield those with a problem, in the JSON's order."""

    def check(image: ImageRecord) -> Problem | None:
        name = image.file_name if what == "photo" else f"{PurePath(image.file_name).stem}.png"
        return _file_problem(folder / name, image, what)

    # Threads: the decoders release the interpreter lock.
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found = progress_bar(
            pool.map(check, images),
            total=len(images),
            desc=f"checking {what}s",
            unit=what,
            disable=not progress,
        )
        for image, problem in zip(images, found, strict=True):
            if problem is not None:
                yield image, problem


def _file_problem(path: Path, image: ImageRecord, what: Literal["photo", "mask"]) -> Problem | None:
    missing, unreadable, other_size = f"{what}_missing", f"{what}_unreadable", f"{what}_size"
    if not path.is_file():
        return Problem(missing, path.name, f"no such file for image {image.id}")
    if path.stat().st_size == 0:
        empty = "photo_empty" if what == "photo" else unreadable
        return Problem(empty, path.name, "the file has 0 bytes")
    try:
        height, width = check_photo(path)
    except (OSError, ValueError) as error:
        return Problem(unreadable, path.name, str(error).replace(str(path), path.name))
    if (height, width) != (image.height, image.width):
        return Problem(
            other_size,
            path.name,
            f"the file is {width} x {height} px (width x height); the JSON says {image.width} x "
            f"{image.height}",
        )
    return None


def _masks_without_photo(coco: CocoFile, folder: Path, lost_photos: set[str]) -> Iterator[Problem]:
    expected = {f"{PurePath(image.file_name).stem}.png" for image in coco.images}
    for name in sorted(path.name for path in folder.glob("*.png")):
        if name not in expected:
            yield Problem("mask_without_photo", name, "no image of the JSON has this stem")
        elif name in lost_photos:
            yield Problem("mask_without_photo", name, "the photo that it belongs to is missing")


def annotation_table(coco: CocoFile) -> "pd.DataFrame":
    """Annotations as a table, one row each, in the JSON's order.

    Returns:
        columns annotation_id, image_id, category_id, category, supercategory, area_px (the
        JSON's area), kind ("polygon" or "rle"), n_parts (0 for RLE), bbox_width_px,
        bbox_height_px.
    """
    import pandas as pd

    category_of_id = {category.id: category for category in coco.categories}
    return pd.DataFrame(
        {
            "annotation_id": np.array([a.id for a in coco.packed], dtype=np.int64),
            "image_id": np.array([a.image_id for a in coco.packed], dtype=np.int64),
            "category_id": np.array([a.category_id for a in coco.packed], dtype=np.int64),
            "category": [category_of_id[a.category_id].name for a in coco.packed],
            "supercategory": [category_of_id[a.category_id].supercategory for a in coco.packed],
            "area_px": np.array([a.area for a in coco.packed], dtype=np.float64),
            "kind": ["polygon" if a.n_parts else "rle" for a in coco.packed],
            "n_parts": np.array([a.n_parts for a in coco.packed], dtype=np.int64),
            "bbox_width_px": np.array([a.bbox[2] for a in coco.packed], dtype=np.float64),
            "bbox_height_px": np.array([a.bbox[3] for a in coco.packed], dtype=np.float64),
        }
    )


def image_table(coco: CocoFile) -> "pd.DataFrame":
    """Images as a table, one row each, in the JSON's order.

    Returns:
        columns image_id, file_name, width_px, height_px, n_annotations.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "image_id": np.array([image.id for image in coco.images], dtype=np.int64),
            "file_name": [image.file_name for image in coco.images],
            "width_px": np.array([image.width for image in coco.images], dtype=np.int64),
            "height_px": np.array([image.height for image in coco.images], dtype=np.int64),
            "n_annotations": np.array(
                [len(coco.packed_of(image.id)) for image in coco.images], dtype=np.int64
            ),
        }
    )


def supercategory_cooccurrence(coco: CocoFile) -> "pd.DataFrame":
    """Number of images that hold both supercategories; the diagonal counts images with one.

    Returns:
        square and symmetric, int64; rows and columns are the supercategories in the order in
        which the JSON's categories name them.
    """
    import pandas as pd

    names = list(dict.fromkeys(category.supercategory for category in coco.categories))
    column = {name: index for index, name in enumerate(names)}
    column_of_category = {c.id: column[c.supercategory] for c in coco.categories}
    row_of_image = {image.id: index for index, image in enumerate(coco.images)}
    present = np.zeros((len(coco.images), len(names)), dtype=np.int64)
    for annotation in coco.packed:
        present[row_of_image[annotation.image_id], column_of_category[annotation.category_id]] = 1
    return pd.DataFrame(present.T @ present, index=names, columns=names)
