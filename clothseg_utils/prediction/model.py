"""What `predict` needs of a network, whatever runs it: PyTorch or ONNX Runtime."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np

from clothseg_utils.core.config import InferenceConfig, Resize
from clothseg_utils.pictures import overlays
from clothseg_utils.prediction.looks import Array, ArrayTools, Looks


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
    """What every `Model` of ours has in common: from one pass of its network to what users call."""

    class_names: Any  # a field of one model, a property of another, as the next ones
    image_size: Any
    resize: Any
    inference: InferenceConfig
    batch_size: int

    def predict(self, photo: np.ndarray) -> Any:
        """Predict one photo; mask, probabilities and confidence are computed when asked for.

        Args:
            photo: (H, W, 3) uint8 RGB, 0..255, any size.
        """
        return self.predict_batch([photo])[0]

    def predict_batch(self, photos: Sequence[np.ndarray]) -> list[Any]:
        """Predict some photos in one pass; with test-time options one after the other.

        The pass is the same for fewer photos than `batch_size`, so that each photo's logits are the
        same bits whatever else is in the batch.

        Args:
            photos: 1 to `batch_size` of (H, W, 3) uint8 RGB, 0..255, any sizes.
        """
        if self.inference.is_plain:
            logits = self._look_at(photos, self.image_size, self.resize, self.batch_size)
        else:
            logits = [self.logits(photo) for photo in photos]
        return [self._say(one, *photo.shape[:2]) for one, photo in zip(logits, photos, strict=True)]

    def logits(self, photo: np.ndarray) -> Array:
        """Look at one photo as the test-time options say; see `prediction.looks.Looks.logits`.

        Args:
            photo: (H, W, 3) uint8 RGB, 0..255, any size.

        Returns:
            (1, C, h, w) float32, in the network's own kind of array, that cover exactly the photo:
            logits, or with options the logarithm of the looks' mean probabilities.
        """
        return Looks(
            self.look,
            self._tools(),
            len(self.class_names),
            self.image_size,
            self.resize,
            self.inference,
        ).logits(photo)

    def look(self, photo: np.ndarray, image_size: int, resize: Resize) -> Array:
        """Look at one photo once, whatever the test-time options are.

        Args:
            photo: (H, W, 3) uint8 RGB, 0..255, any size.
            image_size: side of the square input, pixels; a multiple of 32.
            resize: how the photo becomes the square.

        Returns:
            (1, C, h, w) float32 logits; the padding of a letterbox is cut off, so that they cover
            exactly the photo.
        """
        return self._look_at([photo], image_size, resize)[0]

    def _look_at(
        self, photos: Sequence[np.ndarray], image_size: int, resize: Resize, batch_size: int = 1
    ) -> list[Array]:
        """`look` at several photos in one pass of `batch_size`; black where there is none."""
        raise NotImplementedError

    def _tools(self) -> ArrayTools:
        raise NotImplementedError

    def _say(self, logits: Array, height: int, width: int) -> Prediction:
        raise NotImplementedError

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
