"""Legends that list what occurs, and panels of pictures, from 32 to 4000 px."""

import subprocess
import sys

import numpy as np
from test_overlays import COLORS, NAMES, grey_photo

from clothseg_utils.core.classes import class_colors
from clothseg_utils.pictures import lettering, overlays, panels

WHITE = [255, 255, 255]


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
