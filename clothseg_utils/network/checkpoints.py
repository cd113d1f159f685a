"""What a checkpoint of training holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.network.unet import read_torch_file
from clothseg_utils.prediction.geometry import IMAGENET, Normalization
from clothseg_utils.prediction.onnx_model import is_onnx

CHECKPOINT_KEY = "clothseg"
"""Where our checkpoints keep what is needed to use them: plain str, int, list and dict."""


def checkpoint_info(
    config: Mapping[str, Any],
    classes: ClassTable,
    data: Mapping[str, Any],
    normalization: Normalization = IMAGENET,
) -> dict:
    """Put together what training stores in a checkpoint under `CHECKPOINT_KEY`.

    Args:
        config: the run's settings as plain values.
        classes: class table in use.
        data: hashes and counts of the splits, plain values.
        normalization: of the photos that the network sees.
    """
    return {
        "config": dict(config),
        "class_names": list(classes.names),
        "class_of_category": {str(key): value for key, value in classes.class_of_category.items()},
        "data": dict(data),
        "normalization": {name: list(values) for name, values in normalization._asdict().items()},
    }


def stored_normalization(info: Mapping[str, Any]) -> Normalization:
    """The normalisation that a checkpoint was trained with; old ones, which name none: ImageNet's.

    Args:
        info: what the checkpoint holds under `CHECKPOINT_KEY`.
    """
    if "normalization" not in info:
        return IMAGENET
    return Normalization(**{name: tuple(values) for name, values in info["normalization"].items()})


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this project.
    """
    if Path(path).is_file() and is_onnx(Path(path)):
        raise ValueError(
            f"{path} is an ONNX model, with which `predict` alone works; expected the checkpoint "
            "that it was exported from."
        )
    checkpoint = read_torch_file(Path(path))
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise ValueError(
            f"{path} is not a checkpoint of this project; expected one that notebook 03 or "
            "`train` wrote, such as checkpoints/best.ckpt."
        )
    return checkpoint
