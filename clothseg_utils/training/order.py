"""Which photo a training shows next, and with which random change."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from clothseg_utils.core.config import TrainConfig


class Draw(NamedTuple):
    """One training sample: number of the photo, and the seed of its augmentation."""

    photo: int
    seed: tuple[int, int]


def draws_per_check(n_photos: int, config: TrainConfig, world_size: int = 1) -> int:
    """Photos that all processes together learn from before each check.

    The share of an epoch, rounded down to whole steps: a last batch of one photo would break batch
    norm at 1 x 1 features. What is left over comes first in the next check.

    Args:
        n_photos: photos of the train split.
        config: `epoch_images`, `checks_per_epoch`, `batch_size` and `accumulate` are used.
        world_size: processes that train together.

    Raises:
        ValueError: fewer photos than processes.
    """
    n_draws = (config.epoch_images or n_photos) // config.checks_per_epoch
    for step in (config.batch_size * config.accumulate, config.batch_size, 1):
        if n_draws >= step * world_size:
            return n_draws - n_draws % (step * world_size)
    raise ValueError(
        f"{n_draws} photos a check (train.epoch_images or all of the train split, over "
        f"train.checks_per_epoch) are too few for {world_size} processes; expected one each."
    )


class TrainingOrder(Sampler[Draw]):
    """Pass after pass over the photos, each in a random order of its own, without end.

    A check takes the next `n_draws` of this endless row. What it takes follows from the seed and
    the number of the check alone, augmentation included: not from the number of loading workers
    or of processes, nor from how often training was resumed. Several processes take turns, so that
    a batch of all of them is what one process with a batch of that size would have seen.

    Args:
        n_photos: photos of the split.
        n_draws: samples a check over all processes, a multiple of `world_size`.
        seed: of orders and augmentation.
        rank: number of this process.
        world_size: number of processes.

    Example:
        >>> order = TrainingOrder(n_photos=4, n_draws=4, seed=0)
        >>> sorted(draw.photo for draw in order)
        [0, 1, 2, 3]
    """

    def __init__(
        self, n_photos: int, n_draws: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.n_photos = n_photos
        self.n_draws = n_draws
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._check = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the check to draw for; its number from 0. The Trainer calls it."""
        self._check = epoch

    def __len__(self) -> int:
        """Samples a check of this process."""
        return self.n_draws // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        """Draw this process's samples of the check."""
        begin = self._check * self.n_draws
        order, of_pass = np.empty(0, np.int64), -1
        for position in range(begin + self.rank, begin + self.n_draws, self.world_size):
            number, place = divmod(position, self.n_photos)
            if number != of_pass:
                order = np.random.default_rng((self.seed, number)).permutation(self.n_photos)
                of_pass = number
            yield Draw(int(order[place]), (self.seed, position))
