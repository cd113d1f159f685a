"""Photos and masks as batches: the Dataset, and the loaders of a run."""

from functools import cached_property
from typing import Any, TypedDict, get_args

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.core.config import AugmentConfig, Config, DataConfig
from clothseg_utils.core.ranks import local_world_size, rank, world_size
from clothseg_utils.core.workers import affordable_workers, stop_opencv_threads
from clothseg_utils.data.splits import SplitData, check_disjoint
from clothseg_utils.prediction.geometry import IMAGENET, Normalization, fit_image, fit_mask
from clothseg_utils.scores.composites import (
    PEOPLE,
    Layout,
    compose,
    draw_composite,
    has_foreground,
    lay_out,
)
from clothseg_utils.training.augment import TrainTransform
from clothseg_utils.training.order import Draw, TrainingOrder, check_sizes, repeat_factors

_OF_GROUPS = 1  # added to the seed: other random numbers than those of the transform


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
        config: data section; `image_size`, `train_size` and `resize` are used.
        augment: strength of augmentation; None for validation, which only resizes.
        normalization: of the network; padding has its mean colour.
    """

    def __init__(
        self,
        split_data: SplitData,
        config: DataConfig,
        augment: AugmentConfig | None = None,
        normalization: Normalization = IMAGENET,
    ) -> None:
        self.pairs = split_data.pairs()  # sent to every worker process: no annotation file
        self.config = config
        self.pad_color = normalization.pad_color
        self.group_probability = 0.0
        self._group_rng = np.random.default_rng(_OF_GROUPS)
        self.transform: TrainTransform | None = None
        if augment is not None:
            if not augment.pipeline_file:  # which stands instead of all other changes
                self.group_probability = augment.group_probability
            self.transform = TrainTransform(
                augment, config.input_size, config.resize, self.pad_color
            )

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.pairs)

    def __getitem__(self, index: int | Draw) -> Sample:
        """Read, resize and augment the photo at `index` with its mask.

        A `Draw` names the seed of the augmentation too, so that it does not matter which process
        loads the photo, nor what was loaded before.
        """
        if isinstance(index, Draw):
            self.set_random_seed(index.seed)
            index = index.photo
        image, mask = self.pairs.read(index)
        if self._group_rng.random() < self.group_probability:
            image, mask = self._with_others(index, image, mask)
        if self.transform is None:
            image = fit_image(image, self.config.image_size, self.config.resize, self.pad_color)
            mask = fit_mask(mask, self.config.image_size, self.config.resize)
        else:
            image, mask = self.transform(image, mask)
        planes = np.empty((3, *mask.shape), np.uint8)
        cv2.split(image, [*planes])  # into `planes`, several times as fast as a transposed copy
        return Sample(image=torch.from_numpy(planes), mask=torch.from_numpy(mask))

    def _with_others(
        self, index: int, image: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A composite of the photo with one to three others; the photo where one shows nobody."""
        rng = self._group_rng
        n_photos = min(int(rng.choice(PEOPLE)), len(self.pairs))
        if n_photos < min(PEOPLE):
            return image, mask
        others = rng.choice(len(self.pairs) - 1, n_photos - 1, replace=False)
        members = [index, *(int(other) + (other >= index) for other in others)]
        images, masks = [image], [mask]
        for other in members[1:]:
            other_image, other_mask = self.pairs.read(other)
            images.append(other_image)
            masks.append(other_mask)
        layouts = get_args(Layout)
        composite = draw_composite(members, layouts[rng.integers(len(layouts))], rng)
        if any(not has_foreground(m) for m in masks):
            return image, mask  # nobody to put beside the others
        canvas = lay_out(composite, masks)
        return compose(images, canvas), compose(masks, canvas)

    def set_random_seed(self, seed: int | tuple[int, ...]) -> None:
        """Seed the augmentation; validation has none."""
        if self.transform is not None:
            self.transform.set_random_seed(seed)
            self._group_rng = np.random.default_rng((*np.atleast_1d(seed).tolist(), _OF_GROUPS))


def start_worker(worker_id: int) -> None:
    """Start a DataLoader worker: it shares the cores with the others.

    Args:
        worker_id: number of the worker; all are alike.
    """
    del worker_id
    stop_opencv_threads()


class ClothingDataModule(pl.LightningDataModule):
    """Train and val loaders of a run.

    Args:
        config: the run's settings.
        train: the train split.
        val: the val split, disjoint from train.
        normalization: of the network.
    """

    def __init__(
        self,
        config: Config,
        train: SplitData,
        val: SplitData,
        normalization: Normalization = IMAGENET,
    ) -> None:
        super().__init__()
        check_disjoint(train, val)
        self.config = config
        self.normalization = normalization
        self.train_split = train
        self.val_split = val
        self.train_dataset = SegmentationDataset(train, config.data, config.augment, normalization)
        self.val_dataset = SegmentationDataset(val, config.data, normalization=normalization)

    def rehearse(self) -> None:
        """Try a pipeline of one's own on the lowest and the narrowest photo's size.

        Raises:
            ValueError: it fails, or makes something else than a photo and its mask.
        """
        sizes = [(record.height, record.width) for record in self.train_split.images]
        if self.train_dataset.transform is not None:
            self.train_dataset.transform.rehearse({min(sizes), min(sizes, key=lambda hw: hw[1])})

    @property
    def classes(self) -> ClassTable:
        """Class table of both splits."""
        return self.train_split.classes

    @cached_property
    def num_workers(self) -> int:
        """Workers of each loader: those asked for, as far as cores and shared memory allow."""
        train = self.config.train
        data = self.config.data
        side = max(data.image_size, data.input_size)
        batch_bytes = train.batch_size * 4 * side**2  # RGB and mask
        workers, reason = affordable_workers(train.num_workers, batch_bytes, local_world_size())
        if reason and rank() == 0:
            print(reason, flush=True)
        return workers

    def train_dataloader(self) -> DataLoader[Sample]:
        """Augmented photos in random order, as many as belong between two checks."""
        train = self.config.train
        n_photos = len(self.train_dataset)
        sizes = check_sizes(n_photos, train, world_size())
        order = TrainingOrder(
            n_photos, sizes, train.seed, rank(), world_size(), self._photo_weights()
        )
        return DataLoader(self.train_dataset, sampler=order, **self._loader_options())

    def _photo_weights(self) -> np.ndarray | None:
        threshold = self.config.train.repeat_threshold
        if not threshold:
            return None
        pixels_of = {e.image_id: e.class_pixels for e in self.train_split.masks.entries}
        pixels = np.array([pixels_of[record.id] for record in self.train_split.images])
        return repeat_factors(pixels > 0, threshold)

    def val_dataloader(self) -> DataLoader[Sample]:
        """All val photos in order, resized only; several processes take turns.

        Raises:
            ValueError: fewer photos than processes.
        """
        if len(self.val_dataset) < world_size():
            raise ValueError(
                f"the val split has {len(self.val_dataset)} photos for {world_size()} processes; "
                "expected one each. Lower train.devices."
            )
        turns = range(rank(), len(self.val_dataset), world_size())
        return DataLoader(self.val_dataset, sampler=turns, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        train = self.config.train
        return {
            "batch_size": train.batch_size,
            "num_workers": self.num_workers,
            "worker_init_fn": start_worker,
            # Of its own: a new iterator draws from it, and dropout must not notice.
            "generator": torch.Generator(),
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
