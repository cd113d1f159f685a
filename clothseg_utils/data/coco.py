"""Annotation JSON -> checked records; no pixels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

import msgspec
from msgspec import Struct

from clothseg_utils.core.ranks import rank
from clothseg_utils.data.formats import Format, recognise
from clothseg_utils.data.json_bytes import (
    check_keys_once,
    read_json_bytes,
    relax_json,
    value_of,
)
from clothseg_utils.data.records import (
    Annotation,
    Category,
    ImageRecord,
    PackedAnnotation,
    Problem,
    ProblemKind,
    decode_segmentation,
    problems_text,
)
from clothseg_utils.data.tolerant import PhotoSize, RecordReader

__all__ = [
    "Annotation",
    "Category",
    "CocoFile",
    "ImageRecord",
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
    "say_problems",
]

Split = Literal["train", "val", "test"]


class _TypedFile(Struct):
    """A file whose every record has the right types: read several times as fast."""

    categories: list[Category]
    images: list[ImageRecord]
    annotations: list[PackedAnnotation]
    info: msgspec.Raw = msgspec.Raw(b"null")
    licenses: msgspec.Raw = msgspec.Raw(b"null")


class _RawFile(Struct):
    """A file whose records are looked at one by one."""

    categories: list[msgspec.Raw]
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    info: msgspec.Raw = msgspec.Raw(b"null")
    licenses: msgspec.Raw = msgspec.Raw(b"null")


_SHORTEST_MASK = 10  # bytes of JSON

_decode_typed = msgspec.json.Decoder(_TypedFile).decode
_decode_raw = msgspec.json.Decoder(_RawFile).decode


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
        damaged: ids of images that lost an annotation: what is missing there is no background.
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
    damaged: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return (
            f"CocoFile({self.path.name!r}, {len(self.images)} images, "
            f"{len(self.packed)} annotations)"
        )

    @property
    def problems_line(self) -> str:
        """What was left out, or read from another form, on one line; empty where nothing was."""
        told = problems_text(self.problems)
        return f"{self.path.name}: {told}; `audit` names each" if told else ""

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
    """Photo folder of a split; those of val and test lie in `test`, by Fashionpedia's way."""
    return Path(data_root) / ("train" if split == "train" else "test")


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
            Asked too where run lengths have another size than the file says: those of the photo's,
            as it is seen or as it is stored, are kept as they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON or not COCO's layout; more than a tenth of the images or of the
            annotations cannot be used; annotations, but not one mask among them.
    """
    path = Path(path)
    _check_exists(path)
    data, sha256 = read_json_bytes(path)
    file = _decode(path, data)
    reader = RecordReader(path, strict=strict, plain_names=plain_names, photo_size=photo_size)
    categories = reader.categories(file.categories)
    images = reader.images(file.images)
    packed = reader.annotations(file.annotations)
    packed_of_image: dict[int, list[PackedAnnotation]] = {}
    for annotation in packed:
        packed_of_image.setdefault(annotation.image_id, []).append(annotation)
    info = value_of(file.info)
    description = info.get("description") if isinstance(info, dict) else None
    return CocoFile(
        path=path,
        sha256=sha256,
        categories=categories,
        images=images,
        packed=packed,
        problems=reader.problems,
        description=description if isinstance(description, str) else "",
        license_names=_license_names(value_of(file.licenses)),
        _packed_of_image=packed_of_image,
        damaged=frozenset(reader.damaged),
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


def _decode(path: Path, data: bytes) -> _TypedFile | _RawFile:
    """Take the file apart, typed where it can be; ValueError where it is none of ours."""
    file: _TypedFile | _RawFile
    try:
        file = typed = _decode_typed(data)
        # Only the raw records tell key points from boxes.
        if any(len(a.segmentation) < _SHORTEST_MASK for a in typed.annotations):
            file = _decode_raw(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            file = _decode_raw(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            file = _decode_relaxed(path, data)
    # Of a key that occurs twice the last one counts, and what stood in the first is lost.
    if data.count(b'"segmentation"') > len(file.annotations):
        check_keys_once(path, data)
    found = recognise(data) if not isinstance(file, _TypedFile) else None
    if found is not None:
        raise _not_coco(path, found)
    return file


def _decode_relaxed(path: Path, data: bytes) -> _RawFile:
    if not data.strip():
        raise ValueError(f"{path} is empty; expected an annotation file. Fetch it again.")
    try:
        return _decode_raw(relax_json(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = recognise(data)
        if found is not None:
            raise _not_coco(path, found) from None
        if isinstance(error, msgspec.ValidationError):
            what, _, where = str(error).partition(" - at `$")
            raise ValueError(
                f"{path} is no COCO annotation file ({what}"
                f"{f' in {where[1:-1]}' if where else ''}); expected an object with lists of "
                "categories, images and annotations. Export it as COCO, or fetch it again."
            ) from None
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(
            f"{path} is not JSON ({reason}); expected an annotation file in COCO's layout. Fetch "
            "or export it again."
        ) from None


def _not_coco(path: Path, found: Format) -> ValueError:
    return ValueError(
        f"{path} is not a COCO annotation file but looks like {found.name}. To get one: "
        f"{found.way}."
    )


def _license_names(licenses: Any) -> dict[str, str]:
    return {
        str(entry.get("id")): entry["name"]
        for entry in (licenses if isinstance(licenses, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    }


def say_problems(coco: CocoFile) -> None:
    """Print what was left out of a file that is about to be used, if anything was."""
    if coco.problems_line and rank() == 0:
        print(coco.problems_line, flush=True)


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
