"""Overlays: colours at exact pixels, legends that list what occurs, sizes from 32 to 4000 px."""

import subprocess
import sys

import numpy as np
import pytest

from clothseg_utils.core.classes import SUPERCATEGORY_NAMES, class_colors
from clothseg_utils.pictures import lettering, overlays, panels

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


def test_inputs_are_not_modified():
    image, mask = grey_photo(40, 30), np.zeros((40, 30), np.uint8)
    mask[5:30, 5:25] = 2
    instance_mask = mask == 2
    copies = image.copy(), mask.copy(), instance_mask.copy()
    for array in (image, mask, instance_mask):
        array.flags.writeable = False
    panels.overlay_with_legend(image, mask, NAMES, COLORS)
    panels.prediction_panel(image, mask, NAMES, COLORS, target=mask, show_errors=True)
    overlays.draw_instances(image, [instance_mask], ["neck"], COLORS[[2]])
    for array, copy in zip((image, mask, instance_mask), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_arrays_with_any_memory_layout_give_the_same_picture():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask = rng.integers(0, 3, (20, 30), dtype=np.uint8)
    expected = panels.overlay_with_legend(image, mask, NAMES, COLORS)
    reversed_image = image[..., ::-1].copy()[..., ::-1]  # as `bgr[..., ::-1]` gives it
    columns_first = np.asfortranarray(mask)
    assert not reversed_image.flags.c_contiguous
    result = panels.overlay_with_legend(reversed_image, columns_first, NAMES, COLORS)
    np.testing.assert_array_equal(result, expected)


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


def sidebar_of(mask: np.ndarray) -> np.ndarray:
    image = grey_photo(*mask.shape)
    return panels.overlay_with_legend(image, mask, NAMES, COLORS)[:, mask.shape[1] :]


def test_sidebar_shows_swatches_of_exactly_the_classes_that_occur():
    mask = np.zeros((200, 100), np.uint8)
    mask[50:60] = 2
    sidebar = sidebar_of(mask).reshape(-1, 3)
    shown = {tuple(color) for color in np.unique(sidebar, axis=0)}
    assert tuple(COLORS[2]) in shown
    assert tuple(COLORS[1]) not in shown


def test_photo_keeps_its_pixels_beside_the_legend():
    image = np.random.default_rng(0).integers(0, 256, (300, 80, 3), dtype=np.uint8)
    drawn = panels.overlay_with_legend(image, np.zeros((300, 80), np.uint8), NAMES, COLORS)
    np.testing.assert_array_equal(drawn[:, :80], image)
    assert drawn.shape[0] == 300
    assert drawn[299, 81:].tolist() == [WHITE] * (drawn.shape[1] - 81)


def test_tiny_photo_gets_white_below_rather_than_tiny_text():
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 8:16], mask[:, 16:24] = 1, 2
    drawn = panels.overlay_with_legend(grey_photo(32, 32), mask, NAMES, COLORS)
    assert drawn.shape[0] > 3 * 11  # three rows of at least the smallest letters
    assert (drawn[32:, :32] == 255).all()


def test_legend_grows_with_the_photo():
    small = sidebar_of(np.ones((500, 300), np.uint8))
    large = sidebar_of(np.ones((4000, 2400), np.uint8))
    assert 6 < large.shape[1] / small.shape[1] < 10  # 8 times the height


def test_47_classes_fit_into_the_legend():
    names = [f"class number {i}" for i in range(47)]
    mask = np.repeat(np.arange(47, dtype=np.uint8), 10)[:, None].repeat(100, axis=1)
    drawn = panels.overlay_with_legend(grey_photo(470, 100), mask, names, class_colors(47))
    sidebar = drawn[:, 100:].reshape(-1, 3)
    shown = {tuple(color) for color in np.unique(sidebar, axis=0)}
    assert {tuple(color) for color in class_colors(47)[1:]} <= shown


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


def test_panel_scales_to_one_height_and_keeps_aspect():
    red = np.full((50, 100, 3), (200, 0, 0), np.uint8)
    blue = np.full((100, 200, 3), (0, 0, 200), np.uint8)
    drawn = panels.panel([red, blue], ["a", "b"])
    for color in ((200, 0, 0), (0, 0, 200)):
        rows, columns = np.nonzero((drawn == color).all(axis=2))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (100, 200)
    assert drawn[0, 0].tolist() == WHITE


def test_panel_height_can_be_set_and_captions_add_room_below():
    image = grey_photo(400, 300)
    plain = panels.panel([image], ["title"], height=200)
    captioned = panels.panel([image], ["title"], ["a caption " * 10], height=200)
    assert ((plain == 100).all(axis=2)).sum() == 200 * 150
    assert captioned.shape[0] > plain.shape[0] + 2 * 11
    assert captioned.shape[1] == plain.shape[1]


def test_long_title_is_cut_to_its_column():
    short = panels.panel([grey_photo(300, 300)], ["a"])
    long = panels.panel([grey_photo(300, 300)], ["a very long title " * 20])
    assert long.shape == short.shape


def test_prediction_panel_shows_truth_and_errors_when_there_are_any():
    image, mask = grey_photo(64, 48), np.ones((64, 48), np.uint8)
    widths = [
        panels.prediction_panel(image, mask, NAMES, COLORS, **more).shape[1]
        for more in ({}, {"target": mask}, {"target": mask, "show_errors": True})
    ]
    assert widths[0] < widths[1] < widths[2]


def test_prediction_panel_keeps_legend_shares_at_native_size():
    mask = np.zeros((400, 300), np.uint8)
    mask[7, 11] = 2  # gone after scaling to 50 px, but the photo has it
    drawn = panels.prediction_panel(grey_photo(400, 300), mask, NAMES, COLORS, height=50)
    assert (drawn == COLORS[2]).all(axis=2).sum() > 50  # its swatch


BAD_CALLS = {
    "mask of another size": (
        lambda: overlays.overlay(grey_photo(4, 4), np.zeros((4, 5), np.uint8), COLORS),
        r"mask is \(4, 5\); expected the photo's size \(4, 4\)",
    ),
    "float image": (
        lambda: overlays.overlay(np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), COLORS),
        "image is .* float64; expected .* uint8 RGB",
    ),
    "mask of another type": (
        lambda: overlays.colorize(np.zeros((4, 4), np.int64), COLORS),
        "mask is .* int64; expected",
    ),
    "empty mask": (lambda: overlays.colorize(np.zeros((0, 4), np.uint8), COLORS), "not empty"),
    "unknown class": (
        lambda: overlays.colorize(np.full((2, 2), 47, np.uint8), COLORS),
        r"class ids \[47\]; expected 0..2 or 255",
    ),
    "class without name": (
        lambda: overlays.legend_entries(np.full((2, 2), 3, np.uint8), NAMES),
        r"class ids \[3\]",
    ),
    "float colors": (
        lambda: overlays.colorize(np.zeros((2, 2), np.uint8), COLORS / 255),
        "colors are .* float64; expected",
    ),
    "prediction of another size": (
        lambda: overlays.error_map(np.zeros((4, 4), np.uint8), np.zeros((2, 2), np.uint8)),
        r"pred_mask is \(2, 2\); expected the target's shape",
    ),
    "instance of another size": (
        lambda: overlays.draw_instances(
            grey_photo(4, 4), [np.ones((4, 5), bool)], ["a"], COLORS[[1]]
        ),
        r"instance mask is \(4, 5\); expected the photo's \(4, 4\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_import_and_use_need_no_heavy_library():
    code = (
        "import sys, numpy as np\n"
        "from clothseg_utils.pictures.panels import overlay_with_legend\n"
        "zeros = np.zeros((40, 40), np.uint8)\n"
        "overlay_with_legend(np.zeros((40, 40, 3), np.uint8), zeros, ['a'], zeros[:1, :3])\n"
        "print(sorted({'matplotlib', 'pandas', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_text_is_drawn_without_matplotlib_too(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    lettering.load_font.cache_clear()
    drawn = panels.panel([grey_photo(100, 100)], ["title"])
    lettering.load_font.cache_clear()
    assert (drawn[:20] < 100).any()  # dark letters above the image


def test_error_tile_shows_the_class_alone():
    image = np.full((80, 100, 3), 90, np.uint8)
    target, pred_mask = np.zeros((80, 100), np.uint8), np.zeros((80, 100), np.uint8)
    target[30:50, 40:60] = 2  # missed
    target[:, :4] = pred_mask[:, :4] = 1  # another class, found: no matter here
    tile = panels.class_error_tile(image, target, pred_mask, class_id=2)
    assert tile.shape == (240, 240, 3)
    grey = (tile == tile[..., :1]).all(axis=2)
    coloured = tile[~grey]
    assert len(np.unique(coloured, axis=0)) == 1
    assert 0.05 < (~grey).mean() < 0.2  # 20 of 64 pixels a side
    red, green, blue = coloured[0].astype(int)
    assert red > green > blue  # vermilion, the colour of what is missed


def test_error_tile_of_a_class_that_is_not_there_is_refused():
    mask = np.zeros((8, 8), np.uint8)
    with pytest.raises(ValueError, match="marks no pixel"):
        panels.class_error_tile(np.zeros((8, 8, 3), np.uint8), mask, mask, class_id=1)


def test_errors_on_a_photo_leave_the_rest_grey():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    codes = np.zeros((6, 8), np.uint8)
    codes[2, 3] = 4
    drawn = overlays.draw_errors(image, codes)
    grey = (drawn == drawn[..., :1]).all(axis=2)
    assert np.argwhere(~grey).tolist() == [[2, 3]]


def test_confusion_panel_holds_three_pictures():
    image = np.full((80, 100, 3), 90, np.uint8)
    target, pred_mask = np.zeros((80, 100), np.uint8), np.zeros((80, 100), np.uint8)
    target[30:50, 40:60] = 2
    pred_mask[30:50, 40:60] = 1
    colors = class_colors(3)
    picture = panels.confusion_panel(
        image, target, pred_mask, (2, 1), ["background", "a", "b"], colors
    )
    assert picture.shape[1] > 3 * 200
    with pytest.raises(ValueError, match="marks no pixel"):
        panels.confusion_panel(image, target, pred_mask, (1, 2), ["background", "a", "b"], colors)
