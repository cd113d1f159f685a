"""How a photo of any size becomes the network's square, and how the square maps back.

Training, validation and prediction share these functions, so a photo looks the same to all three.
"""

from typing import NamedTuple

import cv2
import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.config import Resize


class Normalization(NamedTuple):
    """Mean and standard deviation of the photos that an encoder's weights were trained on.

    Attributes:
        mean: of red, green and blue, 0..1.
        std: of the same.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def pad_color(self) -> tuple[int, int, int]:
        """RGB, 0..255, of the mean: padding is zero once images are normalised.

        Example:
            >>> IMAGENET.pad_color
            (124, 116, 104)
        """
        red, green, blue = (round(255 * value) for value in self.mean)
        return red, green, blue


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What most encoders take, and what checkpoints were trained with that name no other."""


class ContentBox(NamedTuple):
    """Where the photo lies inside the square, pixels."""

    top: int
    left: int
    height: int
    width: int


def content_box(height: int, width: int, image_size: int, resize: Resize) -> ContentBox:
    """Place a photo in a square of side `image_size`.

    Letterbox keeps the aspect ratio and centres the photo; squash fills the square.

    Example:
        >>> content_box(200, 100, image_size=64, resize="letterbox")
        ContentBox(top=0, left=16, height=64, width=32)
    """
    if resize == "squash":
        return ContentBox(0, 0, image_size, image_size)
    scale = image_size / max(height, width)
    fitted_height = min(image_size, max(1, round(height * scale)))
    fitted_width = min(image_size, max(1, round(width * scale)))
    return ContentBox(
        (image_size - fitted_height) // 2,
        (image_size - fitted_width) // 2,
        fitted_height,
        fitted_width,
    )


def fit_image(
    image: np.ndarray,
    image_size: int,
    resize: Resize,
    pad_color: tuple[int, int, int] = IMAGENET.pad_color,
) -> np.ndarray:
    """Resize a photo into the network's square.

    Args:
        image: (H, W, 3) uint8 RGB, 0..255.
        image_size: side of the square, pixels.
        resize: "letterbox" or "squash".
        pad_color: RGB beside a letterboxed photo, `Normalization.pad_color` of the network.

    Returns:
        (image_size, image_size, 3) uint8 RGB.
    """
    box = content_box(image.shape[0], image.shape[1], image_size, resize)
    shrinks = box.height < image.shape[0] or box.width < image.shape[1]
    # Averaging over areas keeps thin things and avoids moire; it is no good for enlarging.
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    fitted = cv2.resize(image, (box.width, box.height), interpolation=interpolation)
    return _pad(fitted, box, image_size, pad_color)


def fit_mask(mask: np.ndarray, image_size: int, resize: Resize) -> np.ndarray:
    """Resize a mask into the network's square by nearest neighbour; padding is 255.

    Args:
        mask: (H, W) uint8 class ids.
        image_size: side of the square, pixels.
        resize: "letterbox" or "squash".

    Returns:
        (image_size, image_size) uint8.
    """
    box = content_box(mask.shape[0], mask.shape[1], image_size, resize)
    # INTER_NEAREST rounds down and shifts by half a pixel; the exact form takes pixel centres.
    fitted = cv2.resize(mask, (box.width, box.height), interpolation=cv2.INTER_NEAREST_EXACT)
    return _pad(fitted, box, image_size, IGNORE_INDEX)


def _pad(
    array: np.ndarray, box: ContentBox, side: int, value: int | tuple[int, int, int]
) -> np.ndarray:
    if array.shape[:2] == (side, side):
        return array
    return cv2.copyMakeBorder(
        array,
        box.top,
        side - box.top - box.height,
        box.left,
        side - box.left - box.width,
        cv2.BORDER_CONSTANT,
        value=value,
    )
