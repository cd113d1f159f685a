"""Random changes to a training photo and its mask: one warp and one colour matrix.

Crop, flip, rotation, shift and shear are one affine map, and brightness, contrast, saturation, hue
and grey are one affine map of colours. Composed before they are applied, they cost one pass over
the pixels each, and the photo is resampled once instead of twice.
"""

import math

import cv2
import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.config import AugmentConfig, Resize
from clothseg_utils.network.geometry import IMAGENET, content_box

# Weights of red, green and blue in brightness, ITU-R BT.601, as in OpenCV, Pillow and torchvision.
_LUMA = np.array([0.299, 0.587, 0.114])
_CROP_TRIALS = 10


class TrainTransform:
    """Augmentation of a photo and its mask; outside the photo masks are 255.

    Args:
        config: strength of each change.
        image_size: side of the result, pixels.
        resize: "letterbox" crops from the photo in its centred square, "squash" from the photo.
        pad_color: RGB outside the photo, `Normalization.pad_color` of the network.

    Example:
        >>> transform = TrainTransform(AugmentConfig(), image_size=32, resize="squash")
        >>> transform.set_random_seed(0)
        >>> image, mask = np.zeros((60, 40, 3), np.uint8), np.zeros((60, 40), np.uint8)
        >>> [array.shape for array in transform(image, mask)]
        [(32, 32, 3), (32, 32)]
    """

    def __init__(
        self,
        config: AugmentConfig,
        image_size: int,
        resize: Resize,
        pad_color: tuple[int, int, int] = IMAGENET.pad_color,
    ) -> None:
        self.config = config
        self.pad_color = pad_color
        self.image_size = image_size
        self.resize = resize
        self._rng = np.random.default_rng(0)

    def set_random_seed(self, seed: int | tuple[int, ...]) -> None:
        """Start the random numbers anew; equal seeds draw equal changes."""
        self._rng = np.random.default_rng(seed)

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw a change and apply it.

        Args:
            image: (H, W, 3) uint8 RGB, 0..255.
            mask: (H, W) uint8 class ids.

        Returns:
            image (S, S, 3) uint8 RGB and mask (S, S) uint8, S = `image_size`; the mask holds the
            ids of the input, and 255 where the photo does not reach.
        """
        to_photo = self._draw_geometry(*mask.shape)
        warped = warp_image(image, to_photo, self.image_size, self.pad_color)
        colors = self._draw_colors(np.array(cv2.mean(warped)[:3]))
        return cv2.transform(warped, colors), warp_mask(mask, to_photo, self.image_size)

    def _draw_geometry(self, height: int, width: int) -> np.ndarray:
        """Draw the (3, 3) map from points of the result to points of the photo, pixels.

        Points, not pixel numbers: the centre of the first pixel is at (0.5, 0.5).
        """
        config, rng, size = self.config, self._rng, self.image_size
        frame_height, frame_width, frame_top, frame_left = height, width, 0, 0
        if self.resize == "letterbox":
            frame_height = frame_width = max(height, width)
            box = content_box(height, width, frame_width, "letterbox")
            frame_top, frame_left = -box.top, -box.left
        top, left, crop_height, crop_width = self._draw_crop(frame_height, frame_width)
        crop = _translation(frame_left + left, frame_top + top) @ np.diag(
            [crop_width / size, crop_height / size, 1.0]
        )
        flip = np.eye(3)
        if rng.random() < config.flip_probability:
            flip = np.array([[-1.0, 0, size], [0, 1, 0], [0, 0, 1]])
        angle = math.radians(_symmetric(rng, config.rotation_degrees))
        shear = math.tan(math.radians(_symmetric(rng, config.shear_degrees)))
        shift = [size * _symmetric(rng, config.translate_fraction) for _ in "xy"]
        sine, cosine = math.sin(angle), math.cos(angle)
        turned = (
            _translation(size / 2 + shift[0], size / 2 + shift[1])
            @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
            @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
            @ _translation(-size / 2, -size / 2)
        )
        return crop @ flip @ np.linalg.inv(turned)

    def _draw_crop(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Draw top, left, height and width of a crop, pixels; as torchvision does."""
        config, rng = self.config, self._rng
        log_ratios = math.log(config.crop_ratio_min), math.log(config.crop_ratio_max)
        for _ in range(_CROP_TRIALS):
            area = height * width * rng.uniform(config.crop_scale_min, config.crop_scale_max)
            ratio = math.exp(rng.uniform(*log_ratios))
            crop_height, crop_width = math.sqrt(area / ratio), math.sqrt(area * ratio)
            if crop_height <= height and crop_width <= width:
                top = rng.uniform(0, height - crop_height)
                left = rng.uniform(0, width - crop_width)
                return top, left, crop_height, crop_width
        # No such crop fits: the largest of the nearest allowed ratio, in the centre.
        ratio = min(max(width / height, config.crop_ratio_min), config.crop_ratio_max)
        crop_height, crop_width = min(height, width / ratio), min(width, height * ratio)
        return (height - crop_height) / 2, (width - crop_width) / 2, crop_height, crop_width

    def _draw_colors(self, mean_color: np.ndarray) -> np.ndarray:
        """Draw the (3, 4) map of colours, RGB in 0..255, for an image of that mean colour."""
        config, rng = self.config, self._rng
        jitter = config.jitter_strength
        brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3)
        matrix = hue_rotation(_symmetric(rng, config.jitter_hue))
        if rng.random() < config.grayscale_probability:
            saturation = 0.0
        grey = np.tile(_LUMA, (3, 1))
        matrix = brightness * (saturation * np.eye(3) + (1 - saturation) * grey) @ matrix
        # Contrast moves colours away from the mean brightness, or towards it.
        offset = (1 - contrast) * (_LUMA @ matrix @ mean_color)
        return np.column_stack([contrast * matrix, np.full(3, offset)])


def hue_rotation(share: float) -> np.ndarray:
    """Turn colours about the axis of greys, the linear form of a shift of the hue.

    Args:
        share: of the whole circle; 1/3 turns red into green, green into blue, blue into red.

    Returns:
        (3, 3) float64 for RGB columns; greys stay as they are.

    Example:
        >>> (hue_rotation(1 / 3) @ [255, 0, 0]).round().astype(int)
        array([  0, 255,   0])
    """
    angle = 2 * math.pi * share
    along = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return math.cos(angle) * (np.eye(3) - along) + math.sin(angle) * across + along


def warp_image(
    image: np.ndarray,
    to_photo: np.ndarray,
    image_size: int,
    pad_color: tuple[int, int, int] = IMAGENET.pad_color,
) -> np.ndarray:
    """Sample a photo at the points that `to_photo` names.

    A photo much larger than the result is first reduced by whole numbers, averaging over areas:
    sampled as it is, thin things would vanish or turn into moire.

    Args:
        image: (H, W, 3) uint8 RGB.
        to_photo: (3, 3) map from points of the result to points of the photo.
        image_size: side of the result, pixels.
        pad_color: RGB outside the photo.

    Returns:
        (image_size, image_size, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    # Photo pixels per pixel of the result, across and down the photo.
    scales = np.linalg.norm(to_photo[:2, :2], axis=1)
    factors = [max(1, round(scale)) for scale in scales.tolist()]
    if max(factors) > 1:
        reduced = (max(1, width // factors[0]), max(1, height // factors[1]))
        # At a factor of 2 linear interpolation is the average of both, and faster.
        interpolation = cv2.INTER_LINEAR if max(factors) == 2 else cv2.INTER_AREA
        image = cv2.resize(image, reduced, interpolation=interpolation)
        to_photo = np.diag([reduced[0] / width, reduced[1] / height, 1.0]) @ to_photo
    # One pixel more on each side: the outer half of an edge pixel must not mix with the padding.
    image = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return _warp(image, _translation(1, 1) @ to_photo, image_size, cv2.INTER_LINEAR, pad_color)


def warp_mask(mask: np.ndarray, to_photo: np.ndarray, image_size: int) -> np.ndarray:
    """Sample a mask at the points that `to_photo` names, nearest pixel; outside it is 255.

    Args:
        mask: (H, W) uint8 class ids.
        to_photo: (3, 3) map from points of the result to points of the photo.
        image_size: side of the result, pixels.

    Returns:
        (image_size, image_size) uint8.
    """
    return _warp(mask, to_photo, image_size, cv2.INTER_NEAREST, IGNORE_INDEX)


def _warp(
    array: np.ndarray,
    to_photo: np.ndarray,
    image_size: int,
    interpolation: int,
    fill: int | tuple[int, int, int],
) -> np.ndarray:
    height, width = array.shape[:2]
    corners = np.array([(x, y, 1) for x in (0, image_size) for y in (0, image_size)])
    corners = corners @ to_photo[:2].T  # (4, 2), on the photo
    is_inside = corners.min() > -1e-6 and (corners - [width, height]).max() < 1e-6
    # OpenCV counts from the centre of the first pixel.
    centred = _translation(-0.5, -0.5) @ to_photo @ _translation(0.5, 0.5)
    return cv2.warpAffine(
        array,
        centred[:2],
        (image_size, image_size),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        # The fill would blend into the outermost half pixel of an enlarged photo.
        borderMode=cv2.BORDER_REPLICATE if is_inside else cv2.BORDER_CONSTANT,
        borderValue=fill,
    )


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def _symmetric(rng: np.random.Generator, most: float) -> float:
    return rng.uniform(-most, most)
