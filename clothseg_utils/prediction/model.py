"""What `predict` needs of a network, whatever runs it: PyTorch or ONNX Runtime."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


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
