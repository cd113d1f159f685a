"""Where predictions go wrong: rankings of photos, the largest confusions, and where to look.

Pure functions on confusion matrices and masks; what they find is drawn by `overlays` and `figures`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX

_CONTEXT = 0.6  # of its longer side that is shown around what a crop is about
_LEAST_CROP_PX = 64


class RankedPhoto(NamedTuple):
    """One photo in the ranking of a class.

    Attributes:
        class_id: the class.
        rank: "best", "median" or "worst"; "only" for a class in one photo.
        index: of the photo.
        iou: of the class in that photo, 0..1.
    """

    class_id: int
    rank: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    iou: float


class Confusion(NamedTuple):
    """Pixels of one class that were taken for another.

    Attributes:
        target: class id in the truth.
        predicted: class id in the prediction.
        pixels: how many.
        share: of the true class's pixels, 0..1.
    """

    target: int
    predicted: int
    pixels: int
    share: float


def class_extremes(confusions: np.ndarray) -> list[RankedPhoto]:
    """Find the best, the median and the worst photo of every class, by the IoU of that class.

    Only photos that hold the class in their truth are ranked; of equal ones, that with more of it
    comes first among the worst, because there is more to be seen.

    Args:
        confusions: (n, C, C) counts, one matrix per photo, rows = target.

    Returns:
        By class id, then best to worst; two entries for a class in two photos, one for a class in
        one, none for a class in none.

    Example:
        >>> found, missed = np.array([[4, 0], [0, 4]]), np.array([[4, 0], [4, 0]])
        >>> [(e.class_id, e.rank, e.index) for e in class_extremes(np.stack([missed, found]))]
        [(0, 'best', 1), (0, 'worst', 0), (1, 'best', 1), (1, 'worst', 0)]
    """
    hits = np.diagonal(confusions, axis1=1, axis2=2)
    target = confusions.sum(axis=2)
    union = target + confusions.sum(axis=1) - hits
    ranked = []
    for class_id in range(confusions.shape[1]):
        indexes = np.flatnonzero(target[:, class_id])
        iou = hits[indexes, class_id] / union[indexes, class_id]
        order = np.lexsort((-target[indexes, class_id], iou))[::-1]  # best first
        places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
        if len(order) == 1:
            places = {"only": 0}
        elif len(order) < 3:
            del places["median"]
        ranked += [
            RankedPhoto(class_id, rank, int(indexes[order[place]]), float(iou[order[place]]))
            for rank, place in places.items()
            if len(order)
        ]
    return ranked


def largest_confusions(confusion: np.ndarray, limit: int) -> list[Confusion]:
    """Find the largest confusions, by their share of the true class's pixels.

    Args:
        confusion: (C, C) counts, rows = target.
        limit: how many at most.

    Returns:
        Largest first; only pairs with at least one pixel.

    Example:
        >>> largest_confusions(np.array([[8, 2], [3, 1]]), limit=1)
        [Confusion(target=1, predicted=0, pixels=3, share=0.75)]
    """
    confusion = np.asarray(confusion, np.int64)
    targets = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(targets, 1)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:limit]
    pairs = (divmod(int(flat), len(confusion)) for flat in order)
    return [
        Confusion(row, column, int(confusion[row, column]), float(shares[row, column]))
        for row, column in pairs
        if shares[row, column] > 0
    ]


def disagreement(confusions: np.ndarray) -> np.ndarray:
    """Part of each photo's pixels on which prediction and label differ.

    Args:
        confusions: (n, C, C) counts, one matrix per photo.

    Returns:
        (n,) 0..1; NaN for a photo whose pixels are all ignored.

    Example:
        >>> disagreement(np.array([[[3, 1], [0, 4]], [[0, 0], [0, 0]]]))
        array([0.125,   nan])
    """
    right = np.trace(confusions, axis1=1, axis2=2)
    total = confusions.sum(axis=(1, 2))
    return np.where(total > 0, 1 - right / np.maximum(total, 1), np.nan)


def label_doubt(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Say how sure the network is that a pixel's label is wrong.

    High where the network is sure of another class and gives the label none: a blunder of the
    network, or a wrong label. An unsure network, as at edges, says little against a label.

    Args:
        probabilities: (C, H, W) floating, 0..1.
        target: (H, W) uint8 class ids, or 255.

    Returns:
        (H, W) float32, 0..1: probability of the best class minus that of the label; 0 where the
        two are the same, and on ignored pixels.
    """
    ignored = target == IGNORE_INDEX
    labels = np.where(ignored, 0, target).astype(np.int64)
    of_label = np.take_along_axis(probabilities, labels[None], axis=0)[0]
    doubt = (probabilities.max(axis=0).astype(np.float32) - of_label).astype(np.float32)
    doubt[ignored] = 0
    return doubt


def error_kinds(confusion: np.ndarray) -> np.ndarray:
    """Split what happened to each class into the kinds of `overlays.ERROR_NAMES`.

    Args:
        confusion: (C, C) counts, rows = target; class 0 is background.

    Returns:
        (C, 4) int64: pixels that are correct, missed (taken for background), of a wrong class
        (taken for other clothing), and false alarms (background taken for this class). The first
        three add up to the class's true pixels. Background's own row holds its correct pixels and,
        as its wrong class, those taken for clothing.

    Example:
        >>> error_kinds(np.array([[9, 1, 0], [2, 4, 3], [0, 0, 5]]))[1]
        array([4, 2, 3, 1])
    """
    confusion = np.asarray(confusion, np.int64)
    correct = np.diagonal(confusion)
    missed, false_alarms = confusion[:, 0].copy(), confusion[0].copy()
    missed[0] = false_alarms[0] = 0
    wrong = confusion.sum(axis=1) - correct - missed
    return np.stack([correct, missed, wrong, false_alarms], axis=1)


def crop_around(mask: np.ndarray) -> tuple[slice, slice]:
    """Choose a square part of a photo that shows an area with some of what surrounds it.

    Args:
        mask: (H, W) bool, at least one True.

    Returns:
        Rows and columns: as square as the photo allows, at least 64 pixels a side where it is as
        large as that, never past its edges.

    Example:
        >>> mask = np.zeros((300, 200), bool)
        >>> mask[10:20, 100:110] = True
        >>> crop_around(mask)
        (slice(0, 64, None), slice(73, 137, None))
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    side = max(_LEAST_CROP_PX, round((1 + _CONTEXT) * max(width, height)))
    return (
        _centred(top + height / 2, side, mask.shape[0]),
        _centred(left + width / 2, side, mask.shape[1]),
    )


def largest_area(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected area of a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) bool; all False if the mask is.

    Example:
        >>> largest_area(np.array([[True, False, True, True]]))
        array([[False, False,  True,  True]])
    """
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count == 1:
        return np.zeros_like(mask)
    return labels == 1 + np.argmax(statistics[1:, cv2.CC_STAT_AREA])


def rank_photos(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Indexes of the photos that have a score, the highest first; ties keep their order.

    Example:
        >>> rank_photos([0.2, np.nan, 0.9]).tolist()
        [2, 0]
    """
    scores = np.asarray(scores, np.float64)
    ranked = np.flatnonzero(~np.isnan(scores))
    return ranked[np.argsort(-scores[ranked], kind="stable")]


def _centred(middle: float, side: int, length: int) -> slice:
    """`side` pixels around a point, pushed back inside 0..length."""
    start = min(max(0, round(middle - side / 2)), max(0, length - side))
    return slice(start, min(length, start + side))
