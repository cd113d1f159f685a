"""Predictions to per-image confusion matrices and scores."""

import cv2
import numpy as np
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from benchmarks.harness import Row, alternate, check_equal, seconds_of
from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.scores.metrics import confusion_matrix, scores_from_confusion

N_IMAGES, SIDE, NUM_CLASSES = 32, 512, 13


def rows() -> list[Row]:
    """Compare with a torchmetrics collection; the scores must agree."""
    target, pred_mask = make_masks()
    options = {"num_classes": NUM_CLASSES, "ignore_index": IGNORE_INDEX}
    collection = MetricCollection(
        [
            MulticlassJaccardIndex(**options),
            MulticlassF1Score(**options),
            MulticlassAccuracy(**options),
        ]
    )
    target_tensor = torch.from_numpy(target).long()
    pred_tensor = torch.from_numpy(pred_mask).long()

    def baseline() -> dict[str, float]:
        collection.reset()
        for pair in zip(pred_tensor, target_tensor, strict=True):
            collection.update(*pair)
        return {name: float(value) for name, value in collection.compute().items()}

    def ours() -> tuple[np.ndarray, dict[str, float]]:
        pairs = zip(target, pred_mask, strict=True)
        confusions = np.stack([confusion_matrix(*pair, NUM_CLASSES) for pair in pairs])
        scores = scores_from_confusion(confusions.sum(axis=0))
        return confusions, {
            "MulticlassJaccardIndex": scores.mean_iou,
            "MulticlassF1Score": scores.macro_f1,
            "MulticlassAccuracy": scores.macro_recall,  # what macro accuracy means there
        }

    timing = alternate(baseline, ours, 5)
    confusions, scores = timing.our_result
    check_equal("scores", sum(abs(scores[k] - v) > 1e-5 for k, v in timing.baseline_result.items()))
    check_equal("pixels counted", int(abs(confusions.sum() - (target != IGNORE_INDEX).sum())))
    return [
        Row(
            name=f"score {N_IMAGES} predictions at {SIDE}",
            baseline=timing.baseline,
            ours=timing.ours,
            unit="s",
            target=30.0,
            n=timing.n,
            note=(
                "torchmetrics collection of Jaccard, F1 and accuracy, updated photo by photo; "
                "scores agree; ours keeps one confusion matrix for each photo"
            ),
            floor=timing.baseline / seconds_of(lambda: count_only(target, pred_mask))[0],
            floor_note="OpenCV's histogram over both masks; no check, no score counted",
        )
    ]


def count_only(target: np.ndarray, pred_mask: np.ndarray) -> None:
    """The one pass over the pixels that cannot be left out."""
    shape, ranges = [NUM_CLASSES, NUM_CLASSES], [0, NUM_CLASSES, 0, NUM_CLASSES]
    for pair in zip(target, pred_mask, strict=True):
        cv2.calcHist([mask.reshape(1, -1) for mask in pair], [0, 1], None, shape, ranges)


def make_masks() -> tuple[np.ndarray, np.ndarray]:
    """Target in patches and a prediction that is right in four of five pixels; (N, S, S) uint8."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, NUM_CLASSES, (N_IMAGES, SIDE // 32, SIDE // 32), np.uint8)
    target = target.repeat(32, axis=1).repeat(32, axis=2)
    is_wrong = rng.random(target.shape) < 0.2
    pred_mask = np.where(is_wrong, rng.integers(0, NUM_CLASSES, target.shape, np.uint8), target)
    target[:, :16] = IGNORE_INDEX
    return target, pred_mask
