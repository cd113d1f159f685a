"""Annotation JSON -> checked records; no pixels."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import Meta, Struct

from clothseg_utils.data.records import (
    Annotation,
    Category,
    ImageRecord,
    PackedAnnotation,
    Problem,
    ProblemKind,
    decode_segmentation,
)
from clothseg_utils.data.rle import MAX_COORDINATE, Rle, segmentation_fault

__all__ = [
    "Annotation",
    "Category",
    "CocoFile",
    "ImageRecord",
    "Info",
    "PackedAnnotation",
    "Problem",
    "ProblemKind",
    "Source",
    "Split",
    "annotation_path",
    "colliding_images",
    "decode_segmentation",
    "images_dir",
    "read_annotations",
]

Split = Literal["train", "val", "test"]

_Coordinate = Annotated[float, Meta(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
_Part = Annotated[list[_Coordinate], Meta(min_length=6)]


class Info(Struct):
    """The JSON's `info`, as far as it is used."""

    description: str = ""


class _AnnotationFile(Struct, kw_only=True):
    info: Info | None = None
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
_SoundSegmentation = Annotated[list[_Part], Meta(min_length=1)] | Rle
_decode_sound_segmentation = msgspec.json.Decoder(_SoundSegmentation).decode


@dataclass(frozen=True)
class Source:
    """What a figure was made from, in a few words: `str` gives data, split, number of photos."""

    dataset: str
    split: Split
    n_images: int

    @property
    def without_number(self) -> str:
        """Data and split only."""
        return f"{self.dataset}, {self.split}"

    def __str__(self) -> str:
        return f"{self.without_number}, n = {self.n_images:,} photos"


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
        problems: what was left out and what was read from another type or form.
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

    def without_annotations(self) -> "CocoFile":
        """The same file without its annotations, which take nearly all of its memory."""
        return replace(self, packed=(), _packed_of_image={})

    def derived_dir(self, derived_root: str | Path) -> Path:
        """Folder of what is made from this file: named after the data root and the file's hash.

        What was made from another file is never mistaken for it.
        """
        return Path(derived_root) / f"{self.path.parent.resolve().name}-{self.sha256[:8]}"

    def source(self, split: Split, n_images: int) -> Source:
        """What a figure of so many photos of this file is made from."""
        name = "synthetic" if self.is_synthetic else self.path.parent.name
        return Source(name, split, n_images)

    @property
    def short_names(self) -> dict[int, str]:
        """Category ids to their names up to the first comma: "shirt" for "shirt, blouse"."""
        return {category.id: category.name.split(",")[0] for category in self.categories}

    @property
    def annotations(self) -> Sequence[Annotation]:
        """All annotations, decoded: in memory ten times the file's size."""
        return tuple(packed.unpack() for packed in self.packed)

    def annotations_of(self, image_id: int) -> Sequence[Annotation]:
        """Annotations of one image, in the file's order; empty where it has none."""
        return tuple(packed.unpack() for packed in self.packed_of(image_id))

    def packed_of(self, image_id: int) -> Sequence[PackedAnnotation]:
        """As `annotations_of`, undecoded: what is sent to worker processes."""
        return self._packed_of_image.get(image_id, ())


def annotation_path(data_root: str | Path, split: Split) -> Path:
    """Annotation JSON of a split.

    Example:
        >>> annotation_path("data", "val").name
        'instances_attributes_val2020.json'
    """
    return Path(data_root) / f"instances_attributes_{split}2020.json"


def images_dir(data_root: str | Path, split: Split) -> Path:
    """Photo folder of a split; val shares `test` with the unlabelled test photos."""
    return Path(data_root) / ("train" if split == "train" else "test")


PhotoSize = Callable[[ImageRecord], tuple[int, int] | None]
"""(width, height) of an image's photo in pixels, or None where it cannot be told."""


def read_annotations(
    path: str | Path,
    *,
    strict: bool = False,
    plain_names: bool = True,
    photo_size: PhotoSize | None = None,
) -> CocoFile:
    """Read and check an annotation JSON in COCO's layout, Fashionpedia's or another tool's.

    Values of another type or form are read where their meaning is certain. A record that cannot be
    used leaves itself out. Both are in `CocoFile.problems`. Unknown keys are ignored.

    Args:
        path: the JSON, which may be gzipped; needs `categories`, `images` and `annotations`.
        strict: the first record that cannot be used is an error.
        plain_names: leave out images whose file_name is not a plain name inside one folder; else
            folders, upload paths and URLs are for the caller to match.
        photo_size: asked for images whose width or height the file does not say (both are 0 in
            the record that it is given); without it, or where it gives None, they are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON or not COCO's layout; more than a tenth of the images or of the
            annotations cannot be used; annotations, but not one mask among them.
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
    return {
        str(entry.get("id")): entry["name"]
        for entry in (licenses if isinstance(licenses, list) else [])
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
            segmentation = decode_segmentation(packed.segmentation)
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


def colliding_images(coco: CocoFile) -> dict[str, str]:
    """Images whose mask would be another one's: two file names with one stem.

    Returns:
        file_name -> reason; empty for a sound file.
    """
    stem_of = {image.file_name: PurePath(image.file_name).stem for image in coco.images}
    counts = Counter(PurePath(image.file_name).stem for image in coco.images)
    return {
        name: f'{counts[stem]} images share the stem "{stem}", and with it one mask file'
        for name, stem in stem_of.items()
        if counts[stem] > 1
    }
