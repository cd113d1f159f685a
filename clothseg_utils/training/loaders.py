"""Photos and masks as batches: the Dataset, and the loaders of a run."""

from functools import cached_property
from typing import Any, TypedDict

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.core.config import AugmentConfig, Config, DataConfig
from clothseg_utils.core.workers import affordable_workers, stop_opencv_threads
from clothseg_utils.data.splits import SplitData, check_disjoint
from clothseg_utils.network.geometry import fit_image, fit_mask
from clothseg_utils.training.augment import TrainTransform


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
        config: data section; `image_size` and `resize` are used.
        augment: strength of augmentation; None for validation, which only resizes.
    """

    def __init__(
        self, split_data: SplitData, config: DataConfig, augment: AugmentConfig | None = None
    ) -> None:
        self.pairs = split_data.pairs()  # sent to every worker process: no annotation file
        self.config = config
        self.transform: TrainTransform | None = None
        if augment is not None:
            self.transform = TrainTransform(augment, config.image_size, config.resize)

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read, resize and augment the photo at `index` with its mask."""
        image, mask = self.pairs.read(index)
        if self.transform is None:
            image = fit_image(image, self.config.image_size, self.config.resize)
            mask = fit_mask(mask, self.config.image_size, self.config.resize)
        else:
            image, mask = self.transform(image, mask)
        planes = np.empty((3, *mask.shape), np.uint8)
        cv2.split(image, [*planes])  # into `planes`, several times as fast as a transposed copy
        return Sample(image=torch.from_numpy(planes), mask=torch.from_numpy(mask))

    def set_random_seed(self, seed: int) -> None:
        """Seed the augmentation; validation has none."""
        if self.transform is not None:
            self.transform.set_random_seed(seed)


def seed_worker(worker_id: int) -> None:
    """Give a DataLoader worker its own augmentation seed.

    Each worker starts with a copy of the augmentation's random generator: without this every
    worker draws the same changes, and each epoch repeats them. torch's seed differs by worker and
    by epoch and follows from `seed_everything`.

    Args:
        worker_id: number of the worker; torch's seed already holds it.
    """
    del worker_id
    stop_opencv_threads()
    info: Any = torch.utils.data.get_worker_info()
    info.dataset.set_random_seed(torch.initial_seed() % 2**31)


class ClothingDataModule(pl.LightningDataModule):
    """Train and val loaders of a run.

    Args:
        config: the run's settings.
        train: the train split.
        val: the val split, disjoint from train.
    """

    def __init__(self, config: Config, train: SplitData, val: SplitData) -> None:
        super().__init__()
        check_disjoint(train, val)
        self.config = config
        self.train_split = train
        self.val_split = val
        self.train_dataset = SegmentationDataset(train, config.data, config.augment)
        self.val_dataset = SegmentationDataset(val, config.data)

    @property
    def classes(self) -> ClassTable:
        """Class table of both splits."""
        return self.train_split.classes

    @cached_property
    def num_workers(self) -> int:
        """Workers of each loader: those asked for, as far as cores and shared memory allow."""
        train = self.config.train
        batch_bytes = train.batch_size * 4 * self.config.data.image_size**2  # RGB and mask
        ranks = self.trainer.num_devices if self.trainer else 1
        workers, reason = affordable_workers(train.num_workers, batch_bytes, ranks)
        if reason and (not self.trainer or self.trainer.is_global_zero):
            print(reason, flush=True)
        return workers

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled, augmented photos; `epoch_images` of them an epoch."""
        # With workers, `seed_worker` seeds each; without, this seeds the only copy.
        self.train_dataset.set_random_seed(torch.initial_seed() % 2**31)
        train = self.config.train
        sampler = RandomSampler(self.train_dataset, num_samples=train.epoch_images or None)
        # A last batch of one photo would break batch norm at 1 x 1 features.
        drop_last = sampler.num_samples > train.batch_size
        return DataLoader(
            self.train_dataset, sampler=sampler, drop_last=drop_last, **self._loader_options()
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """All val photos in order, resized only."""
        return DataLoader(self.val_dataset, shuffle=False, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        train = self.config.train
        return {
            "batch_size": train.batch_size,
            "num_workers": self.num_workers,
            "worker_init_fn": seed_worker,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
