"""A trained network in PyTorch at work on photos of any size.

A batch always has the same shape, and places without a photo are black: what else is predicted
changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from clothseg_utils.core.classes import Scheme, class_colors
from clothseg_utils.core.config import PLAIN_INFERENCE, InferenceConfig, Resize
from clothseg_utils.core.text import first_names
from clothseg_utils.network.checkpoints import (
    CHECKPOINT_KEY,
    read_checkpoint,
    stored_normalization,
)
from clothseg_utils.network.unet import build_network, default_precision, normalize_images
from clothseg_utils.prediction.geometry import IMAGENET, Normalization, content_box, fit_image
from clothseg_utils.prediction.looks import LEAST_PROBABILITY
from clothseg_utils.prediction.model import PhotoModel

_GPU_BATCH_SIZE = 8


@dataclass(frozen=True)
class Segmenter(PhotoModel):
    """A network read from a checkpoint, with what is needed to use it.

    Attributes:
        path: the checkpoint.
        network: in eval mode, channels_last, on its device.
        class_names: index = class id.
        image_size: side of the square input, pixels.
        resize: how a photo becomes the square.
        info: what training wrote into the checkpoint (config, data, classes), plain values.
        inference: test-time options; all that predicts with this network uses them.
        normalization: of the photos that it was trained on.
        batch_size: photos in one pass of `predict`, 1 or more.
    """

    path: Path
    network: smp.Unet
    class_names: tuple[str, ...]
    image_size: int
    resize: Resize
    info: Mapping[str, Any]
    inference: InferenceConfig = PLAIN_INFERENCE
    normalization: Normalization = IMAGENET
    batch_size: int = 1

    @property
    def scheme(self) -> Scheme:
        """Class scheme that it was trained on."""
        return self.info["config"]["data"]["scheme"]

    @property
    def device(self) -> torch.device:
        """Device that the network is on."""
        return next(self.network.parameters()).device

    @property
    def colors(self) -> np.ndarray:
        """(C, 3) uint8 RGB; index = class id."""
        return class_colors(len(self.class_names))

    def logits(self, photo: np.ndarray) -> torch.Tensor:
        """As `PhotoModel.logits`, on the network's device."""
        with torch.inference_mode():
            return super().logits(photo)

    def _look_at(
        self, photos: Sequence[np.ndarray], image_size: int, resize: Resize, batch_size: int = 1
    ) -> list[torch.Tensor]:
        """`look` at several photos in one pass of `batch_size`."""
        squares = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
        for square, photo in zip(squares, photos, strict=False):
            square[:] = fit_image(photo, image_size, resize, self.normalization.pad_color)
        batch = torch.from_numpy(squares).permute(0, 3, 1, 2).to(self.device)  # (N, 3, S, S)
        images = normalize_images(batch, self.normalization)
        images = images.contiguous(memory_format=torch.channels_last)
        dtype = default_precision(self.device)
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None),
        ):
            logits = self.network(images)
        looks = []
        for one, photo in zip(logits.split(1), photos, strict=False):
            box = content_box(photo.shape[0], photo.shape[1], image_size, resize)
            cut = one[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
            looks.append(cut.float().contiguous())  # by class, as masks are taken from them
        return looks

    def _tools(self) -> "_TensorTools":
        return _TensorTools(self.device)

    def _say(self, logits: torch.Tensor, height: int, width: int) -> "LogitsOfPhoto":
        return LogitsOfPhoto(logits, height, width)


@dataclass(frozen=True)
class _TensorTools:
    """`prediction.looks.ArrayTools` for tensors on one device."""

    device: torch.device

    def from_numpy(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)

    def softmax(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(dim=1)

    def log(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities.clamp_min(LEAST_PROBABILITY).log()

    def mirror(self, values: torch.Tensor) -> torch.Tensor:
        return values.flip(3)

    def resize(self, values: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return _upsample(values, height, width)


@dataclass(frozen=True)
class LogitsOfPhoto:
    """A photo's logits, and what they say at its own size; a `prediction.model.Prediction`.

    Attributes:
        logits: (1, C, h, w) float32 that cover exactly the photo.
        height: rows of the photo, pixels.
        width: columns of the photo, pixels.
    """

    logits: torch.Tensor
    height: int
    width: int

    def mask(self) -> np.ndarray:
        """(height, width) uint8 class ids."""
        return logits_to_mask(self.logits, self.height, self.width)

    def probabilities(self) -> np.ndarray:
        """(C, height, width) float16, 0..1."""
        return logits_to_probabilities(self.logits, self.height, self.width)

    def confidence(self) -> np.ndarray:
        """(height, width) float32: the probability of the best class, 1 / C..1."""
        return logits_to_confidence(self.logits, self.height, self.width)


def load_segmenter(
    path: str | Path,
    device: str | torch.device = "auto",
    inference: InferenceConfig = PLAIN_INFERENCE,
    batch_size: int | None = 1,
) -> Segmenter:
    """Read a trained network from a checkpoint; nothing is downloaded.

    Args:
        path: checkpoint that training wrote.
        device: "auto" takes CUDA where there is one.
        inference: test-time options; they belong to the use of a network, not to its training.
        batch_size: photos in one pass of `predict`, 1 or more; None takes 1 on a CPU and 8
            elsewhere, where more photos keep it busy.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this project, weights that do not fit its settings or are
            not finite, or options that do not fit its input size.
    """
    checkpoint = read_checkpoint(path)
    info = checkpoint[CHECKPOINT_KEY]
    config = info["config"]
    inference.input_sizes(config["data"]["image_size"])  # refused here, not at the first photo
    try:
        network = build_network(config["train"]["encoder_name"], "none", len(info["class_names"]))
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    prefix = "network."
    state = {
        key.removeprefix(prefix): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds weights that do not fit its own settings "
            f"({config['train']['encoder_name']}, {len(info['class_names'])} classes); expected a "
            "checkpoint as training left it. Train again."
        ) from error
    broken = [name for name, weights in state.items() if not weights.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} holds weights that are NaN or infinite ({first_names(broken)}); expected "
            "finite numbers. Take another checkpoint, or train again at a lower "
            "train.learning_rate."
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().to(device, memory_format=torch.channels_last)
    return Segmenter(
        path=Path(path),
        network=network,
        class_names=tuple(info["class_names"]),
        image_size=config["data"]["image_size"],
        resize=config["data"]["resize"],
        info=info,
        inference=inference,
        normalization=stored_normalization(info),
        batch_size=batch_size or (1 if torch.device(device).type == "cpu" else _GPU_BATCH_SIZE),
    )


def logits_to_mask(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Upsample logits to the photo's size (bilinear), then take the best class of each pixel.

    Goes class by class: memory does not grow with their number, and large photos fit.

    Args:
        logits: (1, C, h, w) float32.
        height: rows of the photo, pixels.
        width: columns of the photo, pixels.

    Returns:
        (height, width) uint8 class ids; of equal logits the lower id wins, as with argmax.
    """
    with torch.inference_mode():
        best = _upsample(logits[:, :1], height, width)
        mask = torch.zeros_like(best, dtype=torch.uint8)
        for class_id in range(1, logits.shape[1]):
            candidate = _upsample(logits[:, class_id : class_id + 1], height, width)
            # Ids rise: where this class is better, its id is larger than what stands there.
            is_better = candidate > best
            torch.maximum(mask, is_better.view(torch.uint8).mul_(class_id), out=mask)
            torch.maximum(best, candidate, out=best)
    return mask[0, 0].cpu().numpy()


def logits_to_probabilities(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Upsample logits to the photo's size, then softmax.

    Returns:
        (C, height, width) float16, 0..1; their argmax is the mask up to float16's rounding.
    """
    with torch.inference_mode():
        upsampled = _upsample(logits, height, width)
        return upsampled.softmax(dim=1)[0].half().cpu().numpy()


def logits_to_confidence(logits: torch.Tensor, height: int, width: int) -> np.ndarray:
    """Upsample logits to the photo's size, then take the softmax probability of the best class.

    The largest of `logits_to_probabilities`, in float32, but class by class as in
    `logits_to_mask`: memory does not grow with their number.

    Args:
        logits: (1, C, h, w) float32.
        height: rows of the photo, pixels.
        width: columns of the photo, pixels.

    Returns:
        (height, width) float32, 1 / C..1.
    """
    with torch.inference_mode():
        best = _upsample(logits[:, :1], height, width)
        # Sum of exp(logit - best) so far. It is kept relative to the best one: no exp overflows.
        total = torch.ones_like(best)
        for class_id in range(1, logits.shape[1]):
            difference = _upsample(logits[:, class_id : class_id + 1], height, width).sub_(best)
            gain = difference.clamp(min=0)
            best += gain
            difference -= gain  # now to the new best
            total.mul_(gain.neg_().exp_()).add_(difference.exp_())
        return total.reciprocal_()[0, 0].cpu().numpy()


def _upsample(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
