"""Tests of `intake.doubts`: boxes beside masks."""

import pytest

from clothseg_utils.intake.doubts import compare_boxes
from clothseg_utils.intake.sizes import Fit

MASK = (20, 10, 30, 40)  # in a photo of 100 x 80
WHERE_IT_LIES = Fit("", 100, 80)


@pytest.mark.parametrize(
    ("own", "overlap"),  # IoU, and how much of the mask is inside
    [
        (MASK, (1, 1)),
        ((20.9, 8.5, 28, 41.5), (1, 1)),  # a pixel or two
        ((20, 10, 50, 50), (1, 1)),  # corners
        ((35, 30, 30, 40), (1, 1)),  # centre and size
        ((0.2, 0.125, 0.3, 0.5), (1, 1)),  # shares of the image's size
        ((0.35, 0.375, 0.3, 0.5), (1, 1)),
        ((0, 0, 0, 0), None),
        ((20, 10, 30, -1), None),
        ((float("nan"),) * 4, None),
        ((0, 0, 100, 80), None),  # the whole image
        ((0, 0, 1, 1), None),
        ((15, 5, 40, 50), (1200 / 2000, 1)),
        ((70, 60, 9, 9), (0, 0)),
        ((20, 30, 30, 40), (600 / 1800, 1 / 2)),
    ],
)
def test_box_is_compared_in_the_reading_that_fits_best(own, overlap):
    found = compare_boxes(own, MASK, WHERE_IT_LIES)
    assert found == (overlap and pytest.approx(overlap))


@pytest.mark.parametrize(
    ("own", "fit"),
    [
        ((10, 5, 15, 20), Fit("", 100, 80, scale=(2, 2))),
        ((20, 10, 30, 40), Fit("", 100, 80, scale=(2, 2))),  # of the photo already
        ((10, 50, 40, 30), Fit("", 100, 80, orientation=6)),
        ((0.125, 0.5, 0.5, 0.3), Fit("", 100, 80, orientation=6)),
        ((-40, 10, 90, 40), Fit("", 50, 80)),  # past the edge, where the mask is cut
    ],
)
def test_box_is_moved_as_its_mask_is(own, fit):
    mask = MASK if fit.width == 100 else (0, 10, 50, 40)
    assert compare_boxes(own, mask, fit) == (1, 1)
