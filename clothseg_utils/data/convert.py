"""Own photos with labels of any categories -> a dataset in Fashionpedia's layout."""

import contextlib
import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from clothseg_utils.core.files import sha256_file, sha256_json, whole_folder
from clothseg_utils.core.text import count_text, first_names
from clothseg_utils.data.coco import (
    CocoFile,
    ImageRecord,
    Split,
    annotation_path,
    images_dir,
    read_annotations,
)
from clothseg_utils.data.conversion import (
    RECORD_NAME,
    Conversion,
    Notes,
    read_conversion,
    write_conversion,
)
from clothseg_utils.data.copies import Groups, source_groups
from clothseg_utils.data.coverage import check_coverage
from clothseg_utils.data.mask_folders import read_mask_folder
from clothseg_utils.data.measure import Measured, Part, measure_parts
from clothseg_utils.data.own_classes import OwnClasses, read_classes, unite_categories
from clothseg_utils.data.photo_names import match_photos
from clothseg_utils.data.sizes import PhotoSize, Sized, fit_photos, photo_sizes, read_size
from clothseg_utils.data.sources import Source, find_sources

_CONVERSION_VERSION = 3  # a change of the rules below makes every converted dataset anew
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_LONGEST_NAME = 200  # bytes; file systems take 255, and masks and temporary files add some


@dataclass(frozen=True)
class _Labels:
    """A source that was read, and which photo each of its images is."""

    source: Source
    coco: CocoFile
    photos: Mapping[int, Path]


@dataclass
class _Photo:
    """A photo of the dataset; several image records may be of one photo.

    Attributes:
        id: image_id in the dataset.
        path: of the user's file.
        label: path below its photo folder, unique in the dataset.
        split: that the user gave, or that was chosen; None before.
        records: (number of the source, record), the first one gives licence and person count.
        size: in pixels.
    """

    id: int
    path: Path
    label: str
    split: Split | None
    records: list[tuple[int, ImageRecord]]
    size: PhotoSize


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
    labels = []
    for source in sources:
        if source.has_masks:
            coco = read_mask_folder(
                source.labels,
                source.photos_dir,
                mask_names,
                ignore_unknown=ignore_unknown,
                strict=strict,
            )
        else:
            size_of = _SizeOfName(source)
            coco = read_annotations(
                source.labels, strict=strict, plain_names=False, photo_size=size_of
            )
        notes.add_problems(coco.problems)
        labels.append(_Labels(source, coco, _find_photos(source, coco, photos_dir, notes)))
    choices = {
        "val_share": val_share,
        "group_by": group_by,
        "mapping": mapping,
        "strict": strict,
        "ignore_unknown": ignore_unknown,
    }
    recipe = _recipe(labels, choices)
    made = read_conversion(out_dir)
    if made is not None and made.recipe == recipe and _is_whole(out_dir, made):
        return made
    classes = unite_categories([one.coco for one in labels], mapping, notes)
    dataset = _measure(labels, classes, photos_dir, notes)
    _divide(dataset, val_share, group_by, notes)
    with whole_folder(out_dir) as unfinished:
        made = _write_dataset(unfinished, dataset, labels, classes, recipe, notes)
        if out_dir.exists():
            shutil.rmtree(out_dir.resolve())
    return made
