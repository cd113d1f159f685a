"""The three limits: what is counted in one photo, by hand, and the groups that follow."""

import numpy as np
import pytest

from clothseg_utils.data.coco import Annotation
from clothseg_utils.data.rasterize import rasterize
from clothseg_utils.scores.strata import (
    area_strata,
    category_strata,
    count_annotations,
    hidden_strata,
    overlap_strata,
    pair_strata,
    people_strata,
    stratum_count_text,
)

CLASS_OF_CATEGORY = {4: 1, 7: 2, 9: 2}  # buckle: closures; shirt and vest: one class
CATEGORIES = {4: "buckle", 7: "shirt", 9: "vest"}
NAMES = ("background", "closures", "upperbody")


def rectangle(annotation_id, category_id, left, top, right, bottom, *, area=None, image_id=5):
    return Annotation(
        id=annotation_id,
        image_id=image_id,
        category_id=category_id,
        segmentation=[[left, top, right, top, right, bottom, left, bottom]],
        area=(right - left) * (bottom - top) if area is None else area,
        bbox=(left, top, right - left, bottom - top),
    )


def count(annotations, pred_mask):
    target = rasterize(annotations, CLASS_OF_CATEGORY, *pred_mask.shape)
    return count_annotations(annotations, CLASS_OF_CATEGORY, target, pred_mask, num_classes=3)


# --- one photo -----------------------------------------------------------------------------------


def test_buckle_on_a_shirt_counted_by_hand():
    """8 x 8: a shirt on the left half, a buckle of 2 x 2 on it, one column of which is seen."""
    annotations = [rectangle(2, 4, 2, 0, 4, 2), rectangle(1, 7, 0, 0, 4, 8)]
    pred_mask = np.zeros((8, 8), np.uint8)
    pred_mask[:, :3] = 2
    pred_mask[:2, 3] = 1
    counts = count(annotations, pred_mask)
    assert counts.instances == [
        # photo, annotation, class, visible, hits, category, area, predicted inside
        (5, 1, 2, 28, 22, 7, 32, 24),
        (5, 2, 1, 4, 2, 4, 4, 2),
    ]
    assert counts.pairs == [(5, 4, 7, 4, 2, 2)]  # of 4 pixels 2 are buckle, 2 the shirt below
    assert counts.overlap_confusion.tolist() == [[0, 0, 0], [0, 2, 2], [0, 0, 0]]


def test_pair_is_what_lies_right_below():
    """Shirt, vest on it, buckle on both: the buckle's pair is the vest, of the same class."""
    annotations = [
        rectangle(1, 7, 0, 0, 6, 6),
        rectangle(2, 9, 1, 1, 5, 5),
        rectangle(3, 4, 2, 2, 3, 3),
    ]
    counts = count(annotations, np.zeros((6, 6), np.uint8))
    # Vest on shirt is one class, so nothing can be confused: 15 pixels are in no pair.
    assert counts.pairs == [(5, 4, 9, 1, 0, 0)]
    assert counts.overlap_confusion.sum() == 16


def test_painting_order_decides_what_is_on_top():
    """The JSON's own area field says so, not the order in the file."""
    annotations = [rectangle(1, 4, 0, 0, 2, 2, area=90), rectangle(2, 7, 0, 0, 4, 4, area=80)]
    counts = count(annotations, np.zeros((4, 4), np.uint8))
    assert [row[1:3] for row in counts.pairs] == [(7, 4)]
    assert [row[3] for row in counts.instances] == [0, 16]  # nothing of the buckle is seen


def test_photo_without_annotations():
    counts = count([], np.ones((3, 3), np.uint8))
    assert (counts.instances, counts.pairs) == ([], [])
    assert not counts.overlap_confusion.any()


# --- groups --------------------------------------------------------------------------------------


def instances(*rows):
    """Rows of photo, class, visible, hits, category, area, predicted."""
    full = [(photo, i, *rest) for i, (photo, *rest) in enumerate(rows)]
    return np.array(full, np.int64).reshape(-1, 8)


def test_area_bands_are_by_the_annotations_own_mask():
    rows = instances(
        (3, 1, 100, 50, 4, 255, 60),  # under 16²
        (3, 1, 100, 100, 4, 256, 100),  # 16² is in the next band
        (8, 1, 50, 0, 4, 300, 0),
        (8, 2, 0, 0, 7, 300, 10),  # painted over: no recall
        (8, 2, 9000, 4500, 7, 96**2, 4500),
    )
    strata = area_strata(rows, np.array([8, 3]), samples=50)
    names = [row["stratum"].removesuffix(" px") for row in strata]
    assert names == ["under 16²", "16² to 32²", "32² to 64²", "64² to 96²", "over 96²"]
    assert [row["n"] for row in strata] == [1, 2, 0, 0, 1]
    assert [row["score"] for row in strata] == [0.5, 0.5, None, None, 0.5]
    assert strata[0]["iou"] == pytest.approx(50 / 110)
    assert strata[1]["iou"] == pytest.approx((1 + 0) / 2)
    # One photo says nothing about spread; of two, one has recall 1 and the other 0.
    assert (strata[0]["low"], strata[0]["high"]) == (None, None)
    assert (strata[1]["low"], strata[1]["high"]) == (0.0, 1.0)


def test_categories_come_small_ones_first():
    rows = instances(
        (3, 2, 5000, 4000, 7, 6000, 4000),
        (3, 1, 20, 0, 4, 20, 0),
        (8, 1, 40, 10, 4, 60, 10),
    )
    strata = category_strata(rows, np.array([3, 8]), CATEGORIES, NAMES, samples=50)
    assert [(row["stratum"], row["class_name"]) for row in strata] == [
        ("buckle", "closures"),
        ("shirt", "upperbody"),
    ]
    assert [row["median_area"] for row in strata] == [40.0, 6000.0]
    assert [row["score"] for row in strata] == pytest.approx([(0 + 10 / 40) / 2, 0.8])


def test_hidden_part_of_each_class():
    rows = instances((3, 1, 20, 0, 4, 20, 0), (3, 2, 60, 0, 7, 100, 0), (8, 2, 90, 0, 9, 100, 0))
    closures, upperbody = hidden_strata(rows, np.array([3, 8]), NAMES, samples=50)
    assert (closures["stratum"], closures["score"]) == ("closures", 0.0)
    assert upperbody["score"] == pytest.approx((40 + 10) / 200)
    assert (upperbody["low"], upperbody["high"]) == pytest.approx((0.1, 0.4))


def test_pairs_are_ranked_by_confused_pixels():
    pairs = np.array(
        [
            (3, 4, 7, 10, 2, 6),
            (8, 4, 7, 30, 20, 4),
            (3, 7, 4, 50, 10, 20),
            (8, 7, 4, 50, 10, 20),
            (8, 4, 9, 99, 0, 99),  # in one photo only
        ]
    )
    strata = pair_strata(pairs, np.array([3, 8]), CATEGORIES, samples=50)
    assert [row["stratum"] for row in strata] == ["shirt on buckle", "buckle on shirt"]
    assert [row["confused"] for row in strata] == [40, 10]
    assert [row["score"] for row in strata] == pytest.approx([0.4, 10 / 40])
    assert [row["recall"] for row in strata] == pytest.approx([0.2, 22 / 40])
    assert stratum_count_text(strata[1]) == "40 px in 2 photos"


@pytest.mark.parametrize("photos", [[], [3, 8]])
def test_nothing_annotated_makes_empty_groups(photos):
    image_ids = np.array(photos, np.int64)
    none, no_pairs = np.zeros((0, 8), np.int64), np.zeros((0, 6), np.int64)
    assert {row["score"] for row in area_strata(none, image_ids, 10)} == {None}
    assert {row["score"] for row in hidden_strata(none, image_ids, NAMES, 10)} == {None}
    assert category_strata(none, image_ids, CATEGORIES, NAMES, 10) == []
    assert pair_strata(no_pairs, image_ids, CATEGORIES, 10) == []


RIGHT, WRONG = np.array([[4, 0], [0, 4]]), np.array([[0, 4], [4, 0]])
MISSED = np.array([[4, 0], [4, 0]])


def test_people_are_groups_of_photos():
    confusions = np.stack([RIGHT, WRONG, RIGHT, RIGHT])
    strata = people_strata(confusions, np.array([1, 3, 1, -1]), samples=20)
    assert [(row["stratum"], row["n"], row["score"], row["missed"]) for row in strata] == [
        ("1 person", 2, 1.0, 0.0),
        ("3 people", 1, 0.0, 1.0),
    ]
    assert [stratum_count_text(row) for row in strata] == ["2 photos", "1 photo"]
    assert people_strata(confusions, np.full(4, -1), samples=20) == []


def test_overlap_and_rest():
    rest, overlap = overlap_strata(np.stack([RIGHT + WRONG]), np.stack([WRONG]), samples=20)
    assert (rest["score"], overlap["score"]) == (1.0, 0.0)
    assert (rest["missed"], overlap["missed"]) == (0.0, 1.0)


def test_overlaps_are_not_blamed_for_classes_that_never_lie_on_another():
    """Half of each group is right; class 1 is never on top and once a false alarm there."""
    rest = np.array([[90, 0, 0], [5, 10, 5], [0, 0, 0]])
    overlap = np.array([[0, 0, 0], [0, 0, 0], [2, 3, 5]])
    strata = overlap_strata(np.stack([rest + overlap] * 3), np.stack([overlap] * 3), samples=20)
    assert [(row["score"], row["low"], row["high"]) for row in strata] == [(0.5, 0.5, 0.5)] * 2
    assert [row["missed"] for row in strata] == [0.25, 0.2]
    assert [stratum_count_text(row) for row in strata] == ["3 photos", "3 photos"]


def test_nothing_that_overlaps_has_no_score():
    none = np.zeros((2, 2, 2), int)
    rest, overlap = overlap_strata(np.stack([RIGHT, RIGHT]), none, samples=20)
    assert (rest["score"], overlap["score"], overlap["missed"]) == (1.0, None, None)
    assert overlap["n"] == 0
