"""Overlays: colours at exact pixels, legends that list what occurs, sizes from 32 to 4000 px."""

import numpy as np
import pytest

from clothseg_utils.core.classes import SUPERCATEGORY_NAMES, class_colors
from clothseg_utils.pictures import overlays

NAMES = ("background", "head", "neck")
COLORS = np.array([(32, 32, 32), (250, 0, 0), (0, 0, 250)], np.uint8)
WHITE = [255, 255, 255]


def grey_photo(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


@pytest.mark.parametrize("num_classes", [13, 47])
def test_colorize_gives_each_class_its_own_color(num_classes):
    mask = np.arange(num_classes, dtype=np.uint8)[None]
    np.testing.assert_array_equal(
        overlays.colorize(mask, class_colors(num_classes))[0], class_colors(num_classes)
    )


def test_colorize_paints_ignored_pixels_grey():
    painted = overlays.colorize(np.array([[255, 1]], np.uint8), COLORS)
    assert painted.tolist() == [[[150, 150, 150], [250, 0, 0]]]


def test_overlay_blends_areas_and_leaves_background():
    image = grey_photo(1, 4)
    mask = np.array([[0, 1, 2, 255]], np.uint8)
    drawn = overlays.overlay(image, mask, COLORS, opacity=0.5, outline=False)
    # Halfway between photo (100) and colour.
    assert drawn.tolist() == [[[100] * 3, [175, 50, 50], [50, 50, 175], [125] * 3]]


def test_overlay_outlines_the_inner_edge_in_full_color():
    mask = np.zeros((7, 7), np.uint8)
    mask[1:6, 1:6] = 1
    drawn = overlays.overlay(grey_photo(7, 7), mask, COLORS, opacity=0.5)
    edge = (drawn == COLORS[1]).all(axis=2)
    ring = mask.astype(bool)
    ring[2:5, 2:5] = False
    np.testing.assert_array_equal(edge, ring)
    assert drawn[3, 3].tolist() == [175, 50, 50]
    assert drawn[0, 0].tolist() == [100, 100, 100]


def test_overlay_outlines_both_sides_between_two_classes():
    mask = np.repeat(np.array([[1, 1, 1, 2, 2, 2]], np.uint8), 4, axis=0)
    drawn = overlays.overlay(grey_photo(4, 6), mask, COLORS, opacity=0.5)
    assert drawn[0].tolist() == [
        [175, 50, 50],
        [175, 50, 50],
        [250, 0, 0],
        [0, 0, 250],
        [50, 50, 175],
        [50, 50, 175],
    ]


def test_legend_lists_what_occurs_largest_first_background_and_ignored_last():
    mask = np.array([[0, 0, 0, 0, 255, 255, 2, 2, 2, 1]], np.uint8)
    entries = overlays.legend_entries(mask, NAMES)
    assert [(e.class_id, e.name) for e in entries] == [
        (2, "neck"),
        (1, "head"),
        (0, "background"),
        (255, "ignored"),
    ]
    np.testing.assert_allclose([e.share for e in entries], [0.3, 0.1, 0.4, 0.2])


def test_legend_of_background_alone_has_one_entry():
    entries = overlays.legend_entries(np.zeros((3, 3), np.uint8), SUPERCATEGORY_NAMES)
    assert entries == [overlays.LegendEntry(0, "background", 1.0)]


@pytest.mark.parametrize(
    ("target", "pred", "name"),
    [
        (0, 0, "background"),
        (1, 1, "correct"),
        (1, 0, "missed"),
        (1, 2, "wrong class"),
        (0, 2, "false alarm"),
        (255, 0, "ignored"),
        (255, 2, "ignored"),
    ],
)
def test_error_map_tells_kinds_of_error_apart(target, pred, name):
    masks = np.array([[target]], np.uint8), np.array([[pred]], np.uint8)
    code = overlays.error_codes(*masks)[0, 0]
    assert overlays.ERROR_NAMES[code] == name
    assert overlays.error_map(*masks)[0, 0].tolist() == overlays.ERROR_COLORS[code].tolist()


def test_error_colors_differ_from_each_other():
    assert len(np.unique(overlays.ERROR_COLORS, axis=0)) == len(overlays.ERROR_NAMES)


def test_instance_is_tinted_outlined_and_named():
    instance_mask = np.zeros((200, 200), bool)
    instance_mask[20:180, 20:180] = True
    drawn = overlays.draw_instances(grey_photo(200, 200), [instance_mask], ["coat"], COLORS[[1]])
    assert drawn[20, 20].tolist() == [250, 0, 0]  # outline
    assert drawn[40, 40].tolist() == [145, 70, 70]  # 0.7 photo + 0.3 colour
    assert drawn[10, 10].tolist() == [100, 100, 100]
    label = (drawn[90:110, 80:120] == COLORS[1]).all(axis=2)
    assert label.mean() > 0.3  # the name's box, at the innermost place


def test_small_instance_is_drawn_over_a_large_one_and_an_empty_one_left_out():
    large, small, empty = (np.zeros((300, 300), bool) for _ in range(3))
    large[:] = True
    small[10:30, 10:30] = True
    drawn = overlays.draw_instances(
        grey_photo(300, 300), [small, empty, large], ["", "nothing", ""], COLORS[[2, 0, 1]]
    )
    assert drawn[10, 10].tolist() == [0, 0, 250]
    assert not (drawn == COLORS[0]).all(axis=2).any()


def test_mask_that_does_not_belong_to_the_photo_is_named():
    with pytest.raises(ValueError, match=r"mask is \(4, 5\); expected the photo's size \(4, 4\)"):
        overlays.overlay(grey_photo(4, 4), np.zeros((4, 5), np.uint8), COLORS)
    with pytest.raises(ValueError, match=r"class ids \[47\]; expected 0..2 or 255"):
        overlays.colorize(np.full((2, 2), 47, np.uint8), COLORS)


def test_errors_on_a_photo_leave_the_rest_grey():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    codes = np.zeros((6, 8), np.uint8)
    codes[2, 3] = 4
    drawn = overlays.draw_errors(image, codes)
    grey = (drawn == drawn[..., :1]).all(axis=2)
    assert np.argwhere(~grey).tolist() == [[2, 3]]
