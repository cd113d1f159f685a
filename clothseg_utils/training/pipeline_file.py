"""Augmentation pipelines of files that albumentations saved, read and made fit for masks.

What would train on wrong masks without a word is an error here, in one line, before training.
"""

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import yaml
from albumentations.core.composition import BaseCompose
from albumentations.core.serialization import SERIALIZABLE_REGISTRY, shorten_class_name

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.files import resolve_path
from clothseg_utils.core.text import suggestion

_SETTING = "augment.pipeline_file"
_NEAREST = (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)
_FOR_THE_NETWORK = ("Normalize", "ToFloat", "ToTensorV2", "ToTensor3D")
_FILLS = ("fill_mask", "mask_drop_value")  # what transforms call the id that they put into masks


def read_pipeline(path: str | Path) -> A.Compose:
    """Read what `albumentations.save` wrote, YAML or JSON.

    Masks are sampled at the nearest pixel, whatever the file says, and where a transform fills
    them it fills with 255: what is no part of the photo is no background.

    Args:
        path: the file; relative to the repository.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file; transforms or arguments that albumentations does not know; or
            transforms of boxes and points, or that do the network's work.
    """
    saved = _read(path)
    for node in _nodes(saved["transform"]):
        _check_node(node, path)
    pipeline = _build(saved, path)
    for transform in _leaves(pipeline):
        if getattr(transform, "mask_interpolation", cv2.INTER_NEAREST) not in _NEAREST:
            transform.mask_interpolation = cv2.INTER_NEAREST
        for name in _FILLS:
            if getattr(transform, name, None) is not None:
                setattr(transform, name, IGNORE_INDEX)
    return pipeline if isinstance(pipeline, A.Compose) else A.Compose([pipeline])


def pipeline_text(path: str | Path) -> str:
    """What a pipeline's file says, in one form: equal texts are equal pipelines.

    Raises:
        FileNotFoundError, ValueError: as `read_pipeline`.
    """
    return json.dumps(_read(path)["transform"], sort_keys=True)


def check_result(image: Any, mask: Any, given: np.ndarray, path: str | Path) -> None:
    """Refuse what is no photo with its mask.

    Args:
        image: what a pipeline made of a photo.
        mask: what it made of the mask.
        given: the mask before; ids that are not in it can only be mistakes, but for 255.
        path: the pipeline's file.

    Raises:
        ValueError: another type or shape than uint8 RGB with its mask, or new ids.
    """
    is_mask = isinstance(mask, np.ndarray) and mask.dtype == np.uint8 and mask.ndim == 2
    is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if not (is_mask and is_image and image.shape == (*mask.shape, 3)):
        raise ValueError(
            f"{_SETTING} {path} makes an image, {_kind(image)}, and a mask, {_kind(mask)}; "
            "expected uint8 (H, W, 3) and uint8 (H, W). Remove what changes type, channels or one "
            "of the two alone: the network normalises its input by itself."
        )
    new_ids = np.flatnonzero((_counts(mask) > 0) & (_counts(given) == 0))
    if (new_ids != IGNORE_INDEX).any():
        raise ValueError(
            f"{_SETTING} {path} makes masks with ids {new_ids.tolist()} that were not in them; "
            "expected those of the photo, or 255. Remove the transform that fills or mixes them."
        )


def one_line(error: Exception) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _read(path: str | Path) -> dict[str, Any]:
    """Parse the file, as far as to the outermost transform."""
    file = resolve_path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{_SETTING} is {path}, which does not exist; expected a file that albumentations.save "
            "wrote. Check the path."
        )
    try:
        text = file.read_text(encoding="utf-8")
        # YAML reads JSON too, but takes 1e-05 for a word.
        saved = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
        list(_nodes(saved["transform"]))
    except (ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(
            f"{_SETTING} {path} is no pipeline of albumentations ({one_line(error)}); expected the "
            'YAML or JSON that albumentations.save(pipeline, path, data_format="yaml") writes.'
        ) from None
    return saved


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    """A transform of the file and all inside it; KeyError or TypeError where one is none."""
    node["__class_fullname__"]
    yield node
    for inner in node.get("transforms", ()):
        yield from _nodes(inner)


def _check_node(node: Mapping[str, Any], path: str | Path) -> None:
    name = shorten_class_name(str(node["__class_fullname__"]))
    if name in _FOR_THE_NETWORK:
        raise ValueError(
            f"{_SETTING} {path} has {name}; expected transforms of uint8 photos. Remove it: the "
            "network normalises its input by itself, as its weights need it."
        )
    if name not in SERIALIZABLE_REGISTRY:
        raise ValueError(
            f'{_SETTING} {path} has an unknown transform "{name}"'
            f"{suggestion(name, SERIALIZABLE_REGISTRY)}; expected one of albumentations "
            f"{A.__version__}. Correct the name, or remove it."
        )
    for field in ("bbox_params", "keypoint_params"):
        if node.get(field):
            raise ValueError(
                f"{_SETTING} {path} has {field}; expected transforms of a photo and its mask "
                f"alone. Save the pipeline without {field}."
            )
    if "transforms" not in node:
        _build({"transform": node}, path)  # alone, so that an error has its name


def _without_inherited(node: Mapping[str, Any]) -> dict[str, Any]:
    """A saved transform without what it does not take itself.

    albumentations saves arguments of base classes too (PadIfNeeded's `padding`), and calls them
    invalid when it reads them back.
    """
    kind = SERIALIZABLE_REGISTRY[shorten_class_name(node["__class_fullname__"])]
    own, *inherited = (
        inspect.signature(base.__init__).parameters
        for base in kind.__mro__
        if "__init__" in vars(base)
    )
    foreign = {name for names in inherited for name in names} - {*own}
    kept = {name: value for name, value in node.items() if name not in foreign}
    if "transforms" in kept:
        kept["transforms"] = [_without_inherited(inner) for inner in kept["transforms"]]
    return kept


def _build(saved: dict[str, Any], path: str | Path) -> Any:
    """Make the transform of a saved one; what albumentations only warns of is an error."""
    name = shorten_class_name(saved["transform"]["__class_fullname__"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # Advice on which transform to take, not on arguments.
        warnings.filterwarnings("ignore", ".* (is an alias|is a special|is very slow)")
        try:
            return A.from_dict({"transform": _without_inherited(saved["transform"])})
        except Exception as error:  # of any kind: pydantic's, a transform's own, a warning
            raise ValueError(
                f"{_SETTING} {path}, {name}: {one_line(error)}; expected arguments that "
                f"albumentations {A.__version__} takes. Correct or remove them."
            ) from None


def _kind(array: Any) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {array.shape}"
    return type(array).__name__


def _leaves(transform: Any) -> Iterator[A.BasicTransform]:
    if isinstance(transform, BaseCompose):
        for inner in transform.transforms:
            yield from _leaves(inner)
    else:
        yield transform


def _counts(mask: np.ndarray) -> np.ndarray:
    """Pixels of each id, 0..255."""
    return cv2.calcHist([np.ascontiguousarray(mask)], [0], None, [256], [0, 256]).ravel()
