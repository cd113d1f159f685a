"""One photo through the network: at a single look, or by the test-time options.

A look is one pass over one photo or window. Several looks are averaged as probabilities, and the
logarithm of their mean stands for the logits: its softmax is that mean, so that everything that
takes logits takes it too. One photo a batch, always: what else is predicted changes nothing.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.nn import functional

from clothseg_utils.config import Resize
from clothseg_utils.geometry import content_box, fit_image
from clothseg_utils.network import TrainedNetwork, default_precision, normalize_images

_WINDOW_OVERLAP = 0.25  # of its side, at least, that a window shares with its neighbour
_LEAST_PROBABILITY = 1e-12  # its logarithm must stay finite, or upsampling would spread NaN


def run_network(
    trained: TrainedNetwork, image: np.ndarray, image_size: int, resize: Resize
) -> torch.Tensor:
    """Look at one photo once.

    Args:
        trained: the network; its test-time options are not used.
        image: (H, W, 3) uint8 RGB, 0..255, any size.
        image_size: side of the square input, pixels; a multiple of 32.
        resize: how the photo becomes the square.

    Returns:
        (1, C, h, w) float32 logits on the network's device; the padding of a letterbox is cut off,
        so that they cover exactly the photo.
    """
    square = fit_image(image, image_size, resize)
    batch = torch.from_numpy(square).permute(2, 0, 1)[None].to(trained.device)
    images = normalize_images(batch).contiguous(memory_format=torch.channels_last)
    dtype = default_precision(trained.device)
    with (
        torch.inference_mode(),
        torch.autocast(trained.device.type, dtype=dtype, enabled=dtype is not None),
    ):
        logits = trained.network(images)
    box = content_box(*image.shape[:2], image_size, resize)
    logits = logits[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
    return logits.float().contiguous()  # by class, as masks are taken from them


def photo_logits(trained: TrainedNetwork, image: np.ndarray) -> torch.Tensor:
    """Look at one photo as the network's test-time options say.

    Windows are slid over photos whose longer side is above `window_px`; the other options apply to
    each window. Without options this is `run_network`, and nothing else.

    Args:
        trained: the network with its options.
        image: (H, W, 3) uint8 RGB, 0..255, any size.

    Returns:
        (1, C, h, w) float32 that cover exactly the photo: logits, or with options the logarithm of
        the mean probabilities. With windows, h and w grow with the photo.
    """
    options = trained.inference
    if options.is_plain:
        return run_network(trained, image, trained.image_size, trained.resize)
    with torch.inference_mode():
        if 0 < options.window_px < max(image.shape[:2]):
            probabilities = _windowed_probabilities(trained, image)
        else:
            probabilities = _mean_probabilities(trained, image)
        return probabilities.clamp_min(_LEAST_PROBABILITY).log()


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


def _mean_probabilities(trained: TrainedNetwork, image: np.ndarray) -> torch.Tensor:
    """Average over input sizes and mirroring: (1, C, h, w), h and w of the largest input."""
    looks = _looks(trained, image)
    total = next(looks)
    count = 1
    for probabilities in looks:
        total += _resize(probabilities, total.shape[2], total.shape[3])
        count += 1
    return total / count


def _looks(trained: TrainedNetwork, image: np.ndarray) -> Iterator[torch.Tensor]:
    """Probabilities, (1, C, h, w), of every look at one photo, the largest input first."""
    for image_size in trained.inference.input_sizes(trained.image_size):
        yield run_network(trained, image, image_size, trained.resize).softmax(dim=1)
        if trained.inference.tta_flip:
            mirrored = np.ascontiguousarray(image[:, ::-1])
            logits = run_network(trained, mirrored, image_size, trained.resize)
            yield logits.softmax(dim=1).flip(3)


def _windowed_probabilities(trained: TrainedNetwork, image: np.ndarray) -> torch.Tensor:
    """Average over windows, the middle of a window counting most: (1, C, h, w).

    The photo is scaled once, so that a window of `window_px` becomes the network's largest input:
    windows are then plain cuts, and what they say falls on one grid of pixels.
    """
    side = trained.inference.input_sizes(trained.image_size)[0]
    scale = side / trained.inference.window_px
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (width, height), interpolation=interpolation)
    total = torch.zeros((1, len(trained.class_names), height, width), device=trained.device)
    weight = torch.zeros((1, 1, height, width), device=trained.device)
    for top in window_starts(height, side):
        for left in window_starts(width, side):
            rows, columns = slice(top, top + side), slice(left, left + side)
            window = np.ascontiguousarray(scaled[rows, columns])
            probabilities = _mean_probabilities(trained, window)
            middle = _tent(window.shape[0])[:, None] * _tent(window.shape[1])
            middle = middle.to(trained.device)
            total[:, :, rows, columns] += middle * _resize(probabilities, *window.shape[:2])
            weight[:, :, rows, columns] += middle
    return total / weight


def _tent(length: int) -> torch.Tensor:
    """Weights, (length,) 0..1, that rise to the middle; none is 0, for a corner's only window."""
    steps = torch.arange(length, dtype=torch.float32)
    return (torch.minimum(steps, length - 1 - steps) + 1) / ((length + 1) // 2)


def _resize(probabilities: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if probabilities.shape[2:] == (height, width):
        return probabilities
    return functional.interpolate(
        probabilities, (height, width), mode="bilinear", align_corners=False
    )
