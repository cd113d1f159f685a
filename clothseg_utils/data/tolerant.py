"""Annotation JSON record by record: what is certain is read, what is not leaves itself out."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar

import msgspec
from msgspec import Meta

from clothseg_utils.core.text import first_names
from clothseg_utils.data.json_bytes import as_float, as_int, shown, value_of
from clothseg_utils.data.records import (
    MAX_ID,
    MAX_NAME,
    MAX_SIDE,
    Category,
    ImageRecord,
    LooseAnnotation,
    PackedAnnotation,
    Problem,
    ProblemKind,
    decode_loose,
    decode_segmentation,
    loosen,
)
from clothseg_utils.data.rle import MAX_COORDINATE, Rle, segmentation_fault
from clothseg_utils.data.segmentations import (
    UNKNOWN_BOX,
    Box,
    WithoutMaskError,
    is_same_box,
    measure,
    read_segmentation,
)
from clothseg_utils.data.shares import lie_in_shares, shares_to_pixels

PhotoSize = Callable[[ImageRecord], tuple[int, int, bool] | None]
"""(width, height) of an image's photo in pixels as it is seen, and whether EXIF turns it on its
side; None where it cannot be told."""

_Key = int | str  # an id as the file has it, "7" and 7.0 being 7
_Record = TypeVar("_Record", Category, ImageRecord)

_MOST_BROKEN = 0.1  # of the images or annotations; beyond it something else is wrong
_OTHER_FOLDER = re.compile(r"\.|.:|.*[/\\]")  # or a hidden file, or a Windows drive
_UNUSABLE_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NAME_KEYS = (
    "file_name",
    "fileName",
    "filename",
    "coco_url",
)  # LabelU's is the second, LVIS's the last
_NUMBERED = "numbered anew"
_IMAGE_LEFT_OUT = "its image was left out"
_LEFT_OUT = {"image_id": _IMAGE_LEFT_OUT, "category_id": "its category was left out"}
_REMEDY = {
    "images": "; `convert` matches names and sizes with the photos themselves",
    "annotations": "",
}
_NO_ID = -1
_SHARES = "coordinates from 0 to 1, read as shares of the image's size"

_Coordinate = Annotated[float, Meta(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
_Part = Annotated[list[_Coordinate], Meta(min_length=6)]
_decode_sound_segmentation = msgspec.json.Decoder(
    Annotated[list[_Part], Meta(min_length=1)] | Rle
).decode
_decode_annotation = msgspec.json.Decoder(PackedAnnotation).decode
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RecordReader:
    """Reads the records of one file: categories, then images, then annotations.

    Records come typed where the whole file could be decoded so, else as raw JSON.
    """

    def __init__(
        self, path: Path, *, strict: bool, plain_names: bool, photo_size: PhotoSize | None
    ) -> None:
        self._path = path
        self._strict = strict
        self._plain_names = plain_names
        self._photo_size = photo_size
        self._left_out: list[Problem] = []
        self._counted: dict[tuple[ProblemKind, str], Problem] = {}
        # What each id of the file means; None: left out.
        self._categories: dict[_Key, Category | None] = {}
        self._images: dict[_Key, ImageRecord | None] = {}
        self._maybe_shares: list[PackedAnnotation] = []
        self._any_in_pixels = False
        self._joined_images: set[int] = set()  # listed under several ids
        self._to_measure: list[PackedAnnotation] = []
        self.damaged: set[int] = set()
        """Ids of images that lost an annotation."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was left out, then what was read from another form."""
        return (*self._left_out, *self._counted.values())

    def categories(self, records: Iterable[Category | msgspec.Raw]) -> tuple[Category, ...]:
        """Read the categories."""
        entries = [
            entry
            for index, record in enumerate(records)
            if (entry := self._read_category(index, record)) is not None
        ]
        kept = self._numbered("category_left_out", "category", entries)
        self._categories |= kept
        return tuple(record for record in kept.values() if record is not None)

    def images(self, records: Sequence[ImageRecord | msgspec.Raw]) -> tuple[ImageRecord, ...]:
        """Read the images. One photo listed under several ids is one image.

        Two annotators, or a tool that writes an image for each object, make such files. Taking
        everybody's annotations loses nothing that was marked.
        """
        entries = [
            entry
            for index, record in enumerate(records)
            if (entry := self._read_image(index, record)) is not None
        ]
        kept = self._numbered("image_left_out", "image", entries)
        first_of_name: dict[str, ImageRecord] = {}
        for key, record in kept.items():
            image = kept[key] = None if record is None else self._check_image(key, record)
            if image is None:
                continue
            first = first_of_name.setdefault(image.file_name, image)
            if first is image:
                continue
            subject = f"image {shown(key)} ({image.file_name})"
            if (first.width, first.height) == (image.width, image.height):
                kept[key] = first
                self._joined_images.add(first.id)
                detail = f"a photo listed more than once, taken as one image: also image {first.id}"
                self._left_out.append(Problem("healed", subject, detail))
            else:
                kept[key] = None
                detail = f"a photo listed again with another size: also image {first.id}"
                self._leave_out("image_left_out", subject, detail)
        self._images |= kept
        self._check_share("images", len(records), "image_left_out")
        return tuple(first_of_name.values())

    def annotations(
        self, records: Sequence[PackedAnnotation | msgspec.Raw]
    ) -> tuple[PackedAnnotation, ...]:
        """Read the annotations, after the categories and the images."""
        packed = []
        for index, record in enumerate(records):
            annotation = record if isinstance(record, PackedAnnotation) else _decode_typed(record)
            if annotation is None or not self._check_typed(annotation):
                annotation = self._read_loose(index, record)
            if annotation is not None:
                packed.append(annotation)
        self._check_share("annotations", len(records), "annotation_left_out")
        if not packed and self._count("without_mask"):
            found = [f"{p.detail}: {p.count:,}" for p in self._of_kind("without_mask")]
            raise ValueError(
                f"{self._path} has {len(records):,} annotations, but no masks "
                f"({first_names(found)}); expected polygons or run lengths as `segmentation`. "
                "Draw outlines in the labelling tool, or choose an export that has them."
            )
        packed = self._without_repeats(packed)
        self._number(packed)
        image_of_id = {image.id: image for image in self._images.values() if image is not None}
        self._scale_shares(image_of_id)
        for annotation in self._to_measure:
            _measure(annotation, image_of_id[annotation.image_id])
        return tuple(packed)

    # -- what is found

    def _leave_out(self, kind: ProblemKind, subject: str, detail: str, count: int = 1) -> None:
        if self._strict:
            raise ValueError(
                f"{self._path}: {subject} cannot be used, {detail}. Correct it, or read the file "
                "without --strict, which leaves it out."
            )
        self._left_out.append(Problem(kind, subject, detail, count))

    def _tally(self, kind: ProblemKind, subject: str, detail: str) -> None:
        """As `_leave_out` for what may be found in every record: one Problem for each reason."""
        problem = Problem(kind, subject, detail)
        known = self._counted.setdefault((kind, problem.reason), problem)
        if known is not problem:
            more = msgspec.structs.replace(known, count=known.count + 1)
            self._counted[kind, problem.reason] = more

    def _of_kind(self, kind: ProblemKind) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind == kind]

    def _count(self, kind: ProblemKind) -> int:
        return sum(problem.count for problem in self._of_kind(kind))

    def _check_share(self, what: str, n_records: int, kind: ProblemKind) -> None:
        """Raise where more than a tenth is broken; a single broken record never is too much."""
        broken = [p for p in self._of_kind(kind) if p.reason != _IMAGE_LEFT_OUT]
        n_broken = sum(problem.count for problem in broken)
        if n_broken <= max(1, _MOST_BROKEN * n_records):
            return
        reasons: dict[str, list[Problem]] = {}
        for problem in broken:
            reasons.setdefault(problem.reason, []).append(problem)
        told = [
            f"{sum(p.count for p in found):,} times {reason}, first {found[0].example}"
            for reason, found in sorted(reasons.items(), key=lambda item: -len(item[1]))
        ]
        if kind == "annotation_left_out":  # what they are of may be the cause
            above = (*self._of_kind("category_left_out"), *self._of_kind("image_left_out"))
            told += [f"{problem.subject}: {problem.detail}" for problem in above]
        raise ValueError(
            f"{self._path}: {n_broken:,} of {n_records:,} {what} cannot be used "
            f"({first_names(told)}); expected at most a tenth. Correct the file, or export it "
            f"again{_REMEDY[what]}."
        )

    # -- values

    def _fields(self, kind: ProblemKind, subject: str, raw: msgspec.Raw) -> dict[str, Any] | None:
        fields = value_of(raw)
        if isinstance(fields, dict):
            return fields
        self._leave_out(kind, subject, _no_record(raw, fields))
        return None

    def _key(self, subject: str, name: str, value: Any) -> _Key | None:
        """An id as a key: a number where it is one in any type, else text."""
        if isinstance(value, str) and as_int(value) is None:
            return value.strip() or None
        return self._whole(subject, name, value)

    def _text(self, subject: str, name: str, value: Any) -> str | None:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self._tally("healed", subject, f"{name} is a number, read as text")
            return str(value)
        return value if isinstance(value, str) else None

    def _whole(self, subject: str, name: str, value: Any) -> int | None:
        """A whole number in any type."""
        number = as_int(value)
        if number is not None and type(value) is not int:
            written = "text" if isinstance(value, str) else "a fraction"
            self._tally("healed", subject, f"{name} is {written}, read as a whole number")
        return number

    # -- categories and images

    def _numbered(
        self, kind: ProblemKind, noun: str, entries: Sequence[tuple[_Key, _Record]]
    ) -> dict[_Key, _Record | None]:
        """Records by their key, with ids that are numbers; None for ids that mean several."""
        by_key: dict[_Key, list[_Record]] = {}
        for key, record in entries:
            by_key.setdefault(key, []).append(record)
        fresh = _fresh_ids(by_key)
        kept: dict[_Key, _Record | None] = {}
        for key, records in by_key.items():
            subject, record = f"{noun} {shown(key)}", records[0]
            if len(records) > 1 and any(other != record for other in records):
                detail = f"one id means several of them: {len(records)}"
                self._leave_out(kind, subject, detail, count=len(records))
                kept[key] = None
                continue
            if len(records) > 1:
                self._tally("healed", subject, f"the same {noun} listed more than once, taken once")
            if not _is_id(key):
                self._tally("healed", subject, f"ids that are not numbers from 0 on, {_NUMBERED}")
            number = key if _is_id(key) else next(fresh)
            kept[key] = msgspec.structs.replace(record, id=number)
        return kept

    def _name_by_id(self, subject: str, key: _Key) -> str:
        self._tally("healed", subject, "a category without a name, called by its id")
        return f"category {key}"

    def _read_category(
        self, index: int, raw: Category | msgspec.Raw
    ) -> tuple[_Key, Category] | None:
        subject = f"categories[{index}]"
        if isinstance(raw, Category):
            name = raw.name if raw.name.strip() else self._name_by_id(subject, raw.id)
            return raw.id, self._shown(subject, Category(raw.id, name, raw.supercategory))
        fields = self._fields("category_left_out", subject, raw)
        if fields is None:
            return None
        key = self._key(subject, "id", fields.get("id"))
        if key is None:
            self._leave_out("category_left_out", subject, "it has no usable id")
            return None
        name = self._text(subject, "name", fields.get("name")) or ""
        if not name.strip():
            name = self._name_by_id(subject, key)
        above = fields.get("supercategory")
        return key, self._shown(subject, Category(0, name, above if isinstance(above, str) else ""))

    def _shown(self, subject: str, category: Category) -> Category:
        shown = category.printable()
        if shown != category:
            self._tally("healed", subject, "a name has control characters, shown as codes")
        return shown

    def _read_image(
        self, index: int, raw: ImageRecord | msgspec.Raw
    ) -> tuple[_Key, ImageRecord] | None:
        """Read an image; width and height are 0 where it has none."""
        if isinstance(raw, ImageRecord):
            return raw.id, raw
        subject = f"images[{index}]"
        fields = self._fields("image_left_out", subject, raw)
        if fields is None:
            return None
        key = self._key(subject, "id", fields.get("id"))
        if key is None:
            detail = f"it has no usable id: {shown(fields.get('id'))}"
            self._leave_out("image_left_out", subject, detail)
            return None
        named = next((fields[name] for name in _NAME_KEYS if name in fields), None)
        name = self._text(subject, "file_name", named) or ""
        sides = [self._whole(subject, side, fields.get(side)) or 0 for side in ("width", "height")]
        width, height = sides if _is_size(*sides) else (0, 0)
        persons = as_int(fields.get("person_count"))
        return key, ImageRecord(0, name, width, height, persons, fields.get("license"))

    def _check_image(self, key: _Key, image: ImageRecord) -> ImageRecord | None:
        """The image with its size, None where its name or size cannot be used."""
        fault = self._name_fault(image.file_name)
        if fault is not None:
            detail = f"{fault}: {shown(image.file_name)}"
            self._leave_out("image_left_out", f"image {shown(key)}", detail)
            return None
        if image.width and image.height:
            return image
        size = self._photo_size(image) if self._photo_size else None
        subject = f"image {shown(key)} ({image.file_name})"
        if size is None or not _is_size(*size[:2]):
            self._leave_out("image_left_out", subject, "it has no usable width and height")
            return None
        self._tally("healed", subject, "width and height taken from the photo")
        return msgspec.structs.replace(image, width=size[0], height=size[1])

    def _name_fault(self, name: str) -> str | None:
        """What keeps a file_name from being used; it decides where files are read and written."""
        if not name.strip() or _UNUSABLE_NAME.search(name):
            return "its file_name is missing, or has control characters"
        if not self._plain_names:
            return None
        # A name that leads out of the folder would read, and for its mask write, anywhere.
        if _OTHER_FOLDER.match(name):
            return "its file_name is not a plain file name, without folders and leading dot"
        return "its file_name is too long" if len(name.encode()) > MAX_NAME else None

    # -- annotations

    def _check_typed(self, packed: PackedAnnotation) -> bool:
        """Whether an annotation can be used as it stands."""
        image = self._images.get(packed.image_id)
        if image is None or self._categories.get(packed.category_id) is None:
            return False
        if image.id != packed.image_id:
            packed.image_id = image.id  # its photo is listed twice
        return self._check_sound(packed, image)

    def _read_loose(
        self, index: int, record: PackedAnnotation | msgspec.Raw
    ) -> PackedAnnotation | None:
        if isinstance(record, PackedAnnotation):
            return self._mend(index, loosen(record))
        try:
            return self._mend(index, decode_loose(record))
        except _UNDECODABLE:
            detail = _no_record(record, value_of(record))
            self._leave_out("annotation_left_out", f"annotations[{index}]", detail)
            return None

    def _check_sound(self, packed: PackedAnnotation, image: ImageRecord) -> bool:
        """Set `n_parts`; return whether the segmentation can be rasterized as it stands."""
        try:
            segmentation = _decode_sound_segmentation(packed.segmentation)
        except _UNDECODABLE:
            return False
        if isinstance(segmentation, Rle):
            packed.n_parts = 0
            is_whole = segmentation.size == (image.height, image.width)
            return is_whole and segmentation_fault(segmentation) is None
        packed.n_parts = len(segmentation)
        # The decoder has checked all but this; it is ten times as fast.
        if any(len(part) % 2 for part in segmentation):
            return False
        if segmentation[0][0] <= 1.1 and lie_in_shares(segmentation):
            self._maybe_shares.append(packed)
        else:
            self._any_in_pixels = True
        return True

    def _has_size_of_photo(self, packed: PackedAnnotation, image: ImageRecord) -> bool:
        """Whether run lengths have the photo's size, as it is seen or before EXIF turns it."""
        if self._photo_size is None:
            return False
        try:
            rle = decode_segmentation(packed.segmentation)
        except _UNDECODABLE:
            return False
        if not isinstance(rle, Rle) or segmentation_fault(rle) is not None:
            return False
        size = self._photo_size(image)
        if size is None or rle.size == (size[1], size[0]):
            return size is not None
        *seen_wh, is_turned = size
        if not is_turned or seen_wh != [image.width, image.height] or rle.size != (*seen_wh,):
            return False
        return math.isnan(packed.bbox[0]) or is_same_box(measure(rle, *rle.size)[1], packed.bbox)

    def _mend(self, index: int, loose: LooseAnnotation) -> PackedAnnotation | None:
        """Read an annotation that is not as it should be; None where it leaves itself out."""
        subject, box = f"annotations[{index}]", _read_box(value_of(loose.bbox))
        image: ImageRecord | None = None
        try:
            key = self._key(subject, "id", value_of(loose.id))
            if key is not None:
                subject = f"annotation {shown(key)}"
            image = self._find(subject, "image_id", loose.image_id, self._images)
            subject = f"{subject} of {image.file_name}"
            category = self._find(subject, "category_id", loose.category_id, self._categories)
            packed = PackedAnnotation(
                id=key if _is_id(key) else _NO_ID,
                image_id=image.id,
                category_id=category.id,
                segmentation=loose.segmentation,
                area=0.0,
                bbox=box or UNKNOWN_BOX,
            )
            if not (self._check_sound(packed, image) or self._has_size_of_photo(packed, image)):
                self._mend_segmentation(packed, image, box, subject)
        except ValueError as error:
            if isinstance(error, WithoutMaskError):
                self._tally("without_mask", subject, _what_instead(error, loose, box))
            else:
                self._leave_out("annotation_left_out", subject, str(error))
            if image is not None:
                self.damaged.add(image.id)
            return None
        if packed.id == _NO_ID:
            self._tally("healed", subject, f"annotations without a number as id, {_NUMBERED}")
        self._mend_values(packed, loose, subject)
        return packed

    def _find(
        self, subject: str, name: str, raw: msgspec.Raw, known: Mapping[_Key, _Record | None]
    ) -> _Record:
        """What an id of an annotation means; ValueError where that is nothing."""
        value = value_of(raw)
        key = self._key(subject, name, value)
        record = None if key is None else known.get(key)
        if record is not None:
            return record
        if key is None:
            raise ValueError(f"it has no usable {name}: {shown(value)}")
        if key not in known:
            raise ValueError(f"its {name} is not in the file: {shown(key)}")
        raise ValueError(f"{_LEFT_OUT[name]}: {shown(key)}")

    def _mend_segmentation(
        self, packed: PackedAnnotation, image: ImageRecord, box: Box | None, subject: str
    ) -> None:
        value = value_of(packed.segmentation)
        reading = read_segmentation(value, image.height, image.width, box)
        for detail in reading.healed:
            self._tally("healed", subject, detail)
        for detail in reading.lost:
            self._tally("part_left_out", subject, detail)
        packed.segmentation = msgspec.Raw(msgspec.json.encode(reading.segmentation))
        if not self._check_sound(packed, image):
            raise ValueError("its segmentation cannot be rasterized")

    def _mend_values(self, packed: PackedAnnotation, loose: LooseAnnotation, subject: str) -> None:
        written, crowd = value_of(loose.area), value_of(loose.iscrowd)
        area = as_float(written)
        packed.area = math.nan if area is None else area
        if isinstance(written, str) and area is not None:
            self._tally("healed", subject, "area is text, read as a number")
        missing = ["area"] if area is None else []
        missing += ["bbox"] if math.isnan(packed.bbox[0]) else []
        if missing:
            self._tally("healed", subject, f"{' and '.join(missing)} taken from the mask")
            self._to_measure.append(packed)
        if type(crowd) is not int:
            self._tally("healed", subject, "iscrowd is not a whole number, read as 0 or 1")
        packed.iscrowd = int(crowd) if isinstance(crowd, bool) else as_int(crowd) or 0

    # -- all annotations together

    def _without_repeats(self, packed: list[PackedAnnotation]) -> list[PackedAnnotation]:
        """Drop what is listed again, in a file that was joined with itself."""
        times = Counter(annotation.id for annotation in packed)
        if len(times) == len(packed) and not self._joined_images:
            return packed
        kept: list[PackedAnnotation] = []
        seen: set[tuple[int, int, bytes]] = set()
        for annotation in packed:
            if times[annotation.id] > 1 or annotation.image_id in self._joined_images:
                what = annotation.image_id, annotation.category_id, bytes(annotation.segmentation)
                if what in seen:
                    detail = "the same annotation listed more than once, taken once"
                    self._tally("healed", f"annotation {annotation.id}", detail)
                    continue
                seen.add(what)
            kept.append(annotation)
        return kept

    def _number(self, packed: Sequence[PackedAnnotation]) -> None:
        """Give ids to annotations without one, and to all but the first of equal ones."""
        used = {annotation.id for annotation in packed}
        if len(used) == len(packed) and _NO_ID not in used:
            return
        used.clear()
        without: list[PackedAnnotation] = []
        for annotation in packed:
            if annotation.id == _NO_ID or annotation.id in used:
                without.append(annotation)
                if annotation.id != _NO_ID:
                    subject = f"annotation {annotation.id}"
                    self._tally("healed", subject, f"annotations of one id, {_NUMBERED}")
            used.add(annotation.id)
        fresh = _fresh_ids(used)
        for annotation in without:
            annotation.id = next(fresh)

    def _scale_shares(self, image_of_id: Mapping[int, ImageRecord]) -> None:
        """Turn coordinates that are shares of the image's size into pixels."""
        for annotation in shares_to_pixels(
            self._maybe_shares, image_of_id, any_in_pixels=self._any_in_pixels
        ):
            name = image_of_id[annotation.image_id].file_name
            self._tally("healed", f"annotation {annotation.id} of {name}", _SHARES)
            if math.isnan(annotation.bbox[0]):
                self._to_measure.append(annotation)


def _measure(packed: PackedAnnotation, image: ImageRecord) -> None:
    """Fill in area and box from the mask, where they are unknown."""
    area, box = measure(decode_segmentation(packed.segmentation), image.height, image.width)
    if math.isnan(packed.area):
        packed.area = float(area)
    if math.isnan(packed.bbox[0]):
        packed.bbox = box


def _no_record(raw: msgspec.Raw, value: Any) -> str:
    try:
        bytes(raw).decode()
    except UnicodeDecodeError:
        return "its text is not UTF-8, as which the file is to be saved"
    return f"it is no record: {shown(value)}"


def _decode_typed(raw: msgspec.Raw) -> PackedAnnotation | None:
    try:
        return _decode_annotation(raw)
    except _UNDECODABLE:
        return None


def _read_box(value: Any) -> Box | None:
    if not (isinstance(value, list) and len(value) == 4):
        return None
    numbers = [as_float(number) for number in value]
    x, y, width, height = numbers
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, width, height


def _what_instead(error: Exception, loose: LooseAnnotation, box: Box | None) -> str:
    """What an annotation without a mask has."""
    points = value_of(loose.keypoints)
    if isinstance(points, list) and any(points):
        return "key points only"
    return "a box only" if box is not None else str(error)


def _is_id(key: _Key | None) -> TypeGuard[int]:
    return isinstance(key, int) and 0 <= key <= MAX_ID


def _is_size(width: int, height: int) -> bool:
    return 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE


def _fresh_ids(used: Iterable[_Key]) -> Iterator[int]:
    """Ids that are not in use, above all that are while there are any."""
    taken = {key for key in used if _is_id(key)}
    after = max(taken, default=0) + 1
    return (i for i in chain(range(after, MAX_ID + 1), range(after)) if i not in taken)
