"""What `predict` needs of a network, whatever runs it: PyTorch or ONNX Runtime."""

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

    def predict(self, photo: np.ndarray) -> Prediction:
        """Predict one photo: (H, W, 3) uint8 RGB, 0..255, any size."""
