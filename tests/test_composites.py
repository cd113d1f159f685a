"""Composites: who is drawn, where the photos go, and what a rectangle replaces."""

import numpy as np
import pytest

from clothseg_utils.scores.composites import (
    Composite,
    compose,
    composite_strata,
    lay_out,
    plan_composites,
)
from clothseg_utils.scores.strata import stratum_count_text


def person(height, width, box, class_id=2):
    """A mask with one person in a box of top, left, height, width."""
    mask = np.zeros((height, width), np.uint8)
    top, left, rows, columns = box
    mask[top : top + rows, left : left + columns] = class_id
    return mask


# --- plan ----------------------------------------------------------------------------------------


def test_plan_is_deterministic_and_covers_every_group():
    composites = plan_composites(range(100, 130), per_group=3)
    assert composites == plan_composites(range(100, 130), per_group=3)
    groups = [composite.group for composite in composites]
    assert list(dict.fromkeys(groups)) == [
        f"{n} photos, {layout}" for layout in ("side by side", "overlapping") for n in (2, 3, 4)
    ]
    assert {groups.count(group) for group in groups} == {3}
    for composite in composites:
        assert len(set(composite.members)) == len(composite.members)
        assert set(composite.members) <= set(range(100, 130))
        pasted = len(composite.members) // 2 if composite.layout == "overlapping" else 0
        assert len(composite.covered) == pasted
        assert all(0.2 <= share <= 0.5 for share in composite.covered)


@pytest.mark.parametrize(("n_photos", "groups"), [(0, 0), (1, 0), (2, 2), (3, 4), (4, 6)])
def test_groups_that_need_more_photos_than_there_are_stay_out(n_photos, groups):
    composites = plan_composites(range(n_photos), per_group=1)
    assert len({composite.group for composite in composites}) == len(composites) == groups


def test_a_speck_that_vanishes_in_scaling_is_still_cut_out():
    masks = [person(40, 30, (5, 5, 30, 20)), person(3000, 2000, (1501, 1001, 2, 3))]
    canvas = lay_out(Composite((1, 2), "overlapping", (0.3,)), masks)
    assert len(canvas.pieces) == 2
    assert compose(masks, canvas).shape == canvas.hw == (40, 30)


# --- side by side --------------------------------------------------------------------------------


def test_photos_of_one_height_stand_unchanged_side_by_side():
    masks = [person(10, 6, (2, 1, 8, 3), 2), person(10, 4, (0, 0, 10, 4), 10)]
    canvas = lay_out(Composite((1, 2), "side by side"), masks)
    assert canvas.hw == (10, 10)
    assert np.array_equal(compose(masks, canvas), np.concatenate(masks, axis=1))


def test_photos_are_scaled_to_the_lowest_one():
    masks = [person(20, 10, (0, 0, 20, 10), 2), person(10, 8, (0, 0, 10, 8), 10)]
    images = [np.full((20, 10, 3), 50, np.uint8), np.full((10, 8, 3), 200, np.uint8)]
    canvas = lay_out(Composite((1, 2), "side by side"), masks)
    assert canvas.hw == (10, 13)
    mask, image = compose(masks, canvas), compose(images, canvas)
    assert mask.dtype == image.dtype == np.uint8
    assert (mask[:, :5] == 2).all()
    assert (mask[:, 5:] == 10).all()
    assert (image[:, :5] == 50).all()
    assert (image[:, 5:] == 200).all()


# --- overlapping ---------------------------------------------------------------------------------


def test_rectangle_replaces_what_was_there_background_included():
    """A person of 20 x 20, and one of 40 x 20 with a hole, whose box grows by 6 and 4 pixels."""
    base = person(100, 100, (60, 20, 20, 20), 2)
    pasted = person(100, 100, (30, 40, 40, 20), 10)
    pasted[40:50, 45:55] = 0
    canvas = lay_out(Composite((1, 2), "overlapping", covered=(0.5,)), [base, pasted])
    assert canvas.hw == (100, 100)
    # Grown box: 46 x 24 from (27, 38). There is more room to the right of the first person, so it
    # starts at half of that one's width, column 30; its foot is at row 80.
    expected = base.copy()
    expected[34:80, 30:54] = pasted[27:73, 38:62]
    composed = compose([base, pasted], canvas)
    assert np.array_equal(composed, expected)
    assert (composed[60:77, 30:32] == 0).all()  # the margin hides the first person too


def test_rectangle_goes_to_the_side_with_more_room_and_is_cut_at_the_edge():
    base = person(40, 40, (0, 28, 40, 12), 2)
    pasted = person(40, 40, (0, 0, 40, 40), 10)  # as wide as the photo
    canvas = lay_out(Composite((1, 2), "overlapping", covered=(0.25,)), [base, pasted])
    composed = compose([base, pasted], canvas)
    assert (composed[:, :31] == 10).all()  # a quarter of 12 columns is covered
    assert (composed[:, 31:] == 2).all()


@pytest.mark.parametrize(("n", "n_base"), [(2, 1), (3, 2), (4, 2)])
def test_half_of_the_photos_stand_and_the_others_are_pasted(n, n_base):
    masks = [person(50, 30, (10, 8, 30, 12), 1 + i) for i in range(n)]
    composite = Composite(tuple(range(n)), "overlapping", covered=(0.3,) * (n - n_base))
    composed = compose(masks, lay_out(composite, masks))
    assert composed.shape == (50, 30 * n_base)
    assert set(np.unique(composed)) == {0, *range(1, n + 1)}  # everybody is seen
    for i in range(n - n_base):
        covered = masks[i].sum() / (1 + i) - (composed == 1 + i).sum()
        assert covered == pytest.approx(30 * round(0.3 * 12)), "wrong part of a person is covered"


def test_predictions_are_put_together_like_their_masks():
    masks = [person(30, 20, (5, 4, 20, 8), 2), person(60, 44, (8, 10, 44, 20), 10)]
    canvas = lay_out(Composite((1, 2), "overlapping", covered=(0.4,)), masks)
    same = compose([mask + 1 for mask in masks], canvas)
    assert np.array_equal(same, compose(masks, canvas) + 1)


def test_photo_without_annotated_pixels_cannot_be_pasted():
    masks = [person(10, 10, (2, 2, 5, 5)), np.zeros((10, 10), np.uint8)]
    with pytest.raises(ValueError, match="without annotated pixels has no person to cut out"):
        lay_out(Composite((1, 2), "overlapping", covered=(0.3,)), masks)


# --- groups --------------------------------------------------------------------------------------


RIGHT, MISSED = np.array([[4, 0], [0, 4]]), np.array([[4, 0], [4, 0]])


def test_drop_of_composites_is_paired():
    """Each composite loses the same, whatever its photos: the drop is sure, the scores are not."""
    alone = np.stack([RIGHT, RIGHT, MISSED, MISSED])
    together = np.stack([MISSED] * 4)
    groups = ["a", "a", "b", "b"]
    first, second = composite_strata(together, alone, groups, samples=50)
    # All missed: background has IoU 4 / 8, garments 0.
    assert (first["stratum"], stratum_count_text(first)) == ("a", "2 composites")
    assert (first["score"], first["alone"], first["drop"]) == (0.25, 1.0, 0.75)
    assert (first["drop_low"], first["drop_high"]) == (0.75, 0.75)
    assert (first["missed"], first["missed_alone"]) == (1.0, 0.0)
    assert (second["drop"], second["drop_low"], second["drop_high"]) == (0, 0, 0)


def test_one_composite_has_no_interval():
    (only,) = composite_strata(RIGHT[None], RIGHT[None], ["a"], samples=20)
    assert (only["drop"], only["drop_low"], only["low"]) == (0.0, None, None)


def test_no_composites_no_groups():
    none = np.zeros((0, 3, 3), np.int64)
    assert composite_strata(none, none, [], samples=20) == []
