"""The records of an annotation file, and what was found wrong with them; no pixels."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from clothseg_utils.core.classes import plain_name
from clothseg_utils.core.text import count_text, first_names, printable
from clothseg_utils.data.rle import Segmentation

ProblemKind = Literal[
    "annotation_left_out",
    "image_left_out",
    "mask_left_out",
    "category_left_out",
    "part_left_out",
    "without_mask",
    "healed",
    "area_zero",
    "area_differs",
    "bbox_differs",
    "dress_below_top",
    "same_stem",
    "photo_missing",
    "photo_empty",
    "photo_unreadable",
    "photo_size",
    "near_equal",
]

MAX_ID = 2**63 - 1
Id = Annotated[int, Meta(ge=0, le=MAX_ID)]
MAX_SIDE = 65_535
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]  # pixels
MAX_NAME = 240
"""Bytes of a photo's name: file systems take 255, and masks and copies have longer suffixes."""

decode_segmentation = msgspec.json.Decoder(Segmentation).decode


class _NamedImage(Struct):
    file_name: Any = None


class _NamedImages(Struct):
    images: list[_NamedImage]


_decode_named_images = msgspec.json.Decoder(_NamedImages).decode


def file_names(data: bytes) -> list[str]:
    """Names of the images in an annotation JSON, and nothing else of it.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it has no list of images.
    """
    named = _decode_named_images(data).images
    return [image.file_name for image in named if isinstance(image.file_name, str)]


# gc=False throughout: the official train file holds 333,401 annotations, none of them in a
# reference cycle, and the garbage collector would walk all of them again and again.
class Category(Struct, frozen=True, gc=False):
    """One category, on Fashionpedia one of 46; its `id` is a category_id, not a class_id.

    Attributes:
        supercategory: "" where the file has none.
    """

    id: Id
    name: str
    supercategory: str = ""

    def printable(self) -> "Category":
        """The same with names that can be printed, drawn and read out everywhere."""
        names = plain_name(self.name), plain_name(self.supercategory)
        shown = printable(names[0]), printable(names[1])
        return self if names == shown else Category(self.id, *shown)


class ImageRecord(Struct, frozen=True, gc=False):
    """One image of the JSON.

    Attributes:
        id: image_id.
        file_name: plain file name inside the split's image folder.
        width, height: pixels.
        person_count: number of people, where the file says it.
        license: id of an entry of the file's `licenses`, where it says one.
    """

    id: Id
    file_name: str
    width: Side
    height: Side
    person_count: int | None = None
    license: Any = None  # no reason to refuse a file, whatever stands there


class Annotation(Struct, frozen=True, gc=False):
    """One annotated item.

    Attributes:
        area: the JSON's own field, square pixels; it decides the painting order.
        bbox: (x, y, width, height), pixels.
    """

    id: int
    image_id: int
    category_id: int
    segmentation: Segmentation
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

    id: Id
    image_id: Id
    category_id: Id
    segmentation: msgspec.Raw
    area: float
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    n_parts: int = 0

    def unpack(self) -> Annotation:
        """Decode the segmentation."""
        segmentation = decode_segmentation(self.segmentation)
        ids = self.id, self.image_id, self.category_id
        return Annotation(*ids, segmentation, self.area, self.bbox, self.iscrowd)


_NULL = msgspec.Raw(b"null")


class LooseAnnotation(Struct, gc=False):
    """An annotation of any types."""

    id: msgspec.Raw = _NULL
    image_id: msgspec.Raw = _NULL
    category_id: msgspec.Raw = _NULL
    segmentation: msgspec.Raw = _NULL
    area: msgspec.Raw = _NULL
    bbox: msgspec.Raw = _NULL
    iscrowd: msgspec.Raw = msgspec.Raw(b"0")
    keypoints: msgspec.Raw = _NULL


decode_loose = msgspec.json.Decoder(LooseAnnotation).decode


def loosen(packed: PackedAnnotation) -> LooseAnnotation:
    """The same annotation with all its values as JSON."""

    def encode(value: object) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode(value))

    return LooseAnnotation(
        id=encode(packed.id),
        image_id=encode(packed.image_id),
        category_id=encode(packed.category_id),
        segmentation=packed.segmentation,
        area=encode(packed.area),
        bbox=encode(packed.bbox),
        iscrowd=encode(packed.iscrowd),
    )


class Problem(Struct, frozen=True, gc=False):
    """One finding: of what kind, about which annotation or file, and what is wrong.

    Attributes:
        subject: the record; the first one where `count` is above 1.
        detail: what is wrong, "what: with which values".
        count: records that it was found in; findings that may be as many as the records
            ("healed", "without_mask", "part_left_out") are counted, one Problem for each `reason`.
    """

    kind: ProblemKind
    subject: str
    detail: str
    count: int = 1

    @property
    def reason(self) -> str:
        """The detail without the values of this very record."""
        return self.detail.partition(": ")[0]

    @property
    def example(self) -> str:
        """The record with its values."""
        values = self.detail.partition(": ")[2]
        return f"{self.subject}: {values}" if values else self.subject


_WORDS: dict[ProblemKind, tuple[str, str]] = {
    "category_left_out": ("category left out", "categories left out"),
    "image_left_out": ("photo left out", "photos left out"),
    "annotation_left_out": ("annotation left out", "annotations left out"),
    "without_mask": ("annotation without a mask", "annotations without a mask"),
    "part_left_out": ("part of an annotation left out", "parts of annotations left out"),
    "healed": ("value read from another form", "values read from another form"),
}


def problems_text(problems: Iterable[Problem]) -> str:
    """One line of what a reader left out or read from another form; empty where it is nothing.

    Example:
        >>> problems_text([Problem("without_mask", "annotation 1", "a box only", 20)])
        '20 annotations without a mask (a box only)'
    """
    problems = list(problems)
    counts = count_kinds(problems)
    told = []
    for kind, words in _WORDS.items():
        if kind in counts:
            reasons = dict.fromkeys(p.reason for p in problems if p.kind == kind)
            told.append(f"{count_text(counts[kind], *words)} ({first_names(list(reasons))})")
    return ", ".join(told)


def count_kinds(problems: Iterable[Problem]) -> dict[ProblemKind, int]:
    """Number of records of each kind of finding that occurs, in the order of the first ones."""
    counts: dict[ProblemKind, int] = {}
    for problem in problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + problem.count
    return counts
