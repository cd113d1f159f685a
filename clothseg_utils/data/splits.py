"""The photos of a split that can be used, with their masks."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from clothseg_utils.core.classes import ClassTable, class_table, name_differences
from clothseg_utils.core.config import DataConfig, InferenceConfig
from clothseg_utils.core.files import resolve_path
from clothseg_utils.core.ranks import rank
from clothseg_utils.core.text import first_names
from clothseg_utils.data.audit import photo_cache_path, photo_problems
from clothseg_utils.data.coco import (
    CocoFile,
    ImageRecord,
    Source,
    Split,
    annotation_path,
    images_dir,
    read_annotations,
    say_problems,
)
from clothseg_utils.data.conversion import conversion_changes, read_conversion
from clothseg_utils.data.coverage import check_coverage
from clothseg_utils.data.masks import MaskIndex, make_masks, read_mask, select_images
from clothseg_utils.data.photos import read_photo


@dataclass(frozen=True)
class PhotoPairs:
    """Photos with their masks, by number, without the annotations: what a worker process is sent.

    Attributes:
        image_dir: folder of the photos.
        mask_dir: folder of the masks.
        file_names: of each photo and its mask.
        num_classes: background counted.
    """

    image_dir: Path
    mask_dir: Path
    file_names: tuple[tuple[str, str], ...]
    num_classes: int

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.file_names)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a pair as `SplitData.read_pair` does."""
        photo, mask = self.file_names[index]
        return _read_pair(self.image_dir / photo, self.mask_dir / mask, self.num_classes)


@dataclass(frozen=True)
class SplitData:
    """The photos of one split that can be used, with their masks.

    Attributes:
        coco: the checked annotation file; without its annotations where nothing needs them.
        classes: class table of the scheme in use.
        images: records of the photos, in the JSON's order, without the excluded ones.
        masks: index of the mask folder.
        image_dir: folder of the photos.
        excluded: file name -> why the photo is left out.
    """

    split: Split
    coco: CocoFile
    classes: ClassTable
    images: tuple[ImageRecord, ...]
    masks: MaskIndex
    image_dir: Path
    excluded: dict[str, str]

    @property
    def source(self) -> Source:
        """What a figure of this split was made from: data, split, number of photos."""
        return self.coco.source(self.split, len(self.images))

    def scored_source(self, inference: InferenceConfig) -> str:
        """What a figure of scores was made from: as `source`, and how the photos were predicted."""
        options = "" if inference.is_plain else f", {inference.describe()}"
        return f"{self.source}, native resolution{options}"

    def photo_path(self, record: ImageRecord) -> Path:
        """Path of a record's photo."""
        return self.image_dir / record.file_name

    def read_pair(self, record: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        """Read a photo, (H, W, 3) uint8 RGB, and its mask, (H, W) uint8 class ids.

        Raises:
            ValueError: the two differ in size, or one cannot be decoded.
        """
        mask_path = self.masks.mask_path(record.id)
        return _read_pair(self.photo_path(record), mask_path, self.classes.num_classes)

    def pairs(self) -> PhotoPairs:
        """What is needed to read the photos and their masks, and no more."""
        return PhotoPairs(
            image_dir=self.image_dir,
            mask_dir=self.masks.mask_dir,
            file_names=tuple((r.file_name, self.masks.mask_path(r.id).name) for r in self.images),
            num_classes=self.classes.num_classes,
        )


def _read_pair(
    photo_path: Path, mask_path: Path, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    image = read_photo(photo_path)
    mask = read_mask(mask_path, num_classes)
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"photo {photo_path.name} is {image.shape[1]} x {image.shape[0]} but its mask "
            f"{mask_path} {mask.shape[1]} x {mask.shape[0]}; expected equal sizes. Delete the mask "
            "and rerun notebook 02."
        )
    return image, mask


def load_split(config: DataConfig, split: Split, *, annotations: bool = True) -> SplitData:
    """Read a split's annotations, check its photos, and make the masks that are missing or stale.

    Prints a line where records of the annotations were left out, and for train what `convert`
    noted.
    Needs the files of this split only.

    Args:
        config: where the data lie and how many photos to use.
        split: which.
        annotations: keep them once the masks are there; training needs the masks alone, and all
            of Fashionpedia's take 0.9 GB.

    Raises:
        FileNotFoundError: no data root, no annotation file or no folder of photos.
        ValueError: broken annotations, no usable photo at all, or masks that are all background,
            or nearly (`coverage.check_coverage`).
    """
    data_root = resolve_path(config.data_root)
    path = annotation_path(data_root, split)
    if split == "test" and data_root.is_dir() and not path.exists():
        raise FileNotFoundError(
            f"{data_root} has no test split; expected {path.name} in it. `convert` makes one from "
            "a test/ folder with its own COCO file."
        )
    coco = read_annotations(path)
    say_problems(coco)
    if split == "train" and rank() == 0:
        for line in conversion_changes(data_root):
            print(f"convert: {line}", flush=True)
    image_dir = images_dir(data_root, split)
    derived_root = resolve_path(config.derived_root)
    masks = make_masks(
        coco,
        config.scheme,
        derived_root,
        workers=config.mask_workers,
        image_limit=config.image_limit,
    )
    records = select_images(coco, config.image_limit)
    cache_path = photo_cache_path(coco, derived_root)
    excluded = photo_problems(records, image_dir, cache_path=cache_path)
    images = tuple(record for record in records if record.file_name not in excluded)
    if not images:
        name, reason = next(iter(excluded.items()), ("", "the annotation file lists none"))
        raise ValueError(
            f"no usable photo in {image_dir}: {name} {reason}; expected the photos that "
            f"{coco.path.name} lists. Check --data-root."
        )
    check_coverage(masks.coverage(images), f"{coco.path}, photos that can be used")
    return SplitData(
        split=split,
        coco=coco if annotations else coco.without_annotations(),
        classes=class_table(config.scheme, coco.categories),
        images=images,
        masks=masks,
        image_dir=image_dir,
        excluded=excluded,
    )


def read_splits(data_root: str | Path) -> dict[Split, CocoFile]:
    """Read the annotations of train and val, and of test where the dataset has its file."""
    paths = {split: annotation_path(data_root, split) for split in get_args(Split)}
    return {
        split: read_annotations(path)
        for split, path in paths.items()
        if split != "test" or path.exists()
    }


def check_scheme(config: DataConfig) -> None:
    """Refuse to train on fewer classes than whoever converted the photos was told.

    Raises:
        ValueError: `convert` made each category a class, and the scheme would unite some.
    """
    made = read_conversion(resolve_path(config.data_root))
    if made is None or not made.by_category or config.scheme == "category":
        return
    united = dict.fromkeys(made.categories.values())
    if len(united) < len(made.categories):
        raise ValueError(
            f"{config.data_root}: each of its {len(made.categories)} categories is a class of its "
            f"own, but data.scheme={config.scheme} would learn {first_names(list(united))} alone; "
            "expected --set data.scheme=category. For classes that unite categories, make it anew "
            "by `convert` with --classes."
        )


def load_training_splits(config: DataConfig) -> tuple[SplitData, SplitData]:
    """Load train and val as `load_split` does, without the annotations that training needs not.

    Raises:
        ValueError: as `check_scheme` and `load_split`.
    """
    check_scheme(config)
    train = load_split(config, "train", annotations=False)
    return train, load_split(config, "val", annotations=False)


def splits_source(train: SplitData, val: SplitData) -> str:
    """Say what a figure of both splits was made from: data, number of photos of each."""
    return f"{train.source}; val, n = {len(val.images):,} photos"


def check_disjoint(train: SplitData, val: SplitData) -> None:
    """Check that train and val share no photo and agree on the classes.

    Raises:
        ValueError: they share a file name, or their classes differ.
    """
    shared = {r.file_name for r in train.images} & {r.file_name for r in val.images}
    if shared:
        raise ValueError(
            f"{len(shared)} photos are in train and in val, such as {min(shared)}; expected "
            "disjoint splits. Remove them from one of the two annotation files."
        )
    if train.classes.names != val.classes.names:
        raise ValueError(
            f"{train.coco.path.name} and {val.coco.path.name} have different classes: "
            f"{name_differences(train.classes.names, val.classes.names)}; expected the same "
            "categories in both. Correct one of the two files."
        )
