"""Tests of `scores.rankings`: rankings, confusions, doubts and cuts, by hand."""

import numpy as np
import pytest

from clothseg_utils.scores.rankings import (
    Confusion,
    class_extremes,
    crop_around,
    disagreement,
    error_kinds,
    label_doubt,
    largest_area,
    largest_confusions,
    rank_photos,
)

# Rows are the truth. Class 1 has IoU 4/4, 1/4, 0/8, 2/4 in the four photos; class 2 occurs in the
# truth of the last one only, and is predicted in the third.
PHOTOS = np.array(
    [
        [[9, 0, 0], [0, 4, 0], [0, 0, 0]],
        [[9, 0, 0], [3, 1, 0], [0, 0, 0]],
        [[5, 0, 0], [4, 0, 4], [0, 0, 0]],
        [[9, 0, 0], [2, 2, 0], [0, 0, 5]],
    ]
)


def test_extremes_of_each_class():
    found = [(e.class_id, e.rank, e.index, e.iou) for e in class_extremes(PHOTOS)]
    assert found[3:] == [
        (1, "best", 0, 1.0),
        (1, "median", 1, 0.25),
        (1, "worst", 2, 0.0),
        (2, "only", 3, 1.0),
    ]
    assert [entry[:2] for entry in found[:3]] == [(0, "best"), (0, "median"), (0, "worst")]


def test_a_class_in_two_photos_has_no_median():
    found = [(e.rank, e.index) for e in class_extremes(PHOTOS[:2]) if e.class_id == 1]
    assert found == [("best", 0), ("worst", 1)]


def test_of_equally_bad_photos_that_with_more_to_see_is_the_worst():
    small, large = np.array([[9, 0], [1, 0]]), np.array([[9, 0], [6, 0]])
    found = class_extremes(np.stack([small, large, small]))
    assert [e.index for e in found if (e.class_id, e.rank) == (1, "worst")] == [1]


def test_largest_confusions_by_share_of_the_truth():
    confusion = np.array([[90, 10, 0], [4, 5, 1], [0, 0, 0]])
    assert largest_confusions(confusion, 2) == [
        Confusion(1, 0, 4, 0.4),
        Confusion(0, 1, 10, 0.1),  # as large a share as the next one; row by row
    ]
    assert len(largest_confusions(confusion, 9)) == 3
    assert largest_confusions(np.diag([5, 5]), 9) == []


def test_a_wrong_label_is_found_among_right_ones():
    """Of twenty photos, in one the label of a garment is that of another."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (20, 40, 40)).astype(np.uint8)
    labels = truth.copy()
    labels[7][truth[7] == 1] = 2
    confidence = rng.uniform(0.6, 1, truth.shape)
    doubts = []
    for label, sure, true in zip(labels, confidence, truth, strict=True):
        said = np.where(rng.random(true.shape) < 0.1, rng.integers(0, 3, true.shape), true)
        probabilities = np.tile((1 - sure) / 2, (3, 1, 1))
        np.put_along_axis(probabilities, said[None], sure[None], axis=0)
        doubts.append(label_doubt(probabilities, label).mean())
    assert rank_photos(doubts)[0] == 7
    assert doubts[7] > 2 * sorted(doubts)[-2]


def test_label_doubt_by_hand():
    probabilities = np.array([[[0.9, 0.9, 0.2, 0.9]], [[0.1, 0.1, 0.8, 0.1]]], np.float16)
    target = np.array([[0, 1, 0, 255]], np.uint8)
    assert label_doubt(probabilities, target) == pytest.approx(
        np.array([[0, 0.8, 0.6, 0]]), abs=2e-3
    )


def test_disagreement_is_the_part_of_pixels_that_differ():
    assert disagreement(PHOTOS).tolist() == pytest.approx([0, 3 / 13, 8 / 13, 2 / 18])
    assert np.isnan(disagreement(np.zeros((1, 3, 3), int))).all()


def test_kinds_of_error_add_up_to_the_truth():
    confusion = PHOTOS.sum(axis=0)
    kinds = error_kinds(confusion)
    assert kinds[1].tolist() == [7, 9, 4, 0]
    assert kinds[2].tolist() == [5, 0, 0, 0]
    assert kinds[:, :3].sum(axis=1).tolist() == confusion.sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("box", "expected"),
    [  # top, bottom, left, right inside 300 x 200
        ((100, 110, 100, 110), (73, 137, 73, 137)),  # small: 64 pixels around it
        ((0, 10, 195, 200), (0, 64, 136, 200)),  # pushed back inside
        ((100, 200, 50, 150), (70, 230, 20, 180)),  # 1.6 times as large
        ((0, 300, 0, 200), (0, 300, 0, 200)),  # all of it
    ],
)
def test_crops_stay_inside_and_show_what_is_around(box, expected):
    top, bottom, left, right = box
    mask = np.zeros((300, 200), bool)
    mask[top:bottom, left:right] = True
    rows, columns = crop_around(mask)
    assert (rows.start, rows.stop, columns.start, columns.stop) == expected
    assert mask[rows, columns].sum() == mask.sum()


def test_a_photo_smaller_than_a_crop_is_shown_whole():
    rows, columns = crop_around(np.ones((20, 30), bool))
    assert (rows, columns) == (slice(0, 20), slice(0, 30))


def test_largest_area_of_none_is_none():
    assert not largest_area(np.zeros((3, 3), bool)).any()
