"""Splits, and a Dataset of their photos: read, resized, augmented. No Lightning."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from clothseg_utils.augment import TrainTransform
from clothseg_utils.classes import ClassTable, class_table
from clothseg_utils.coco import (
    CocoFile,
    ImageRecord,
    Split,
    annotation_path,
    images_dir,
    photo_problems,
    read_annotations,
)
from clothseg_utils.config import AugmentConfig, DataConfig
from clothseg_utils.geometry import fit_image, fit_mask
from clothseg_utils.masks import MaskIndex, make_masks, read_mask, select_images
from clothseg_utils.photos import read_photo
from clothseg_utils.resized import ResizedCopies
from clothseg_utils.runs import resolve_path


@dataclass(frozen=True)
class SplitData:
    """The photos of one split that can be used, with their masks.

    Attributes:
        split: "train" or "val".
        coco: the checked annotation file.
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
    def source(self) -> str:
        """What a figure of this split was made from: data, split, number of photos."""
        return self.coco.source(self.split, len(self.images))

    def photo_path(self, record: ImageRecord) -> Path:
        """Path of a record's photo."""
        return self.image_dir / record.file_name

    def read_pair(self, record: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        """Read a photo, (H, W, 3) uint8 RGB, and its mask, (H, W) uint8 class ids.

        Raises:
            ValueError: the two differ in size, or one cannot be decoded.
        """
        image = read_photo(self.photo_path(record))
        mask = read_mask(self.masks.mask_path(record.id), self.classes.num_classes)
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"photo {record.file_name} is {image.shape[1]} x {image.shape[0]} but its mask "
                f"{mask.shape[1]} x {mask.shape[0]}; expected equal sizes. Rerun notebook 02."
            )
        return image, mask


def load_split(config: DataConfig, split: Split, *, progress: bool = True) -> SplitData:
    """Read a split's annotations, check its photos, and make the masks that are missing or stale.

    Args:
        config: data section of the config; needs the files of this split only.
        split: "train" or "val".
        progress: show bars, or lines where nobody watches.

    Raises:
        FileNotFoundError: no data root, no annotation file or no folder of photos.
        ValueError: broken annotations, or no usable photo at all.
    """
    data_root = resolve_path(config.data_root)
    coco = read_annotations(annotation_path(data_root, split))
    image_dir = images_dir(data_root, split)
    derived_root = resolve_path(config.derived_root)
    masks = make_masks(
        data_root,
        split,
        config.scheme,
        derived_root,
        workers=config.mask_workers,
        image_limit=config.image_limit,
        progress=progress,
    )
    records = select_images(coco, config.image_limit)
    excluded = photo_problems(
        records,
        image_dir,
        cache_path=masks.mask_dir.parent.parent / "photos.json",
        progress=progress,
    )
    images = tuple(record for record in records if record.file_name not in excluded)
    if not images:
        name, reason = next(iter(excluded.items()), ("", "the annotation file lists none"))
        raise ValueError(
            f"no usable photo in {image_dir}: {name} {reason}; expected the photos that "
            f"{coco.path.name} lists. Check --data-root."
        )
    return SplitData(
        split=split,
        coco=coco,
        classes=class_table(config.scheme, coco.categories),
        images=images,
        masks=masks,
        image_dir=image_dir,
        excluded=excluded,
    )


def splits_source(train: SplitData, val: SplitData) -> str:
    """Say what a figure of both splits was made from: data, number of photos of each."""
    return f"{train.source}; val, n = {len(val.images):,} photos"


class Sample(TypedDict):
    """One training or validation sample.

    image (3, S, S) uint8 RGB 0..255; mask (S, S) uint8 class ids, 255 outside the photo.
    """

    image: torch.Tensor
    mask: torch.Tensor


class SegmentationDataset(Dataset[Sample]):
    """Photos and masks of a split as square uint8 tensors.

    Args:
        split_data: the split.
        config: data section; `image_size`, `resize` and `resized_side` are used.
        augment: strength of augmentation; None for validation, which only resizes, and always
            from the photos themselves, as prediction does.
    """

    def __init__(
        self, split_data: SplitData, config: DataConfig, augment: AugmentConfig | None = None
    ) -> None:
        self.split_data = split_data
        self.config = config
        self.transform: TrainTransform | None = None
        self.copies: ResizedCopies | None = None
        if augment is not None:
            self.transform = TrainTransform(augment, config.image_size, config.resize)
            if config.resized_side:
                folder = split_data.masks.mask_dir.with_name(f"resized-{config.resized_side}")
                self.copies = ResizedCopies(folder, config.resized_side)

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.split_data.images)

    def __getitem__(self, index: int) -> Sample:
        """Read, resize and augment the photo at `index` with its mask."""
        image, mask = self._read_pair(self.split_data.images[index])
        if self.transform is None:
            image = fit_image(image, self.config.image_size, self.config.resize)
            mask = fit_mask(mask, self.config.image_size, self.config.resize)
        else:
            image, mask = self.transform(image, mask)
        planes = np.empty((3, *mask.shape), np.uint8)
        cv2.split(image, [*planes])  # into `planes`, several times as fast as a transposed copy
        return Sample(image=torch.from_numpy(planes), mask=torch.from_numpy(mask))

    def _read_pair(self, record: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        if self.copies is None or max(record.height, record.width) <= self.copies.longest_side:
            return self.split_data.read_pair(record)
        return self.copies.read_pair(
            self.split_data.photo_path(record),
            self.split_data.masks.mask_path(record.id),
            lambda: self.split_data.read_pair(record),
        )

    def set_random_seed(self, seed: int) -> None:
        """Seed the augmentation; validation has none."""
        if self.transform is not None:
            self.transform.set_random_seed(seed)
