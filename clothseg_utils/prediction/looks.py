"""Test-time options: several looks at a photo, averaged.

A look is one pass over one photo or window. Several looks are averaged as probabilities, and the
logarithm of their mean stands for the logits: its softmax is that mean, so that everything that
takes logits takes it too. The same for every network, whatever its arrays are: those of PyTorch
stay on their device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from clothseg_utils.core.config import InferenceConfig, Resize

LEAST_PROBABILITY = 1e-12
"""What takes a logarithm is at least this: it must be finite, or upsampling would spread NaN."""

_WINDOW_OVERLAP = 0.25  # of its side, at least, that a window shares with its neighbour

Array = Any
"""An array of the network's own kind, (1, C, h, w) float32: numpy's or PyTorch's."""


class ArrayTools(Protocol):
    """What averaging needs to do with arrays, beside arithmetic and slices."""

    def from_numpy(self, values: np.ndarray) -> Array:
        """Copy to the network's device."""

    def softmax(self, logits: Array) -> Array:
        """Probabilities over the classes, 0..1."""

    def log(self, probabilities: Array) -> Array:
        """Logarithms of what is at least `LEAST_PROBABILITY`."""

    def mirror(self, values: Array) -> Array:
        """Swap left and right."""

    def resize(self, values: Array, height: int, width: int) -> Array:
        """Bilinear, pixel centres kept, to (1, C, height, width)."""


@dataclass(frozen=True)
class Looks:
    """How a network looks at photos more than once.

    Attributes:
        look: (photo, side of the square input, resize) -> (1, C, h, w) float32 logits that cover
            exactly the photo.
        tools: for what `look` returns.
        num_classes: C.
        image_size: side of the plain input, pixels.
        resize: how a photo becomes the square.
        inference: the options.
    """

    look: Callable[[np.ndarray, int, Resize], Array]
    tools: ArrayTools
    num_classes: int
    image_size: int
    resize: Resize
    inference: InferenceConfig

    def logits(self, photo: np.ndarray) -> Array:
        """Look at one photo as the options say.

        Windows are slid over photos whose longer side is above `window_px`; the other options apply
        to each window. Without options this is one `look`, and nothing else.

        Args:
            photo: (H, W, 3) uint8 RGB, 0..255, any size.

        Returns:
            (1, C, h, w) float32 that cover exactly the photo: logits, or with options the logarithm
            of the looks' mean probabilities. With windows, h and w grow with the photo.
        """
        if self.inference.is_plain:
            return self.look(photo, self.image_size, self.resize)
        if 0 < self.inference.window_px < max(photo.shape[:2]):
            return self.tools.log(self._windowed_probabilities(photo))
        return self.tools.log(self._mean_probabilities(photo))

    def _mean_probabilities(self, photo: np.ndarray) -> Array:
        """Average over input sizes and mirroring: (1, C, h, w), h and w of the largest input."""
        looks = self._looks(photo)
        total = next(looks)
        count = 1
        for probabilities in looks:
            total += self._resized(probabilities, total.shape[2], total.shape[3])
            count += 1
        return total / count

    def _looks(self, photo: np.ndarray) -> Iterator[Array]:
        """Probabilities, (1, C, h, w), of every look at one photo, the largest input first."""
        softmax = self.tools.softmax
        for image_size in self.inference.input_sizes(self.image_size):
            yield softmax(self.look(photo, image_size, self.resize))
            if self.inference.tta_flip:
                mirrored = np.ascontiguousarray(photo[:, ::-1])
                yield self.tools.mirror(softmax(self.look(mirrored, image_size, self.resize)))

    def _windowed_probabilities(self, photo: np.ndarray) -> Array:
        """Average over windows, the middle of a window counting most: (1, C, h, w).

        The photo is scaled once, so that a window of `window_px` becomes the network's largest
        input: windows are then plain cuts, and what they say falls on one grid of pixels.
        """
        side = self.inference.input_sizes(self.image_size)[0]
        scale = side / self.inference.window_px
        height, width = (max(1, round(length * scale)) for length in photo.shape[:2])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = cv2.resize(photo, (width, height), interpolation=interpolation)
        total = self.tools.from_numpy(np.zeros((1, self.num_classes, height, width), np.float32))
        weight = self.tools.from_numpy(np.zeros((1, 1, height, width), np.float32))
        for top in window_starts(height, side):
            for left in window_starts(width, side):
                rows, columns = slice(top, top + side), slice(left, left + side)
                window = np.ascontiguousarray(scaled[rows, columns])
                probabilities = self._mean_probabilities(window)
                tent = _tent(window.shape[0])[:, None] * _tent(window.shape[1])
                middle = self.tools.from_numpy(tent)
                total[:, :, rows, columns] += middle * self._resized(
                    probabilities, *window.shape[:2]
                )
                weight[:, :, rows, columns] += middle
        return total / weight

    def _resized(self, probabilities: Array, height: int, width: int) -> Array:
        if tuple(probabilities.shape[2:]) == (height, width):
            return probabilities
        return self.tools.resize(probabilities, height, width)


def window_starts(length: int, side: int) -> list[int]:
    """Place windows along one side of a photo: evenly, from edge to edge.

    Args:
        length: of the photo's side, pixels.
        side: of the windows, pixels.

    Returns:
        First pixel of each window. Neighbours share at least a quarter of their side; one window
        stands for a photo that is not longer.

    Example:
        >>> window_starts(250, 100), window_starts(80, 100)
        ([0, 75, 150], [0])
    """
    if length <= side:
        return [0]
    steps = int(np.ceil((length - side) / ((1 - _WINDOW_OVERLAP) * side)))
    return np.linspace(0, length - side, steps + 1).round().astype(int).tolist()


def _tent(length: int) -> np.ndarray:
    """Weights, (length,) float32 0..1, that rise to the middle; none is 0, for a corner's only
    window.
    """
    steps = np.arange(length, dtype=np.float32)
    return (np.minimum(steps, length - 1 - steps) + 1) / np.float32((length + 1) // 2)
