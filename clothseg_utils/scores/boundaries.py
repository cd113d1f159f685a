"""Boundary IoU: how well the outlines of each class fit, whatever the size of its areas.

Mask IoU of a large garment hardly notices a ragged outline; boundary IoU looks only at the pixels
near it. Source: Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric
Image Segmentation Evaluation", CVPR 2021.
"""

import cv2
import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX

BAND_SHARE = 0.02
"""Width of the band inside an outline, as a share of the photo's diagonal; the paper's choice."""

_BEYOND = 255  # no class id: what lies outside the photo is another class than all inside


def band_width(height: int, width: int) -> int:
    """Width of the band in pixels, for a photo of this size; at least 1.

    Example:
        >>> band_width(768, 1024)
        26
    """
    return max(1, round(BAND_SHARE * float(np.hypot(height, width))))


def boundary_band(mask: np.ndarray, width_px: int) -> np.ndarray:
    """Mark the pixels within `width_px` of the outline of their own class, on its inner side.

    The distance is the larger of the row and the column distance. A photo's edge is an outline; the
    edge of an ignored area is none.

    Args:
        mask: (H, W) uint8 class ids, or 255 (ignored).
        width_px: width of the band, at least 1.

    Returns:
        (H, W) bool; False where `mask` is ignored.

    Example:
        >>> boundary_band(np.array([[0, 0, 0, 1, 1]] * 5, np.uint8), 1)[2]
        array([ True, False,  True,  True,  True])
    """
    # Eroding the mask of every class would tell the same, class by class. All at once: a pixel is
    # near its outline if its neighbourhood holds any other id, so if the smallest or the largest
    # id there is not its own.
    window = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    ignored = mask == IGNORE_INDEX
    without_ignored = np.where(ignored, 0, mask).astype(np.uint8) if ignored.any() else mask
    largest = cv2.dilate(
        without_ignored, window, borderType=cv2.BORDER_CONSTANT, borderValue=_BEYOND
    )
    # Ignored pixels are 255 here already, which no smallest id is.
    smallest = cv2.erode(mask, window, borderType=cv2.BORDER_CONSTANT, borderValue=_BEYOND)
    return ((largest != mask) | (smallest != mask)) & ~ignored


def boundary_counts(target: np.ndarray, pred_mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels that boundary IoU is made of.

    Args:
        target: (H, W) uint8, class ids 0..C-1 or 255; ignored pixels are left out of both bands.
        pred_mask: (H, W) uint8, class ids 0..C-1.
        num_classes: C, background included.

    Returns:
        (3, C) int64: pixels in both bands of the class, in the target's, in the prediction's.
        IoU of the bands is both / (target + prediction - both).
    """
    width_px = band_width(*target.shape)
    ignored = target == IGNORE_INDEX
    if ignored.any():
        pred_mask = np.where(ignored, np.uint8(IGNORE_INDEX), pred_mask)
    target_band = boundary_band(target, width_px)
    pred_band = boundary_band(pred_mask, width_px)
    both = target_band & pred_band & (target == pred_mask)
    return np.stack(
        [
            np.bincount(target[both], minlength=num_classes),
            np.bincount(target[target_band], minlength=num_classes),
            np.bincount(pred_mask[pred_band], minlength=num_classes),
        ]
    )
