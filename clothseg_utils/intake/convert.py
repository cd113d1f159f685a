"""Own photos with labels of any categories -> a dataset in Fashionpedia's layout."""

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from clothseg_utils.core.files import sha256_json, whole_folder
from clothseg_utils.core.progress import progress_bar
from clothseg_utils.data.coco import annotation_path, images_dir
from clothseg_utils.data.conversion import (
    RECORD_NAME,
    Conversion,
    Notes,
    read_conversion,
    write_conversion,
)
from clothseg_utils.data.coverage import check_coverage
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
from clothseg_utils.intake.sources import SPLITS, find_sources

_CONVERSION_VERSION = 4  # a change of the rules makes every converted dataset anew
_LONGEST_NAME = 150  # characters; masks and temporary files are named after photos too


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
        group_by: regular expression; photos of which it finds the same in the name stay together.
        strict: anything broken is an error instead of being left out.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a malformed file, a category without a class, no photo found, too few photos
            with annotations, masks that are nearly all background, or an `out_dir` that holds
            anything else.
    """
    photos_dir, out_dir = Path(photos_dir), Path(out_dir)
    if not 0 < val_share < 1:
        raise ValueError(f"val_share is {val_share}; expected above 0 and below 1, such as 0.2.")
    sources = find_sources(photos_dir, annotations, masks_dir)
    mapping = read_classes(classes_file) if classes_file else None
    _check_target(out_dir)
    notes = Notes(strict=strict)
    labels = [
        read_labels(source, photos_dir, mask_names, ignore_unknown, notes) for source in sources
    ]
    choices = {"mapping": mapping, "val_share": val_share, "group_by": group_by}
    recipe = _recipe(labels, choices | {"strict": strict, "ignore_unknown": ignore_unknown})
    known = read_conversion(out_dir)
    if known is not None and known.recipe == recipe and _is_whole(out_dir, known):
        return known
    classes = unite_categories([one.coco for one in labels], mapping, notes)
    photos = fit_and_measure(gather_photos(labels, photos_dir, notes), labels, classes, notes)
    divide(photos, val_share, group_by, notes)
    for split in SPLITS:
        chosen = [photo for photo in photos if photo.split == split]
        check_coverage([covered_pixels(photo) for photo in chosen], split)
    _name_files(photos, notes)
    with whole_folder(out_dir) as unfinished:
        made = _write_dataset(unfinished, photos, labels, classes, recipe, notes)
        if out_dir.exists():
            shutil.rmtree(out_dir.resolve())
    return made


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


def _check_target(out_dir: Path) -> None:
    """Refuse a folder that holds what `convert` did not make."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    parts = [path(out_dir, split) for split in SPLITS for path in (annotation_path, images_dir)]
    ours = {RECORD_NAME, *(part.name for part in parts)}
    is_ours = (out_dir / RECORD_NAME).is_file()
    if not is_ours or {path.name for path in out_dir.iterdir()} - ours:
        raise ValueError(
            f"{out_dir} holds other files than `convert` makes; expected a new folder, or one that "
            "it made. Name another one."
        )


def _is_whole(out_dir: Path, made: Conversion) -> bool:
    parts = (annotation_path, images_dir)
    return all(part(out_dir, split).exists() for split in made.photos for part in parts)


def _name_files(photos: Sequence[OwnPhoto], notes: Notes) -> None:
    """Give each photo a plain file name, and a stem of its own: masks are named after it.

    Folders become part of the name. On some disks names that differ in case only are one.
    """
    flat = {photo.label: _flat_name(photo.label) for photo in photos}
    counts = Counter(name.stem.casefold() for name in flat.values())
    taken: set[str] = set()
    renamed = []
    for photo in sorted(photos, key=lambda photo: photo.label):
        name = flat[photo.label]
        of_suffix = f"_{name.suffix[1:]}" if counts[name.stem.casefold()] > 1 else ""
        stem = candidate = name.stem + of_suffix
        number = 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{stem}_{number}"
        taken.add(candidate.casefold())
        photo.file_name = candidate + name.suffix
        if candidate != name.stem:
            renamed.append(f"{photo.label} is {photo.file_name}")
    notes.add("healed", "photos renamed, as their masks would have one name", renamed)


def _flat_name(label: str) -> PurePosixPath:
    name = label.replace("/", "__").replace("\\", "_").lstrip(".")
    if len(name) > _LONGEST_NAME:
        name = f"{sha256_json(name)[:8]}_{name[-_LONGEST_NAME:]}"
    return PurePosixPath(name)


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
