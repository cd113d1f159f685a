"""Tests of `data.sizes`: annotations of another size come to lie where they were drawn."""

import msgspec
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api

from clothseg_utils.data.coco import PackedAnnotation
from clothseg_utils.data.photos import read_photo
from clothseg_utils.data.rle import Rle
from clothseg_utils.intake.sizes import (
    Fit,
    PhotoSize,
    Sized,
    fit_photos,
    move_segmentation,
    photo_sizes,
    read_size,
)

WIDTH, HEIGHT = 64, 48
SCALED = "annotations scaled to the photo"
SWAPPED = "width and height swapped, as the photo is turned"
TURNED = "annotations turned as the photo is"
UNTOLD = "; no outline tells"
KEPT = "size taken from the photo, where the outlines lie"


def corner(x: float, y: float) -> PackedAnnotation:
    """A triangle whose furthest point is this one."""
    outline = msgspec.Raw(msgspec.json.encode([[0, 0, x, 0, x, y]]))
    return PackedAnnotation(1, 1, 1, outline, 1.0, (0, 0, x, y))


def fit_of(file_wh, photo_wh, orientation=1, *corners) -> Fit | str:
    image = Sized(file_wh, PhotoSize(*photo_wh, orientation), [corner(*c) for c in corners])
    fits, misfits = fit_photos({7: image})
    return fits[7] if fits else misfits[7]


@pytest.mark.parametrize(
    ("file_wh", "photo_wh", "orientation", "corners", "how", "scale"),
    [
        ((64, 48), (64, 48), 1, [], "", (1, 1)),
        ((64, 48), (64, 48), 6, [], "", (1, 1)),  # the file has the size of the upright photo
        ((64, 48), (128, 96), 1, [], SCALED, (2, 2)),
        ((640, 480), (64, 48), 1, [(600, 400)], SCALED, (0.1, 0.1)),
        ((1999, 1333), (1000, 667), 1, [], SCALED, (1000 / 1999, 667 / 1333)),  # rounded
        ((64, 48), (128, 96), 1, [(120, 90)], KEPT, (1, 1)),
        ((64, 48), (48, 64), 6, [(40, 60)], SWAPPED, (1, 1)),
        ((64, 48), (48, 64), 6, [], SWAPPED, (1, 1)),
        ((64, 48), (48, 64), 1, [(40, 60)], SWAPPED, (1, 1)),  # EXIF taken out since
        ((64, 48), (48, 64), 8, [(60, 40)], TURNED, (1, 1)),
        ((64, 48), (24, 32), 6, [(40, 60)], SWAPPED, (0.5, 0.5)),  # and resized
        ((64, 48), (96, 128), 6, [(60, 40)], TURNED, (2, 2)),
        ((64, 48), (48, 64), 6, [(48.9, 64.5)], SWAPPED, (1, 1)),  # drawn past the edge
        ((48, 64), (48, 64), 6, [(40, 60)], "", (1, 1)),
        ((48, 64), (48, 64), 6, [(40, 40)], "", (1, 1)),  # nothing tells
        ((48, 64), (48, 64), 1, [(60, 40)], "", (1, 1)),  # beyond the edge, but not turned
        ((48, 64), (48, 64), 6, [(60, 40)], TURNED, (1, 1)),
        ((48, 64), (48, 64), 6, [(60, 40), (40, 60)], "", (1, 1)),  # they contradict each other
        ((64, 64), (64, 64), 6, [(60, 40)], "", (1, 1)),
        ((96, 128), (48, 64), 6, [(120, 90)], TURNED, (0.5, 0.5)),
        ((640, 480), (639, 480), 1, [(600, 400)], SCALED, (639 / 640, 1)),
    ],
)
def test_size_is_healed_where_it_is_certain(file_wh, photo_wh, orientation, corners, how, scale):
    fit = fit_of(file_wh, photo_wh, orientation, *corners)
    assert (fit.how, fit.width, fit.height) == (how, *photo_wh)
    assert fit.scale == pytest.approx(scale)
    assert fit.orientation == (orientation if how == TURNED else 1)


@pytest.mark.parametrize(
    ("file_wh", "photo_wh", "corners", "why"),
    [
        ((64, 48), (100, 48), [], "the file says 64 x 48 px, the photo has 100 x 48 px, another"),
        ((1, 1), (640, 480), [], "another shape"),
        ((64, 48), (48, 64), [], "turned, and neither EXIF nor an outline says which way"),
        ((64, 48), (48, 64), [(60, 40)], "turned, and neither EXIF"),
    ],
)
def test_size_that_cannot_be_healed_says_why(file_wh, photo_wh, corners, why):
    assert why in fit_of(file_wh, photo_wh, 1, *corners)


def test_photos_that_tell_nothing_follow_the_others_of_the_file():
    turned = PhotoSize(48, 64, 6)
    images = {n: Sized((64, 48), turned, [corner(60, 40)]) for n in range(9)}
    images[99] = Sized((64, 48), turned, [corner(5, 5)])
    fits, _ = fit_photos(images)
    assert fits[99].how == TURNED
    # Two tools, or two ways of one: nothing follows for the others.
    images |= {n: Sized((64, 48), turned, [corner(40, 60)]) for n in range(20, 29)}
    fits, _ = fit_photos(images)
    assert (fits[0].how, fits[20].how) == (TURNED, SWAPPED)
    assert fits[99].how.startswith(SWAPPED + UNTOLD)


@pytest.mark.parametrize(
    ("file_wh", "photo_wh", "orientation", "how"),
    [
        ((64, 48), (48, 64), 6, SWAPPED),
        ((64, 48), (128, 96), 1, SCALED),
        ((640, 480), (64, 48), 1, SCALED),
    ],
)
def test_guess_says_that_it_is_one(file_wh, photo_wh, orientation, how):
    assert fit_of(file_wh, photo_wh, orientation, (40, 40)).how.startswith(how + UNTOLD)


@pytest.mark.parametrize(
    ("file_wh", "photo_wh", "furthest", "n_outlines", "how"),
    [
        ((640, 480), (64, 48), (40, 45), 10, f"{KEPT}; no outline of 10 goes beyond"),
        ((64, 48), (640, 480), (40, 45), 10, f"{SCALED}; no outline of 10 goes beyond"),
        ((640, 480), (64, 48), (40, 45), 9, SCALED + UNTOLD),  # too few
        ((640, 480), (64, 48), (40, 30), 10, SCALED + UNTOLD),  # nowhere near its edge
        ((640, 480), (576, 432), (400, 420), 10, SCALED + UNTOLD),  # nearly as large
        ((640, 480), (64, 48), (600, 45), 10, SCALED),
    ],
)
def test_reach_of_all_outlines_tells_in_which_size_they_were_drawn(
    file_wh, photo_wh, furthest, n_outlines, how
):
    images = {n: Sized(file_wh, PhotoSize(*photo_wh), [corner(9, 9)]) for n in range(1, n_outlines)}
    images[0] = Sized(file_wh, PhotoSize(*photo_wh), [corner(*furthest)])
    fits, _ = fit_photos(images)
    assert {fit.how.partition(", taken")[0] for fit in fits.values()} == {
        how + " in which size they were drawn" * how.endswith(UNTOLD)
    }


@pytest.mark.parametrize(("n_photos", "orientation"), [(2, 1), (3, 6)])
@pytest.mark.parametrize("file_wh", [(64, 63), (63, 64)])
def test_nearly_square_photos_tell_together(file_wh, n_photos, orientation):
    """A pixel past the edge may be careless drawing, but not on photo after photo."""
    photo = PhotoSize(63, 64, 6)
    images = {n: Sized(file_wh, photo, [corner(64, 60)]) for n in range(n_photos)}
    fits, _ = fit_photos(images)
    assert {fit.orientation for fit in fits.values()} == {orientation}


def drawn(segmentation, width: int, height: int) -> np.ndarray:
    if isinstance(segmentation, Rle):
        code = {"size": list(segmentation.size), "counts": segmentation.counts}
    else:
        code = mask_api.merge(mask_api.frPyObjects(segmentation, height, width))
    return mask_api.decode(code)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("as_rle", [False, True])
def test_turned_annotations_lie_where_the_turned_photo_has_them(tmp_path, orientation, as_rle):
    """The photo is the mask itself, and Pillow turns it."""
    segmentation = [[3, 5, 40, 5, 40, 30, 20, 30, 20, 12, 3, 12]]
    unturned = drawn(segmentation, WIDTH, HEIGHT)
    if as_rle:
        counts = mask_api.encode(np.asfortranarray(unturned))["counts"].decode()
        segmentation = Rle((HEIGHT, WIDTH), counts)
    path = tmp_path / "mask.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(255 * unturned).save(path, exif=exif)
    expected = read_photo(path)[:, :, 0] > 0
    size = read_size(path)
    assert (size.height, size.width) == expected.shape
    fit = Fit(TURNED, size.width, size.height, orientation)
    moved = move_segmentation(segmentation, fit)
    assert np.array_equal(drawn(moved, size.width, size.height), expected)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_scaled_run_lengths_are_resized_by_nearest_pixel(factor):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 6:30] = 1
    counts = mask_api.encode(np.asfortranarray(mask))["counts"].decode()
    size = round(WIDTH * factor), round(HEIGHT * factor)
    fit = Fit(SCALED, *size, scale=(factor, factor))
    moved = move_segmentation(Rle((HEIGHT, WIDTH), counts), fit)
    rows, columns = (np.flatnonzero(drawn(moved, *size).any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1) == (10 * factor, 20 * factor)
    assert (columns[0], columns[-1] + 1) == (6 * factor, 30 * factor)


def test_sizes_are_read_from_headers_and_what_is_no_photo_is_said(tmp_path):
    Image.new("RGB", (9, 5)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no photo")
    (tmp_path / "c.jpg").touch()
    sizes, broken = photo_sizes({n: tmp_path / f"{name}.jpg" for n, name in enumerate("abc")})
    assert sizes == {0: PhotoSize(9, 5)}
    reasons = {1: "cannot be decoded (no known image format)", 2: "is empty (0 bytes)"}
    assert broken == reasons
