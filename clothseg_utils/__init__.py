"""Clothing segmentation on Fashionpedia: from a photo to a mask, and from masks to scores.

    import clothseg_utils as cs

    segmenter = cs.load("outputs/demo/checkpoints/best.ckpt")
    photo = cs.read_photo("me.jpg")
    picture = segmenter.overlay(photo)

Names are looked up when they are first used: importing the package imports none of its modules,
and torch is loaded only with the first checkpoint.
"""

import importlib
import os

# albumentations asks a package index for a newer version of itself when it is imported, and warns
# where there is no network. Processes that are started from here inherit it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

TYPE_CHECKING = False  # to import typing for it would take a third of this import
if TYPE_CHECKING:
    from clothseg_utils.data.coco import read_annotations
    from clothseg_utils.data.masks import read_mask
    from clothseg_utils.data.photos import read_photo
    from clothseg_utils.data.rasterize import rasterize
    from clothseg_utils.network.loading import load
    from clothseg_utils.network.segmenter import Segmenter
    from clothseg_utils.pictures.overlays import overlay
    from clothseg_utils.scores.evaluation import read_evaluation
    from clothseg_utils.scores.metrics import confusion_matrix, scores_from_confusion

__version__ = "0.1.0"

__all__ = [
    "Segmenter",
    "confusion_matrix",
    "load",
    "overlay",
    "rasterize",
    "read_annotations",
    "read_evaluation",
    "read_mask",
    "read_photo",
    "scores_from_confusion",
]

# `scores` is a folder, so the function keeps the name that it has there.
_HOMES = {
    "Segmenter": "network.segmenter.Segmenter",
    "confusion_matrix": "scores.metrics.confusion_matrix",
    "load": "network.loading.load",
    "overlay": "pictures.overlays.overlay",
    "rasterize": "data.rasterize.rasterize",
    "read_annotations": "data.coco.read_annotations",
    "read_evaluation": "scores.evaluation.read_evaluation",
    "read_mask": "data.masks.read_mask",
    "read_photo": "data.photos.read_photo",
    "scores_from_confusion": "scores.metrics.scores_from_confusion",
}


def __getattr__(name: str) -> object:
    """Import a public name's module the first time that the name is used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].rpartition(".")
    if module.startswith("network."):
        importlib.import_module(f"{__name__}.core.workers").spin_briefly()
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
