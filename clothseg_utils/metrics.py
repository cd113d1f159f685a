"""Confusion matrices, and the scores, intervals and strata that follow from them.

Pure functions on numpy arrays. One rule holds throughout: a class with neither target nor
predicted pixels is absent (NaN, outside every mean). Any other class counts, and where such a class
has a ratio 0 / 0 (precision if never predicted, recall if without target) that ratio is 0, as in
torchmetrics: a class that the network always misses must not raise the macro precision.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

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
# Resample weights held at once, in numbers: 32 MiB of float64.
_WEIGHTS_AT_ONCE = 2**22


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


@dataclass(frozen=True, eq=False)
class Intervals:
    """Percentile bootstrap intervals over images; NaN where a score never was defined.

    Every score has a lower end, ``<score>_low``, and an upper one, ``<score>_high``: arrays (C,)
    for the scores of each class, numbers for the means.

    Attributes:
        level: share of the resamples inside, 0..1.
        samples: resamples drawn.
    """

    level: float
    samples: int
    iou_low: np.ndarray
    iou_high: np.ndarray
    f1_low: np.ndarray
    f1_high: np.ndarray
    precision_low: np.ndarray
    precision_high: np.ndarray
    recall_low: np.ndarray
    recall_high: np.ndarray
    target_share_low: np.ndarray
    target_share_high: np.ndarray
    mean_iou_low: float
    mean_iou_high: float
    mean_iou_no_background_low: float
    mean_iou_no_background_high: float
    mean_iou_target_classes_low: float
    mean_iou_target_classes_high: float
    macro_f1_low: float
    macro_f1_high: float
    macro_f1_no_background_low: float
    macro_f1_no_background_high: float
    pixel_accuracy_low: float
    pixel_accuracy_high: float

    def of(self, score: str) -> tuple[Any, Any]:
        """Lower and upper end of a score, such as "iou"."""
        return getattr(self, f"{score}_low"), getattr(self, f"{score}_high")


def confusion_matrix(
    target: np.ndarray, pred_mask: np.ndarray, num_classes: int, ignore_index: int = 255
) -> np.ndarray:
    """Count the pixels of each (target, predicted) pair of classes.

    Pixels whose target is ``ignore_index`` are left out, whatever was predicted there.

    Args:
        target: (H, W) or any other shape, integer class ids 0..C-1 or ``ignore_index``.
        pred_mask: same shape, integer class ids 0..C-1.
        num_classes: C, background included.
        ignore_index: target value that is left out; must not be a class id.

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
    if not 1 <= num_classes <= ignore_index <= 255:
        raise ValueError(
            f"num_classes {num_classes} and ignore_index {ignore_index} do not fit; "
            "expected 1 <= num_classes <= ignore_index <= 255."
        )
    target, pred_mask = np.asarray(target), np.asarray(pred_mask)
    if target.shape != pred_mask.shape:
        raise ValueError(
            f"pred_mask has shape {pred_mask.shape}; expected that of target, {target.shape}."
        )
    flat_target = _to_flat_uint8(target, "target", num_classes, ignore_index)
    flat_pred = _to_flat_uint8(pred_mask, "pred_mask", num_classes, ignore_index)

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
    counted = flat_target != ignore_index
    if confusion.sum() != np.count_nonzero(counted):
        _check_ids(flat_target[counted], "target", num_classes, ignore_index)
        _check_ids(flat_pred[counted], "pred_mask", num_classes, ignore_index)
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

    Source: DESIGN section 8.

    Example:
        Class 0 is half right, class 1 is predicted but has no target, class 2 is absent.

        >>> scores = scores_from_confusion(np.array([[2, 2, 0], [0, 0, 0], [0, 0, 0]]))
        >>> scores.iou
        array([0.5, 0. , nan])
        >>> scores.mean_iou, scores.mean_iou_target_classes, scores.status
        (0.25, 0.5, ('ok', 'no target', 'absent'))
    """
    confusion = _check_confusions(confusion, ndim=2)
    hits, target, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    present = target + predicted > 0
    foreground = present & (np.arange(len(confusion)) > 0)
    iou, f1 = _iou_and_f1(hits, target, predicted)
    precision = _ratio(hits, predicted, present)
    recall = _ratio(hits, target, present)
    total = target.sum()
    return Scores(
        confusion=confusion,
        iou=iou,
        f1=f1,
        precision=precision,
        recall=recall,
        target_pixels=target,
        predicted_pixels=predicted,
        mean_iou=float(_mean(iou, present)),
        mean_iou_no_background=float(_mean(iou, foreground)),
        mean_iou_target_classes=float(_mean(iou, target > 0)),
        macro_f1=float(_mean(f1, present)),
        macro_f1_no_background=float(_mean(f1, foreground)),
        macro_precision=float(_mean(precision, present)),
        macro_recall=float(_mean(recall, present)),
        pixel_accuracy=float(_ratio(hits.sum(), total, total > 0)),
    )


def stratum_scores(confusions: np.ndarray, strata: Sequence[Hashable]) -> dict[Hashable, Scores]:
    """Score each stratum over the summed confusion matrices of its images.

    Args:
        confusions: (n, C, C) integer counts, one matrix per image.
        strata: n keys, the stratum of each image.

    Returns:
        Scores per stratum, in the order in which the strata first occur.

    Raises:
        ValueError: not one key per image, or not matrices of counts.

    Example:
        >>> right, wrong = np.array([[4, 0], [0, 4]]), np.array([[0, 4], [4, 0]])
        >>> scores = stratum_scores(np.stack([right, wrong, right]), ["one", "several", "one"])
        >>> {stratum: s.mean_iou for stratum, s in scores.items()}
        {'one': 1.0, 'several': 0.0}
    """
    confusions = _check_confusions(confusions, ndim=3)
    if len(strata) != len(confusions):
        raise ValueError(
            f"strata has {len(strata)} keys; expected one per image, {len(confusions)}."
        )
    members: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    return {
        stratum: scores_from_confusion(confusions[indices].sum(0))
        for stratum, indices in members.items()
    }


def bootstrap_intervals(
    confusions: np.ndarray,
    *,
    samples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Intervals:
    """Give percentile bootstrap intervals of the scores, resampling whole images.

    Pixels of one image are not independent, so images are drawn, with replacement, and each
    resample is scored like the split: over one summed matrix. For a class that occurs in few images
    the interval is too narrow, as a percentile bootstrap is: simulated, an interval of 95 % covers
    the truth in 75 % of cases for 3 images, 85 % for 5, 90 % for 10. A class absent from some
    resamples is judged by the others.

    Args:
        confusions: (n, C, C) integer counts, one matrix per image.
        samples: resamples to draw, at least 1.
        level: share of the resamples inside the interval, between 0 and 1.
        rng: source of the resamples; the same state gives the same intervals.

    Returns:
        The intervals; NaN where fewer than two images hold or predict a class, and all NaN for
        fewer than two images: one says nothing about spread.

    Raises:
        ValueError: ``samples`` or ``level`` out of range, or not matrices of counts.

    Example:
        >>> same = np.stack([np.array([[3, 1], [0, 4]])] * 5)  # no image differs from another
        >>> intervals = bootstrap_intervals(same, samples=50, rng=np.random.default_rng(0))
        >>> intervals.iou_low, intervals.iou_high
        (array([0.75, 0.8 ]), array([0.75, 0.8 ]))
    """
    confusions = _check_confusions(confusions, ndim=3)
    return bootstrap_counts(
        np.diagonal(confusions, axis1=1, axis2=2),
        confusions.sum(2),
        confusions.sum(1),
        samples=samples,
        level=level,
        rng=rng,
    )


def bootstrap_counts(
    hits: np.ndarray,
    target: np.ndarray,
    predicted: np.ndarray,
    *,
    samples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> Intervals:
    """Give the intervals of ``bootstrap_intervals`` from the three counts that scores need.

    Args:
        hits: (n, C) pixels of each image that are a class in target and prediction.
        target: (n, C) pixels that are it in the target.
        predicted: (n, C) pixels that are it in the prediction.
        samples, level, rng: as for ``bootstrap_intervals``.

    Returns:
        The intervals; all NaN for fewer than two images.

    Raises:
        ValueError: ``samples`` or ``level`` out of range.
    """
    _check_bootstrap(samples, level)
    n, num_classes = hits.shape
    counts = np.concatenate([hits, target, predicted], axis=1).astype(np.float64)  # (n, 3 C)
    if n >= 2:
        # Three counts per class are all that the scores need, so a resample is one row of weights
        # (how often each image was drawn) times a thin matrix. Whole numbers below 2**53 stay
        # exact.
        pieces = [
            _scores_of_counts(*np.split(weights @ counts, 3, axis=1))
            for weights in resample_weights(n, samples, rng)
        ]
        ends = {
            name: percentile_ends(np.concatenate([piece[name] for piece in pieces]), level)
            for name in pieces[0]
        }
        _forget_rare_classes(ends, target + predicted)
    else:
        one = _scores_of_counts(*np.zeros((3, 1, num_classes)))
        ends = {name: np.full((2, *values.shape[1:]), np.nan) for name, values in one.items()}
    # The means become plain numbers.
    return Intervals(
        level=level,
        samples=samples,
        **{
            f"{name}_{end}": value if value.ndim else float(value)
            for name, pair in ends.items()
            for end, value in zip(("low", "high"), pair, strict=True)
        },
    )


def bootstrap_differences(
    confusions: np.ndarray,
    others: np.ndarray,
    *,
    samples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Give percentile bootstrap intervals of the differences between two predictions (paired).

    Both are scored on the same resamples: how hard the photos happen to be falls out of the
    difference, so that it is known far better than either score.

    Args:
        confusions: (n, C, C) integer counts, one matrix per image.
        others: (n, C, C) of the other prediction, the same images in the same order.
        samples, level, rng: as for ``bootstrap_intervals``.

    Returns:
        Score -> lower and upper end of "confusions minus others": (2, C) for ``iou``, ``f1`` and
        the other scores of a class, (2,) for the means. NaN where a score is undefined in either,
        and for fewer than two images.

    Raises:
        ValueError: other shapes, ``samples`` or ``level`` out of range, or not matrices of counts.

    Example:
        >>> better = np.stack([np.array([[3, 1], [0, 4]])] * 5)
        >>> worse = np.stack([np.array([[2, 2], [0, 4]])] * 5)
        >>> ends = bootstrap_differences(better, worse, samples=50, rng=np.random.default_rng(0))
        >>> ends["iou"][0].round(3)
        array([0.25 , 0.133])
    """
    _check_bootstrap(samples, level)
    confusions, others = _check_confusions(confusions, ndim=3), _check_confusions(others, ndim=3)
    if confusions.shape != others.shape:
        raise ValueError(
            f"others have shape {others.shape}; expected that of confusions, {confusions.shape}."
        )
    ours, theirs = _three_counts(confusions), _three_counts(others)
    pieces = []
    for weights in resample_weights(len(ours), samples, rng):
        first = _scores_of_counts(*np.split(weights @ ours, 3, axis=1))
        second = _scores_of_counts(*np.split(weights @ theirs, 3, axis=1))
        pieces.append({name: first[name] - second[name] for name in first})
    ends = {
        name: percentile_ends(np.concatenate([piece[name] for piece in pieces]), level)
        for name in pieces[0]
    }
    if len(ours) < 2:  # one image says nothing about spread
        return {name: np.full_like(pair, np.nan) for name, pair in ends.items()}
    num_classes = confusions.shape[1]
    _forget_rare_classes(ends, (ours + theirs)[:, num_classes:].reshape(-1, 2, num_classes).sum(1))
    return ends


def bootstrap_ratios(
    numerators: np.ndarray,
    denominators: np.ndarray,
    *,
    samples: int = 2000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Give percentile bootstrap intervals of k ratios: sum(numerators) / sum(denominators).

    Args:
        numerators: (n, k) one number per image and ratio.
        denominators: (n, k) one number per image and ratio, at least 0.
        samples, level, rng: as for ``bootstrap_intervals``.

    Returns:
        Lower and upper ends, each (k,); NaN where fewer than two images count.

    Raises:
        ValueError: ``samples`` or ``level`` out of range.

    Example:
        >>> counts = np.array([[2, 0], [2, 0], [2, 4]])
        >>> bootstrap_ratios(counts / 2, counts, rng=np.random.default_rng(0))
        (array([0.5, nan]), array([0.5, nan]))
    """
    _check_bootstrap(samples, level)
    n, k = denominators.shape
    ends = np.full((2, k), np.nan)
    known = np.count_nonzero(denominators, axis=0) >= 2
    if known.any():
        above, below = numerators[:, known].astype(float), denominators[:, known].astype(float)
        pieces = []
        for weights in resample_weights(n, samples, rng):
            totals = weights @ below
            # A resample without any image that counts has no ratio.
            ratios = (weights @ above) / np.where(totals > 0, totals, 1)
            pieces.append(np.where(totals > 0, ratios, np.nan))
        ends[:, known] = percentile_ends(np.concatenate(pieces), level)
    return ends[0], ends[1]


def resample_weights(n: int, samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw resamples of n images with replacement, in pieces that fit memory.

    Yields:
        (rows, n) float64: how often each image was drawn; `samples` rows over all pieces.
    """
    rows_at_once = max(1, _WEIGHTS_AT_ONCE // n)
    for start in range(0, samples, rows_at_once):
        rows = min(rows_at_once, samples - start)
        yield rng.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.float64)


def percentile_ends(resampled: np.ndarray, level: float) -> np.ndarray:
    """Give both ends of percentile intervals.

    Args:
        resampled: (samples, ...) scores of the resamples; NaN where one has none.
        level: share of the resamples inside, 0..1.

    Returns:
        (2, ...); NaN where no resample has a score.
    """
    flat = resampled.reshape(len(resampled), -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    defined = ~np.isnan(flat).all(0)  # nanquantile warns about columns of NaN only
    tail = (1 - level) / 2
    ends[:, defined] = np.nanquantile(flat[:, defined], [tail, 1 - tail], axis=0)
    return ends.reshape(2, *resampled.shape[1:])


def iou_of_counts(hits: np.ndarray, target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU from pixel counts, each (..., C): (..., C); NaN for absent classes."""
    return _iou_and_f1(hits, target, predicted)[0]


@dataclass(frozen=True, eq=False)
class PrCounts:
    """A precision-recall curve of one class; arrays are per threshold, from 0 up.

    Attributes:
        true_positives, false_positives, true_negatives, false_negatives: (B,) int64 pixels.
        precision: (B,) 0..1; 1 where nothing is predicted.
        recall: (B,) 0..1.
    """

    true_positives: np.ndarray
    false_positives: np.ndarray
    true_negatives: np.ndarray
    false_negatives: np.ndarray
    precision: np.ndarray
    recall: np.ndarray


def precision_recall_counts(inside: np.ndarray, outside: np.ndarray) -> PrCounts:
    """Turn histograms of a class's probability into its precision-recall curve.

    Threshold b is b / B; a pixel is predicted if its probability reaches it.

    Args:
        inside: (B,) pixels of the class, by their probability in B equal bins over 0..1.
        outside: (B,) the other pixels, in the same bins.

    Raises:
        ValueError: the two are no histograms of one length, or the class has no pixels.

    Example:
        >>> precision_recall_counts(np.array([0, 1]), np.array([3, 1])).precision.tolist()
        [0.2, 0.5]
    """
    if inside.ndim != 1 or inside.shape != outside.shape:
        raise ValueError(
            f"histograms are {inside.shape} and {outside.shape}; expected (B,), as many bins each"
        )
    if not inside.sum():
        raise ValueError("the class has no pixels; expected at least one for a recall")
    true_positives = inside[::-1].cumsum()[::-1]
    false_positives = outside[::-1].cumsum()[::-1]
    predicted = true_positives + false_positives
    precision = np.ones(len(inside))
    np.divide(true_positives, predicted, out=precision, where=predicted > 0)
    return PrCounts(
        true_positives=true_positives,
        false_positives=false_positives,
        true_negatives=outside.sum() - false_positives,
        false_negatives=inside.sum() - true_positives,
        precision=precision,
        recall=true_positives / inside.sum(),
    )


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


def confusion_to_table(
    scores: Scores, class_names: Sequence[str], intervals: Intervals | None = None
) -> pd.DataFrame:
    """Lay the per-class scores out as a table for notebooks and report.

    Args:
        scores: of C classes.
        class_names: C different names in the order of the class ids.
        intervals: of the same classes; adds the columns <score>_low and <score>_high of every
            score in `CLASS_SCORES`.

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
    if intervals is not None:
        for score in CLASS_SCORES:
            columns[f"{score}_low"], columns[f"{score}_high"] = intervals.of(score)
    return pd.DataFrame(columns)


def _to_flat_uint8(ids: np.ndarray, name: str, num_classes: int, ignore_index: int) -> np.ndarray:
    """Flatten to (pixels,) uint8; other integer types only if no id wraps around on the way."""
    if ids.dtype != np.uint8:
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name} is {ids.dtype}; expected integer class ids.")
        if ids.size and not 0 <= ids.min() <= ids.max() <= 255:
            _check_ids(ids, name, num_classes, ignore_index)
    return np.ascontiguousarray(ids, dtype=np.uint8).reshape(-1)


def _check_ids(ids: np.ndarray, name: str, num_classes: int, ignore_index: int) -> None:
    allowed = f"0..{num_classes - 1}"
    wrong = (ids < 0) | (ids >= num_classes)
    if name == "target":
        allowed += f" or {ignore_index}"
        wrong &= ids != ignore_index
    if wrong.any():
        raise ValueError(
            f"{name} has class ids {np.unique(ids[wrong]).tolist()}; expected {allowed}. "
            "Check that target and prediction use the same scheme."
        )


def _check_confusions(confusions: np.ndarray, ndim: int) -> np.ndarray:
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


def _mean(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the values marked by the boolean ``among``; NaN if none is."""
    number = among.sum(-1)
    return _ratio(np.where(among, values, 0.0).sum(-1), number, number > 0)


def _iou_and_f1(
    hits: np.ndarray, target: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """IoU and F1 per class from pixel counts, each (..., C); NaN for absent classes."""
    both = target + predicted
    return _ratio(hits, both - hits, both > 0), _ratio(2 * hits, both, both > 0)


def _check_bootstrap(samples: int, level: float) -> None:
    if samples < 1:
        raise ValueError(f"samples is {samples}; expected at least 1.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a share between 0 and 1, such as 0.95.")


def _forget_rare_classes(ends: dict[str, np.ndarray], pixels: np.ndarray) -> None:
    """Write NaN over the intervals of classes that fewer than two images hold or predict.

    Args:
        ends: score -> (2, C) or, for means, (2,); changed in place.
        pixels: (n, C) of target and prediction together.
    """
    rare = np.count_nonzero(pixels, axis=0) < 2
    for pair in ends.values():
        if pair.ndim == 2:
            pair[:, rare] = np.nan


def _three_counts(confusions: np.ndarray) -> np.ndarray:
    """(n, 3 C) float64: pixels in target and prediction, in the target, in the prediction."""
    diagonals = np.diagonal(confusions, axis1=1, axis2=2)
    return np.concatenate([diagonals, confusions.sum(2), confusions.sum(1)], axis=1).astype(float)


def _scores_of_counts(
    hits: np.ndarray, target: np.ndarray, predicted: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores of resamples from counts, each (rows, C): (rows, C) per class, (rows,) for means."""
    present = target + predicted > 0
    iou, f1 = _iou_and_f1(hits, target, predicted)
    total = target.sum(-1)
    return {
        "iou": iou,
        "f1": f1,
        "precision": _ratio(hits, predicted, present),
        "recall": _ratio(hits, target, present),
        "target_share": _ratio(target, total[:, None], present),
        "mean_iou": _mean(iou, present),
        "mean_iou_no_background": _mean(iou[:, 1:], present[:, 1:]),
        "mean_iou_target_classes": _mean(iou, target > 0),
        "macro_f1": _mean(f1, present),
        "macro_f1_no_background": _mean(f1[:, 1:], present[:, 1:]),
        "pixel_accuracy": _ratio(hits.sum(-1), total, total > 0),
    }


def nan_to_none(value: float) -> float | None:
    """Undefined scores are NaN in arrays, and null in JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)
