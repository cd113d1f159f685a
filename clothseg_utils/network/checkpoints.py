"""What a checkpoint of training holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.core.shapes import ABSENT, Shape, check_shape
from clothseg_utils.network.unet import read_torch_file
from clothseg_utils.prediction.geometry import IMAGENET, Normalization
from clothseg_utils.prediction.onnx_model import is_onnx

CHECKPOINT_KEY = "clothseg"
"""Where our checkpoints keep what is needed to use them: plain str, int, list and dict."""

FORMAT = 1
"""Of what they keep there; raised when versions before could not use it. Without it: 1."""

_REMEDY = "Take another one of the run, or train again."

_Value = str | bool | int | float


class _Train(Shape):
    __pydantic_extra__: dict[str, _Value]
    encoder_name: str
    encoder_weights: str


class _Data(Shape):
    __pydantic_extra__: dict[str, _Value]
    image_size: int
    resize: str
    scheme: str


class _Config(Shape):
    __pydantic_extra__: dict[str, dict[str, _Value]]
    train: _Train
    data: _Data


class _Normalization(Shape):
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]


class _Info(Shape):
    class_names: list[str]
    config: _Config
    data: dict[str, Any]
    normalization: _Normalization = ABSENT


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
        "format": FORMAT,
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
        ValueError: not a checkpoint of this project, of a later version, or not whole.
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
    check_info(path, checkpoint[CHECKPOINT_KEY])
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"{path} has no usable state_dict; expected a checkpoint as training left it. {_REMEDY}"
        )
    return checkpoint


def check_info(path: str | Path, info: Any) -> None:
    """Refuse what this version cannot use.

    Args:
        path: the checkpoint, for messages.
        info: what it holds under `CHECKPOINT_KEY`.

    Raises:
        ValueError: of a later version, or something is missing.
    """
    version = info.get("format", 1) if isinstance(info, dict) else 1
    if version != FORMAT:
        raise ValueError(
            f"{path} is of a later version of this project (format {version}); this one reads "
            f"format {FORMAT}. Update the project, or train again with this version."
        )
    check_shape(info, _Info, f"{path}, {CHECKPOINT_KEY}", _REMEDY)
