"""Tests of `scores.compare`: pairing, differences, and what is said about them."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import NOT_COUNTED

from clothseg_utils.scores import compare
from clothseg_utils.scores.compare import (
    Comparison,
    Difference,
    class_verdict,
    compare_evaluations,
    match_photos,
    verdict,
)
from clothseg_utils.scores.evaluation import Evaluation

RUNS = ("a", "b")


def evaluation(confusions: np.ndarray, image_ids: list[int] | None = None) -> Evaluation:
    n, num_classes, _ = confusions.shape
    image_ids = image_ids or list(range(1, n + 1))
    return Evaluation(
        metrics={},
        image_ids=np.array(image_ids),
        file_names=[f"{image_id}.jpg" for image_id in image_ids],
        confusions=confusions,
        overlap_confusions=np.zeros_like(confusions),
        person_counts=np.full(n, -1),
        instances=np.zeros((0, 8), np.int64),
        **dict.fromkeys(NOT_COUNTED, np.empty(0)),
        class_names=("background", "head", "neck")[:num_classes],
    )


def photos(rng: np.random.Generator, n: int, right: float) -> np.ndarray:
    """(n, 2, 2): photos of 100 + 100 true pixels, of which about the part `right` is found."""
    hits = np.clip(rng.normal(right, 0.05, (n, 2)), 0, 1) * 100
    hits = hits.astype(np.int64)
    return np.stack([np.array([[b, 100 - b], [100 - h, h]]) for b, h in hits])


def test_differences_counted_by_hand():
    # a finds all of the head, b half of it; nobody finds the neck, which only b predicts.
    ours = evaluation(np.array([[[4, 0, 0], [0, 4, 0], [0, 0, 0]]] * 3))
    theirs = evaluation(np.array([[[3, 0, 1], [2, 2, 0], [0, 0, 0]]] * 3))
    comparison = compare_evaluations(ours, theirs, RUNS)
    assert comparison.n_images == 3
    assert comparison.iou["head"] == pytest.approx((1.0, 0.5, 0.5, 0.5, 0.5))
    assert comparison.f1["head"].difference == pytest.approx(1 - 2 * 2 / 6)
    # background: 3 of 4 + 2; the neck counts in b only, as IoU 0
    assert comparison.means["mean_iou"].theirs == pytest.approx((3 / 6 + 0.5 + 0) / 3)
    assert comparison.means["mean_iou"].ours == 1
    assert comparison.means["mean_iou_target_classes"].difference == pytest.approx(0.5)
    assert math.isnan(comparison.iou["neck"].difference)
    assert class_verdict(comparison.iou["neck"], RUNS) == "absent in one"


def test_pairing_finds_a_difference_smaller_than_the_spread_of_photos():
    """Each photo is a little better in a; photos differ by far more than that."""
    rng = np.random.default_rng(0)
    heads = rng.integers(20, 90, 40)
    ours = np.stack([np.array([[100, 0], [100 - h, h]]) for h in heads])
    theirs = np.stack([np.array([[100, 0], [100 - h, h]]) for h in heads - 3])
    comparison = compare_evaluations(evaluation(ours), evaluation(theirs), RUNS)
    assert comparison.iou["head"].is_real
    assert comparison.iou["head"].difference == pytest.approx(0.03)
    assert "Run a is better than run b" in verdict(comparison)


def test_swapped_runs_swap_sign_and_interval():
    rng = np.random.default_rng(1)
    one, other = evaluation(photos(rng, 30, 0.8)), evaluation(photos(rng, 30, 0.6))
    forth = compare_evaluations(one, other, RUNS).means["mean_iou"]
    back = compare_evaluations(other, one, RUNS).means["mean_iou"]
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-forth.difference, -forth.high, -forth.low)
    )
    text = verdict(compare_evaluations(other, one, RUNS))
    assert text.startswith(f"Run b is better than run a by {forth.difference:.3f} mean IoU")
    assert f"{forth.low:.3f} to {forth.high:.3f}" in text


def test_two_equal_networks_are_seldom_told_apart(monkeypatch):
    """Zero lies outside in about one of twenty comparisons of equally good networks."""
    monkeypatch.setattr(compare, "_SAMPLES", 300)
    rng = np.random.default_rng(2)
    told_apart = [
        compare_evaluations(
            evaluation(photos(rng, 40, 0.7)), evaluation(photos(rng, 40, 0.7)), RUNS
        )
        .means["mean_iou"]
        .is_real
        for _ in range(200)
    ]
    assert 2 <= sum(told_apart) <= 24


def test_order_of_photos_does_not_matter():
    rng = np.random.default_rng(3)
    ours, theirs = photos(rng, 6, 0.8), photos(rng, 6, 0.6)
    straight = compare_evaluations(evaluation(ours), evaluation(theirs), RUNS)
    shuffled = evaluation(theirs[::-1], image_ids=[6, 5, 4, 3, 2, 1])
    assert match_photos(evaluation(ours), shuffled, RUNS).tolist() == [5, 4, 3, 2, 1, 0]
    assert compare_evaluations(evaluation(ours), shuffled, RUNS) == straight


def test_a_run_equals_itself():
    run = evaluation(photos(np.random.default_rng(4), 5, 0.7))
    comparison = compare_evaluations(run, run, RUNS)
    assert set(comparison.iou.values()) == {
        d._replace(ours=d.theirs) for d in comparison.iou.values()
    }
    assert verdict(comparison).startswith("Run a and run b have the same mean IoU")
    assert class_verdict(comparison.iou["head"], RUNS) == "not told apart"


def test_difference_within_the_interval_is_not_called_real():
    mean = Difference(0.50, 0.49, 0.01, -0.02, 0.04)
    comparison = Comparison(RUNS, 60, 2000, {"mean_iou": mean}, {}, {})
    assert verdict(comparison) == (
        "Run a and run b differ by +0.010 mean IoU (95 % interval -0.020 to 0.040 over the same "
        "60 photos): zero lies inside, so on these photos the two cannot be told apart."
    )


def test_one_photo_gives_no_verdict():
    rng = np.random.default_rng(5)
    one, other = evaluation(photos(rng, 1, 0.8)), evaluation(photos(rng, 1, 0.6))
    comparison = compare_evaluations(one, other, RUNS)
    assert math.isnan(comparison.means["mean_iou"].low)
    assert not comparison.means["mean_iou"].is_real
    assert "cannot be said from 1 photo." in verdict(comparison)


CONFUSIONS = np.array([[[4, 0], [1, 3]]] * 4)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (
            evaluation(CONFUSIONS, [1, 2, 8, 9]),
            r"2 of 4 are only in a \(3; 4\) and 2 of 4 only in b \(8; 9\); expected the same",
        ),
        (
            evaluation(CONFUSIONS[:1]),
            r"3 of 4 are only in a \(2; 3; 4\) and 0 of 1 only in b; expected",
        ),
        (
            evaluation(np.zeros((4, 3, 3), np.int64)),
            "they have 2 and 3 classes of different names, and none that roll up to the other's;",
        ),
        (  # two drawn datasets number their photos alike
            dataclasses.replace(evaluation(CONFUSIONS), file_names=["1.jpg", *"xyz"]),
            r"3 image ids mean different photos, the first 2 is 2\.jpg and x;",
        ),
        (
            evaluation(CONFUSIONS + np.array([[0, 0], [0, 1]])),
            r"true masks of 4 photos differ \(1\.jpg; 2\.jpg; 3\.jpg; 4\.jpg\); expected the same",
        ),
    ],
    ids=["other photos", "fewer photos", "other classes", "other files", "other masks"],
)
def test_what_cannot_be_compared_is_refused(theirs, message):
    with pytest.raises(ValueError, match=rf"runs a and b cannot be compared: .*{message}"):
        compare_evaluations(evaluation(CONFUSIONS), theirs, RUNS)
