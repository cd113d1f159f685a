"""Confusion matrices and scores, by hand and against torchmetrics."""

import json
import math

import numpy as np
import pytest
import torch
import torchmetrics.classification as referee

from clothseg_utils.scores.bootstrap import bootstrap_intervals
from clothseg_utils.scores.metrics import (
    CLASS_SCORES,
    confusion_matrix,
    confusion_to_table,
    scores_from_confusion,
    scores_to_dict,
)

MEANS = (
    "mean_iou",
    "mean_iou_no_background",
    "mean_iou_target_classes",
    "macro_f1",
    "macro_f1_no_background",
    "macro_precision",
    "macro_recall",
    "pixel_accuracy",
)


def hand_counted_images():
    """Two 2 x 3 images of 4 classes: class 2 has no target, class 3 is absent."""
    target_a = np.array([[0, 0, 0], [1, 1, 255]], np.uint8)
    pred_a = np.array([[0, 0, 1], [1, 0, 1]], np.uint8)
    target_b = np.array([[1, 1, 0], [0, 255, 255]], np.uint8)
    pred_b = np.array([[1, 2, 0], [0, 0, 0]], np.uint8)
    return (target_a, pred_a), (target_b, pred_b)


def random_masks(num_classes, *, side=64, seed=0, ignored=True):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, (2, side, side), dtype=np.uint8)
    noise = rng.integers(0, num_classes, target.shape, dtype=np.uint8)
    pred_mask = np.where(rng.random(target.shape) < 0.6, target, noise)
    if ignored:
        target[:, : side // 8] = 255
    return target, pred_mask


# --- confusion_matrix ----------------------------------------------------------------------------


def test_hand_counted_confusion_of_two_images():
    counted = [confusion_matrix(t, p, num_classes=4) for t, p in hand_counted_images()]
    assert counted[0].tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    assert counted[1].tolist() == [[2, 0, 0, 0], [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert counted[0].dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("num_classes", [1, 2, 13, 16, 17, 47, 255])
def test_confusion_equals_plain_count(num_classes, dtype):
    target, pred_mask = random_masks(num_classes)
    expected = np.zeros((num_classes, num_classes), int)
    counted = target != 255
    np.add.at(expected, (target[counted], pred_mask[counted]), 1)
    got = confusion_matrix(target.astype(dtype), pred_mask.astype(dtype), num_classes)
    assert np.array_equal(got, expected)


def test_confusion_of_a_cropped_view():
    target, pred_mask = random_masks(5)
    view = np.s_[0, 10:50:2, 3:60]  # strided, as a letterbox crop is
    expected = confusion_matrix(target[view].copy(), pred_mask[view].copy(), 5)
    assert np.array_equal(confusion_matrix(target[view], pred_mask[view], 5), expected)


def test_photo_of_more_pixels_than_float32_can_count():
    side = 4097  # 16,785,409 pixels, an odd number above 2**24
    target = np.ones((side, side), np.uint8)
    assert confusion_matrix(target, target, num_classes=2).tolist() == [[0, 0], [0, side**2]]


def test_prediction_is_not_looked_at_where_target_is_ignored():
    target, pred_mask = np.array([[0, 255]], np.uint8), np.array([[0, 255]], np.uint8)
    assert confusion_matrix(target, pred_mask, num_classes=2).tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("target", "pred_mask", "message"),
    [
        ([[0, 47]], [[0, 0]], r"target has class ids \[47\]; expected 0\.\.12 or 255"),
        ([[0, 1]], [[13, 254]], r"pred_mask has class ids \[13, 254\]; expected 0\.\.12\."),
        ([[0, 1]], [[0, 255]], r"pred_mask has class ids \[255\]"),  # ignored is no prediction
        (np.array([[0, -1]]), [[0, 0]], r"target has class ids \[-1\]"),
        ([[0, 0]], np.array([[0, 256]]), r"pred_mask has class ids \[256\]"),  # would wrap to 0
        ([[0, 1, 2]], [[0, 1]], r"pred_mask has shape \(1, 2\); expected .* \(1, 3\)"),
    ],
)
def test_bad_masks_are_refused(target, pred_mask, message):
    target, pred_mask = (
        np.array(m, np.uint8) if isinstance(m, list) else m for m in (target, pred_mask)
    )
    with pytest.raises(ValueError, match=message):
        confusion_matrix(target, pred_mask, num_classes=13)


# --- scores --------------------------------------------------------------------------------------


def test_hand_counted_scores_of_two_images():
    confusion = sum(confusion_matrix(t, p, num_classes=4) for t, p in hand_counted_images())
    # [[4 1 0 0], [1 2 1 0], [0 0 0 0], [0 0 0 0]]: 6 of 9 pixels right
    scores = scores_from_confusion(confusion)
    assert scores.iou == pytest.approx([4 / 6, 2 / 5, 0, math.nan], nan_ok=True)
    assert scores.f1 == pytest.approx([8 / 10, 4 / 7, 0, math.nan], nan_ok=True)
    assert scores.precision == pytest.approx([4 / 5, 2 / 3, 0, math.nan], nan_ok=True)
    assert scores.recall == pytest.approx([4 / 5, 2 / 4, 0, math.nan], nan_ok=True)
    assert scores.target_pixels.tolist() == [5, 4, 0, 0]
    assert scores.predicted_pixels.tolist() == [5, 3, 1, 0]
    assert scores.status == ("ok", "ok", "no target", "absent")
    assert scores.mean_iou == pytest.approx((4 / 6 + 2 / 5 + 0) / 3)
    assert scores.mean_iou_no_background == pytest.approx((2 / 5 + 0) / 2)
    assert scores.mean_iou_target_classes == pytest.approx((4 / 6 + 2 / 5) / 2)
    assert scores.macro_f1 == pytest.approx((8 / 10 + 4 / 7 + 0) / 3)
    assert scores.macro_f1_no_background == pytest.approx((4 / 7 + 0) / 2)
    assert scores.macro_precision == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    assert scores.macro_recall == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)
    assert scores.pixel_accuracy == pytest.approx(6 / 9)


def test_perfect_prediction_is_one():
    target, _ = random_masks(13)
    pred_mask = np.where(target == 255, 0, target)
    scores = scores_from_confusion(confusion_matrix(target, pred_mask, 13))
    assert [getattr(scores, name) for name in MEANS] == [1.0] * len(MEANS)
    for per_class in (scores.iou, scores.f1, scores.precision, scores.recall):
        assert per_class.tolist() == [1.0] * 13


def test_class_never_predicted_has_zero_precision_not_nan():
    scores = scores_from_confusion(np.array([[5, 0], [3, 0]]))
    assert scores.precision.tolist() == [5 / 8, 0]
    assert scores.iou.tolist() == [5 / 8, 0]
    assert scores.macro_precision == 5 / 16


def test_everything_ignored_is_nan_everywhere():
    target = np.full((4, 4), 255, np.uint8)
    scores = scores_from_confusion(confusion_matrix(target, np.zeros_like(target), 3))
    assert np.isnan([getattr(scores, name) for name in MEANS]).all()
    for per_class in (scores.iou, scores.f1, scores.precision, scores.recall):
        assert np.isnan(per_class).all()
    assert scores.status == ("absent",) * 3


def test_background_alone_has_no_mean():
    scores = scores_from_confusion(np.array([[7, 0], [0, 0]]))
    means = set(MEANS) - {"pixel_accuracy"}
    assert np.isnan([getattr(scores, name) for name in means]).all()
    assert scores.iou[0] == scores.pixel_accuracy == 1
    assert scores_from_confusion(np.array([[6, 1], [0, 0]])).mean_iou == pytest.approx(3 / 7)


def test_resamples_of_background_alone_do_not_count_as_perfect():
    photos = np.zeros((12, 2, 2), np.int64)
    photos[:, 0, 0] = 90  # nothing to be seen, and nothing predicted
    photos[0] = [[80, 0], [5, 5]]
    low, high = bootstrap_intervals(photos, rng=np.random.default_rng(0))["mean_iou"]
    assert 0.7 < low <= scores_from_confusion(photos.sum(axis=0)).mean_iou <= high < 0.8


REFEREES = {
    "iou": (referee.MulticlassJaccardIndex, "none"),
    "f1": (referee.MulticlassF1Score, "none"),
    "precision": (referee.MulticlassPrecision, "none"),
    "recall": (referee.MulticlassRecall, "none"),
    "mean_iou": (referee.MulticlassJaccardIndex, "macro"),
    "macro_f1": (referee.MulticlassF1Score, "macro"),
    "macro_precision": (referee.MulticlassPrecision, "macro"),
    "macro_recall": (referee.MulticlassRecall, "macro"),
    "pixel_accuracy": (referee.MulticlassAccuracy, "micro"),
}


@pytest.mark.parametrize("absent_classes", [0, 2])
@pytest.mark.parametrize("field", REFEREES)
def test_torchmetrics_agrees(field, absent_classes):
    # With absent classes torchmetrics agrees on the means, but prints 0 for the class itself.
    target, pred_mask = random_masks(13 - absent_classes)
    target[target == 10] = 0  # class 10 is predicted only
    metric_class, average = REFEREES[field]
    metric = metric_class(num_classes=13, average=average, ignore_index=255)
    expected = metric(torch.from_numpy(pred_mask).long(), torch.from_numpy(target).long()).numpy()
    scores = scores_from_confusion(confusion_matrix(target, pred_mask, 13))
    got = np.asarray(getattr(scores, field))
    if average == "none":
        present = 13 - absent_classes
        assert np.isnan(got[present:]).all()
        got, expected = got[:present], expected[:present]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# --- dict and table ------------------------------------------------------------------------------


def test_dict_is_plain_json_with_null_for_nan():
    scores = scores_from_confusion(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    names = ["background", "head", "neck"]
    written = json.loads(json.dumps(scores_to_dict(scores, names), allow_nan=False))
    assert written["mean_iou"] == 0.375
    assert written["confusion"] == [[3, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert set(written) == {*MEANS, "per_class", "confusion"}
    assert written["per_class"]["head"] == {
        "iou": 0.0,
        "f1": 0.0,
        "precision": 0.0,
        "recall": 0.0,
        "target_pixels": 0,
        "predicted_pixels": 1,
        "status": "no target",
    }
    assert written["per_class"]["neck"]["iou"] is None
    assert [c["status"] for c in written["per_class"].values()] == ["ok", "no target", "absent"]


def test_table_has_one_row_per_class():
    confusions = np.stack([np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])] * 3)
    scores = scores_from_confusion(confusions.sum(0))
    table = confusion_to_table(scores, ["background", "head", "neck"])
    assert list(table) == ["class_name", *CLASS_SCORES, "status"]
    assert table["target_share"].tolist() == [0.5, 0.5, 0.0]
    assert table["status"].tolist() == ["ok", "ok", "absent"]
