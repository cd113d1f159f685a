"""Confusion matrices, and the scores that follow from them.

Pure functions on numpy arrays. One rule holds throughout: a class with neither target nor
predicted pixels is absent (NaN, outside every mean). Any other class counts, and where such a class
has a ratio 0 / 0 (precision if never predicted, recall if without target) that ratio is 0, as in
torchmetrics: a class that the network always misses must not raise the macro precision. Where no
class but background is present, all means are NaN: they would be 1 for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX

if TYPE_CHECKING:
    import pandas as pd

CLASS_SCORES = ("iou", "f1", "precision", "recall", "target_share")
"""What is reported of each class, with an interval."""

MEAN_SCORES = (
    "mean_iou",
    "mean_iou_no_background",
    "mean_iou_target_classes",
    "macro_f1",
    "macro_f1_no_background",
    "pixel_accuracy",
)
"""What is reported of a split, with an interval."""

# cv2.calcHist answers in float32, whose whole numbers end here: count larger photos in pieces.
_EXACT_PIXELS = 2**24


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one confusion matrix; arrays are per class, NaN means undefined.

    Attributes:
        confusion: (C, C) int64, rows = target, columns = prediction.
        iou: (C,) intersection over union, 0..1.
        f1: (C,) F1, equal to Dice, 0..1.
        precision: (C,) 0..1.
        recall: (C,) 0..1.
        target_pixels: (C,) int64.
        predicted_pixels: (C,) int64.
        mean_iou: mean over the classes with target or predicted pixels, background included.
        mean_iou_no_background: the same without class 0.
        mean_iou_target_classes: mean over the classes with target pixels.
        macro_f1: as ``mean_iou``, of F1.
        macro_f1_no_background: the same without class 0.
        macro_precision: as ``mean_iou``, of precision.
        macro_recall: as ``mean_iou``, of recall.
        pixel_accuracy: share of the counted pixels that are right.
    """

    confusion: np.ndarray
    iou: np.ndarray
    f1: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    target_pixels: np.ndarray
    predicted_pixels: np.ndarray
    mean_iou: float
    mean_iou_no_background: float
    mean_iou_target_classes: float
    macro_f1: float
    macro_f1_no_background: float
    macro_precision: float
    macro_recall: float
    pixel_accuracy: float

    @property
    def status(self) -> tuple[str, ...]:
        """Per class: "ok", "no target" (predicted only, so IoU 0) or "absent" (neither)."""
        return tuple(
            "ok" if target else "no target" if predicted else "absent"
            for target, predicted in zip(self.target_pixels, self.predicted_pixels, strict=True)
        )


def confusion_matrix(target: np.ndarray, pred_mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each (target, predicted) pair of classes.

    Pixels whose target is 255 are left out, whatever was predicted there.

    Args:
        target: (H, W) or any other shape, integer class ids 0..C-1 or 255 (ignored).
        pred_mask: same shape, integer class ids 0..C-1.
        num_classes: C, background included.

    Returns:
        (C, C) int64, rows = target, columns = prediction.

    Raises:
        ValueError: shapes differ, an id is out of range, or it takes more than uint8 to hold them.

    Example:
        >>> target = np.array([[0, 0, 1, 255]], dtype=np.uint8)
        >>> pred_mask = np.array([[0, 1, 1, 0]], dtype=np.uint8)
        >>> confusion_matrix(target, pred_mask, num_classes=2)
        array([[1, 1],
               [0, 1]])
    """
    target, pred_mask = np.asarray(target), np.asarray(pred_mask)
    if target.shape != pred_mask.shape:
        raise ValueError(
            f"pred_mask has shape {pred_mask.shape}; expected that of target, {target.shape}."
        )
    flat_target = _to_flat_uint8(target, "target", num_classes)
    flat_pred = _to_flat_uint8(pred_mask, "pred_mask", num_classes)

    confusion = np.zeros((num_classes, num_classes), np.int64)
    for start in range(0, flat_target.size, _EXACT_PIXELS):
        piece = slice(start, start + _EXACT_PIXELS)
        # Ids outside 0..C-1, the ignored ones among them, fall outside the ranges.
        confusion += cv2.calcHist(
            [flat_target[None, piece], flat_pred[None, piece]],
            channels=[0, 1],
            mask=None,
            histSize=[num_classes, num_classes],
            ranges=[0, num_classes, 0, num_classes],
        ).astype(np.int64)

    # One sum finds out whether anything but ignored pixels fell outside; the search for the
    # culprit runs only then.
    counted = flat_target != IGNORE_INDEX
    if confusion.sum() != np.count_nonzero(counted):
        _check_ids(flat_target[counted], "target", num_classes)
        _check_ids(flat_pred[counted], "pred_mask", num_classes)
    return confusion


def scores_from_confusion(confusion: np.ndarray) -> Scores:
    """Compute every score of one confusion matrix.

    Args:
        confusion: (C, C) integer counts, rows = target, columns = prediction; sum the matrices of
            several images for the score of a split.

    Returns:
        The scores; all NaN when no pixel was counted.

    Raises:
        ValueError: not a square matrix of counts.

    Source: docs/scores.md.

    Example:
        Class 0 is half right, class 1 is predicted but has no target, class 2 is absent.

        >>> scores = scores_from_confusion(np.array([[2, 2, 0], [0, 0, 0], [0, 0, 0]]))
        >>> scores.iou
        array([0.5, 0. , nan])
        >>> scores.mean_iou, scores.mean_iou_target_classes, scores.status
        (0.25, 0.5, ('ok', 'no target', 'absent'))
    """
    confusion = check_confusions(confusion, ndim=2)
    hits, target, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    scores = scores_of_counts(hits, target, predicted)
    del scores["target_share"]
    plain: dict[str, Any] = {n: v if v.ndim else float(v) for n, v in scores.items()}
    return Scores(
        confusion=confusion,
        target_pixels=target,
        predicted_pixels=predicted,
        **plain,
    )


def scores_of_counts(
    hits: np.ndarray, target: np.ndarray, predicted: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute every score from pixel counts, for one split or for many resamples at once.

    Args:
        hits: (..., C) pixels that are a class in target and prediction.
        target: (..., C) pixels that are it in the target.
        predicted: (..., C) pixels that are it in the prediction.

    Returns:
        (..., C) per class for `iou`, `f1`, `precision`, `recall` and `target_share`, (...) for the
        means of `Scores`; NaN where undefined.
    """
    both = target + predicted
    present = both > 0
    garments = present & (np.arange(both.shape[-1]) > 0)
    # Background alone, found where nothing else was, says nothing about clothes.
    averaged = present & garments.any(-1, keepdims=True)
    total = target.sum(-1)
    iou = _ratio(hits, both - hits, present)
    f1 = _ratio(2 * hits, both, present)
    precision = _ratio(hits, predicted, present)
    recall = _ratio(hits, target, present)
    return {
        "iou": iou,
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "target_share": _ratio(target, total[..., None], present),
        "mean_iou": _mean_among(iou, averaged),
        "mean_iou_no_background": _mean_among(iou, garments),
        "mean_iou_target_classes": _mean_among(iou, averaged & (target > 0)),
        "macro_f1": _mean_among(f1, averaged),
        "macro_f1_no_background": _mean_among(f1, garments),
        "macro_precision": _mean_among(precision, averaged),
        "macro_recall": _mean_among(recall, averaged),
        "pixel_accuracy": _ratio(hits.sum(-1), total, total > 0),
    }


def scores_to_dict(scores: Scores, class_names: Sequence[str]) -> dict[str, Any]:
    """Turn scores into what ``metrics.json`` holds; NaN becomes None (null in JSON).

    Args:
        scores: of C classes.
        class_names: C different names in the order of the class ids.

    Returns:
        The means, ``per_class`` (name -> iou, f1, precision, recall, target_pixels,
        predicted_pixels, status) and ``confusion`` (rows = target), all plain Python values.

    Raises:
        ValueError: not C different names.

    Example:
        >>> scores = scores_from_confusion(np.array([[3, 0], [0, 0]]))
        >>> scores_to_dict(scores, ["background", "head"])["per_class"]["head"]["iou"] is None
        True
    """
    _check_class_names(scores, class_names)
    means = (
        "mean_iou",
        "mean_iou_no_background",
        "mean_iou_target_classes",
        "macro_f1",
        "macro_f1_no_background",
        "macro_precision",
        "macro_recall",
        "pixel_accuracy",
    )
    per_class = {
        name: {
            **{
                field: nan_to_none(getattr(scores, field)[class_id])
                for field in ("iou", "f1", "precision", "recall")
            },
            "target_pixels": int(scores.target_pixels[class_id]),
            "predicted_pixels": int(scores.predicted_pixels[class_id]),
            "status": scores.status[class_id],
        }
        for class_id, name in enumerate(class_names)
    }
    return {
        **{name: nan_to_none(getattr(scores, name)) for name in means},
        "per_class": per_class,
        "confusion": scores.confusion.tolist(),
    }


def confusion_to_table(scores: Scores, class_names: Sequence[str]) -> "pd.DataFrame":
    """Lay the per-class scores out as a table for notebooks and report.

    Args:
        scores: of C classes.
        class_names: C different names in the order of the class ids.

    Returns:
        One row per class: class_name, iou, f1, precision, recall, target_share (of the counted
        pixels, 0..1), status.

    Raises:
        ValueError: not C different names.

    Example:
        >>> scores = scores_from_confusion(np.array([[3, 0], [1, 0]]))
        >>> table = confusion_to_table(scores, ["background", "head"])
        >>> table[["class_name", "iou", "target_share"]]
           class_name   iou  target_share
        0  background  0.75          0.75
        1        head  0.00          0.25
    """
    import pandas as pd  # the rest of the module must not wait for it

    _check_class_names(scores, class_names)
    total = scores.target_pixels.sum()
    columns: dict[str, Any] = {
        "class_name": list(class_names),
        "iou": scores.iou,
        "f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
        "target_share": _ratio(scores.target_pixels, total, total > 0),
        "status": scores.status,
    }
    return pd.DataFrame(columns)


def _to_flat_uint8(ids: np.ndarray, name: str, num_classes: int) -> np.ndarray:
    """Flatten to (pixels,) uint8; other integer types only if no id wraps around on the way."""
    if ids.dtype != np.uint8:
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name} is {ids.dtype}; expected integer class ids.")
        if ids.size and not 0 <= ids.min() <= ids.max() <= 255:
            _check_ids(ids, name, num_classes)
    return np.ascontiguousarray(ids, dtype=np.uint8).reshape(-1)


def _check_ids(ids: np.ndarray, name: str, num_classes: int) -> None:
    allowed = f"0..{num_classes - 1}"
    wrong = (ids < 0) | (ids >= num_classes)
    if name == "target":
        allowed += f" or {IGNORE_INDEX}"
        wrong &= ids != IGNORE_INDEX
    if wrong.any():
        raise ValueError(
            f"{name} has class ids {np.unique(ids[wrong]).tolist()}; expected {allowed}. "
            "Check that target and prediction use the same scheme."
        )


def check_confusions(confusions: np.ndarray, ndim: int) -> np.ndarray:
    """Return the counts as int64 after checking that they are ndim-dimensional and square."""
    confusions = np.asarray(confusions)
    expected = {2: "(C, C)", 3: "(n, C, C)"}[ndim]
    if confusions.ndim != ndim or confusions.shape[-1] != confusions.shape[-2]:
        raise ValueError(f"confusion has shape {confusions.shape}; expected {expected}.")
    if not np.issubdtype(confusions.dtype, np.integer) or (confusions < 0).any():
        raise ValueError(
            f"confusion holds {confusions.dtype} or negative numbers; expected integer counts."
        )
    return confusions.astype(np.int64)


def _check_class_names(scores: Scores, class_names: Sequence[str]) -> None:
    if not len(class_names) == len(set(class_names)) == len(scores.iou):
        raise ValueError(
            f"class_names are {list(class_names)}; expected {len(scores.iou)} different names."
        )


def _ratio(numerator: np.ndarray, denominator: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Divide where defined, with 0 / 0 = 0, and NaN elsewhere. All arguments broadcast."""
    return np.where(defined, numerator / np.maximum(denominator, 1), np.nan)


def _mean_among(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the values marked by the boolean ``among``; NaN if none is."""
    number = among.sum(-1)
    return _ratio(np.where(among, values, 0.0).sum(-1), number, number > 0)


def nan_to_none(value: float) -> float | None:
    """Undefined scores are NaN in arrays, and null in JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)
