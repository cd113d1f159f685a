"""Photos of a user's own and their labels: read, matched, fitted to each other and measured."""

import contextlib
import itertools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from clothseg_utils.core.text import first_names
from clothseg_utils.data.coco import (
    CocoFile,
    ImageRecord,
    PackedAnnotation,
    Split,
    decode_segmentation,
    read_annotations,
)
from clothseg_utils.data.conversion import Notes
from clothseg_utils.data.json_bytes import read_json_bytes, relax_json
from clothseg_utils.data.records import file_names
from clothseg_utils.intake.doubts import Doubts
from clothseg_utils.intake.mask_folders import NO_MASK, NO_PHOTO, read_mask_folder
from clothseg_utils.intake.measure import Measured, Part, measure_parts
from clothseg_utils.intake.own_classes import OwnClasses
from clothseg_utils.intake.photo_names import file_key, match_photos
from clothseg_utils.intake.sizes import Fit, PhotoSize, Sized, fit_photos, photo_sizes, read_size
from clothseg_utils.intake.sources import SPLITS, Source

MOST_LOST = 0.5
"""Of the photos; beyond it the labels are of others."""

_MOST_OUTSIDE = 0.1  # of the annotations; beyond it they are of photos of another size


@dataclass(frozen=True)
class Labels:
    """A source that was read.

    Attributes:
        source: where from.
        coco: its records.
        photos: image_id -> photo, of those that were found.
        not_listed: photos in the folder that it does not name, or has no mask of.
        n_missing, n_unsure: names, or masks, that no photo fits, and that several may fit.
    """

    source: Source
    coco: CocoFile
    photos: Mapping[int, Path]
    not_listed: Sequence[Path]
    n_missing: int = 0
    n_unsure: int = 0


@dataclass(frozen=True, slots=True)
class OwnAnnotation:
    """An annotation of the dataset: ids there, where it is from, and what was measured."""

    id: int
    category_id: int
    packed: PackedAnnotation
    measured: Measured

    @property
    def segmentation(self) -> msgspec.Raw:
        """JSON of the segmentation as it lies in the photo."""
        moved = self.measured.segmentation
        return self.packed.segmentation if moved is None else msgspec.Raw(moved)

    def to_json(self, image_id: int) -> bytes:
        """Write the record, with area and box of the mask itself."""
        return msgspec.json.encode(
            {
                "id": self.id,
                "image_id": image_id,
                "category_id": self.category_id,
                "segmentation": self.segmentation,
                "area": self.measured.area,
                "bbox": self.measured.bbox,
                "iscrowd": self.packed.iscrowd,
            }
        )


@dataclass
class OwnPhoto:
    """A photo of the dataset.

    Attributes:
        path: the user's file.
        source: of the first record.
        records: (number of the source, image record); several may be of one photo.
        image_id: in the dataset.
        label: path below its folder of photos, which no other photo of the dataset has.
        size_wh: in pixels.
        annotations: those that are kept.
        split: that its source gives, train where it gives none; then where it goes.
        file_name: in the dataset.
    """

    path: Path
    source: Source
    records: list[tuple[int, ImageRecord]]
    image_id: int = 0
    label: str = ""
    size_wh: tuple[int, int] = (0, 0)
    annotations: list[OwnAnnotation] = field(default_factory=list)
    split: Split = "train"
    file_name: str = ""


def read_labels(
    source: Source,
    photos_dir: Path,
    mask_names: str | Path | None,
    ignore_unknown: bool,
    notes: Notes,
) -> Labels:
    """Read a source, and find its photos."""
    if source.has_masks:
        coco = read_mask_folder(
            source.labels,
            source.photos_dir,
            mask_names,
            ignore_unknown=ignore_unknown,
            strict=notes.strict,
        )
    else:
        coco = read_annotations(
            source.labels,
            strict=notes.strict,
            plain_names=False,
            photo_size=_SizeOfName(source.labels, source.photos_dir),
        )
    notes.add_problems(problem for problem in coco.problems if problem.detail != NO_MASK)
    if source.has_masks:
        found = {image.id: source.photos_dir / image.file_name for image in coco.images}
        alone = [source.photos_dir / p.subject for p in coco.problems if p.detail == NO_MASK]
        n_missing = sum(problem.detail == NO_PHOTO for problem in coco.problems)
        return Labels(source, coco, found, alone, n_missing)
    return _find_photos(source, coco, photos_dir, notes)


def _find_photos(source: Source, coco: CocoFile, photos_dir: Path, notes: Notes) -> Labels:
    """Find the photos that a source names: in its own folder, else in that of all."""
    names = {image.id: image.file_name for image in coco.images}
    matches = match_photos(names, source.photos_dir)
    lost = {i: name for i, name in names.items() if i not in matches.found}
    if lost and source.photos_dir != photos_dir:
        elsewhere = match_photos(lost, photos_dir)
        matches = replace(elsewhere, found=matches.found | elsewhere.found)
    if lost:
        unread = [f"{_below(photos_dir, path)}: {why}" for path, why in matches.unread.items()]
        notes.add("left_out", "folders and files that cannot be read", unread, broken=True)
    several = [
        f"{name}: {' or '.join(_below(photos_dir, path) for path in paths)}"
        + (", which other names fit too" if len(paths) == 1 else "")
        for name, paths in matches.ambiguous.items()
    ]
    if not matches.found and several:
        raise ValueError(
            f"{source.photos_dir}: of the photos that {source.labels} names none can be told: "
            f"{first_names(several)}; expected names that fit one photo each. Name a folder that "
            "holds these photos alone, or write the names with their folders."
        )
    if not names:
        notes.add(
            "said",
            "files that list no photo",
            [f"{source.labels.parent.name}/{source.labels.name}"],
        )
    elif not matches.found:
        first, near = next(iter(matches.missing.items()), (next(iter(names.values())), []))
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"no photo that {source.labels} names is in {source.photos_dir}; expected files such "
            f"as {first}{hint}. Check the folder."
        )
    missing = [
        f"{name}, nearest {', '.join(near)}" if near else name
        for name, near in matches.missing.items()
    ]
    notes.add("left_out", "photos left out, not in the folder", missing, broken=True)
    notes.add("left_out", "photos left out, several fit the name", several, broken=True)
    lost_annotations = sum(len(coco.packed_of(i)) for i in names if i not in matches.found)
    notes.count("left_out", "annotations of photos left out", lost_annotations)
    return Labels(
        source=source,
        coco=coco,
        photos=matches.found,
        not_listed=matches.not_listed,
        n_missing=len(missing),
        n_unsure=len(several),
    )


def _below(photos_dir: Path, path: Path) -> str:
    """A photo's path as it is shown."""
    return path.relative_to(photos_dir).as_posix()


class _SizeOfName:
    """Sizes of photos that the file gives none for, asked by image while the file is read."""

    def __init__(self, labels: Path, photos_dir: Path) -> None:
        self._labels = labels
        self._photos_dir = photos_dir
        self._known: dict[str, tuple[int, int, bool] | None] = {}

    @cached_property
    def _photos(self) -> Mapping[str, Path]:
        # Which photo a name means follows from all names together.
        data, _ = read_json_bytes(self._labels)
        names = dict(enumerate(file_names(relax_json(data))))
        found = match_photos(names, self._photos_dir).found
        return {names[number]: path for number, path in found.items()}

    def __call__(self, image: ImageRecord) -> tuple[int, int, bool] | None:
        if image.file_name not in self._known:
            self._known[image.file_name] = None
            with contextlib.suppress(KeyError, OSError, ValueError):
                size = read_size(self._photos[image.file_name])
                self._known[image.file_name] = size.width, size.height, size.orientation != 1
        return self._known[image.file_name]


def gather_photos(labels: Sequence[Labels], photos_dir: Path, notes: Notes) -> list[OwnPhoto]:
    """Photos of all sources, each once, however many records or splits it is in."""
    by_file: dict[Hashable, OwnPhoto] = {}
    repeated: dict[str, None] = {}
    in_two_splits: dict[str, None] = {}
    for number, one in enumerate(labels):
        for image in one.coco.images:
            path = one.photos.get(image.id)
            if path is None:
                continue
            file = file_key(path)
            split = one.source.split or "train"
            new = OwnPhoto(path, one.source, [(number, image)], split=split)
            known = by_file.setdefault(file, new)
            if known is new:
                continue
            if known.split == split:
                known.records.append((number, image))
                repeated[_below(photos_dir, path)] = None
                continue
            in_two_splits[_below(photos_dir, path)] = None
            if SPLITS.index(split) > SPLITS.index(known.split):
                by_file[file] = new
    notes.add("healed", "photos listed more than once, their annotations united", repeated)
    text = "photos left out of one split that are in another too; test keeps them, then val"
    notes.add("left_out", text, in_two_splits, broken=True)
    others = {file_key(path): path for one in labels for path in one.not_listed}
    unused = [_below(photos_dir, path) for key, path in others.items() if key not in by_file]
    _check_names(labels, len(unused))
    if labels[0].source.has_masks:
        notes.add("left_out", "photos left out, without a mask of their name", unused, broken=True)
    else:
        notes.count("said", "photos in the folder that no file names, not used", len(unused))
    photos = list(by_file.values())
    for n, photo in enumerate(photos, 1):
        photo.image_id = photo.records[0][1].id if len(labels) == 1 else n
    _label(photos, photos_dir)
    return photos


def _check_names(labels: Sequence[Labels], n_unused: int) -> None:
    """Refuse labels of which most find no photo though there are as many photos without labels.

    Labels of more photos than are there are no fault, nor are more photos than labels.
    """
    n_missing = sum(one.n_missing for one in labels)
    n_lost = n_missing + sum(one.n_unsure for one in labels)
    n_all = n_lost + sum(len(one.photos) for one in labels)
    if n_lost > MOST_LOST * n_all and n_unused >= n_missing:
        what = "masks" if labels[0].source.has_masks else "names of photos"
        raise ValueError(
            f"{n_lost:,} of {n_all:,} {what} fit no photo, or several, and {n_unused:,} photos "
            "have no label; expected at most half. Rename them, or check the folder."
        )


def _label(photos: Sequence[OwnPhoto], photos_dir: Path) -> None:
    """Name each photo by its path below its own folder, or below all, where names occur twice."""
    for photo in photos:
        own_dir = photo.source.photos_dir
        below = own_dir if photo.path.is_relative_to(own_dir) else photos_dir
        photo.label = _below(below, photo.path)
    counts = Counter(photo.label for photo in photos)
    for photo in photos:
        if counts[photo.label] > 1:
            photo.label = _below(photos_dir, photo.path)


def fit_and_measure(
    photos: Sequence[OwnPhoto], labels: Sequence[Labels], classes: OwnClasses, notes: Notes
) -> list[OwnPhoto]:
    """Photos whose size fits what the files say, with their annotations as they lie in them."""
    sizes, broken = photo_sizes({n: photo.path for n, photo in enumerate(photos)})
    unreadable = [f"{photos[n].label}: {why}" for n, why in broken.items()]
    notes.add("left_out", "photos left out that cannot be read", unreadable, broken=True)
    fits = _fit_records(photos, labels, sizes, notes)
    todo: list[tuple[OwnPhoto, int, Part]] = []
    n_by_choice = n_of_photos = 0
    for n, photo in enumerate(photos):
        for number, image in photo.records:
            packed = labels[number].coco.packed_of(image.id)
            fit = fits.get((number, image.id))
            if fit is None:
                n_of_photos += len(packed)
                continue
            kept = [a for a in packed if (number, a.category_id) in classes.id_of]
            n_by_choice += len(packed) - len(kept)
            photo.size_wh = sizes[n].width, sizes[n].height
            todo.append((photo, number, Part(fit, kept)))
    notes.count("left_out", "annotations of photos left out", n_of_photos)
    notes.count("left_out", "annotations left out, of categories to leave out", n_by_choice)
    empty: list[str] = []
    outside: list[str] = []
    doubled: list[str] = []
    seen: dict[tuple[Any, ...], list[msgspec.Raw]] = {}
    damaged: set[str] = set()
    doubts = [Doubts(one.source.labels) for one in labels]
    # Among equal areas the higher id is painted on top, so ids stay where there is one file.
    new_ids = itertools.count(1) if len(labels) > 1 else None
    measured = measure_parts([part for _, _, part in todo])
    for (photo, number, part), found in zip(todo, measured, strict=True):
        for annotation, one in zip(part.packed, found, strict=True):
            name = f"annotation {annotation.id} of {photo.label}"
            if not one.area:
                empty.append(name)
                outside += [name] if one.evidence.is_clipped else []
                damaged.add(photo.label)
                continue
            doubts[number].add(annotation, one.evidence, photo.label, photo.size_wh)
            category_id = classes.id_of[number, annotation.category_id]
            new = OwnAnnotation(annotation.id, category_id, annotation, one)
            alike = seen.setdefault((photo.label, category_id, one.area, one.bbox), [])
            outline = decode_segmentation(new.segmentation) if alike else None
            if any(decode_segmentation(other) == outline for other in alike):
                doubled.append(name)
                continue
            alike.append(new.segmentation)
            photo.annotations.append(new if new_ids is None else replace(new, id=next(new_ids)))
    n_measured = sum(len(part.packed) for _, _, part in todo)
    if len(outside) > max(1, _MOST_OUTSIDE * n_measured):
        raise ValueError(
            f"{len(outside):,} of {n_measured:,} annotations lie outside their photos "
            f"({first_names(outside)}); expected at most a tenth. Likely causes: coordinates of "
            "another size of the photo, in percent or thousandths, or x and y exchanged."
        )
    notes.add("left_out", "annotations left out that cover no pixel", empty, broken=True)
    notes.add("left_out", "annotations left out that are there already", doubled)
    fitting = [photo for photo in photos if photo.size_wh != (0, 0)]
    n_lost = len(photos) - len(fitting)
    if n_lost > MOST_LOST * len(photos):
        raise ValueError(
            f"{n_lost:,} of {len(photos):,} photos cannot be read, or are of another shape than "
            "the labels; expected at most half. Check the folder."
        )
    for doubt in doubts:
        doubt.check()
    far = [subject for doubt in doubts for subject in doubt.far]
    notes.add("said", "annotations whose own box is far from their mask, which is taken", far)
    tiny = [subject for doubt in doubts for subject in doubt.tiny]
    text = "annotations of a pixel, with coordinates of 0 to 1 that may be shares of the size"
    notes.add("said", text, tiny)
    clipped = [subject for doubt in doubts for subject in doubt.clipped]
    notes.add("said", "outlines that leave the photo, cut at its edge", clipped)
    cornered = [doubt.path.name for doubt in doubts if doubt.is_cornered]
    text = "files whose masks all lie in the upper left quarter, as if drawn on smaller photos"
    notes.add("said", text, cornered)
    damaged |= {
        photo.label
        for photo in photos
        for number, image in photo.records
        if image.id in labels[number].coco.damaged
    }
    bare = {photo.label for photo in fitting if not photo.annotations}
    notes.add("left_out", "photos left out, as all their annotations are", sorted(bare & damaged))
    notes.add("said", "photos without annotations, taken as all background", sorted(bare - damaged))
    return [photo for photo in fitting if photo.annotations or photo.label not in damaged]


def _fit_records(
    photos: Sequence[OwnPhoto],
    labels: Sequence[Labels],
    sizes: Mapping[int, PhotoSize],
    notes: Notes,
) -> dict[tuple[int, int], Fit]:
    """How the annotations of each image record fit its photo, by (number of the source, id)."""
    of_source: dict[int, dict[int, Sized]] = {}
    label_of: dict[tuple[int, int], str] = {}
    for n, photo in enumerate(photos):
        for number, image in photo.records if n in sizes else ():
            file_wh = image.width, image.height
            packed = labels[number].coco.packed_of(image.id)
            sized = Sized(file_wh, sizes[n], packed)
            of_source.setdefault(number, {})[image.id] = sized
            label_of[number, image.id] = photo.label
    fits: dict[tuple[int, int], Fit] = {}
    healed: dict[str, list[str]] = {}
    unturned: list[str] = []
    misfits: list[str] = []
    for number, images in of_source.items():
        found, unfit = fit_photos(images)
        for image_id, fit in found.items():
            fits[number, image_id] = fit
            if images[image_id].relation == "equal":
                unturned += [label_of[number, image_id]] if fit.moves else []
            elif fit.how:
                told = "{} x {} to {} x {}".format(*images[image_id].file_wh, fit.width, fit.height)
                healed.setdefault(fit.how, []).append(f"{label_of[number, image_id]}: {told}")
        misfits += [f"{label_of[number, image_id]}: {why}" for image_id, why in unfit.items()]
    for how, names in healed.items():
        notes.add("healed", f"photos of another size than the file says, {how}", names)
    text = "photos turned by EXIF with outlines that lie in the unturned one, turned with it"
    notes.add("healed", text, unturned)
    if not fits:
        raise ValueError(
            f"no photo fits: {first_names(misfits)}; expected photos of the size that the file "
            "says, or of the same shape. Check the folder, or take width and height out of the "
            "file where they are wrong."
        )
    notes.add(
        "left_out", "photos left out, of another size than the file says", misfits, broken=True
    )
    return fits


def covered_pixels(photo: OwnPhoto) -> tuple[int, int]:
    """Pixels under annotations, at most, and all pixels."""
    n_pixels = photo.size_wh[0] * photo.size_wh[1]
    return min(n_pixels, sum(one.measured.area for one in photo.annotations)), n_pixels
