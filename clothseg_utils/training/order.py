"""Which photo a training shows next, and with which random change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from clothseg_utils.core.config import TrainConfig


class Draw(NamedTuple):
    """One training sample: number of the photo, and the seed of its augmentation."""

    photo: int
    seed: tuple[int, int]


@dataclass(frozen=True)
class CheckSizes:
    """How many photos all processes together learn from before each check.

    A check takes its share of the epochs in whole steps: a last batch of one photo would break
    batch norm at 1 x 1 features. What that leaves over adds up until a later check has a step more,
    so after any of them less than a step is missing.

    Attributes:
        epoch: photos an epoch.
        checks: checks an epoch.
        step: photos a step.
    """

    epoch: int
    checks: int
    step: int

    def begin(self, check: int) -> int:
        """Photos that the checks before this one take."""
        return check * self.epoch // (self.checks * self.step) * self.step


def check_sizes(n_photos: int, config: TrainConfig, world_size: int = 1) -> CheckSizes:
    """Sizes of the checks of a training.

    Where a check has too few photos for a step it takes batches, or one smaller batch.

    Args:
        n_photos: photos of the train split.
        config: `epoch_images`, `checks_per_epoch`, `batch_size` and `accumulate` are used.
        world_size: processes that train together.

    Raises:
        ValueError: fewer photos than processes.
    """
    epoch = config.epoch_images or n_photos
    n_draws = epoch // config.checks_per_epoch
    for step in (config.batch_size * config.accumulate, config.batch_size, 1):
        if n_draws >= step * world_size:
            return CheckSizes(epoch, config.checks_per_epoch, step * world_size)
    raise ValueError(
        f"{n_draws} photos a check (train.epoch_images or all of the train split, over "
        f"train.checks_per_epoch) are too few for {world_size} processes; expected one each."
    )


def repeat_factors(contains: np.ndarray, threshold: float) -> np.ndarray:
    """How often each photo is shown, so that rare classes are not forgotten.

    A class in less than `threshold` of the photos asks for sqrt(threshold / its share) times as
    much; a photo gets what its rarest class asks for.

    Args:
        contains: (n_photos, C) bool, which classes each photo shows.
        threshold: share of the photos, 0..1.

    Returns:
        (n_photos,) float64, 1 or more.

    Source: repeat factor sampling, Gupta et al. (LVIS), CVPR 2019, section 5.1.

    Example:
        >>> repeat_factors(np.array([[True, False]] * 3 + [[True, True]]), threshold=1.0)
        array([1., 1., 1., 2.])
    """
    shares = np.maximum(contains.mean(axis=0), 1 / max(1, len(contains)))
    asked = np.sqrt(np.maximum(1.0, threshold / shares))
    return np.where(contains, asked, 1.0).max(axis=1)


class TrainingOrder(Sampler[Draw]):
    """Pass after pass over the photos, each in a random order of its own, without end.

    With `weights` a pass is as long, and takes a photo as often as its weight says: for a share of
    2.3 times the mean two or three times.

    A check takes the next ones of this endless row. What it takes follows from the seed and
    the number of the check alone, augmentation included: not from the number of loading workers
    or of processes, nor from how often training was resumed. Several processes take turns, so that
    a batch of all of them is what one process with a batch of that size would have seen.

    Args:
        n_photos: photos of the split.
        sizes: of the checks; a step is a multiple of `world_size`.
        seed: of orders and augmentation.
        rank: number of this process.
        world_size: number of processes.
        weights: (n_photos,) of each photo, above 0; None takes all alike.

    Attributes:
        taken: photos of the check that all processes took before training was cut short: the rest
            is drawn, in whole steps; where steps have another size now, at least one.

    Example:
        >>> order = TrainingOrder(4, CheckSizes(epoch=4, checks=1, step=2), seed=0)
        >>> sorted(draw.photo for draw in order)
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        n_photos: int,
        sizes: CheckSizes,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: np.ndarray | None = None,
    ) -> None:
        self.n_photos = n_photos
        self.sizes = sizes
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.weights = weights
        self.taken = 0
        self._check = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the check to draw for; its number from 0. The Trainer calls it."""
        self._check = epoch

    def __len__(self) -> int:
        """Samples of the check in this process."""
        begin, end = self._span()
        return (end - begin) // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        """Draw this process's samples of the check."""
        begin, end = self._span()
        order, of_pass = np.empty(0, np.int64), -1
        for position in range(begin + self.rank, end, self.world_size):
            number, place = divmod(position, self.n_photos)
            if number != of_pass:
                order, of_pass = self._order(number), number
            yield Draw(int(order[place]), (self.seed, position))

    def _span(self) -> tuple[int, int]:
        """Places in the row that all processes take, to the second exclusive."""
        begin, end = (self.sizes.begin(self._check + i) for i in range(2))
        if self.taken:
            n_steps = max(1, (end - begin - self.taken) // self.sizes.step)
            begin = end - n_steps * self.sizes.step
        return begin, end

    def _order(self, number: int) -> np.ndarray:
        """Photos of a pass, (n_photos,)."""
        rng = np.random.default_rng((self.seed, number))
        if self.weights is None:
            return rng.permutation(self.n_photos)
        # Systematic sampling: evenly spaced marks over the photos, each as wide as its weight.
        ends = np.cumsum(self.weights / self.weights.sum())
        marks = (np.arange(self.n_photos) + rng.random()) / self.n_photos
        photos = np.searchsorted(ends, marks, side="right").clip(max=self.n_photos - 1)
        return rng.permutation(photos)
