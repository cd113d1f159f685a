"""What `predict` needs of a network, whatever runs it: PyTorch or ONNX Runtime."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

import numpy as np

from clothseg_utils.pictures import overlays


class Prediction(Protocol):
    """What a network says of one photo, (H, W) pixels, at the photo's own size."""

    def mask(self) -> np.ndarray:
        """(H, W) uint8 class ids."""

    def probabilities(self) -> np.ndarray:
        """(C, H, W) float16, 0..1."""

    def confidence(self) -> np.ndarray:
        """(H, W) float32: the probability of the best class, 1 / C..1."""


class Model(Protocol):
    """A trained network that predicts photos of any size."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Index = class id."""

    @property
    def colors(self) -> np.ndarray:
        """(C, 3) uint8 RGB; index = class id."""

    @property
    def batch_size(self) -> int:
        """Photos in one pass of the network, 1 or more."""

    def predict(self, photo: np.ndarray) -> Prediction:
        """Predict one photo: (H, W, 3) uint8 RGB, 0..255, any size."""

    def predict_batch(self, photos: Sequence[np.ndarray]) -> Sequence[Prediction]:
        """Predict 1 to `batch_size` photos, each of any size, in one pass.

        A photo's prediction is bit for bit the one of `predict`, whatever else is in the batch.
        """


class PhotoModel:
    """What every `Model` of ours offers to those who call it from Python."""

    def mask(self: Model, photo: np.ndarray) -> np.ndarray:
        """Segment one photo.

        Args:
            photo: (H, W, 3) uint8 RGB, 0..255, any size.

        Returns:
            (H, W) uint8 class ids.
        """
        return self.predict(photo).mask()

    def masks(self: Model, photos: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Segment photos of any sizes; each mask is what `mask` says of its photo.

        Args:
            photos: (H, W, 3) uint8 RGB, 0..255, each; `batch_size` of them are held at a time.

        Returns:
            (H, W) uint8 class ids, one for each photo.
        """
        remaining = iter(photos)
        masks: list[np.ndarray] = []
        while batch := list(islice(remaining, self.batch_size)):
            masks += [prediction.mask() for prediction in self.predict_batch(batch)]
        return masks

    def probabilities(self: Model, photo: np.ndarray) -> np.ndarray:
        """Class probabilities of one photo at its own size.

        Args:
            photo: (H, W, 3) uint8 RGB, 0..255, any size.

        Returns:
            (C, H, W) float16, 0..1.
        """
        return self.predict(photo).probabilities()

    def overlay(self: Model, photo: np.ndarray, opacity: float = 0.55) -> np.ndarray:
        """Segment one photo and blend the classes' colours over it.

        Args:
            photo: (H, W, 3) uint8 RGB, 0..255, any size.
            opacity: weight of the colour inside an area, 0..1.

        Returns:
            (H, W, 3) uint8 RGB; a new array.
        """
        return overlays.overlay(photo, self.predict(photo).mask(), self.colors, opacity)
