"""A photo of any size fits the square, and comes back from it without a shift."""

import cv2
import numpy as np
import pytest

from clothseg_utils.prediction.geometry import (
    IMAGENET,
    ContentBox,
    Normalization,
    content_box,
    fit_image,
    fit_mask,
)

SIZES = [(64, 64), (1, 1), (1, 1000), (1000, 1), (333, 500), (825, 550), (63, 65), (7, 5)]


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (64, 64, ContentBox(0, 0, 64, 64)),  # fits
        (200, 100, ContentBox(0, 16, 64, 32)),  # portrait: columns left and right
        (100, 200, ContentBox(16, 0, 32, 64)),  # landscape: rows above and below
        (10, 20, ContentBox(16, 0, 32, 64)),  # enlarged
        (64, 61, ContentBox(0, 1, 64, 61)),  # 3 columns over: 1 left, 2 right
        (1, 1000, ContentBox(31, 0, 1, 64)),  # never thinner than a pixel
        (1000, 1, ContentBox(0, 31, 64, 1)),
        (1, 1, ContentBox(0, 0, 64, 64)),
    ],
)
def test_letterbox_keeps_the_aspect_and_centres(height, width, expected):
    assert content_box(height, width, 64, "letterbox") == expected


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_squash_fills_the_square(height, width):
    assert content_box(height, width, 64, "squash") == (0, 0, 64, 64)


@pytest.mark.parametrize(("height", "width"), [*SIZES, (4000, 3), (1023, 1024), (97, 3001)])
@pytest.mark.parametrize("image_size", [32, 64, 512])
def test_letterbox_lies_inside_and_touches_two_sides(height, width, image_size):
    box = content_box(height, width, image_size, "letterbox")
    assert min(box.top, box.left) == 0
    assert min(box.height, box.width) >= 1
    assert max(box.height, box.width) == image_size
    assert box.top + box.height <= image_size
    assert box.left + box.width <= image_size


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_fitted_mask_holds_only_its_own_values_and_255_outside(height, width, resize):
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 3, 12], np.uint8), (height, width))
    fitted = fit_mask(mask, 64, resize)
    assert fitted.shape == (64, 64)
    assert fitted.dtype == np.uint8
    top, left, box_height, box_width = content_box(height, width, 64, resize)
    content = fitted[top : top + box_height, left : left + box_width]
    assert set(np.unique(content)) <= set(np.unique(mask))
    assert (fitted == 255).sum() == 64 * 64 - content.size  # all of it lies outside the content


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_fitted_image_is_padded_with_the_mean_colour(height, width, resize):
    color = (1, 2, 3)
    fitted = fit_image(np.full((height, width, 3), 200, np.uint8), 64, resize, color)
    top, left, box_height, box_width = content_box(height, width, 64, resize)
    expected = np.full((64, 64, 3), color, np.uint8)
    expected[top : top + box_height, left : left + box_width] = 200
    np.testing.assert_array_equal(fitted, expected)


def test_mask_pixels_are_taken_at_their_centres():
    """Four columns into two: the centres lie on the second and fourth, one row of padding below."""
    fitted = fit_mask(np.array([[1, 2, 3, 4]], np.uint8), 2, "letterbox")
    assert fitted.tolist() == [[2, 4], [255, 255]]


def test_mask_is_enlarged_in_blocks():
    fitted = fit_mask(np.array([[1, 2], [3, 4]], np.uint8), 4, "squash")
    assert fitted.tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_image_is_shrunk_by_averaging():
    """Stripes of one pixel become their mean; picking pixels would show moire."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.unique(fit_image(stripes, 32, "letterbox")).tolist() == [100]


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize(("height", "width"), [(300, 200), (197, 311), (40, 90), (600, 600)])
def test_what_fits_into_the_square_comes_back_without_a_shift(height, width, resize):
    """Crop the content and enlarge it: where a gradient rises, no pixel has moved.

    The gradient rises by 1.9 per pixel of the square, so half a pixel's shift would change the
    mean by 0.95; rounding to uint8, twice, changes it by 0.3 at most.
    """
    box = content_box(height, width, 128, resize)
    columns = 1.9 * box.width / width * np.arange(width)
    rows = 1.9 * box.height / height * np.arange(height)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.round(columns)[None, :]
    image[..., 1] = np.round(rows)[:, None]

    fitted = fit_image(image, 128, resize)
    content = fitted[box.top : box.top + box.height, box.left : box.left + box.width]
    back = cv2.resize(content, (width, height), interpolation=cv2.INTER_LINEAR)

    rim = 8  # beyond the outermost centres there is nothing to interpolate
    error = (back.astype(float) - image)[rim:-rim, rim:-rim]
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.4
    assert np.abs(error).max() < 3


@pytest.mark.parametrize("resize", ["letterbox", "squash"])
@pytest.mark.parametrize(("height", "width"), [(300, 200), (197, 311), (40, 90)])
def test_image_and_mask_stay_on_each_other(height, width, resize):
    """A disc in the photo and the same disc in the mask keep one centre."""
    mask = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 3), 12, 1, -1)
    image = np.repeat(mask[..., None] * np.uint8(200), 3, axis=2)
    is_disc = fit_mask(mask, 128, resize) == 1
    is_bright = fit_image(image, 128, resize)[..., 2] > 150  # padding is darker
    centres = [np.argwhere(pixels).mean(axis=0) for pixels in (is_disc, is_bright)]
    np.testing.assert_allclose(*centres, atol=0.3)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        (IMAGENET, (124, 116, 104)),  # 123.7, 116.3, 103.5
        (Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), (128, 128, 128)),  # 127.5
        (Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), (0, 0, 0)),
    ],
)
def test_padding_is_next_to_zero_once_normalised(normalization, expected):
    assert normalization.pad_color == expected
