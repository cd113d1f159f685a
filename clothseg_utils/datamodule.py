"""The loaders of a run, as a Lightning data module."""

from typing import Any

import cv2
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, RandomSampler

from clothseg_utils.classes import ClassTable
from clothseg_utils.config import Config
from clothseg_utils.dataset import Sample, SegmentationDataset, SplitData


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
            f"{train.coco.path.name} and {val.coco.path.name} define different classes; expected "
            "the same categories in both."
        )


def seed_worker(worker_id: int) -> None:
    """Give a DataLoader worker its own augmentation seed.

    Each worker starts with a copy of the augmentation's random generator: without this every
    worker draws the same changes, and each epoch repeats them. torch's seed differs by worker and
    by epoch and follows from `seed_everything`.

    Args:
        worker_id: number of the worker; torch's seed already holds it.
    """
    del worker_id
    # The workers share the cores; threads inside each only compete. 0 means none, as 1 does, but 1
    # also joins the threads of the parent's pool, which a fork does not copy: it waits for ever.
    cv2.setNumThreads(0)
    info = torch.utils.data.get_worker_info()
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
            "num_workers": train.num_workers,
            "worker_init_fn": seed_worker,
            "persistent_workers": train.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
