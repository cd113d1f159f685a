"""Own photos with labels of any categories -> a dataset in Fashionpedia's layout."""

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from clothseg_utils.core.files import sha256_json, whole_folder
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.core.text import folded
from clothseg_utils.data.coco import annotation_path, images_dir
from clothseg_utils.data.conversion import (
    Conversion,
    Notes,
    read_conversion,
    write_conversion,
)
from clothseg_utils.data.coverage import check_coverage
from clothseg_utils.data.records import MAX_NAME
from clothseg_utils.intake.division import divide
from clothseg_utils.intake.own_classes import OwnClasses, read_classes, unite_categories
from clothseg_utils.intake.own_photos import (
    Labels,
    OwnPhoto,
    covered_pixels,
    fit_and_measure,
    gather_photos,
    read_labels,
)
from clothseg_utils.intake.sources import SPLITS, find_sources, unused_files
from clothseg_utils.intake.target import check_outside, check_target

_CONVERSION_VERSION = 5  # a change of the rules makes every converted dataset anew
_NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\\:]")  # what no reader takes as a plain name
_LONGEST_SUFFIX = 16  # what is longer follows a full stop within the name


def convert_photos(
    photos_dir: str | Path,
    out_dir: str | Path,
    *,
    annotations: Sequence[str | Path] = (),
    masks_dir: str | Path | None = None,
    mask_names: str | Path | None = None,
    ignore_unknown: bool = False,
    classes_file: str | Path | None = None,
    val_share: float = 0.2,
    group_by: str | None = None,
    strict: bool = False,
) -> Conversion:
    """Make a dataset in Fashionpedia's layout from own photos and their labels.

    A split that the sources give is kept; else photos validate by a hash of their names, those
    that belong together on one side. Photos are linked rather than copied where the file system
    can. Larger masks are painted first, whatever area the files say. The folder appears only when
    it is complete; one that holds this very dataset is left as it is, and one made by this
    function from other files is made anew.

    Args:
        photos_dir: folder of the photos, subfolders included; only read.
        out_dir: folder to make; becomes `data_root`.
        annotations: COCO files, "val=FILE" where the split is said; see `find_sources`.
        masks_dir: folder of masks instead.
        mask_names: JSON of the masks' names; see `read_mask_folder`.
        ignore_unknown: take what `mask_names` does not name for background.
        classes_file: JSON object, category name -> class name, or null to leave it out. None
            keeps the supercategories of the files.
        val_share: share of the photos that validate where no split is given, above 0 and below 1.
        group_by: regular expression; photos of which it finds the same in the name stay together,
            beside copies of one source.
        strict: anything broken is an error instead of being left out.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a malformed file, a category without a class, no photo found, too few photos
            with annotations, masks that are nearly all background, or an `out_dir` that holds
            a source or anything else.
    """
    photos_dir, out_dir = Path(photos_dir), Path(out_dir)
    if not 0 < val_share < 1:
        raise ValueError(f"val_share is {val_share}; expected above 0 and below 1, such as 0.2.")
    if masks_dir is None and (mask_names is not None or ignore_unknown):
        raise ValueError(
            "mask names and --ignore-unknown say what masks hold, but no masks are given; expected "
            "--masks with them. Add it, or leave them out."
        )
    sources = find_sources(photos_dir, annotations, masks_dir)
    files = [Path(path) for path in (masks_dir, mask_names, classes_file) if path is not None]
    check_target(out_dir, [photos_dir, *files, *(source.labels for source in sources)])
    mapping = read_classes(classes_file) if classes_file else None
    notes = Notes(strict=strict)
    with notes.told_by_errors():
        if not annotations:
            unused = [
                f"{path.parent.name}/{path.name}" for path in unused_files(photos_dir, sources)
            ]
            notes.add("left_out", "files beside the labels that are taken, not used", unused)
        labels = [
            read_labels(source, photos_dir, mask_names, ignore_unknown, notes) for source in sources
        ]
        _check_read_once(labels)
        check_outside(out_dir, (path for one in labels for path in one.photos.values()))
        choices = {"mapping": mapping, "val_share": val_share, "group_by": group_by}
        recipe = _recipe(labels, choices | {"strict": strict, "ignore_unknown": ignore_unknown})
        known = read_conversion(out_dir)
        if known is not None and known.recipe == recipe and _is_whole(out_dir, known):
            return known
        classes = unite_categories([one.coco for one in labels], mapping, notes)
        photos = fit_and_measure(gather_photos(labels, photos_dir, notes), labels, classes, notes)
        photos = divide(photos, val_share, group_by, notes)
        for split in SPLITS:
            chosen = [photo for photo in photos if photo.split == split]
            check_coverage([covered_pixels(photo) for photo in chosen], split)
        _say_untrained(photos, classes, notes)
        _name_files(photos, notes)
    with whole_folder(out_dir, replace=True) as unfinished:
        made = _write_dataset(unfinished, photos, labels, classes, recipe, notes)
    return made


def _check_read_once(labels: Sequence[Labels]) -> None:
    """Refuse a file that is given again under another name; its like for other photos is none."""
    first_of: dict[tuple[str, tuple[Path, ...]], Path] = {}
    for one in labels:
        path = one.source.labels
        first = first_of.setdefault((one.coco.sha256, tuple(one.photos.values())), path)
        if first is not path:
            raise ValueError(
                f"{path} and {first} hold the same; expected each file once. Leave one of them out."
            )


def _recipe(labels: Sequence[Labels], choices: Mapping[str, Any]) -> str:
    """Hash of everything that decides the dataset; of photos, name, size and time."""
    sources = []
    for one in labels:
        stamps = []
        for image_id, path in one.photos.items():
            stat = path.stat()
            stamps.append([image_id, path.name, stat.st_size, stat.st_mtime_ns])
        sources.append([one.coco.sha256, one.source.split, stamps])
    return sha256_json({"version": _CONVERSION_VERSION, "sources": sources, **choices})


def _is_whole(out_dir: Path, made: Conversion) -> bool:
    parts = (annotation_path, images_dir)
    return all(part(out_dir, split).exists() for split in made.photos for part in parts)


def _say_untrained(photos: Sequence[OwnPhoto], classes: OwnClasses, notes: Notes) -> None:
    """Note the classes that are scored and never learned, and those that nothing shows."""
    class_of = {
        category.id: category.name if classes.by_category else category.supercategory
        for category in classes.categories
    }
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for photo in photos:
        is_train = photo.split == "train"
        seen[is_train].update(class_of[one.category_id] for one in photo.annotations)
    text = "classes in val or test of which no train photo has any"
    notes.add("said", text, sorted(seen[False] - seen[True]))
    nowhere = set(class_of.values()) - seen[True] - seen[False]
    notes.add("said", "classes without any annotation", sorted(nowhere))


def _name_files(photos: Sequence[OwnPhoto], notes: Notes) -> None:
    """Give each photo a plain file name, and a stem of its own: masks are named after it.

    Folders become part of the name. On some disks names that differ in case only are one.
    """
    flat = {photo.label: _flat_name(photo.label) for photo in photos}
    counts = Counter(folded(stem) for stem, _ in flat.values())
    taken: set[str] = set()
    renamed = []
    for photo in sorted(photos, key=lambda photo: photo.label):
        stem, suffix = flat[photo.label]
        of_suffix = f"_{suffix[1:]}" if counts[folded(stem)] > 1 else ""
        name = _fit_name(stem, of_suffix, suffix)
        number = 1
        while folded(name) in taken:
            number += 1
            name = _fit_name(stem, f"{of_suffix}_{number}", suffix)
        taken.add(folded(name))
        photo.file_name = name + suffix
        if name != stem:
            renamed.append(f"{photo.label} is {photo.file_name}")
    text = "photos renamed, of too long a name, or as their masks would have one name"
    notes.add("healed", text, renamed)


def _flat_name(label: str) -> tuple[str, str]:
    """Plain stem of a photo, as long as it may be, and its suffix."""
    name = _NO_NAME.sub("_", label.replace("/", "__")).lstrip(".")
    path = PurePosixPath(name)
    if len(path.suffix) > _LONGEST_SUFFIX:
        return name.replace(".", "_"), ""
    return path.stem, path.suffix


def _fit_name(stem: str, ending: str, suffix: str) -> str:
    """Stem and ending; only the end of a long stem, behind a hash of all of it."""
    room = MAX_NAME - len(f"{ending}{suffix}".encode())
    if len(stem.encode()) > room:
        mark = f"{sha256_json(stem)[:8]}_"
        stem = mark + stem.encode()[len(mark) - room :].decode(errors="ignore")
    return stem + ending


def _write_dataset(
    folder: Path,
    photos: Sequence[OwnPhoto],
    labels: Sequence[Labels],
    classes: OwnClasses,
    recipe: str,
    notes: Notes,
) -> Conversion:
    first = labels[0]
    folder_name = first.source.photos_dir.resolve().name
    licenses = sorted({name for one in labels for name in one.coco.license_names.values()})
    shared = {
        "info": {"description": first.coco.description or f"Own photos: {folder_name}"},
        "licenses": [{"id": number, "name": name} for number, name in enumerate(licenses, 1)],
        "categories": classes.categories,
    }
    counts = Counter(photo.split for photo in photos)
    with progress_bar(total=len(photos), desc="writing", unit="photo") as bar:
        for split in counts:
            images_dir(folder, split).mkdir(exist_ok=True)
            chosen = [photo for photo in photos if photo.split == split]
            images = [_image_record(photo, labels, licenses) for photo in chosen]
            head = msgspec.json.encode(shared | {"images": images})
            with annotation_path(folder, split).open("wb") as file:
                file.write(head[:-1] + b',"annotations":[')
                separator = b""
                for photo in chosen:
                    for annotation in photo.annotations:
                        file.write(separator + annotation.to_json(photo.image_id))
                        separator = b",\n"
                    _link_or_copy(photo.path, images_dir(folder, split) / photo.file_name)
                    bar.update()
                file.write(b"]}")
    made = Conversion(
        recipe=recipe,
        photos={split: counts[split] for split in SPLITS if split in counts},
        annotations=sum(len(photo.annotations) for photo in photos),
        categories={category.name: category.supercategory for category in classes.categories},
        by_category=classes.by_category,
        notes=list(notes),
    )
    write_conversion(folder, made)
    return made


def _image_record(
    photo: OwnPhoto, labels: Sequence[Labels], licenses: Sequence[str]
) -> dict[str, Any]:
    (number, record), *_ = photo.records
    width, height = photo.size_wh
    made = {"id": photo.image_id, "file_name": photo.file_name, "width": width, "height": height}
    name = labels[number].coco.license_names.get(str(record.license))
    if name is not None:
        made["license"] = licenses.index(name) + 1
    if record.person_count is not None:
        made["person_count"] = record.person_count
    return made


def _link_or_copy(source: Path, target: Path) -> None:
    # A hard link costs no space. Other disks, and some file systems, cannot.
    with contextlib.suppress(OSError):
        os.link(source.resolve(), target)
        return
    shutil.copy2(source, target)
