"""Which encoders the U-Net can take, and whose weights they start from."""

import functools
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import TimmUniversalEncoder

from clothseg_utils.core.text import suggestion

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


def encoder_card(encoder_name: str, encoder_weights: str) -> dict[str, str]:
    """Say which weights an encoder starts from, and their licence as far as it is known.

    Nothing is asked over the network: timm and this module know it.

    Args:
        encoder_name: one that `check_encoder_name` takes.
        encoder_weights: "imagenet", "none" or a file.

    Returns:
        "weights" and "license", for people.

    Example:
        >>> encoder_card("tu-convnext_tiny.fb_in22k", "imagenet")
        {'weights': 'timm/convnext_tiny.fb_in22k', 'license': 'apache-2.0'}
        >>> encoder_card("resnet34", "none")
        {'weights': 'random', 'license': 'none of others'}
    """
    if encoder_weights == "none":
        return {"weights": "random", "license": "none of others"}
    if encoder_weights != "imagenet":
        return {"weights": encoder_weights, "license": "unknown"}
    if encoder_name.startswith(TIMM_PREFIX):
        weights: Any = timm.get_pretrained_cfg(encoder_name.removeprefix(TIMM_PREFIX))
        name = f"timm/{weights.architecture}.{weights.tag}".removesuffix(".")
        return {"weights": name, "license": weights.license or "unknown"}
    matching = (name for start, name in _LICENSES.items() if encoder_name.startswith(start))
    return {"weights": f"{encoder_name}, ImageNet", "license": next(matching, "unknown")}
