"""Calibration: whether pixels that the network is 90 % sure of are right in 90 % of the cases.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

import numpy as np

from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.scores.bootstrap import percentile_ends, resample_weights

N_BINS = 15
"""Bins of equal width over the probabilities 0..1, as in the paper."""


def calibration_counts(
    confidence: np.ndarray, pred_mask: np.ndarray, target: np.ndarray, num_classes: int
) -> np.ndarray:
    """Sort the pixels by predicted class and by confidence.

    Args:
        confidence: (H, W) float32, probability of the predicted class, 0..1.
        pred_mask: (H, W) uint8, class ids 0..C-1.
        target: (H, W) uint8, class ids or 255; ignored pixels are left out.
        num_classes: C, background included.

    Returns:
        (C, N_BINS, 3) float64, rows by predicted class: pixels, those of them that are right, and
        the sum of their confidences.

    Example:
        >>> confidence = np.array([[0.99, 0.95, 0.5]], np.float32)
        >>> pred_mask, target = np.array([[1, 1, 0]], np.uint8), np.array([[1, 0, 0]], np.uint8)
        >>> counts = calibration_counts(confidence, pred_mask, target, num_classes=2)
        >>> counts[1, -1].round(2)
        array([2.  , 1.  , 1.94])
    """
    bins = (confidence * np.float32(N_BINS)).astype(np.intp)
    np.minimum(bins, N_BINS - 1, out=bins)  # a probability of 1 belongs to the last bin
    cells = bins + pred_mask.astype(np.intp) * N_BINS
    right = target == pred_mask
    counted = target != IGNORE_INDEX
    if not counted.all():
        cells, right, confidence = cells[counted], right[counted], confidence[counted]
    n_cells = num_classes * N_BINS
    cells = cells.ravel()
    counts = np.stack(
        [
            np.bincount(cells, minlength=n_cells),
            np.bincount(cells[right.ravel()], minlength=n_cells),
            np.bincount(cells, weights=confidence.ravel(), minlength=n_cells),
        ],
        axis=1,
    )
    return counts.reshape(num_classes, N_BINS, 3).astype(np.float64)


def expected_calibration_error(counts: np.ndarray) -> np.ndarray:
    """Average over the pixels of |share that is right - mean confidence|, bin by bin.

    Args:
        counts: (..., N_BINS, 3), as `calibration_counts` returns them, or sums of it.

    Returns:
        (...) float64, 0 (calibrated) .. 1; NaN without pixels.

    Example:
        Always sure, and right three times out of four:

        >>> counts = np.zeros((N_BINS, 3))
        >>> counts[-1] = 4, 3, 4
        >>> float(expected_calibration_error(counts))
        0.25
    """
    pixels = counts[..., 0].sum(-1)
    gaps = np.abs(counts[..., 1] - counts[..., 2]).sum(-1)
    return np.where(pixels > 0, gaps / np.where(pixels > 0, pixels, 1), np.nan)


def bootstrap_calibration_error(
    counts: np.ndarray, *, samples: int = 2000, rng: np.random.Generator
) -> tuple[float, float]:
    """Give a percentile bootstrap interval of the calibration error, resampling whole images.

    An error made of absolute gaps cannot fall below 0, and resampling adds to it: for a network
    that is nearly calibrated, or for few images, the interval lies too high.

    Args:
        counts: (n, N_BINS, 3), one image each, over all classes.
        samples: resamples.
        rng: source of the resamples.

    Returns:
        Lower and upper end; NaN for fewer than two images.
    """
    n = len(counts)
    if n < 2:
        return float("nan"), float("nan")
    flat = counts.reshape(n, -1)
    errors = [
        expected_calibration_error((weights @ flat).reshape(-1, *counts.shape[1:]))
        for weights in resample_weights(n, samples, rng)
    ]
    low, high = percentile_ends(np.concatenate(errors))
    return float(low), float(high)
