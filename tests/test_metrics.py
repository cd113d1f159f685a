import json
import math

import numpy as np
import pytest
import torch
import torchmetrics.classification as referee

from clothseg_utils.scores import bootstrap
from clothseg_utils.scores.bootstrap import (
    bootstrap_differences,
    bootstrap_intervals,
    bootstrap_ratios,
)
from clothseg_utils.scores.metrics import (
    CLASS_SCORES,
    MEAN_SCORES,
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


def test_other_ignore_index():
    target, pred_mask = np.array([[0, 1, 9]], np.uint8), np.array([[0, 1, 1]], np.uint8)
    confusion = confusion_matrix(target, pred_mask, num_classes=2, ignore_index=9)
    assert confusion.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match=r"target has class ids \[9\]; expected 0\.\.1 or 255"):
        confusion_matrix(target, pred_mask, num_classes=2)


@pytest.mark.parametrize(
    ("target", "pred_mask", "message"),
    [
        ([[0, 47]], [[0, 0]], r"target has class ids \[47\]; expected 0\.\.12 or 255"),
        ([[0, 1]], [[13, 254]], r"pred_mask has class ids \[13, 254\]; expected 0\.\.12\."),
        ([[0, 1]], [[0, 255]], r"pred_mask has class ids \[255\]"),  # ignored is no prediction
        (np.array([[0, -1]]), [[0, 0]], r"target has class ids \[-1\]"),
        ([[0, 0]], np.array([[0, 256]]), r"pred_mask has class ids \[256\]"),  # would wrap to 0
        ([[0, 1, 2]], [[0, 1]], r"pred_mask has shape \(1, 2\); expected .* \(1, 3\)"),
        (np.array([[0.0, 1.0]]), [[0, 1]], "target is float64; expected integer"),
        ([[0, 1]], np.array([[0.5, 1.0]]), "pred_mask is float64; expected integer"),
    ],
)
def test_bad_masks_are_refused(target, pred_mask, message):
    target, pred_mask = (
        np.array(m, np.uint8) if isinstance(m, list) else m for m in (target, pred_mask)
    )
    with pytest.raises(ValueError, match=message):
        confusion_matrix(target, pred_mask, num_classes=13)


@pytest.mark.parametrize(("num_classes", "ignore_index"), [(0, 255), (256, 255), (3, 2), (3, 300)])
def test_class_count_and_ignore_index_must_fit(num_classes, ignore_index):
    mask = np.zeros((1, 1), np.uint8)
    with pytest.raises(ValueError, match="expected 1 <= num_classes <= ignore_index <= 255"):
        confusion_matrix(mask, mask, num_classes, ignore_index)


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


def test_background_alone_has_no_score_without_background():
    scores = scores_from_confusion(np.array([[7, 0], [0, 0]]))
    assert scores.mean_iou == scores.macro_f1 == 1
    assert math.isnan(scores.mean_iou_no_background)
    assert math.isnan(scores.macro_f1_no_background)


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        (np.zeros((2, 3), int), r"shape \(2, 3\); expected \(C, C\)"),
        (np.zeros((1, 2, 2), int), r"shape \(1, 2, 2\); expected \(C, C\)"),
        (np.array([[1, -1], [0, 1]]), "negative numbers"),
        (np.array([[0.5, 0.5], [0.0, 1.0]]), "float64 .* expected integer counts"),
    ],
)
def test_not_a_confusion_matrix_is_refused(confusion, message):
    with pytest.raises(ValueError, match=message):
        scores_from_confusion(confusion)


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


# --- intervals -----------------------------------------------------------------------------------


def simulated_confusions(n, rng):
    """Images of very different difficulty: (n, 2, 2), and the IoU of an endless split."""
    difficulty = rng.beta(2, 5, size=n)
    pixels = rng.integers(50, 150, size=(n, 2))
    wrong = rng.binomial(pixels, difficulty[:, None])
    confusions = np.empty((n, 2, 2), int)
    confusions[:, [0, 1], [0, 1]] = pixels - wrong
    confusions[:, [0, 1], [1, 0]] = wrong
    error = 2 / 7  # mean of the beta distribution; both classes are equally large
    return confusions, (1 - error) / (1 + error)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    trials, covered = 300, 0
    for _ in range(trials):
        confusions, truth = simulated_confusions(60, rng)
        intervals = bootstrap_intervals(confusions, samples=300, rng=rng)
        low, high = intervals["mean_iou"]
        covered += low <= truth <= high
    assert 0.88 <= covered / trials <= 0.99


def simulated_rare_class(holders, rng):
    """60 images, of which `holders` hold class 1; its size, recall and false alarms vary."""
    size = np.where(np.arange(60) < holders, rng.lognormal(6, 0.7, 60), 0).astype(int)
    hits = rng.binomial(size, rng.beta(2, 2, 60))
    alarms = rng.binomial(size, rng.beta(2, 6, 60))
    columns = [np.full(60, 10_000), alarms, size - hits, hits]
    return np.stack(columns, axis=1).reshape(60, 2, 2)


@pytest.mark.parametrize(
    ("holders", "least", "most"), [(3, 0.65, 0.85), (5, 0.78, 0.92), (10, 0.85, 0.95)]
)
def test_intervals_of_a_rare_class_are_too_narrow_by_as_much_as_is_said(holders, least, most):
    rng = np.random.default_rng(0)
    # Recall 1/2 and false alarms of 1/4 on average, each independent of the size.
    truth, trials, covered = 0.5 / 1.25, 200, 0
    for _ in range(trials):
        intervals = bootstrap_intervals(simulated_rare_class(holders, rng), samples=300, rng=rng)
        low, high = intervals["iou"][:, 1]
        covered += low <= truth <= high
    assert least <= covered / trials <= most


def test_ratio_intervals_cover_the_truth_about_as_often_as_promised():
    """Recall of annotations, a few in each photo; photos differ in how hard they are."""
    rng = np.random.default_rng(0)
    trials, covered = 300, np.zeros(2)
    for _ in range(trials):
        easy = rng.beta(4, 2, size=(60, 1))  # 2 / 3 on average
        totals = rng.integers(0, 6, (60, 2)) * [1, 20]
        found = rng.binomial(totals, easy)
        low, high = bootstrap_ratios(found, totals, samples=300, rng=rng)
        covered += (low <= 2 / 3) & (high >= 2 / 3)
    assert (covered / trials >= 0.88).all()
    assert (covered / trials <= 0.99).all()


def test_ratio_intervals_equal_a_plain_loop_over_resamples(monkeypatch):
    rng = np.random.default_rng(1)
    below = rng.integers(1, 9, (7, 3))
    below[2:, 1] = 0  # counted in two images only: some resamples have none of them
    below[1:, 2] = 0  # counted in one image only
    above = rng.random((7, 3)) * below
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 7 * 30)
    low, high = bootstrap_ratios(above, below, samples=100, level=0.8, rng=np.random.default_rng(2))
    rng = np.random.default_rng(2)
    drawn = [np.repeat(np.arange(7), rng.multinomial(7, [1 / 7] * 7)) for _ in range(100)]
    for k in (0, 1):
        ratios = [above[d, k].sum() / below[d, k].sum() for d in drawn if below[d, k].any()]
        assert len(ratios) < 100 or k == 0
        expected = np.quantile(ratios, [0.1, 0.9])
        assert (low[k], high[k]) == pytest.approx(tuple(expected))
    assert np.isnan([low[2], high[2]]).all()


def test_intervals_equal_a_plain_loop_over_resamples(monkeypatch):
    rng = np.random.default_rng(1)
    confusions = rng.integers(0, 9, (7, 3, 3))
    confusions[2:, 2] = confusions[2:, :, 2] = 0  # class 2 is absent from many resamples
    monkeypatch.setattr(bootstrap, "_WEIGHTS_AT_ONCE", 7 * 30)  # several pieces, the last one short
    got = bootstrap_intervals(confusions, samples=100, level=0.8, rng=np.random.default_rng(2))

    rng = np.random.default_rng(2)
    resampled = [
        scores_from_confusion(np.repeat(confusions, rng.multinomial(7, [1 / 7] * 7), axis=0).sum(0))
        for _ in range(100)
    ]
    ends = [0.1, 0.9]
    assert any(np.isnan(s.iou[2]) for s in resampled)
    for field in ("iou", "f1", "precision", "recall"):
        expected = np.nanquantile([getattr(s, field) for s in resampled], ends, axis=0)
        np.testing.assert_allclose(got[field], expected)
    shares = [np.where(np.isnan(s.iou), np.nan, s.target_pixels) for s in resampled]
    shares = [share / np.nansum(share) for share in shares]
    np.testing.assert_allclose(got["target_share"], np.nanquantile(shares, ends, axis=0))
    for field in MEAN_SCORES:
        expected = np.quantile([getattr(s, field) for s in resampled], ends)
        np.testing.assert_allclose(got[field], expected)


def test_intervals_hold_the_score_and_follow_the_generator():
    confusions, _ = simulated_confusions(40, np.random.default_rng(3))
    scores = scores_from_confusion(confusions.sum(0))
    first, again, other = (
        bootstrap_intervals(confusions, samples=200, rng=np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    for name in (*CLASS_SCORES[:4], *MEAN_SCORES):
        low, high = first[name]
        assert np.all((low < getattr(scores, name)) & (getattr(scores, name) < high)), name
        assert np.array_equal(first[name], again[name])
    assert first["mean_iou"][0] != other["mean_iou"][0]


def test_absent_class_has_no_interval():
    confusions = np.zeros((5, 3, 3), int)
    confusions[:, 0, 0] = confusions[:, 0, 1] = 1
    intervals = bootstrap_intervals(confusions, samples=20, rng=np.random.default_rng(0))
    for score in CLASS_SCORES:
        assert np.isnan(intervals[score]).tolist() == [[False, False, True]] * 2
    assert intervals["mean_iou"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_have_no_interval(n):
    confusions = np.ones((n, 2, 2), int)
    intervals = bootstrap_intervals(confusions, samples=20, rng=np.random.default_rng(0))
    assert {*CLASS_SCORES, *MEAN_SCORES} <= set(intervals)
    assert all(np.isnan(ends).all() for ends in intervals.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples is 0; expected at least 1"),
        ({"level": 95}, "level is 95; expected a share between 0 and 1"),
        ({"confusions": np.ones((2, 2), int)}, r"shape \(2, 2\); expected \(n, C, C\)"),
    ],
)
def test_bad_bootstrap_argument_is_refused(arguments, message):
    arguments = {"confusions": np.ones((2, 2, 2), int), **arguments}
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(**arguments, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"samples": 0}, "samples is 0"), ({"level": 1.0}, r"level is 1\.0; expected a share")],
)
def test_bad_argument_of_ratio_intervals_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_ratios(
            np.ones((3, 1)), np.ones((3, 1)), rng=np.random.default_rng(0), **arguments
        )


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


@pytest.mark.parametrize("names", [["background"], ["head", "head"]])
@pytest.mark.parametrize("to_something", [scores_to_dict, confusion_to_table])
def test_class_names_must_fit(to_something, names):
    with pytest.raises(ValueError, match="expected 2 different names"):
        to_something(scores_from_confusion(np.eye(2, dtype=int)), names)


def test_paired_differences_by_hand():
    """No image differs from another, so both ends are the difference itself."""
    ours, theirs = np.array([[[3, 1], [0, 4]]] * 4), np.array([[[2, 2], [0, 4]]] * 4)
    ends = bootstrap_differences(ours, theirs, samples=50, rng=np.random.default_rng(0))
    assert ends["iou"] == pytest.approx(np.array([[3 / 4 - 2 / 4, 4 / 5 - 4 / 6]] * 2))
    assert ends["mean_iou"] == pytest.approx((0.25 + 4 / 5 - 4 / 6) / 2 * np.ones(2))
    assert ends["pixel_accuracy"] == pytest.approx([1 / 8, 1 / 8])


def test_paired_differences_need_two_images():
    one = np.array([[[3, 1], [0, 4]]])
    ends = bootstrap_differences(one, one, samples=10, rng=np.random.default_rng(0))
    assert np.isnan(ends["iou"]).all()
    assert np.isnan(ends["mean_iou"]).all()


def test_paired_differences_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"others have shape \(1, 2, 2\); expected .*\(3, 2, 2\)"):
        bootstrap_differences(
            np.zeros((3, 2, 2), int), np.zeros((1, 2, 2), int), rng=np.random.default_rng(0)
        )


def test_a_class_in_one_image_has_no_interval():
    """Nor a difference: that image alone would decide it, with no spread at all."""
    confusions = np.zeros((20, 3, 3), int)
    confusions[:, 0, 0], confusions[:, 1, 1], confusions[::2, 1, 0] = 10, 5, 1
    others = confusions.copy()
    confusions[7, 2, 2], others[7, 2, 0] = 9, 9
    intervals = bootstrap_intervals(confusions, samples=50, rng=np.random.default_rng(0))
    assert np.isnan([intervals["iou"][:, 2], intervals["f1"][:, 2]]).all()
    assert np.isfinite([*intervals["iou"][:, :2], intervals["mean_iou"]]).all()
    ends = bootstrap_differences(confusions, others, samples=50, rng=np.random.default_rng(0))
    assert np.isnan(ends["iou"][:, 2]).all()
    assert np.isfinite(ends["iou"][:, :2]).all()
    assert np.isfinite(ends["mean_iou"]).all()
