"""Random changes to a training photo and its mask: one warp and one colour matrix.

Crop, flip, rotation, shift and shear are one affine map, and brightness, contrast, saturation, hue
and grey are one affine map of colours. Composed before they are applied, they cost one pass over
the pixels each, and the photo is resampled once instead of twice. Both are transforms of
albumentations, so they can be saved, printed, and mixed with its own.
"""

import math
import random
from collections.abc import Iterable
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.config import AugmentConfig, Resize
from clothseg_utils.prediction.geometry import IMAGENET, content_box, fit_image, fit_mask
from clothseg_utils.training.pipeline_file import check_result, one_line, read_pipeline

# Weights of red, green and blue in brightness, ITU-R BT.601, as in OpenCV, Pillow and torchvision.
_LUMA = np.array([0.299, 0.587, 0.114])
_CROP_TRIALS = 10
_REHEARSALS = 8


class PhotoWarp(A.DualTransform):
    """Crop, flip, rotation, shift and shear as one map, to a square; outside masks are 255.

    Args:
        image_size: side of the result, pixels.
        resize: "letterbox" crops from the photo in its centred square, "squash" from the photo.
        pad_color: RGB outside the photo, `Normalization.pad_color` of the network.
        p: probability of the whole.

    The others are the fields of `AugmentConfig`.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self,
        image_size: int,
        resize: Resize = "letterbox",
        pad_color: Iterable[int] = IMAGENET.pad_color,
        crop_scale_min: float = 1.0,
        crop_scale_max: float = 1.0,
        crop_ratio_min: float = 1.0,
        crop_ratio_max: float = 1.0,
        flip_probability: float = 0.0,
        rotation_degrees: float = 0.0,
        translate_fraction: float = 0.0,
        shear_degrees: float = 0.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.image_size = image_size
        self.resize = resize
        red, green, blue = pad_color  # a list where it was read from a file
        self.pad_color = red, green, blue
        self.crop_scale_min = crop_scale_min
        self.crop_scale_max = crop_scale_max
        self.crop_ratio_min = crop_ratio_min
        self.crop_ratio_max = crop_ratio_max
        self.flip_probability = flip_probability
        self.rotation_degrees = rotation_degrees
        self.translate_fraction = translate_fraction
        self.shear_degrees = shear_degrees

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the (3, 3) map from points of the result to points of the photo, pixels.

        Points, not pixel numbers: the centre of the first pixel is at (0.5, 0.5).
        """
        rng, size = self.random_generator, self.image_size
        height, width = params["shape"][:2]
        top, left, crop_height, crop_width = self._draw_crop(height, width)
        crop = _translation(left, top) @ np.diag([crop_width / size, crop_height / size, 1.0])
        flip = np.eye(3)
        if rng.random() < self.flip_probability:
            flip = np.array([[-1.0, 0, size], [0, 1, 0], [0, 0, 1]])
        angle = math.radians(_symmetric(rng, self.rotation_degrees))
        shear = math.tan(math.radians(_symmetric(rng, self.shear_degrees)))
        shift = [size * _symmetric(rng, self.translate_fraction) for _ in "xy"]
        sine, cosine = math.sin(angle), math.cos(angle)
        turned = (
            _translation(size / 2 + shift[0], size / 2 + shift[1])
            @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
            @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
            @ _translation(-size / 2, -size / 2)
        )
        return {"to_photo": crop @ flip @ np.linalg.inv(turned)}

    def apply(self, img: np.ndarray, to_photo: np.ndarray, **params: Any) -> np.ndarray:
        """Warp the photo, as `warp_image` does."""
        return warp_image(img, to_photo, self.image_size, self.pad_color)

    def apply_to_mask(self, mask: np.ndarray, to_photo: np.ndarray, **params: Any) -> np.ndarray:
        """Warp the mask, as `warp_mask` does."""
        return warp_mask(mask, to_photo, self.image_size)

    def _draw_crop(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Draw top, left, height and width of a crop, pixels of the photo; as torchvision does.

        Where it is smaller than the photo it lies inside, where it is larger the photo lies
        anywhere in it.
        """
        rng = self.random_generator
        frame_height, frame_width, frame_top, frame_left = height, width, 0, 0
        if self.resize == "letterbox":
            frame_height = frame_width = max(height, width)
            box = content_box(height, width, frame_width, "letterbox")
            frame_top, frame_left = -box.top, -box.left
        log_ratios = math.log(self.crop_ratio_min), math.log(self.crop_ratio_max)
        for _ in range(_CROP_TRIALS):
            scale = rng.uniform(self.crop_scale_min, self.crop_scale_max)
            area = frame_height * frame_width * scale
            ratio = math.exp(rng.uniform(*log_ratios))
            crop_height, crop_width = math.sqrt(area / ratio), math.sqrt(area * ratio)
            if scale > 1 or (crop_height <= frame_height and crop_width <= frame_width):
                if scale == ratio == 1 and frame_height == frame_width:
                    break  # the whole frame
                top = rng.uniform(*sorted((0, height - crop_height)))
                left = rng.uniform(*sorted((0, width - crop_width)))
                return top, left, crop_height, crop_width
        # No such crop fits: the largest of the nearest allowed ratio, in the centre.
        ratio = min(max(frame_width / frame_height, self.crop_ratio_min), self.crop_ratio_max)
        crop_height = min(frame_height, frame_width / ratio)
        crop_width = min(frame_width, frame_height * ratio)
        top = frame_top + (frame_height - crop_height) / 2
        left = frame_left + (frame_width - crop_width) / 2
        return top, left, crop_height, crop_width


class ColorMatrix(A.ImageOnlyTransform):
    """Brightness, contrast, saturation, hue and grey as one map of colours.

    Args:
        jitter_strength: of `AugmentConfig`, as the next two.
        jitter_hue: share of the colour circle.
        grayscale_probability: colour taken away.
        p: probability of the whole.
    """

    def __init__(
        self,
        jitter_strength: float = 0.0,
        jitter_hue: float = 0.0,
        grayscale_probability: float = 0.0,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.jitter_strength = jitter_strength
        self.jitter_hue = jitter_hue
        self.grayscale_probability = grayscale_probability

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw the (3, 4) map of colours, RGB in 0..255, for an image of that mean colour."""
        rng, jitter = self.random_generator, self.jitter_strength
        brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3)
        matrix = hue_rotation(_symmetric(rng, self.jitter_hue))
        if rng.random() < self.grayscale_probability:
            saturation = 0.0
        grey = np.tile(_LUMA, (3, 1))
        matrix = brightness * (saturation * np.eye(3) + (1 - saturation) * grey) @ matrix
        # Contrast moves colours away from the mean brightness, or towards it.
        mean_color = np.array(cv2.mean(data["image"])[:3])
        offset = (1 - contrast) * (_LUMA @ matrix @ mean_color)
        return {"colors": np.column_stack([contrast * matrix, np.full(3, offset)])}

    def apply(self, img: np.ndarray, colors: np.ndarray, **params: Any) -> np.ndarray:
        """Map the colours of each pixel."""
        return cv2.transform(img, colors)


def build_pipeline(
    config: AugmentConfig,
    image_size: int,
    resize: Resize,
    pad_color: tuple[int, int, int] = IMAGENET.pad_color,
) -> A.Compose:
    """Compose the changes that the settings ask for; arguments as of `TrainTransform`."""
    warp = PhotoWarp(
        image_size=image_size,
        resize=resize,
        pad_color=pad_color,
        crop_scale_min=config.crop_scale_min,
        crop_scale_max=config.crop_scale_max,
        crop_ratio_min=config.crop_ratio_min,
        crop_ratio_max=config.crop_ratio_max,
        flip_probability=config.flip_probability,
        rotation_degrees=config.rotation_degrees,
        translate_fraction=config.translate_fraction,
        shear_degrees=config.shear_degrees,
    )
    colors = ColorMatrix(
        jitter_strength=config.jitter_strength,
        jitter_hue=config.jitter_hue,
        grayscale_probability=config.grayscale_probability,
    )
    return A.Compose([warp, colors])


class TrainTransform:
    """Augmentation of a photo and its mask; outside the photo masks are 255.

    Args:
        config: strength of each change, or the file of a pipeline that replaces them.
        image_size: side of the result, pixels.
        resize: "letterbox" crops from the photo in its centred square, "squash" from the photo.
        pad_color: RGB outside the photo, `Normalization.pad_color` of the network.

    Raises:
        FileNotFoundError, ValueError: see `pipeline_file.read_pipeline`.

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
        self.image_size = image_size
        self.resize = resize
        self.pad_color = pad_color
        self.file = config.pipeline_file
        self.pipeline = (
            read_pipeline(self.file)
            if self.file
            else build_pipeline(config, image_size, resize, pad_color)
        )
        self.set_random_seed(0)

    def set_random_seed(self, seed: int | tuple[int, ...]) -> None:
        """Start the random numbers anew; equal seeds draw equal changes.

        All transforms draw from the same two generators. The pipeline's own `set_random_seed` makes
        two for each, all in the same state: a photo that is flipped would always be turned too.
        """
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(repr(seed)))

    def __call__(self, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw a change and apply it.

        Args:
            image: (H, W, 3) uint8 RGB, 0..255.
            mask: (H, W) uint8 class ids.

        Returns:
            image (S, S, 3) uint8 RGB and mask (S, S) uint8, S = `image_size`; the mask holds the
            ids of the input, and 255 where the photo does not reach.

        Raises:
            ValueError: a pipeline of a file makes something else of a photo and its mask.
        """
        changed = self.pipeline(image=image, mask=mask)
        if not self.file:
            return changed["image"], changed["mask"]
        check_result(changed["image"], changed["mask"], mask, self.file)
        if changed["mask"].shape == (self.image_size, self.image_size):
            return changed["image"], changed["mask"]
        return (
            fit_image(changed["image"], self.image_size, self.resize, self.pad_color),
            fit_mask(changed["mask"], self.image_size, self.resize),
        )

    def rehearse(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Try the pipeline of a file on noise, so that it does not fail hours later.

        Args:
            sizes: height and width of the photos to try, pixels.

        Raises:
            ValueError: it does not run, or makes something else than a photo and its mask.
        """
        rng = np.random.default_rng(0)
        for height, width in sizes if self.file else ():
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            # Without 0, which a wrong fill would add, and apart: a mean of the two is neither.
            mask = rng.choice(np.array([50, 200], np.uint8), (height, width))
            for seed in range(_REHEARSALS):
                self.set_random_seed(seed)
                try:
                    self.pipeline(image=image, mask=mask)
                except Exception as error:  # transforms raise what they like
                    raise ValueError(
                        f"augment.pipeline_file {self.file} fails on a photo of {width} x {height} "
                        f"px: {one_line(error)}; expected transforms of a photo and its mask alone,"
                        " of any size. Change the file; before a crop, PadIfNeeded helps."
                    ) from error
                self.set_random_seed(seed)
                self(image, mask)


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
