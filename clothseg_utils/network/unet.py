"""The network: built from settings; no Lightning."""

import contextlib
import functools
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from clothseg_utils.core.faults import fault_line
from clothseg_utils.core.files import resolve_path
from clothseg_utils.core.workers import usable_cores
from clothseg_utils.network.attention import fuse_attention
from clothseg_utils.network.decoder import speed_up_decoder
from clothseg_utils.network.depthwise import widen_depthwise
from clothseg_utils.network.encoders import (
    TIMM_PREFIX,
    check_encoder_name,
    hub_free_advice,
    packaged_weights,
    timm_names,
)
from clothseg_utils.prediction.geometry import IMAGENET, Normalization


def build_network(encoder_name: str, encoder_weights: str, num_classes: int) -> smp.Unet:
    """Build a U-Net with an encoder of segmentation-models-pytorch or of timm.

    Torch's threads are limited to the cores that this process may use.

    Args:
        encoder_name: such as "mit_b1", "resnet34" or, of timm, "tu-convnext_tiny.fb_in22k".
        encoder_weights: "imagenet" (of an installed package, see `encoders.packaged_weights`, or
            fetched from a model hub by the library; for an encoder of timm those that its tag
            names, whatever they were trained on), "none" (random weights), or a file with the
            encoder's state dict; a relative path means the repository root.
        num_classes: channels of the logits, background counted.

    Returns:
        A network from (N, 3, H, W) float, normalised as `normalize_images` does by the encoder's
        `encoders.encoder_normalization`, to (N, C, H, W) float logits; H and W are multiples of 32.

    Raises:
        ValueError: an encoder that cannot be used, weights that cannot be fetched, or do not fit.
        FileNotFoundError: no such weights file.
    """
    check_encoder_name(encoder_name)
    limit_threads()
    is_imagenet = encoder_weights == "imagenet"
    packaged = packaged_weights(encoder_name) if is_imagenet else None
    hub_weights: str | bool | None = None
    if is_imagenet and packaged is None:
        hub_weights = encoder_name.startswith(TIMM_PREFIX) or "imagenet"  # timm's: yes or no
    try:
        with _quiet_hub():
            network = smp.Unet(encoder_name, encoder_weights=hub_weights, classes=num_classes)
    except Exception as error:
        if hub_weights is None:
            raise
        # The hub clients raise dozens of types of their own; to a user they are one fault.
        raise ValueError(
            f"encoder weights imagenet of {encoder_name} cannot be fetched "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "expected a reachable model hub. Set train.encoder_weights to a local file or to none, "
            f"or {hub_free_advice()}."
        ) from error
    if packaged is not None:
        state = timm_names(read_torch_file(packaged), network.encoder.state_dict())
        _set_encoder_state(network.encoder, state, packaged, encoder_name)
    elif encoder_weights not in ("imagenet", "none"):
        _load_encoder(network.encoder, resolve_path(encoder_weights), encoder_name)
    speed_up_decoder(network)
    fuse_attention(network)
    widen_depthwise(network)
    return network


def limit_threads() -> None:
    """Let torch compute on the cores that this process may use.

    It takes those of the machine, whatever quota a container has: the threads beyond the quota
    stop the others. A number in OMP_NUM_THREADS is the user's choice.
    """
    cores = usable_cores()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores:
        torch.set_num_threads(cores)


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Hold back the hub client's two warnings a retry: they bury the one line that helps."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load_encoder(encoder: nn.Module, path: Path, encoder_name: str) -> None:
    state = read_torch_file(path)
    if isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not _is_state_dict(state):
        raise ValueError(
            f"weights file {path} holds a {type(state).__name__} that is no state dict; expected "
            f"that of encoder {encoder_name}. Save it with "
            "torch.save(network.encoder.state_dict(), ...)."
        )
    # Classification heads come with published ImageNet files and have no place in an encoder.
    state = {key: value for key, value in state.items() if not key.startswith(("head.", "fc."))}
    _set_encoder_state(encoder, state, path, encoder_name)


def _set_encoder_state(
    encoder: nn.Module, state: Mapping[str, torch.Tensor], path: Path, encoder_name: str
) -> None:
    own = encoder.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    for what, keys in (("lacks", missing), ("has the unknown", unknown), ("misshapes", wrong)):
        if keys:
            raise ValueError(
                f"weights file {path} {what} {keys[0]} ({len(keys)} such entries); expected the "
                f"state dict of encoder {encoder_name}."
            )
    encoder.load_state_dict(state)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items()
    )


def set_prior_bias(
    network: smp.Unet, class_shares: np.ndarray, kept: np.ndarray | None = None
) -> None:
    """Let an untrained network begin by predicting each class as often as it occurs.

    Without it the first hundreds of steps only learn that most pixels are background.

    Args:
        network: its segmentation head is changed in place: bias to the log-odds of the shares,
            weights to a tenth, so that the bias decides at first.
        class_shares: (C,) share of the training pixels, 0..1, sum 1; shares below 1e-4 count
            as 1e-4, so that a class that does not occur can be learned later.
        kept: (C,) bool, classes whose rows of the head stay as they are; None changes all.

    Source: prior probability of focal loss, Lin et al. 2017, section 4.1.
    """
    shares = torch.from_numpy(np.clip(class_shares, 1e-4, 1 - 1e-4))
    head = network.segmentation_head[0]
    new = torch.ones(len(shares), dtype=torch.bool) if kept is None else torch.from_numpy(~kept)
    with torch.no_grad():
        head.bias[new] = torch.logit(shares)[new].to(head.bias.dtype)
        head.weight[new] *= 0.1


def count_parameters(network: smp.Unet) -> dict[str, int]:
    """Parameters of a network by part: encoder, decoder, segmentation head, total."""
    parts = {
        "encoder": network.encoder,
        "decoder": network.decoder,
        "head": network.segmentation_head,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return counts | {"total": sum(counts.values())}


def normalize_images(images: torch.Tensor, normalization: Normalization = IMAGENET) -> torch.Tensor:
    """Scale uint8 images to what an encoder expects.

    Args:
        images: (N, 3, H, W) uint8 RGB, 0..255.
        normalization: the encoder's.

    Returns:
        (N, 3, H, W) float32, zero mean and unit variance over what the encoder's weights were
        trained on, on the same device and in the same memory format.
    """
    shift, scale = _shift_and_scale(images.device, normalization)
    values = images.to(torch.float32, copy=True)
    return torch.addcmul(shift, values, scale, out=values)  # one pass, nothing else stored


@functools.cache  # to copy them to a GPU waits for it
def _shift_and_scale(
    device: torch.device, normalization: Normalization
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `normalize_images` adds to values in 0..255, after it multiplied them by the other."""
    with torch.inference_mode(False):  # or training could not use what prediction made
        mean, std = (
            torch.tensor(values, device=device).mul_(255).view(1, 3, 1, 1)
            for values in normalization
        )
        scale = std.reciprocal_()
        return -mean * scale, scale


def default_precision(device: torch.device) -> torch.dtype | None:
    """Dtype to autocast to: float16 on CUDA, bfloat16 on CPUs that compute in it, else None."""
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return None


def read_torch_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(
            f"no such file: {path}; expected a file that torch.save wrote. Check the path, or "
            "train first (notebook 03)."
        )
    try:
        with warnings.catch_warnings():
            # Of other programs' pickles, which the error below names in one line.
            warnings.filterwarnings(
                "ignore", "Detected pickle protocol|'torch.load' received a zip"
            )
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if fault_line(error) is not None:  # of the machine, not of the file
            raise
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript archive, no weights; expected a file that torch.save "
                "wrote. Take the checkpoint that it was exported from."
            ) from error
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise ValueError(
                f"{path} holds more than weights: reading it would run {code[1]}; expected tensors "
                "and plain values. If you trust it, read it by torch.load(..., weights_only=False) "
                "and torch.save its state dict alone."
            ) from error
        # Zip, pickle and torch each raise types of their own for a broken file.
        raise ValueError(
            f"{path} cannot be read as a torch file of plain weights ({type(error).__name__}); "
            "expected one that torch.save wrote whole. Fetch or train it again."
        ) from error
