"""One training sample: photo and mask on disk to an augmented pair of tensors, one core."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.harness import Row, alternate, one_thread, photo_data_root, seconds_of
from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.config import DataConfig, profile_config
from clothseg_utils.data.splits import SplitData, load_split
from clothseg_utils.network.unet import normalize_images
from clothseg_utils.training.loaders import SegmentationDataset

IMAGE_SIZE = 512
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILL = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE_INDEX, Image.Image: 0}


def baseline_transform() -> v2.Compose:
    """The chain of the earlier system, in torchvision's current form and of equal strength."""
    return v2.Compose(
        [
            v2.RandomResizedCrop((IMAGE_SIZE, IMAGE_SIZE), scale=(0.8, 1.0), ratio=(0.75, 1.33)),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(10, fill=_FILL),
            v2.RandomAffine(0, translate=(0.1, 0.1), shear=10, fill=_FILL),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.1),
            v2.RandomGrayscale(0.1),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(_MEAN, _STD),
        ]
    )


def baseline_sample(
    transform: v2.Compose, photo_path: Path, mask_path: Path, *, as_pillow: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read with Pillow, change as tensors (torchvision's advice) or as a Pillow image."""
    image = Image.open(photo_path).convert("RGB")
    mask = tv_tensors.Mask(np.array(Image.open(mask_path)))
    return transform(image if as_pillow else v2.functional.to_image(image), mask)


def albumentations_transform() -> A.Compose:
    """The same changes by albumentations' own transforms, as a tutorial would chain them."""
    return A.Compose(
        [
            A.RandomResizedCrop((IMAGE_SIZE, IMAGE_SIZE), scale=(0.8, 1.0), ratio=(0.75, 1.33)),
            A.HorizontalFlip(p=0.5),
            A.Affine(
                rotate=(-10, 10),
                translate_percent=(-0.1, 0.1),
                shear=(-10, 10),
                fill_mask=IGNORE_INDEX,
                mask_interpolation=cv2.INTER_NEAREST,
                p=1,
            ),
            A.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.1, 0.1), p=1),
            A.ToGray(p=0.1),
            A.Normalize(_MEAN, _STD),
            A.ToTensorV2(),
        ]
    )


def albumentations_sample(
    transform: A.Compose, photo_path: Path, mask_path: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read with OpenCV, as albumentations' pages do."""
    image = cv2.imread(str(photo_path), cv2.IMREAD_COLOR_RGB)
    changed = transform(image=image, mask=cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE))
    return changed["image"], changed["mask"]


def rows() -> list[Row]:
    """Compare the reading of native photos with torchvision's chain, and with albumentations'."""
    root, what = photo_data_root()
    transform = baseline_transform()
    with tempfile.TemporaryDirectory() as folder, one_thread():
        split = load_train_split(root, folder)
        records = split.images[:16]
        paths = [(split.photo_path(r), split.masks.mask_path(r.id)) for r in records]

        def baseline(as_pillow: bool = False) -> None:
            for photo_path, mask_path in paths:
                baseline_sample(transform, photo_path, mask_path, as_pillow=as_pillow)

        pillow_seconds = seconds_of(lambda: baseline(as_pillow=True))[0] / len(paths)
        timing = alternate(baseline, our_samples(split, len(paths)), 5)
        chain = albumentations_transform()

        def by_albumentations() -> None:
            for photo_path, mask_path in paths:
                albumentations_sample(chain, photo_path, mask_path)

        second = alternate(by_albumentations, our_samples(split, len(paths)), 5)
        least = seconds_of(reading_alone(split, len(paths)))[0]
    return [
        Row(
            name=f"one training sample at {IMAGE_SIZE}, native photos",
            baseline=timing.baseline / len(paths),
            ours=timing.ours / len(paths),
            unit="s",
            target=6.0,
            n=timing.n,
            note=(
                f"one core, mean of {len(paths)} {what}; torchvision v2 on tensors "
                f"({pillow_seconds:.3f} s on Pillow images), normalised float32 on both sides"
            ),
            floor=timing.baseline / least,
            floor_note=(
                f"{1000 * least / len(paths):.1f} ms to decode photo and mask and to "
                "normalise one input; no change of the photo counted"
            ),
        ),
        Row(
            # Not named as the row above: `data_path_speeds` would give our loader twice.
            name=f"the same sample by albumentations' own transforms, {IMAGE_SIZE}",
            baseline=second.baseline / len(paths),
            ours=second.ours / len(paths),
            unit="s",
            target=None,
            n=second.n,
            note=(
                f"one core, mean of {len(paths)} {what}; OpenCV and albumentations "
                "(RandomResizedCrop, HorizontalFlip, Affine, ColorJitter, ToGray, Normalize, "
                "ToTensorV2), masks at the nearest pixel and 255 outside, on both sides"
            ),
        ),
    ]


def load_train_split(root: Path, derived_root: str) -> SplitData:
    """The train split with its masks below `derived_root`."""
    config = DataConfig(data_root=str(root), derived_root=derived_root, image_size=IMAGE_SIZE)
    return load_split(config, "train")


def our_samples(split: SplitData, n_samples: int) -> Callable[[], None]:
    """Draw the first samples as training does, in profile reported's strength."""
    config = DataConfig(image_size=IMAGE_SIZE, train_size=0, resize="squash")
    dataset = SegmentationDataset(split, config, profile_config("reported").augment)

    def draw() -> None:
        for index in range(n_samples):
            normalize_images(dataset[index]["image"][None])  # training does it for a batch at once

    return draw


def reading_alone(split: SplitData, n_samples: int) -> Callable[[], None]:
    """What no chain can do without: decode what lies on disk, normalise one input."""
    image = torch.zeros((1, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8)

    def read() -> None:
        for record in split.images[:n_samples]:
            split.read_pair(record)
            normalize_images(image)

    return read
