"""Own photos with a COCO file of any categories -> a dataset in Fashionpedia's layout."""

import contextlib
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from clothseg_utils.core.classes import SUPERCATEGORY_NAMES
from clothseg_utils.core.files import sha256_file, sha256_json, whole_folder
from clothseg_utils.core.text import first_names, suggestion
from clothseg_utils.data.coco import (
    Info,
    Split,
    annotation_path,
    decode_segmentation,
    images_dir,
    read_annotations,
)
from clothseg_utils.data.photos import PHOTO_SUFFIXES, check_photo
from clothseg_utils.data.rle import Rle, segmentation_fault

_CONVERSION_VERSION = 2  # a change of the rules below makes every converted dataset anew
_RECORD_NAME = "convert.json"
_OF_OTHER_CATEGORIES = "of categories to leave out"
_WITHOUT_MASK = "without a mask (boxes only)"
_EMPTY_SEGMENTATIONS = (b"[]", b"[[]]", b"{}", b"null")
_SPLITS: tuple[Split, ...] = ("train", "val")


class _OwnCategory(Struct):
    id: int
    name: str
    supercategory: str = ""


class _OwnImage(Struct):
    id: int
    file_name: str
    width: int = 0
    height: int = 0
    license: Any = None


class _OwnAnnotation(Struct):
    image_id: int
    category_id: int
    id: int | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")
    area: float | None = None
    bbox: list[float] | None = None
    iscrowd: int = 0


class _OwnFile(Struct):
    categories: list[_OwnCategory]
    images: list[_OwnImage]
    annotations: list[_OwnAnnotation]
    info: Info | None = None
    licenses: Any = None


@dataclass(frozen=True)
class _Sources:
    """What a dataset is made from."""

    photos_dir: Path
    coco_file: Path
    own: _OwnFile
    class_of_category: Mapping[int, str | None]  # None to leave it out
    photos: Mapping[int, Path]  # by image_id, those that are there


class Conversion(Struct, frozen=True, kw_only=True):
    """What was converted, and what was not; `convert.json` in the dataset's folder.

    Attributes:
        recipe: hash of everything that the dataset was made from.
        photos: photos of each split.
        annotations: annotations kept, over both splits.
        categories: category names kept -> supercategory, which is the class.
        photos_without_annotations: kept; all background.
        photos_missing: named by the file and not found.
        photos_not_listed: found in the folder and not named by the file.
        annotations_left_out: reason -> number.
    """

    recipe: str
    photos: dict[Split, int]
    annotations: int
    categories: dict[str, str]
    photos_without_annotations: int
    photos_missing: list[str]
    photos_not_listed: int
    annotations_left_out: dict[str, int]

    @property
    def has_known_classes(self) -> bool:
        """Whether scheme "supercategory" works; "category" always does."""
        return set(self.categories.values()) <= set(SUPERCATEGORY_NAMES[1:])

    def summary(self) -> str:
        """A few lines for a terminal: what there is, and what was left out."""
        lines = [
            f"{self.photos['train']:,} train and {self.photos['val']:,} val photos, "
            f"{self.annotations:,} annotations in {len(self.categories):,} categories"
        ]
        if self.photos["val"] < 10:
            lines.append("few val photos: expect wide intervals around every score")
        if self.has_known_classes:
            for class_name in dict.fromkeys(self.categories.values()):
                names = [name for name, own in self.categories.items() if own == class_name]
                lines.append(f"{class_name}: {first_names(names)}")
        if count := self.photos_without_annotations:
            lines.append(f"photos without annotations, taken as all background: {count:,}")
        if self.photos_missing:
            missing = first_names(self.photos_missing)
            lines.append(f"left out, named by the file but not in the folder: {missing}")
        if self.photos_not_listed:
            lines.append(f"not used, in the folder but not in the file: {self.photos_not_listed:,}")
        for reason, count in self.annotations_left_out.items():
            lines.append(f"annotations left out, {reason}: {count:,}")
        return "\n".join(lines)


def convert_coco(
    photos_dir: str | Path,
    coco_file: str | Path,
    out_dir: str | Path,
    *,
    classes_file: str | Path | None = None,
    val_share: float = 0.2,
) -> Conversion:
    """Make a dataset in Fashionpedia's layout from own photos and a COCO file.

    The file's categories keep their names; `classes_file` says which class each belongs to.
    Photos are split by a hash of their names, and linked rather than copied where the file system
    can. The folder appears only when it is complete; one that holds this very dataset is left as
    it is, and one made by this function from other files is made anew.

    Args:
        photos_dir: folder of the photos, subfolders included; only read.
        coco_file: COCO JSON with `categories`, `images` and `annotations`. Supercategories, sizes,
            areas, boxes and annotation ids may be missing.
        out_dir: folder to make; becomes `data_root`.
        classes_file: JSON object, category name -> class name, or null to leave it out. None
            keeps the supercategories of the file.
        val_share: share of the photos that validate, above 0 and below 1.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a malformed file, a category without a class, no photo found, fewer than two
            photos with annotations, or an `out_dir` that holds anything else.
    """
    photos_dir, coco_file, out_dir = Path(photos_dir), Path(coco_file), Path(out_dir)
    check_sources(photos_dir, coco_file, classes_file)
    if not 0 < val_share < 1:
        raise ValueError(f"val_share is {val_share}; expected above 0 and below 1, such as 0.2.")
    own = _read_own_file(coco_file)
    class_of_category = _read_classes(classes_file, own.categories, coco_file)
    photos = _find_photos(own.images, photos_dir, coco_file)
    sources = _Sources(photos_dir, coco_file, own, class_of_category, photos)
    recipe = _recipe(sources, classes_file, val_share)
    known = _check_target(out_dir, recipe)
    if known is not None:
        return known
    with whole_folder(out_dir) as unfinished:
        made = _write_dataset(unfinished, sources, val_share, recipe)
        if out_dir.exists():
            shutil.rmtree(out_dir.resolve())
    return made


def check_sources(
    photos_dir: str | Path, coco_file: str | Path, classes_file: str | Path | None
) -> None:
    """Check that what a conversion reads is there; FileNotFoundError where it is not."""
    if not Path(photos_dir).is_dir():
        raise FileNotFoundError(
            f"photo folder {photos_dir} not found; expected the folder of the photos that "
            f"{Path(coco_file).name} names. Check the path."
        )
    for path, what in ((coco_file, "a COCO JSON"), (classes_file, "a JSON of category -> class")):
        if path and not Path(path).is_file():
            raise FileNotFoundError(f"{path} not found; expected {what}. Check the path.")


def _read_own_file(path: Path) -> _OwnFile:
    try:
        own = msgspec.json.decode(path.read_bytes(), type=_OwnFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no COCO file ({error}); expected an object with categories, images and "
            "annotations. Export it again."
        ) from None
    for what, name, values in (
        ("id", "categories", [category.id for category in own.categories]),
        ("name", "categories", [category.name for category in own.categories]),
        ("id", "images", [image.id for image in own.images]),
    ):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise ValueError(
                f"{path}: {what} {repeated[0]} occurs more than once in {name}; expected unique "
                f"{what}s. Correct the file, or export it again."
            )
    known = {
        "image_id": {image.id for image in own.images},
        "category_id": {category.id for category in own.categories},
    }
    for index, annotation in enumerate(own.annotations):
        for name, ids in known.items():
            if getattr(annotation, name) not in ids:
                raise ValueError(
                    f"{path}: annotations[{index}] has the {name} {getattr(annotation, name)}, "
                    "which is not in the file; expected one that is. Correct the file, or export "
                    "it again."
                )
    return own


def _read_classes(
    path: str | Path | None, categories: Sequence[_OwnCategory], coco_file: Path
) -> dict[int, str | None]:
    """Class of each category_id; None for categories to leave out."""
    if not path:
        return {c.id: c.supercategory or c.name for c in categories}
    try:
        mapping = msgspec.json.decode(Path(path).read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); expected an object of category -> class, such as "
            '{"T-shirt": "upperbody", "person": null}. Correct it: names stand in double quotes.'
        ) from None
    if not isinstance(mapping, dict):
        raise ValueError(
            f"{path} holds a {type(mapping).__name__}; expected an object of category -> class, "
            'such as {"T-shirt": "upperbody", "person": null}.'
        )
    for name, class_name in mapping.items():
        if class_name is not None and class_name not in SUPERCATEGORY_NAMES:
            hint = suggestion(str(class_name), SUPERCATEGORY_NAMES[1:])
            raise ValueError(
                f'{path}: "{name}" has the unknown class {class_name!r}{hint}; expected one of '
                f"{', '.join(SUPERCATEGORY_NAMES[1:])}, or null to leave the category out."
            )
    names = [category.name for category in categories]
    missing = [name for name in names if name not in mapping]
    for name in sorted(set(mapping) - set(names)):
        if hint := suggestion(name, missing):  # a name that nobody misses may be of another file
            raise ValueError(
                f'{path}: "{name}" is no category of {coco_file.name}{hint}; expected the names '
                "as they stand there."
            )
    if missing:
        raise ValueError(
            f"{path} gives no class to {first_names(missing)}; expected every category of "
            f"{coco_file.name}. Add them, with null for those to leave out."
        )
    # Background is what has no annotation: both words mean to leave the category out.
    into = {name: None if mapping[name] == "background" else mapping[name] for name in names}
    return {category.id: into[category.name] for category in categories}


def _find_photos(images: Iterable[_OwnImage], photos_dir: Path, coco_file: Path) -> dict[int, Path]:
    """Find photos, by image_id: below the folder by the whole name, else by its last part."""
    found: dict[int, Path] = {}
    for image in images:
        relative = PurePosixPath(image.file_name.replace("\\", "/"))
        if relative.is_absolute() or ".." in relative.parts:
            relative = PurePosixPath(relative.name)  # where the exporting machine had it
        for candidate in (photos_dir / relative, photos_dir / relative.name):
            if candidate.is_file():
                found[image.id] = candidate
                break
    repeated = [path for path, count in Counter(found.values()).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{coco_file}: several images mean the photo {repeated[0]}; expected one image for "
            "each. Give the photos the folders that the file names."
        )
    if not found:
        first = next((image.file_name for image in images), "none")
        raise ValueError(
            f"no photo that {coco_file} names is in {photos_dir}; expected files such as {first}. "
            "Check the folder."
        )
    return found


def _recipe(sources: _Sources, classes_file: str | Path | None, val_share: float) -> str:
    """Hash of everything that decides the dataset; of photos, name, size and time."""
    stamps = []
    for image_id, path in sources.photos.items():
        stat = path.stat()
        stamps.append([image_id, path.name, stat.st_size, stat.st_mtime_ns])
    return sha256_json(
        {
            "version": _CONVERSION_VERSION,
            "coco_file": sha256_file(sources.coco_file),
            "classes_file": sha256_file(classes_file) if classes_file else None,
            "val_share": val_share,
            "photos": stamps,
        }
    )


def _check_target(out_dir: Path, recipe: str) -> Conversion | None:
    """Return what the folder holds if it is this dataset; refuse one that is not ours."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return None
    record = out_dir / _RECORD_NAME
    parts = [path(out_dir, split) for split in _SPLITS for path in (annotation_path, images_dir)]
    ours = {record.name, *(part.name for part in parts)}
    if not record.is_file() or {path.name for path in out_dir.iterdir()} - ours:
        raise ValueError(
            f"{out_dir} holds other files than `convert` makes; expected a new folder, or one that "
            "it made. Name another one."
        )
    try:
        made = msgspec.json.decode(record.read_bytes(), type=Conversion)
    except msgspec.DecodeError:
        return None  # made by another version: it is made anew
    return made if made.recipe == recipe and all(part.exists() for part in parts) else None


def _write_dataset(folder: Path, sources: _Sources, val_share: float, recipe: str) -> Conversion:
    images = [image for image in sources.own.images if image.id in sources.photos]
    sizes_wh = {image.id: _size_wh(image, sources.photos[image.id]) for image in images}
    annotations, left_out = _convert_annotations(sources, sizes_wh)
    annotated = {annotation["image_id"] for annotation in annotations}
    names = _plain_names(images, sources.coco_file)
    val_ids = _choose_val(names, annotated, val_share, sources.coco_file)
    description = sources.own.info.description if sources.own.info else ""
    shared = {
        "info": {"description": description or f"Own photos: {sources.photos_dir.resolve().name}"},
        "licenses": sources.own.licenses,
        "categories": [
            {"id": c.id, "name": c.name, "supercategory": sources.class_of_category[c.id]}
            for c in sources.own.categories
            if sources.class_of_category[c.id] is not None
        ],
    }
    for split in _SPLITS:
        chosen = [i for i in images if (i.id in val_ids) == (split == "val")]
        records = []
        for image in chosen:
            name, (width, height) = names[image.id], sizes_wh[image.id]
            record = {"id": image.id, "file_name": name, "width": width, "height": height}
            records.append(record | {"license": image.license})
        own = [a for a in annotations if (a["image_id"] in val_ids) == (split == "val")]
        path = annotation_path(folder, split)
        path.write_bytes(msgspec.json.encode(shared | {"images": records, "annotations": own}))
        try:  # read as everybody will read it
            read_annotations(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), str(sources.coco_file))) from None
        images_dir(folder, split).mkdir()
        for image in chosen:
            _link_or_copy(sources.photos[image.id], images_dir(folder, split) / names[image.id])
    made = Conversion(
        recipe=recipe,
        photos={"train": len(names) - len(val_ids), "val": len(val_ids)},
        annotations=len(annotations),
        categories={c["name"]: c["supercategory"] for c in shared["categories"]},
        photos_without_annotations=len(set(names) - annotated),
        photos_missing=[i.file_name for i in sources.own.images if i.id not in sources.photos],
        photos_not_listed=_count_others(sources.photos_dir, sources.photos.values()),
        annotations_left_out=left_out,
    )
    (folder / _RECORD_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(made)))
    return made


def _convert_annotations(
    sources: _Sources, sizes_wh: Mapping[int, tuple[int, int]]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Annotations with everything that our reader needs; and how many were left out, by reason."""
    annotations = sources.own.annotations
    ids = [one.id for one in annotations if one.id is not None]
    # Ids decide ties in the painting order; the file's own are kept where they can be.
    keep_ids = len(set(ids)) == len(annotations) and min(ids, default=0) >= 0
    kept: list[dict[str, Any]] = []
    left_out = {_OF_OTHER_CATEGORIES: 0, _WITHOUT_MASK: 0}
    for index, annotation in enumerate(annotations):
        if annotation.image_id not in sizes_wh:
            continue
        if sources.class_of_category[annotation.category_id] is None:
            left_out[_OF_OTHER_CATEGORIES] += 1
            continue
        if bytes(annotation.segmentation).replace(b" ", b"") in _EMPTY_SEGMENTATIONS:
            left_out[_WITHOUT_MASK] += 1
            continue
        area, bbox = annotation.area, annotation.bbox
        if area is None or bbox is None or len(bbox) != 4:
            where = f"{sources.coco_file}: annotations[{index}]"
            measured, bbox = _measure(annotation.segmentation, sizes_wh[annotation.image_id], where)
            area = measured if area is None else area
        kept.append(
            {
                "id": annotation.id if keep_ids else index + 1,
                "image_id": annotation.image_id,
                "category_id": annotation.category_id,
                "segmentation": annotation.segmentation,
                "area": area,
                "bbox": bbox,
                "iscrowd": annotation.iscrowd,
            }
        )
    return kept, {reason: count for reason, count in left_out.items() if count}


def _measure(
    packed: msgspec.Raw, size_wh: tuple[int, int], where: str
) -> tuple[float, list[float]]:
    """Area in square pixels and box (x, y, width, height) of a segmentation; zeros if broken."""
    from pycocotools import mask as coco_mask

    try:
        segmentation = decode_segmentation(packed)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{where} has a malformed segmentation ({error}); expected polygons or RLE. Correct "
            "the file, or export it again."
        ) from None
    if segmentation_fault(segmentation) is not None:
        return 0.0, [0.0, 0.0, 0.0, 0.0]  # the reader leaves it out and says why
    if isinstance(segmentation, Rle):
        rle = msgspec.to_builtins(segmentation)
        if isinstance(segmentation.counts, list):
            rle = coco_mask.frPyObjects(rle, *segmentation.size)
    else:
        width, height = size_wh
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return float(coco_mask.area(rle)), [float(value) for value in coco_mask.toBbox(rle)]


def _plain_names(images: Iterable[_OwnImage], coco_file: Path) -> dict[int, str]:
    """File name of each photo in the dataset: folders become part of the name."""
    names: dict[int, str] = {}
    for image in images:
        parts = PurePosixPath(image.file_name.replace("\\", "/")).parts
        kept = [part for part in parts if part not in ("/", "..")]
        names[image.id] = "__".join(kept).lstrip(".")
    stems: dict[str, str] = {}
    for name in names.values():
        stem = name.rpartition(".")[0] or name
        if stem in stems:
            raise ValueError(
                f"{coco_file}: the photos {stems[stem]} and {name} would share the mask "
                f"{stem}.png; expected names that differ in more than the suffix. Rename one."
            )
        stems[stem] = name
    return names


def _choose_val(
    names: Mapping[int, str], annotated: set[int], val_share: float, coco_file: Path
) -> set[int]:
    """Choose the val photos by a hash of their names: no order, no date, no luck decides.

    Photos with and without annotations are shared out apart, so that both splits can be scored.
    """
    if len(annotated) < 2:
        raise ValueError(
            f"{coco_file} has {len(annotated)} photos with usable annotations; expected at least "
            "2, one to train on and one to validate. Check the classes and the photos."
        )
    chosen: set[int] = set()
    for has_annotations in (True, False):
        ids = [image_id for image_id in names if (image_id in annotated) == has_annotations]
        ids.sort(key=lambda image_id: hashlib.sha256(names[image_id].encode()).digest())
        count = round(len(ids) * val_share)
        if has_annotations:
            count = min(max(1, count), len(ids) - 1)
        chosen |= set(ids[:count])
    return chosen


def _size_wh(image: _OwnImage, photo: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the file or else from the photo."""
    if image.width > 0 and image.height > 0:
        return image.width, image.height
    height, width = check_photo(photo)
    return width, height


def _link_or_copy(source: Path, target: Path) -> None:
    # A hard link costs no space. Other disks, and some file systems, cannot.
    with contextlib.suppress(OSError):
        os.link(source.resolve(), target)
        return
    shutil.copy2(source, target)


def _count_others(photos_dir: Path, used: Iterable[Path]) -> int:
    """Photos below the folder that no image of the file names."""
    found = {
        path
        for path in photos_dir.rglob("*")
        if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()
    }
    return len(found - set(used))
